package manifests_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/freeport"
)

// Traefik itself, with the command and the files of Compose: only the addresses are those of the test.
func TestTraefikOfComposeAuthorizesBeforeItForwards(t *testing.T) {
	program := os.Getenv("TRAEFIK")
	if program == "" {
		t.Skip(`Traefik takes minutes to build: "make test-built-gateways" builds it and runs this test, nightly too`)
	}
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/system/enrich-token" || r.Header.Get("Authorization") != "Bearer good" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("X-User-ID", "alice")
	}))
	defer service.Close()
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Join(r.Header.Values("X-User-ID"), ","))
	}))
	defer echo.Close()
	addrs, err := freeport.Addrs(2)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	addresses := strings.NewReplacer("http://iam-service:8080", service.URL, "http://echo:9999", echo.URL,
		`":8000"`, `"`+addrs[0]+`"`, "127.0.0.1:18080", addrs[1])
	for _, name := range []string{"traefik.yml", "iam.yml"} {
		text, err := os.ReadFile(filepath.Join(deploy, "traefik", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(addresses.Replace(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var args []string
	for _, arg := range compose(t).Services["traefik"].Command {
		args = append(args, strings.ReplaceAll(arg, "/etc/traefik", dir))
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has no data
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	ask := func(token string) (status int, body string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addrs[0]+"/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-User-ID", "mallory")
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, ""
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	await.True(t, "Traefik serves", func() bool { status, _ := ask("good"); return status == http.StatusOK })
	if _, body := ask("good"); body != "alice" {
		t.Errorf("the backend has X-User-ID %q, want alice", body)
	}
	if status, _ := ask("bad"); status != http.StatusUnauthorized {
		t.Errorf("a bad token is %d, want 401", status)
	}
}
