package manifests_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"iam-service/internal/dev/manifests"
	"iam-service/internal/gateway/setup"
	"iam-service/internal/policy"
)

// gatewayDefinitions are the CustomResourceDefinitions of gateways, by module of .ci/gateway-crds.mod.
var gatewayDefinitions = map[string]string{
	"github.com/envoyproxy/gateway": "charts/gateway-helm/charts/crds/crds/generated/*.yaml",
	"github.com/traefik/traefik/v3": "docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml",
	"istio.io/api":                  "kubernetes/customresourcedefinitions.gen.yaml",
	"sigs.k8s.io/gateway-api":       "config/crd/experimental/gateway.networking.k8s.io_*.yaml",
}

// definitionsOfGateways is a folder with them.
func definitionsOfGateways(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for module, pattern := range gatewayDefinitions {
		cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-modfile=.ci/gateway-crds.mod", "-json", module)
		cmd.Dir = manifests.Root()
		out, err := cmd.Output()
		var downloaded struct{ Dir, Error string }
		if err != nil || json.Unmarshal(out, &downloaded) != nil || downloaded.Dir == "" {
			t.Fatalf("download %s: %v %s", module, err, out)
		}
		files, err := filepath.Glob(filepath.Join(downloaded.Dir, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has no %s: %v", module, pattern, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(text), "kind: CustomResourceDefinition") {
				continue
			}
			name := strings.ReplaceAll(module, "/", "_") + "_" + strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)) + ".yaml"
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// validateGateway runs kubectl-validate over a generated file.
func validateGateway(t *testing.T, definitions, text string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "objects.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return manifests.Tool(t, "kubectl-validate", "kubectl-validate", "--version", schemas, "--local-crds", definitions, file)
}

func TestTheConfigurationsOfGatewaysOnKubernetesAreValidByTheirDefinitions(t *testing.T) {
	t.Parallel()
	if !slices.Contains(strings.Split(os.Getenv("GATEWAYS"), ","), "kubernetes") {
		t.Skip("not tested: GATEWAYS does not name kubernetes (make test-built-gateways)")
	}
	definitions := definitionsOfGateways(t)
	generate := func(t *testing.T, kind string, s setup.Settings) string {
		t.Helper()
		s.Headers, s.Usual, s.Backend, s.Listen, s.Loopback = policy.DefaultHeaders, true, "http://backend:8080", ":8000", "127.0.0.1:18080"
		files, err := setup.Generate(kind, s)
		if err != nil {
			t.Fatalf("%+v", err)
		}
		objects := ""
		for _, f := range files {
			if strings.Contains(f.Text, "apiVersion:") { // the others are values of Helm charts
				objects += f.Text
			}
		}
		return objects
	}
	encrypted := setup.Settings{IAM: "https://iam-service.iam:8080", ExtAuthz: "https://authz.iam:9191", IAMCA: "ca.pem"}
	mutual := encrypted
	mutual.IAMCert, mutual.IAMKey = "gateway.pem", "gateway-key.pem"
	for _, kind := range []string{"ingress-nginx", "traefik-crd", "istio", "envoy-gateway", "gateway-api"} {
		for name, s := range map[string]setup.Settings{
			"clear text": {IAM: "http://iam-service.iam:8080", ExtAuthz: "iam-service.iam:9191"}, "TLS": encrypted, "mutual TLS": mutual,
		} {
			if kind == "gateway-api" && s.IAMCert != "" {
				continue // the Gateway names the certificate
			}
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				if out, err := validateGateway(t, definitions, generate(t, kind, s)); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
	for _, mistake := range []struct{ kind, from, to string }{
		{kind: "ingress-nginx", from: "pathType: Exact", to: "pathKind: Exact"},
		{kind: "traefik-crd", from: "serverName:", to: "servername:"},
		{kind: "istio", from: "mode: MUTUAL", to: "mode: BOTH"},
		{kind: "envoy-gateway", from: "failOpen: false", to: "failOpen: never"},
		{kind: "envoy-gateway", from: "backendTLS:", to: "backendTls:"},
	} {
		t.Run("mistake/"+mistake.to, func(t *testing.T) {
			t.Parallel()
			text := generate(t, mistake.kind, mutual)
			if !strings.Contains(text, mistake.from) {
				t.Fatalf("there is no %s", mistake.from)
			}
			if out, err := validateGateway(t, definitions, strings.Replace(text, mistake.from, mistake.to, 1)); err == nil {
				t.Errorf("it is valid:\n%s", out)
			}
		})
	}
}
