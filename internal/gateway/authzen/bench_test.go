package authzen_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"iam-service/internal/gateway/authzen"
	"iam-service/internal/problem"
)

// BenchmarkEvaluation is one evaluation by the handler, with its client's token, without the network: from the cache of
// decisions, and by the policy over cached facts (each has another resource).
func BenchmarkEvaluation(b *testing.B) {
	a := certified(b)
	service, err := authzen.New(authzen.Config{URL: publicURL, Decider: a.PDP, Log: a.Logger, Observe: func(context.Context, problem.Observation) {}})
	a.OK(err)
	h := service.Handler(http.NotFoundHandler())
	token := "Bearer " + a.token("pep", nil)
	ask := func(b *testing.B, at, body string) {
		b.Helper()
		r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/access/v1/"+at, strings.NewReader(body))
		r.Header["Authorization"], r.Header["Content-Type"] = []string{token}, []string{"application/json"}
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != http.StatusOK {
			b.Fatalf("%d: %s", w.Code, w.Body)
		}
	}
	for _, c := range []struct {
		name, at string
		body     func(i int) string
	}{
		{name: "cached", at: "evaluation", body: func(int) string { return question("alice", "read", "record", "record-1") }},
		{name: "uncached", at: "evaluation", body: func(i int) string { return question("alice", "read", "record", strconv.Itoa(i)) }},
		{name: "batch of 100, cached", at: "evaluations", body: func(int) string {
			return batch("", strings.Split(strings.Repeat("read,", 99)+"read", ",")...)
		}},
		{name: "search of actions", at: "search/action", body: func(int) string {
			return `{"subject": {"type": "user", "id": "alice"}, "resource": {"type": "record", "id": "record-1"}}`
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				ask(b, c.at, c.body(n))
			}
		})
	}
}
