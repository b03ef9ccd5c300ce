package explain_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
)

func recorded(t *testing.T, event map[string]any) (explain.Question, error) {
	t.Helper()
	text, err := json.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	return explain.FromRecord(iam.RecordedDecision{ID: "d", At: time.Now(), Event: text})
}

func TestInputThatThePolicyReadsAndWasNotRecordedIsReported(t *testing.T) {
	t.Parallel()
	r := &policy.Revision{CacheKey: []string{"input.token.sub", `input.token["https://x/roles"]`, "input.request.host"}}
	q, err := recorded(t, map[string]any{
		"input":  map[string]any{"token": map[string]any{"iss": "i", "sub": "s"}, "request": map[string]any{"path": "/a"}, "now": 1},
		"erased": []string{"/input/token/email", "/input/token/https:~1~1x~1roles", "/input/request/host", "/input/token/groups/0", "/result/headers/X-Email"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := explain.Unknown(r, q), []string{`input.token["https://x/roles"]`, "input.request.host"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	r.CacheKey = []string{"input.token"} // as a whole
	if got := explain.Unknown(r, q); len(got) != 3 {
		t.Errorf("got %q", got)
	}
	// The service itself reads the path of an anonymous request.
	if q, err = recorded(t, map[string]any{"input": map[string]any{"request": map[string]any{}, "now": 1}, "erased": []string{"/input/request/path"}}); err != nil {
		t.Fatal(err)
	}
	if got := explain.Unknown(&policy.Revision{}, q); len(got) != 1 {
		t.Errorf("got %q", got)
	}
}

func TestARecordedDecisionBecomesItsRequest(t *testing.T) {
	t.Parallel()
	q, err := recorded(t, map[string]any{
		"input": map[string]any{
			"token":   map[string]any{"iss": "i", "sub": "s", "azp": "web", "iat": 1700000000},
			"request": map[string]any{"method": "PUT", "path": "/a", "tenant_hint": "acme", "client_ip": "192.0.2.1", "gateway": "envoy", "host": "h"}, "now": 1700000001,
		},
		"custom": map[string]any{"preflight": true, "facts": []any{map[string]any{"path": "tenants/acme", "version": 3, "hash": "ff"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if q.Tenant != "acme" || q.Request.Method != http.MethodPut || q.Request.ClientIP.String() != "192.0.2.1" || !q.Request.Preflight || q.Now.Unix() != 1700000001 ||
		q.Token.ClientID != "web" || q.Token.IssuedAt.Unix() != 1700000000 || q.Recorded.Facts[0].Hash != "ff" {
		t.Errorf("got %+v, %+v", q, q.Token)
	}
	if _, err := recorded(t, map[string]any{"input": map[string]any{"token": map[string]any{"sub": "s"}}}); err == nil {
		t.Error("a token without an issuer is accepted")
	}
}
