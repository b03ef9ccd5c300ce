package policy

import (
	"encoding/json"
	"testing"

	"github.com/open-policy-agent/opa/v1/config"
)

// What a configuration does not bound is bounded, in the one that is discovered too.
func TestOPAsConfigurationIsBounded(t *testing.T) {
	t.Parallel()
	for logs, want := range map[string]string{
		``:                                      ``,
		`null`:                                  `null`,
		`{"service":"a"}`:                       `{"reporting":{"buffer_size_limit_bytes":33554432},"service":"a"}`,
		`{"reporting":{"buffer_type":"event"}}`: `{"reporting":{"buffer_type":"event"}}`,
		`{"reporting":{"buffer_size_limit_bytes":1000}}`: `{"reporting":{"buffer_size_limit_bytes":1000}}`,
	} {
		c, err := configLimits{}.OnConfigDiscovery(t.Context(), &config.Config{
			DecisionLogs: json.RawMessage(logs), Bundles: json.RawMessage(`{"a":{"size_limit_bytes":5},"b":{}}`),
		})
		if err != nil || string(c.DecisionLogs) != want {
			t.Errorf("%s: %s, %v", logs, c.DecisionLogs, err)
		}
		if got := string(c.Bundles); got != `{"a":{"size_limit_bytes":5},"b":{"size_limit_bytes":33554432}}` {
			t.Errorf("bundles: %s", got)
		}
	}
	if _, err := (configLimits{}).OnConfig(t.Context(), &config.Config{Bundles: json.RawMessage(`[`)}); err == nil {
		t.Error("what is no JSON is taken")
	}
}
