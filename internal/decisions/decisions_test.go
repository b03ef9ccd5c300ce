package decisions

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"pgregory.net/rapid"

	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/policy"
	"iam-service/internal/token"
)

var headers = []string{"X-User-Id", "X-Tenant-Id", "X-User-Roles", "X-User-Attributes", "X-Email", "X-Decision-Id", "X-Policy-Revision"}

// evaluated is a decision about alice, with additional claims.
func evaluated(more map[string]any) *enrich.Evaluated {
	claims := map[string]any{"iss": "https://i", "sub": "alice", "client_id": "web", "aud": "gateway", "exp": json.Number("1790000000")}
	for k, v := range more {
		claims[k] = v
	}
	e := &enrich.Evaluated{
		At: time.Unix(1_780_000_000, 0), Revision: &policy.Revision{ID: "0123456789ab", Digest: strings.Repeat("0123456789abcdef", 4), Name: "v1"},
		Token:   &token.Token{Issuer: "https://i", Subject: "alice", ClientID: "web", Claims: ast.MustInterfaceToValue(claims)},
		Request: enrich.RequestFacts{Gateway: "traefik", Method: "GET", Path: "/v1/documents", ClientIP: netip.MustParseAddr("192.0.2.1")}, Hint: "acme",
		Response: enrich.Response{Allowed: true, Status: 0, DecisionID: "decision-1", Tenant: "acme", Values: []string{"u1", "acme", "editor,viewer", "eyJkIjoic2FsZXMifQ==", "alice@example.com", "decision-1", "0123456789ab"}},
		Reasons:  []policy.Reason{{Code: "member", Title: "A member"}},
		Facts:    []directory.Fact{{Path: "users/https:~1~1i/alice", Version: 7}, {Path: "tenants/acme", Version: 9}}, Took: 120 * time.Microsecond,
	}
	e.Input.Fields[policy.Method], e.Input.Fields[policy.Path], e.Input.Fields[policy.TenantHint] = "GET", "/v1/documents", "acme"
	return e
}

// recorded is an event as JSON, and decoded.
func recorded(t *testing.T, fields []string, e *enrich.Evaluated) (string, map[string]any) {
	t.Helper()
	if fields == nil {
		fields = DefaultFields
	}
	text, err := json.Marshal(newMasks(fields, headers, nil).event(e))
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return string(text), doc
}

func at(doc map[string]any, names ...string) any {
	var v any = doc
	for _, n := range names {
		m, _ := v.(map[string]any) // no object: nil
		v = m[n]
	}
	return v
}

func TestADecisionIsRecordedInTheFormatOfOPA(t *testing.T) {
	t.Parallel()
	_, doc := recorded(t, nil, evaluated(nil))
	for want, got := range map[string]any{
		"decision-1": at(doc, "decision_id"), "iam/claims/decision": at(doc, "path"), "alice": at(doc, "input", "token", "sub"), "GET": at(doc, "input", "request", "method"),
		"acme": at(doc, "result", "tenant"), "editor,viewer": at(doc, "result", "headers", "X-User-Roles"), "2026-05-28T20:26:40Z": at(doc, "timestamp"), "192.0.2.1": at(doc, "requested_by"),
		strings.Repeat("0123456789abcdef", 4): at(doc, "bundles", "iam", "revision"),
	} {
		if got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	if at(doc, "result", "allow") != true || at(doc, "metrics", "timer_rego_query_eval_ns") != 120000.0 {
		t.Errorf("%v", doc)
	}
	facts, _ := at(doc, "custom", "facts").([]any)
	if len(facts) != 2 || facts[0].(map[string]any)["version"] != 7.0 {
		t.Errorf("facts: %v", facts)
	}
}

func TestOnlyTheAllowListIsRecorded(t *testing.T) {
	t.Parallel()
	const jwt = "eyJhbGciOiJub25lIn0.eyJwIjoicGxhbnRlZCJ9.cGxhbnRlZA"
	long := strings.Repeat("planted ", 1000)
	e := evaluated(map[string]any{
		"password": "planted", "email": "planted@example.com", "jti": "planted", "name": "planted", "groups": []any{"staff", jwt, long, map[string]any{"secret": "planted", "id_token": "planted", "x": jwt}},
		"scope": "read " + jwt, "amr": map[string]any{"client_secret": "planted", "deep": map[string]any{"password": "planted", "pw": "planted", "jwt": "planted"}},
	})
	e.Input.Fields[policy.Path] = "/reset/" + jwt
	e.Input.Fields[policy.RawPath] = "/reset/" + jwt + "?planted"
	e.Input.Fields[policy.Host] = jwt + ".example.com"
	text, doc := recorded(t, nil, e)
	for _, no := range []string{"planted", "eyJ", "cGxhbnRlZA", "alice@example.com", "c2FsZXM"} {
		if strings.Contains(text, no) {
			t.Errorf("%q is recorded: %s", no, text)
		}
	}
	if at(doc, "input", "request", "path") != "/reset/(token)" {
		t.Errorf("the path is %v", at(doc, "input", "request", "path"))
	}
	erased, _ := at(doc, "erased").([]any)
	for _, want := range []any{"/input/token/password", "/input/token/email", "/input/request/raw_path", "/input/request/path", "/result/headers/X-User-Attributes", "/result/headers/X-Email"} {
		if !slices.Contains(erased, want) {
			t.Errorf("%v is not reported as erased: %v", want, erased)
		}
	}
}

// Masking covers the names of facts, headers and the columns for queries too.
func TestWhatIsMaskedIsMaskedEverywhere(t *testing.T) {
	t.Parallel()
	m := newMasks([]string{"token.aud"}, append(slices.Clone(headers), "X-User-Subject", "X-Service-Id"), nil)
	e := evaluated(nil)
	e.Response.Values = append(slices.Clone(e.Response.Values), "alice", "web")
	ev := m.event(e)
	text, err := json.Marshal(ev)
	if err != nil {
		t.Fatal(err)
	}
	found, err := json.Marshal(m.record(e, ev, nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, no := range []string{"alice", "web", "https:"} {
		if strings.Contains(string(text), no) || strings.Contains(string(found), no) {
			t.Errorf("%q is recorded: %s %s", no, text, found)
		}
	}
	e.Response.Tenant = ""
	if r := m.record(e, ev, nil); r.Tenant != "" {
		t.Errorf("the hint is recorded: %+v", r)
	}
}

func TestWhatLooksLikeATokenIsMasked(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{
		"eyJhbGciOiJub25lIn0.eyJwIjoxfQ.c2ln", "eyJhbGciOiJkaXIifQ..aXY.Y2lwaGVy.dGFn", "eyJhbGciOiJSU0EifQ.a2V5.aXY.Y2lwaGVy.dGFn", "eyAiYWxnIjoibm9uZSJ9.eyJwIjoxfQ.", "ewoiYWxnIjoxfQ.e30.c2ln",
	} {
		e := evaluated(map[string]any{"groups": []any{"before " + secret + " after", map[string]any{secret: "x", "accessToken": "y", "apiKey": "z"}}})
		text, _ := recorded(t, nil, e)
		for _, part := range strings.Split(secret, ".") {
			if len(part) > 3 && strings.Contains(text, part) {
				t.Errorf("%s: %q is recorded", secret, part)
			}
		}
		if strings.Contains(text, `"y"`) || strings.Contains(text, `"z"`) || !strings.Contains(text, "before (token) after") {
			t.Errorf("%s: %s", secret, text)
		}
	}
}

// Percent-encoding does not hide a token.
func TestAnEncodedTokenInAPathIsMasked(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"/reset/%65yJhbGciOiJub25lIn0.eyJwIjoxfQ.c2ln":             "/reset/(token)",
		"/reset/eyJhbGciOiJub25lIn0%2EeyJwIjoxfQ%2ec2ln/%41":       "/reset/(token)/A",
		"/eyJhbGciOiJub25lIn0.e30.a/%zz%65yJhbGciOiJub25lIn0.e30.": "/(token)/%zz(token)",
		"/a%20b/report.v1.%65":                                     "/a%20b/report.v1.%65",
		"/100%/eyJhbGci":                                           "/100%/eyJhbGci",
	} {
		e := evaluated(nil)
		e.Input.Fields[policy.RawPath] = raw
		_, doc := recorded(t, []string{"request.raw_path"}, e)
		if got := at(doc, "input", "request", "raw_path"); got != want {
			t.Errorf("%s: %v, want %s", raw, got, want)
		}
	}
}

func TestTheAllowListIsValidated(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", "*", "token", "token.", "token.*", "input", "input.token.sub", "request", "request.*", "request.headers", "request.authorization", "token.password", "token.client_secret",
		"token.refresh_token", "token.access_token", "token.accessToken", "token.apiKey", "token.sessionId", "token.otp", "token.id_token", "token.api_key", "token.apiKey ", "token.code", "token.private_claim", "token.client_assertion", "token.sub\n", "TOKEN.sub", "token.a b",
		"token.pwd", "token.pw", "token.userPw", "token.pw_hash", "token.pass", "token.db-pass", "token.passphrase", "token.jwt", "token.id_jwt", "token.bearer", "token.auth", "token.basicAuth",
	} {
		if CheckFields([]string{"token.sub", bad}) == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	if err := CheckFields(DefaultFields); err != nil {
		t.Error(err)
	}
	if err := CheckFields([]string{"token.department", "token.https://example.com/claims/tier", "token.auth_time", "token.author", "token.passenger", "request.raw_path"}); err != nil {
		t.Error(err)
	}
}

// Decisions that a slow sink does not take are dropped, and counted for that sink alone.
func TestASlowSinkDoesNotDelayOthers(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var lines bytes.Buffer
	l := New(Config{Headers: headers, Queue: 10, Log: slog.New(slog.DiscardHandler), Sinks: []Sink{
		{Name: "stuck", Write: func(context.Context, []Entry) error { <-release; return nil }},
		{Name: "broken", Write: func(context.Context, []Entry) error { return errors.New("away") }},
		{Name: "good", Write: func(_ context.Context, batch []Entry) error {
			for range batch {
				lines.WriteByte('.')
			}
			return nil
		}},
	}})
	const n = 2000
	for i := range n {
		for l.Record(evaluated(nil)); l.Dropped()[""] > 0 && i == 0; {
			t.Fatal("the first one was dropped")
		}
	}
	close(release)
	l.Close()
	<-l.done // Close waits two seconds at most
	dropped := l.Dropped()
	if dropped["stuck"] == 0 && dropped[""] == 0 {
		t.Error("nothing was dropped")
	}
	if got := int64(lines.Len()) + dropped["good"] + dropped[""]; got != n {
		t.Errorf("%d of %d decisions are accounted for", got, n)
	}
	if dropped["broken"]+dropped[""] != n {
		t.Errorf("%d decisions were not written, want all: %v", dropped["broken"]+dropped[""], dropped)
	}
	l.Record(evaluated(nil)) // after the end
	if l.Dropped()[""] != dropped[""]+1 {
		t.Error("a decision after Close is not counted")
	}
}

// Record never blocks, also without a worker.
func TestAFullQueueDropsDecisions(t *testing.T) {
	t.Parallel()
	l := &Log{queue: make(chan *enrich.Evaluated, 1)} // without a worker
	l.Record(evaluated(nil))
	l.Record(evaluated(nil))
	if n := l.Dropped()[""]; n != 1 {
		t.Errorf("%d were dropped", n)
	}
}

func BenchmarkRecordingADecision(b *testing.B) {
	m := newMasks(DefaultFields, headers, map[string]string{"app": "iam-service"})
	console := Console(slog.New(slog.NewJSONHandler(io.Discard, nil))) //nolint:sloglint // as in production, and discarded
	e := evaluated(nil)
	b.ReportAllocs()
	for b.Loop() {
		ev := m.event(e)
		if err := console.Write(context.Background(), []Entry{{Event: ev, Record: m.record(e, ev, nil)}}); err != nil {
			b.Fatal(err)
		}
	}
}

// A panic while a decision is masked or written drops that decision only.
func TestAPanicDropsOneDecision(t *testing.T) {
	t.Parallel()
	panics := make(chan error, 10)
	wrote := make(chan string, 10)
	first := true
	l := New(Config{
		Headers: headers, Log: slog.New(slog.DiscardHandler), OnPanic: func(err error) { panics <- err },
		Sinks: []Sink{{Name: "bad", Write: func(_ context.Context, batch []Entry) error {
			if first {
				first = false
				panic("cannot write")
			}
			for _, w := range batch {
				wrote <- w.Event.DecisionID
			}
			return nil
		}}},
	})
	l.Record(&enrich.Evaluated{}) // without a revision: masking it panics
	if err := <-panics; !strings.Contains(err.Error(), "panic: runtime error") {
		t.Error(err)
	}
	l.Record(evaluated(nil))
	if err := <-panics; err.Error() != "panic: cannot write" {
		t.Error(err)
	}
	l.Record(evaluated(nil))
	if id := <-wrote; id != "decision-1" {
		t.Error(id)
	}
	l.Close()
	if d := l.Dropped(); d[""] != 1 || d["bad"] != 1 {
		t.Errorf("dropped %v", d)
	}
}

// The log writes an object of the input as it would write any value, but for the spelling of control characters.
func TestTheConsoleWritesAnInputAsJSON(t *testing.T) {
	t.Parallel()
	controls := strings.NewReplacer(`\\`, `\\`, `\b`, `\u0008`, `\f`, `\u000c`)
	texts := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "<a&b>", "\u2028", "a\"b\\c\n\t\x01", "\xff\xfe", "time", "level", "msg"}))
	values := func(deep *rapid.Generator[any]) *rapid.Generator[any] {
		return rapid.OneOf(
			rapid.Map(texts, func(s string) any { return s }), rapid.Map(rapid.Bool(), func(b bool) any { return b }), rapid.Map(rapid.Int64(), func(n int64) any { return n }),
			rapid.SampledFrom([]any{nil, json.Number("1.50"), json.Number("1e300"), 7, 1.5, []string{"a"}, []any{}, map[string]any{}}),
			rapid.Map(rapid.SliceOfN(texts, 0, 3), func(l []string) any {
				list := []any{}
				for _, s := range l {
					list = append(list, s)
				}
				return list
			}), deep)
	}
	objects := func(members *rapid.Generator[any]) *rapid.Generator[any] {
		return rapid.Map(rapid.MapOfN(texts, members, 0, 4), func(m map[string]any) any { return m })
	}
	scalars := values(rapid.Just[any]("end"))
	inputs := objects(values(objects(values(objects(scalars)))))
	rapid.Check(t, func(t *rapid.T) {
		input, _ := inputs.Draw(t, "input").(map[string]any)
		line := func(a slog.Attr) string {
			var out bytes.Buffer
			log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { return a }}))
			r := slog.NewRecord(time.Time{}, slog.LevelInfo, "decision", 0)
			r.AddAttrs(a, slog.Int("last", 1))
			if err := log.Handler().Handle(context.Background(), r); err != nil {
				t.Fatal(err)
			}
			return controls.Replace(out.String())
		}
		if got, want := line(object("input", input)), line(slog.Any("input", input)); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	})
}

// A queue that fills faster than batches are due is masked at once: nothing is dropped.
func TestAQueueThatIsHalfFullIsMaskedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var mu sync.Mutex
		var all []time.Duration
		written := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(all)
		}
		l := New(Config{Headers: headers, Queue: 10, Log: slog.New(slog.DiscardHandler), Sinks: []Sink{{Name: "all", Write: func(_ context.Context, batch []Entry) error {
			mu.Lock()
			defer mu.Unlock()
			for range batch {
				all = append(all, time.Since(began))
			}
			return nil
		}}}})
		l.Record(evaluated(nil))
		time.Sleep(maskWait - time.Millisecond)
		synctest.Wait()
		if wrote := written(); len(wrote) != 0 {
			t.Errorf("one decision was written after %v, want it to wait for others", wrote)
		}
		time.Sleep(time.Millisecond + batchWait)
		synctest.Wait()
		for range 8 { // more than half of the queue
			l.Record(evaluated(nil))
		}
		time.Sleep(batchWait)
		synctest.Wait()
		if wrote := written(); len(wrote) != 9 || wrote[8] >= 2*maskWait || l.Dropped()[""] != 0 {
			t.Errorf("written after %v, dropped %v", wrote, l.Dropped())
		}
		l.Close()
	})
}
