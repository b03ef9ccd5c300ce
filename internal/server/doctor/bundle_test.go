package doctor_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iam-service/internal/server"
	"iam-service/internal/server/doctor"
)

// unpack returns the files of a bundle.
func unpack(t *testing.T, packed []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
	}
}

// Every setting that is a secret has a canary, as a value and in a file, and a log has all of them.
func TestABundleHasNoSecretOfAnySetting(t *testing.T) {
	t.Parallel()
	for name, byFile := range map[string]bool{"values": false, "files": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			secret := func(i int) string { return fmt.Sprintf("canary-%d-x/y+z", i) }
			special := map[string]string{
				"DATABASE_URL":               "postgres://iam:canary-pass%2Fword@127.0.0.1:1/iam",
				"DATABASE_LISTEN_URL":        "host=127.0.0.1 port=1 user=iam password=canary-plain",
				"NATS_URL":                   "nats://user:canary-nats@127.0.0.1:1,nats://other:canary-second@127.0.0.1:2",
				"TRUSTED_ISSUERS":            `[{"url":"https://a.example","audiences":["x"],"introspection_client_secret":"canary-\"issuer"}]`,
				"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20canary-collector,x-other=1",
				"GATEWAY_SECRET":             strings.Repeat("canary-one", 4) + "," + strings.Repeat("canary-two", 4),
			}
			environ := []string{"OPS_ADDR=127.0.0.1:1", "RAUTH_URL=https://user:canary-userinfo@r.example", "LOG_LEVEL=debug"}
			lines := []string{"password canary-pass/word", `{"err":"canary-\"issuer and canary-\\\"issuer"}`, "canary-nats canary-second canary-plain canary-collector", "Bearer canary-token-of-a-caller",
				"eyJhbGciOiJub25lIn0.eyJjYW5hcnkiOjF9.sig", strings.Repeat("canary-one", 4), strings.Repeat("canary-two", 4)}
			n := 0
			for i, v := range server.Variables() {
				variable, isSecret := strings.CutSuffix(v[0], "[_FILE]")
				if !isSecret {
					continue
				}
				n++
				value := special[variable]
				if value == "" {
					value = secret(i)
				}
				lines = append(lines, variable+" is "+value)
				if byFile {
					file := filepath.Join(dir, variable)
					if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
						t.Fatal(err)
					}
					environ = append(environ, variable+"_FILE="+file)
					continue
				}
				environ = append(environ, variable+"="+value)
			}
			token := filepath.Join(dir, "token")
			log := filepath.Join(dir, "service.log")
			if err := errors.Join(os.WriteFile(token, []byte("canary-admin-token"), 0o600), os.WriteFile(log, []byte(strings.Join(append(lines, "canary-admin-token"), "\n")), 0o600)); err != nil {
				t.Fatal(err)
			}
			environ = append(environ, "RAUTH_ADMIN_TOKEN_FILE="+token)
			b := doctor.Bundle{Environ: environ, Report: doctor.Run(context.Background(), environ, doctor.Options{}), Logs: []string{log, filepath.Join(dir, "none")}}
			packed, err := b.Pack(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			files := unpack(t, packed)
			for _, want := range []string{"doctor.json", "version.json", "settings.txt", "metrics.txt", "readyz.json", "policy-status.json", "running-version.json", "logs/1-service.log", "logs/2-none"} {
				if files["iam-service-doctor/"+want] == "" {
					t.Errorf("there is no %s", want)
				}
			}
			for file, text := range files {
				for line := range strings.Lines(text) {
					if strings.Contains(strings.ToLower(line), "canary") || strings.Contains(line, "eyJ") {
						t.Errorf("%s: %s", file, line)
					}
				}
			}
			if settings := files["iam-service-doctor/settings.txt"]; !byFile && strings.Count(settings, "=(set)\n") != n || !strings.Contains(settings, "LOG_LEVEL=debug\n") {
				t.Errorf("settings, of which %d are secrets:\n%s", n, settings)
			}
		})
	}
}
