package manifests_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/rego"
	"sigs.k8s.io/yaml"

	"iam-service/internal/dev/manifests"
	"iam-service/internal/server"
)

const deploy = "../../../deploy"

// object is a Kubernetes object; get returns the value at a path of its fields and nil where there is none.
type object map[string]any

func (o object) get(path ...string) any {
	var v any = map[string]any(o)
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

func (o object) name() string { return o.get("metadata", "name").(string) }

func decode(t *testing.T, text string) []object {
	t.Helper()
	var objects []object
	for _, document := range manifests.Documents(text) {
		var o object
		if err := yaml.UnmarshalStrict([]byte(document), &o); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, o)
	}
	return objects
}

// find returns the object of a kind whose name begins with the given one.
func find(t *testing.T, objects []object, kind, name string) object {
	t.Helper()
	i := slices.IndexFunc(objects, func(o object) bool { return o["kind"] == kind && strings.HasPrefix(o.name(), name) })
	if i < 0 {
		t.Fatalf("no %s %s", kind, name)
	}
	return objects[i]
}

func denials(t *testing.T, objects []object) string {
	t.Helper()
	result, err := rego.New(rego.Query("data.manifests.deny"), rego.Load([]string{deploy + "/policies"}, nil),
		rego.Input(map[string]any{"objects": objects})).Eval(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(result[0].Expressions[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var overlays = []string{"dev", "production"}

func TestOverlaysFollowThePolicies(t *testing.T) {
	t.Parallel()
	for _, overlay := range overlays {
		t.Run(overlay, func(t *testing.T) {
			t.Parallel()
			if got := denials(t, decode(t, manifests.Build(t, filepath.Join(manifests.Copy(t), "overlays", overlay)))); got != "[]" {
				t.Error(got)
			}
		})
	}
}

func TestOverlaysAreValidByTheSchemasOfKubernetes(t *testing.T) {
	t.Parallel()
	for _, overlay := range overlays {
		t.Run(overlay, func(t *testing.T) {
			t.Parallel()
			out, err := validate(t, manifests.Build(t, filepath.Join(manifests.Copy(t), "overlays", overlay)))
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	t.Run("a field that does not exist is not valid", func(t *testing.T) {
		t.Parallel()
		text := patched(t, "dev", `{target: {kind: Deployment}, patch: '[{"op": "add", "path": "/spec/replica", "value": 3}]'}`)
		if out, err := validate(t, text); err == nil || !strings.Contains(out, "spec.replica") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("a rule without an expression is not valid", func(t *testing.T) {
		t.Parallel()
		text := patched(t, "production", `{target: {kind: PrometheusRule}, patch: '[{"op": "remove", "path": "/spec/groups/0/rules/0/expr"}]'}`)
		if out, err := validate(t, text); err == nil || !strings.Contains(out, "expr") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// schemas is the newest version whose schemas kubectl-validate holds; the API server of make test-deploy is newer.
const schemas = "1.30"

// validate runs kubectl-validate, offline.
func validate(t *testing.T, text string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	definitions := filepath.Join(dir, "definitions")
	if err := os.Mkdir(definitions, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range manifests.Definitions(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(definitions, filepath.Base(file)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "objects.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return manifests.Tool(t, "kubectl-validate", "kubectl-validate", "--version", schemas, "--local-crds", definitions, file)
}

// patched builds an overlay with patches in kustomize's own form. A patch that changes nothing fails the test.
func patched(t *testing.T, overlay string, patches ...string) string {
	t.Helper()
	dir := manifests.Copy(t)
	before := manifests.Build(t, filepath.Join(dir, "overlays", overlay))
	file := filepath.Join(dir, "mistake", "kustomization.yaml")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	text := "resources: [../overlays/" + overlay + "]\npatches:\n"
	for _, patch := range patches {
		text += "  - " + patch + "\n"
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	after := manifests.Build(t, filepath.Dir(file))
	if after == before {
		t.Fatalf("the patch changes nothing: %s", patches)
	}
	return after
}

func TestAMistakeInAManifestIsDenied(t *testing.T) {
	t.Parallel()
	const pod, container = "/spec/template/spec", "/spec/template/spec/containers/0"
	for _, c := range []struct{ name, kind, op, path, value, want string }{
		{name: "root", kind: "Deployment", op: "replace", path: pod + "/securityContext/runAsNonRoot", value: "false", want: "runs as root"},
		{name: "seccomp", kind: "Job", op: "replace", path: pod + "/securityContext/seccompProfile/type", value: `"Unconfined"`, want: "seccompProfile"},
		{name: "token", kind: "Deployment", op: "replace", path: pod + "/automountServiceAccountToken", value: "true", want: "service-account token"},
		{name: "writable root", kind: "Job", op: "replace", path: container + "/securityContext/readOnlyRootFilesystem", value: "false", want: "writable"},
		{name: "writable root of an init container", kind: "Deployment", op: "replace", path: pod + "/initContainers/0/securityContext/readOnlyRootFilesystem", value: "false", want: "writable"},
		{name: "capabilities", kind: "Deployment", op: "replace", path: container + "/securityContext/capabilities/drop", value: "[]", want: "capabilities"},
		{name: "tag latest", kind: "Deployment", op: "replace", path: container + "/image", value: `"iam-service:latest"`, want: "no fixed tag"},
		{name: "no tag", kind: "Deployment", op: "replace", path: container + "/image", value: `"iam-service"`, want: "no fixed tag"},
		{name: "another image", kind: "Deployment", op: "replace", path: container + "/image", value: `"iam-service:0.2.0"`, want: "the images differ"},
		{name: "a Job of another version", kind: "Job", op: "replace", path: container + "/image", value: `"iam-service:0.2.0"`, want: "does not end with the tag"},
		{name: "a Job that stays", kind: "Job", op: "remove", path: "/spec/ttlSecondsAfterFinished", want: "no ttlSecondsAfterFinished"},
		{name: "a Job whose Secret has a hash", kind: "Job", op: "replace", path: pod + "/volumes/0/secret/secretName", value: `"iam-service-migrate-h29t89h8b7"`, want: "carries a hash"},
		{name: "a short progress deadline", kind: "Deployment", op: "remove", path: "/spec/progressDeadlineSeconds", want: "progressDeadlineSeconds"},
		{name: "nothing waits for the schema", kind: "Deployment", op: "remove", path: pod + "/initContainers", want: "no init container waits"},
		{name: "no limits", kind: "Deployment", op: "remove", path: container + "/resources/limits/memory", want: "no limits of memory"},
		{name: "a secret", kind: "Deployment", op: "replace", path: container + "/env/0", value: `{"name": "DATABASE_URL", "value": "postgres://u:p@h/d"}`, want: "plain text"},
		{name: "no readiness", kind: "Deployment", op: "remove", path: container + "/readinessProbe", want: "no readinessProbe"},
		{name: "maxUnavailable", kind: "Deployment", op: "replace", path: "/spec/strategy/rollingUpdate/maxUnavailable", value: "1", want: "maxUnavailable"},
		{name: "a short grace period", kind: "Deployment", op: "replace", path: pod + "/terminationGracePeriodSeconds", value: "15", want: "grace period"},
		{name: "a Service without a port", kind: "Service", op: "replace", path: "/spec/ports/0/targetPort", value: `"metrics"`, want: "no container has port"},
		{name: "a port for all callers", kind: "NetworkPolicy, name: iam-service$", op: "remove", path: "/spec/ingress/1/from", want: "no NetworkPolicy names callers of port admin"},
		{name: "a port that no rule names", kind: "NetworkPolicy, name: iam-service$", op: "remove", path: "/spec/ingress/0/ports/1", want: "no NetworkPolicy names callers of port ext-authz"},
		{name: "a provider that is not reached", kind: "ConfigMap", op: "replace", path: "/data/RAUTH_ADMIN_URL", value: `"http://hydra-admin.rauth.svc:4446"`, want: "reach port 4446 of RAUTH_ADMIN_URL"},
		{name: "NATS that is not reached", kind: "NetworkPolicy, name: iam-service$", op: "remove", path: "/spec/egress/2", want: "reach port 4222 of NATS_URL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			op := map[string]any{"op": c.op, "path": c.path}
			if c.value != "" {
				op["value"] = json.RawMessage(c.value)
			}
			patch, err := json.Marshal([]any{op})
			if err != nil {
				t.Fatal(err)
			}
			text := patched(t, "dev", "{target: {kind: "+c.kind+"}, patch: '"+string(patch)+"'}")
			if got := denials(t, decode(t, text)); !strings.Contains(got, c.want) {
				t.Errorf("%s, want %q", got, c.want)
			}
		})
	}
}

func TestANewImageIsAMigrationOfANewName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ image, want string }{
		{image: "registry.example.com/team/iam-service:1.2.3", want: "iam-service-migrate-1.2.3"},
		{image: "localhost:5000/iam-service:v1.2.3-rc.1", want: "iam-service-migrate-v1.2.3-rc.1"},
		{image: "registry.example.com/iam-service:1.2.3@sha256:" + strings.Repeat("0a", 32), want: "iam-service-migrate-1.2.3"},
	} {
		for _, overlay := range overlays {
			t.Run(overlay+" "+c.image, func(t *testing.T) {
				t.Parallel()
				dir := manifests.Copy(t)
				setImage(t, filepath.Join(dir, "overlays", overlay, "kustomization.yaml"), c.image)
				objects := decode(t, manifests.Build(t, filepath.Join(dir, "overlays", overlay)))
				if got := find(t, objects, "Job", "iam-service-migrate").name(); got != c.want {
					t.Errorf("the Job is %s, want %s", got, c.want)
				}
				if got := denials(t, objects); got != "[]" {
					t.Error(got)
				}
			})
		}
	}
}

// setImage changes the images entry of a kustomization, as "kustomize edit set image" does in its folder.
func setImage(t *testing.T, file, image string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var k map[string]any
	if err := yaml.Unmarshal(text, &k); err != nil {
		t.Fatal(err)
	}
	entry := map[string]any{"name": "iam-service"}
	rest, digest, _ := strings.Cut(image, "@")
	colon := strings.LastIndex(rest, ":")
	entry["newName"], entry["newTag"] = rest[:colon], rest[colon+1:]
	if digest != "" {
		entry["digest"] = digest
	}
	k["images"] = []any{entry}
	if text, err = yaml.Marshal(k); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTheSettingsOfAnOverlayAreAccepted(t *testing.T) {
	t.Parallel()
	known := map[string]bool{"GOMEMLIMIT": true}
	for _, v := range server.Variables() {
		name, file := strings.CutSuffix(v[0], "[_FILE]")
		known[name], known[name+"_FILE"] = true, file
	}
	for _, overlay := range overlays {
		t.Run(overlay, func(t *testing.T) {
			t.Parallel()
			environ := environment(t, decode(t, manifests.Build(t, filepath.Join(manifests.Copy(t), "overlays", overlay))))
			for _, variable := range environ {
				if name, _, _ := strings.Cut(variable, "="); !known[name] {
					t.Errorf("%s is no setting", name)
				}
			}
			cfg, err := server.ParseConfig(environ)
			if err != nil {
				t.Fatal(err)
			}
			if cfg.DatabaseURL == "" || cfg.NATSURL == "" || cfg.RAuthAdminURL == "" || len(cfg.TrustedProxies) == 0 {
				t.Error("no database, NATS, admin API of R-Auth, or trusted proxies")
			}
			if overlay == "production" && (cfg.PolicyKey == nil || cfg.RAuthAdminClientSecret != "four") {
				t.Error("the key of policies or the secret of the admin API is not mounted")
			}
		})
	}
}

// environment is the environment of the container, with the files that are mounted in a folder of the test.
func environment(t *testing.T, objects []object) []string {
	t.Helper()
	root := t.TempDir()
	pod := object(find(t, objects, "Deployment", "iam-service").get("spec", "template", "spec").(map[string]any))
	container := object(pod.get("containers").([]any)[0].(map[string]any))
	mounts := map[string]string{}
	for _, m := range container.get("volumeMounts").([]any) {
		m := object(m.(map[string]any))
		mounts[m["name"].(string)] = m["mountPath"].(string)
	}
	for _, v := range pod.get("volumes").([]any) {
		v := object(v.(map[string]any))
		kind, name := "Secret", v.get("secret", "secretName")
		if name == nil {
			kind, name = "ConfigMap", v.get("configMap", "name")
		}
		if name == nil || v.get("configMap", "optional") == true && !slices.ContainsFunc(objects, func(o object) bool { return o.name() == name }) {
			continue
		}
		writeVolume(t, root+mounts[v["name"].(string)], find(t, objects, kind, name.(string)))
	}
	var environ []string
	add := func(name, value string) {
		for _, path := range mounts {
			if strings.HasPrefix(value, path+"/") {
				value = root + value
				break
			}
		}
		if name == "STATE_DIR" {
			value = t.TempDir()
		}
		environ = append(environ, name+"="+value)
	}
	config := container.get("envFrom").([]any)[0].(map[string]any)
	for name, value := range find(t, objects, "ConfigMap", object(config).get("configMapRef", "name").(string)).get("data").(map[string]any) {
		add(name, value.(string))
	}
	for _, e := range container.get("env").([]any) {
		e := e.(map[string]any)
		add(e["name"].(string), e["value"].(string))
	}
	return environ
}

// writeVolume writes a ConfigMap or Secret as the kubelet does: a file for each key.
func writeVolume(t *testing.T, dir string, o object) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, value := range o.get("data").(map[string]any) {
		text := []byte(value.(string))
		if o["kind"] == "Secret" {
			var decoded []byte // a JSON string of a []byte is base64
			if err := json.Unmarshal([]byte(`"`+value.(string)+`"`), &decoded); err != nil {
				t.Fatal(err)
			}
			text = decoded
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestThePrometheusRuleIsTheRulesFile(t *testing.T) {
	t.Parallel()
	var rules any
	text, err := os.ReadFile(deploy + "/prometheus/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	const file = deploy + "/kubernetes/components/monitoring/prometheusrule.yaml"
	if *update {
		text := "# The spec is deploy/prometheus/rules.yaml; a test compares them, and writes this file with -update.\n" +
			"apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {name: iam-service}\nspec:\n" +
			regexp.MustCompile(`(?m)^(.+)$`).ReplaceAllString(string(text), "  $1")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	objects := decode(t, manifests.Build(t, filepath.Join(manifests.Copy(t), "overlays/production")))
	if !reflect.DeepEqual(find(t, objects, "PrometheusRule", "iam-service")["spec"], rules) {
		t.Errorf("%s is not deploy/prometheus/rules.yaml: go test ./internal/dev/manifests -run PrometheusRule -update", file)
	}
}
