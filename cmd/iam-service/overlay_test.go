package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/freeport"
	"iam-service/internal/dev/manifests"
)

// The settings of the production overlay, as its ConfigMap has them, start the program: only what names another host, a
// port or a mounted file is replaced. Policies are managed and signed there: one is pushed, activated, and decides.
func TestTheProductionOverlaysSettingsServe(t *testing.T) {
	t.Parallel()
	settings := map[string]string{}
	for _, document := range manifests.Documents(manifests.Build(t, filepath.Join(manifests.Copy(t), "overlays/production"))) {
		var o struct {
			Kind     string
			Metadata struct{ Name string }
			Data     map[string]string
		}
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			t.Fatal(err)
		}
		if o.Kind == "ConfigMap" && strings.HasPrefix(o.Metadata.Name, "iam-service-") && o.Data["RAUTH_URL"] != "" {
			settings = o.Data
		}
	}
	if settings["POLICY_ACTIVATION"] != "managed" || settings["POLICY_KEY_FILE"] == "" {
		t.Fatalf("the overlay's settings are %v", settings)
	}
	dir := t.TempDir()
	gateway, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	p := newPlant(t, func(p *plant) {
		secret := func(name, value string) string {
			file := filepath.Join(dir, name)
			p.ok(os.WriteFile(file, []byte(value), 0o600))
			return file
		}
		replaced := map[string]string{
			"RAUTH_URL": p.issuer, "RAUTH_ADMIN_URL": p.issuer, // stand-ins on loopback
			"RAUTH_ADMIN_CLIENT_SECRET_FILE": secret("rauth", "four"),
			"NATS_URL_FILE":                  secret("nats", p.natsURL),
			"NATS_STREAM_REPLICAS":           "1", // one server here
			"POLICY_KEY_FILE":                filepath.Join(dir, "public.pem"),
			"TRUSTED_PROXIES":                settings["TRUSTED_PROXIES"] + ",127.0.0.0/8",
		}
		p.settings = []string{
			"DATABASE_URL=", "DATABASE_URL_FILE=" + secret("database", p.proxy.URL), "NATS_URL=", "STATE_DIR=" + filepath.Join(dir, "state"),
			"BOOTSTRAP_ADMIN=root", "GATEWAY_ADDR=" + gateway[0], "ADMIN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0",
		}
		for name, value := range settings {
			if other, is := replaced[name]; is {
				delete(replaced, name)
				value = other
			}
			if !strings.HasSuffix(name, "_ADDR") {
				p.settings = append(p.settings, name+"="+value)
			}
		}
		for name := range replaced {
			t.Errorf("the overlay has no %s any more", name)
		}
		p.rauth.Clients = append(p.rauth.Clients, devrauth.Client{ID: settings["RAUTH_ADMIN_CLIENT_ID"], Secret: "four"})
		p.ok(writeKeyPair(filepath.Join(dir, "private.pem"), filepath.Join(dir, "public.pem")))
	})
	want := func(status int, got said) said {
		t.Helper()
		if got.status != status {
			t.Fatalf("answered %d %v, want %d; %s", got.status, got.body, status, p.logged())
		}
		return got
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := p.command()
		cmd.Args = append([]string{"iam-service"}, args...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
		return string(out)
	}
	bundle := filepath.Join(dir, "iam.tar.gz")
	run("policy", "build", "../../policies", "-o", bundle, "--revision", "7", "--key", filepath.Join(dir, "private.pem"))
	stored := regexp.MustCompile(`(?m)^revision (\w+) stored`).FindStringSubmatch(run("policy", "push", bundle))
	if stored == nil {
		t.Fatal("the policy is not stored")
	}
	p.until("replicas have prepared it", func() bool {
		cmd := p.command()
		cmd.Args = []string{"iam-service", "policy", "activate", stored[1]}
		return cmd.Run() == nil
	})
	want(201, p.call("POST", "/v1/tenants", map[string]any{"id": "acme", "slug": "acme", "name": "Acme"}))
	want(201, p.call("POST", "/v1/tenants/acme/roles", map[string]any{"name": "reader", "permissions": []string{"document:read"}}))
	want(201, p.call("POST", "/v1/tenants/acme/members", map[string]any{"subject": "alice", "roles": []string{"reader"}}))
	want(201, p.call("POST", "/v1/clients", map[string]any{"tenant": "acme", "client_name": "billing", "grant_types": []string{"client_credentials"}}))
	token, err := p.rauth.Mint("ES256", map[string]any{"sub": "alice", "client_id": "web", "aud": settings["RAUTH_AUDIENCES"]})
	p.ok(err)
	p.until("the active policy decides, and its revision is in the response", func() bool {
		status, headers := p.enrich(gateway[0], token)
		return status == http.StatusOK && headers.Get("X-Policy-Revision") == stored[1] && headers.Get("X-User-Roles") == "reader"
	})
}

// writeKeyPair writes an ES256 key as PEM files.
func writeKeyPair(private, public string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	shown, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
		os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: shown}), 0o600))
}
