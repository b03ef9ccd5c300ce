package cluster_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/manifests/cluster"
)

// serveMetrics puts a server in the place of metrics-server, with a figure for each pod that kubectl asks for: kwok has
// none. The API server aggregates it as it does the real one.
func serveMetrics(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	const group = "metrics.k8s.io/v1beta1"
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		var answer any
		switch path := strings.TrimPrefix(r.URL.Path, "/apis/"+group); path {
		case "":
			answer = map[string]any{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": []any{
				map[string]any{"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": []string{"get", "list"}},
			}}
		default:
			pods := []any{}
			names := c.Kubectl("-n", "iam", "get", "pods", "-l", r.URL.Query().Get("labelSelector"), "-o", "jsonpath={.items[*].metadata.name}")
			for _, name := range strings.Fields(names) {
				pods = append(pods, map[string]any{
					"metadata": map[string]any{"name": name, "namespace": "iam"}, "timestamp": time.Now().UTC().Format(time.RFC3339), "window": "15s",
					"containers": []any{map[string]any{"name": "iam-service", "usage": map[string]any{"cpu": "10m", "memory": "64Mi"}}},
				})
			}
			answer = map[string]any{"kind": "PodMetricsList", "apiVersion": group, "metadata": map[string]any{}, "items": pods}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	c.Apply(`apiVersion: v1
kind: Service
metadata: {name: metrics, namespace: kube-system}
spec: {type: ExternalName, externalName: localhost, ports: [{port: ` + at.Port() + `}]}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {name: metrics, namespace: kube-system, port: ` + at.Port() + `}
`)
	c.Kubectl("wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io", "--timeout=60s")
}
