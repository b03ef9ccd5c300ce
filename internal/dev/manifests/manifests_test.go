package manifests_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/rego"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"iam-service/internal/server"
)

const deploy = "../../../deploy"

// build returns the objects of an overlay. The production overlay's secrets are created in a copy.
func build(t *testing.T, overlay string) []any {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(deploy, "kubernetes"))); err != nil {
		t.Fatal(err)
	}
	secrets := filepath.Join(dir, "overlays/production/secrets")
	if err := os.MkdirAll(secrets, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"DATABASE_URL", "MIGRATE_DATABASE_URL"} {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte("postgres://u@postgres/iam"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(dir, "overlays", overlay))
	if err != nil {
		t.Fatal(err)
	}
	var objects []any
	for _, r := range built.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		if into, ok := types[r.GetKind()]; ok {
			if err := yaml.UnmarshalStrict(text, reflect.New(into).Interface()); err != nil {
				t.Errorf("%s %s: %v", r.GetKind(), r.GetName(), err)
			}
		} else if r.GetKind() != "ServiceMonitor" && r.GetKind() != "PrometheusRule" {
			t.Errorf("%s has no type to decode it by", r.GetKind())
		}
		var o any
		if err := yaml.Unmarshal(text, &o); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, o)
	}
	return objects
}

var types = map[string]reflect.Type{
	"Deployment":              reflect.TypeFor[appsv1.Deployment](),
	"Job":                     reflect.TypeFor[batchv1.Job](),
	"ConfigMap":               reflect.TypeFor[corev1.ConfigMap](),
	"Secret":                  reflect.TypeFor[corev1.Secret](),
	"Service":                 reflect.TypeFor[corev1.Service](),
	"ServiceAccount":          reflect.TypeFor[corev1.ServiceAccount](),
	"NetworkPolicy":           reflect.TypeFor[networkingv1.NetworkPolicy](),
	"PodDisruptionBudget":     reflect.TypeFor[policyv1.PodDisruptionBudget](),
	"HorizontalPodAutoscaler": reflect.TypeFor[autoscalingv2.HorizontalPodAutoscaler](),
}

func denials(t *testing.T, objects []any) string {
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

func TestOverlaysBuildAndFollowThePolicies(t *testing.T) {
	t.Parallel()
	for _, overlay := range []string{"dev", "production"} {
		t.Run(overlay, func(t *testing.T) {
			t.Parallel()
			objects := build(t, overlay)
			if got := denials(t, objects); got != "[]" {
				t.Error(got)
			}
			known := map[string]bool{}
			for _, v := range server.Variables() {
				known[strings.TrimSuffix(v[0], "[_FILE]")] = true
			}
			environ := []string{"DATABASE_URL=postgres://u@postgres/iam"}
			for _, o := range objects {
				if o := o.(map[string]any); o["kind"] == "ConfigMap" {
					for name, value := range o["data"].(map[string]any) {
						if !known[name] {
							t.Errorf("%s is no setting", name)
						}
						environ = append(environ, name+"="+value.(string))
					}
				}
			}
			if len(environ) == 1 {
				t.Error("no settings")
			}
			if _, err := server.ParseConfig(environ); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAMistakeInAManifestIsDenied(t *testing.T) {
	t.Parallel()
	objects := build(t, "dev")
	text, err := json.Marshal(objects)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{old: `"runAsNonRoot":true`, new: `"runAsNonRoot":false`, want: "runs as root"},
		{old: `"RuntimeDefault"`, new: `"Unconfined"`, want: "seccompProfile"},
		{old: `"automountServiceAccountToken":false`, new: `"automountServiceAccountToken":true`, want: "service-account token"},
		{old: `"readOnlyRootFilesystem":true`, new: `"readOnlyRootFilesystem":false`, want: "writable"},
		{old: `"drop":["ALL"]`, new: `"drop":[]`, want: "capabilities"},
		{old: `iam-service:0.1.0`, new: `iam-service:latest`, want: "no fixed tag"},
		{old: `iam-service:0.1.0`, new: `iam-service`, want: "no fixed tag"},
		{old: `"limits":`, new: `"other":`, want: "no limits of memory"},
		{old: `"name":"STATE_DIR"`, new: `"name":"DATABASE_URL"`, want: "plain text"},
		{old: `"readinessProbe"`, new: `"other"`, want: "no readinessProbe"},
		{old: `"maxUnavailable":0`, new: `"maxUnavailable":1`, want: "maxUnavailable"},
		{old: `"terminationGracePeriodSeconds":30`, new: `"terminationGracePeriodSeconds":15`, want: "grace period"},
		{old: `"targetPort":"ops"`, new: `"targetPort":"metrics"`, want: "no container has port"},
		{old: `"port":9090,"protocol":"TCP"`, new: `"port":9091,"protocol":"TCP"`, want: "no NetworkPolicy"},
	} {
		t.Run(c.new, func(t *testing.T) {
			t.Parallel()
			var bad []any
			changed := strings.ReplaceAll(string(text), c.old, c.new)
			if changed == string(text) {
				t.Fatalf("no %s in the manifests", c.old)
			}
			if err := json.Unmarshal([]byte(changed), &bad); err != nil {
				t.Fatal(err)
			}
			if got := denials(t, bad); !strings.Contains(got, c.want) {
				t.Errorf("%s, want %q", got, c.want)
			}
		})
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
	if !slices.ContainsFunc(build(t, "production"), func(o any) bool {
		return o.(map[string]any)["kind"] == "PrometheusRule" && reflect.DeepEqual(o.(map[string]any)["spec"], rules)
	}) {
		t.Error("components/monitoring/prometheusrule.yaml differs from deploy/prometheus/rules.yaml")
	}
}
