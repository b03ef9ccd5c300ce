package setup_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iam-service/internal/gateway"
	"iam-service/internal/gateway/setup"
	"iam-service/internal/policy"
)

var update = flag.Bool("update", false, "write the pages of docs/gateways")

// folders are those of gateways that read several files.
var folders = map[string]string{"haproxy": "/etc/haproxy/", "traefik": "/etc/traefik/", "traefik-crd": "./", "istio": "./"}

// usual is what the command prints without settings, and without flags but --dir.
func usual(t *testing.T, name string) []setup.File {
	t.Helper()
	profiles, err := gateway.Profiles("traefik")
	if err != nil {
		t.Fatal(err)
	}
	files, err := setup.Generate(name, setup.Settings{
		Headers: policy.DefaultHeaders, Usual: true, Profiles: profiles, IAM: "http://iam-service:8080", ExtAuthz: "iam-service:9191",
		Backend: "http://backend:8080", Listen: ":8000", Loopback: "127.0.0.1:18080", Dir: folders[name],
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestThePagesOfGatewaysAreWhatTheProgramPrints(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "..", "docs", "gateways")
	for _, kind := range setup.Kinds() {
		t.Run(kind[0], func(t *testing.T) {
			t.Parallel()
			files := usual(t, kind[0])
			var page strings.Builder
			fmt.Fprintf(&page, "# %s\n\n```sh\niam-service gateway config %s", kind[1], kind[0])
			if len(files) > 1 {
				page.WriteString(" --dir " + strings.TrimSuffix(folders[kind[0]], "/"))
			}
			page.WriteString("\n```\n\nprints this, with `GATEWAY_HEADERS` of the environment and the addresses of its flags\n(`--iam`, `--backend`, `--listen`). What each profile reads: [gateways.md](../gateways.md).\n")
			for _, f := range files {
				if len(files) > 1 {
					fmt.Fprintf(&page, "\n`%s`:\n", f.Name)
				}
				fmt.Fprintf(&page, "\n```%s\n%s```\n", language(f.Name), f.Text)
			}
			name := filepath.Join(dir, kind[0]+".md")
			if *update {
				if err := os.WriteFile(name, []byte(page.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			have, err := os.ReadFile(name)
			if err != nil || string(have) != page.String() {
				t.Errorf("%s is not what the program prints (%v): go test ./internal/gateway/setup -run Pages -update", name, err)
			}
		})
	}
}

func language(file string) string {
	switch filepath.Ext(file) {
	case ".yaml", ".yml":
		return "yaml"
	case ".lua":
		return "lua"
	case ".conf":
		return "nginx"
	}
	return ""
}

func TestEachIdentityHeaderIsInEachConfiguration(t *testing.T) {
	t.Parallel()
	for _, kind := range setup.Kinds() {
		t.Run(kind[0], func(t *testing.T) {
			t.Parallel()
			text := ""
			for _, f := range usual(t, kind[0]) {
				text += strings.ToLower(f.Text)
			}
			overGRPC := strings.Contains(text, "ext_authz_addr") // the service sets and removes the headers itself
			for _, h := range policy.DefaultHeaders {
				if !overGRPC && !strings.Contains(text, strings.ToLower(h)) {
					t.Errorf("%s is missing", h)
				}
			}
			if strings.Contains(text, "<no value>") || strings.Contains(text, "{{") {
				t.Errorf("a template is not filled in:\n%s", text)
			}
		})
	}
}

func TestEachConfigurationDropsTheClientsForwardedHeaders(t *testing.T) {
	t.Parallel()
	for _, kind := range setup.Kinds() {
		t.Run(kind[0], func(t *testing.T) {
			t.Parallel()
			text := ""
			for _, f := range usual(t, kind[0]) {
				text += strings.ToLower(f.Text)
			}
			for _, h := range []string{"X-Upstream-IdP-ID", "X-Forwarded-Method", "X-Forwarded-Uri", "X-Rewrite-URL", "X-HTTP-Method-Override", "HTTP2-Settings"} {
				if !strings.Contains(text, strings.ToLower(h)) {
					t.Errorf("%s is missing", h)
				}
			}
		})
	}
}

func TestTheCertificateOfTheServiceIsVerified(t *testing.T) {
	t.Parallel()
	for name, verified := range map[string]string{
		"nginx":         "proxy_ssl_verify on;",
		"ingress-nginx": "proxy_ssl_verify on;",
		"haproxy":       "verifyhost iam.internal", // "verify required" alone takes a certificate of any name
		"envoy":         "trusted_ca:",
		"envoy-grpc":    "trusted_ca:",
		"traefik-crd":   "serverName: iam.internal", // by default Traefik would compare with a pod's address
		"gateway-api":   "wellKnownCACertificates: System",
		"envoy-gateway": "kind: BackendTLSPolicy",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			generate := func(iam string) string {
				files, err := setup.Generate(name, setup.Settings{
					Headers: policy.DefaultHeaders, Usual: true, IAM: iam, ExtAuthz: "authz:9191",
					Backend: "http://backend:8080", Listen: ":8000", Loopback: "127.0.0.1:18080",
				})
				if err != nil {
					t.Fatal(err)
				}
				return files[len(files)-1].Text + files[0].Text
			}
			if !strings.Contains(generate("https://iam.internal"), verified) {
				t.Errorf("with https, %q is missing", verified)
			}
			if strings.Contains(generate("http://iam.internal"), verified) {
				t.Errorf("without https, there is %q", verified)
			}
		})
	}
}

func TestAllInvalidSettingsAreReportedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := setup.Generate("nginx", setup.Settings{IAM: "iam-service:8080", Backend: "http://b/path", ExtAuthz: "x", Listen: "8000", Loopback: "127.0.0.1"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, field := range []string{"iam", "backend", "ext-authz", "listen", "loopback"} {
		if !strings.Contains(fmt.Sprintf("%+v", err), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
	if _, err := setup.Generate("netscaler", setup.Settings{}); err == nil || !strings.Contains(err.Error(), "haproxy") {
		t.Errorf("%v does not name what there is", err)
	}
}
