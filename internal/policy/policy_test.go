package policy_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policy/authoring"
	"iam-service/policies"
)

var ctx = context.Background()

var discard = slog.New(slog.DiscardHandler)

// facts is a directory of one document.
type facts map[string]any

func (f facts) Read(_ context.Context, path storage.Path) (ast.Value, error) {
	v, ok := f[strings.Join(path, "/")]
	switch v := v.(type) {
	case error:
		return nil, v
	case nil:
		if !ok {
			return nil, &storage.Error{Code: storage.NotFoundErr}
		}
	}
	return ast.MustInterfaceToValue(v), nil
}

func (facts) Waited() time.Duration { return 0 }

func engine(t testing.TB, headers ...string) *policy.Engine {
	t.Helper()
	e, err := policy.NewEngine(policy.Config{Headers: headers, Log: slog.New(slog.DiscardHandler), Limit: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// files is a bundle; what is not given is the smallest that passes the gate.
type files map[string]string

const smallest = "package iam.claims\n\ndecision := {\"allow\": true, \"tenant\": \"\", \"headers\": {\"X-User-ID\": \"u1\"}}\n"

func (f files) complete() files {
	all := files{
		".manifest":            `{"roots": ["iam"]}`,
		"iam/claims/p.rego":    smallest,
		"iam/config/data.json": `{"headers": ["X-User-ID"]}`,
	}
	maps.Copy(all, f)
	maps.DeleteFunc(all, func(_, text string) bool { return text == "-" })
	return all
}

func (f files) write(t testing.TB, dir string) string {
	t.Helper()
	for name, text := range f.complete() {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (f files) tarball(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	all := f.complete()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := w.WriteHeader(&tar.Header{Name: "/" + name, Mode: 0o600, Size: int64(len(all[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, all[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func offer(t testing.TB, e *policy.Engine, f files) error {
	t.Helper()
	return e.OfferPath(ctx, f.write(t, t.TempDir()))
}

func decide(e *policy.Engine, f policy.Facts) (policy.Decision, error) {
	return decideFor(e, map[string]any{"iss": "i", "sub": "s"}, f)
}

// decideFor asks about a token with these claims.
func decideFor(e *policy.Engine, claims map[string]any, f policy.Facts) (policy.Decision, error) {
	r := e.Revision()
	q := policy.Question{Token: r.Token("", "", "", ast.MustInterfaceToValue(claims)), Now: time.Now()}
	return e.Decide(ctx, r, &q, f, time.Now().Add(time.Minute))
}

func rule(body string) files { return files{"iam/claims/p.rego": "package iam.claims\n\n" + body} }

func TestTheEmbeddedPolicyPassesTheGate(t *testing.T) {
	t.Parallel()
	e := engine(t)
	c, err := policy.FromFS("embedded", policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Offer(ctx, c); err != nil {
		t.Fatal(err)
	}
	r := e.Revision()
	if r.Capped || len(r.Nondeterministic) > 0 || len(r.Warnings) > 0 || len(r.Unvalidated) > 0 {
		t.Errorf("the default policy's answers cannot be kept for long: capped %v, it calls %v; %q", r.Capped, r.Nondeterministic, r.Warnings)
	}
	// The policy's view stays exact: the whole token, the path and the clock are not in it.
	want := []string{
		"input.request.anonymous", "input.request.tenant_hint", "input.token.client_id", "input.token.email", "input.token.entitlements",
		"input.token.groups", "input.token.iss", "input.token.roles", "input.token.scope", "input.token.sub",
	}
	if diff := cmp.Diff(want, r.CacheKey); diff != "" {
		t.Error(diff)
	}
	for _, file := range slices.Collect(maps.Keys(c.Modules)) {
		if strings.HasSuffix(file, "_test.rego") {
			t.Errorf("the test %s is in the bundle", file)
		}
	}
}

func TestABadPolicyIsRefusedAndTheOldOneServesOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files
		want []string
	}{
		"does not parse":                             {rule("decision := {"), []string{"p.rego:3", "rego_parse_error"}},
		"does not compile":                           {rule("decision := x"), []string{"p.rego:3", "rego_unsafe_var_error"}},
		"is written in Rego v0":                      {rule("decision = x { x := 1 }"), []string{"p.rego:3"}},
		"has no entrypoint":                          {rule("decisions := {}"), []string{"data.iam.claims.decision"}},
		"has no manifest":                            {files{".manifest": "-"}, []string{".manifest"}},
		"claims everything":                          {files{".manifest": `{"roots": [""]}`}, []string{`root ""`}},
		"claims the directory":                       {files{".manifest": `{"roots": ["iam", "directory/users"]}`}, []string{`"directory/users"`}},
		"claims system":                              {files{".manifest": `{"roots": ["iam", "system"]}`}, []string{`"system"`}},
		"has a package outside of roots":             {files{"x.rego": "package other\n\na := 1"}, []string{"other"}},
		"has data outside of roots":                  {files{"other/data.json": `{"a": 1}`}, []string{"other"}},
		"has rules in the directory":                 {files{"x.rego": "package directory\n\nusers := {}"}, []string{"directory"}},
		"declares no headers":                        {files{"iam/config/data.json": `{}`}, []string{"data.iam.config", "missing property 'headers'"}},
		"declares a header by number":                {files{"iam/config/data.json": `{"headers": [7]}`}, []string{"/headers/0: got number, want string"}},
		"declares a header of another":               {files{"iam/config/data.json": `{"headers": ["X-User-ID", "Set-Cookie", "X-Forwarded-For"]}`}, []string{"Set-Cookie", "X-Forwarded-For"}},
		"declares a header the gateways do not know": {files{"iam/config/data.json": `{"headers": ["X-User-ID", "X-User-Shoe"]}`}, []string{"X-User-Shoe", "GATEWAY_HEADERS"}},
		"has a strange anonymous path":               {files{"iam/config/data.json": `{"headers": ["X-User-ID"], "anonymous": {"paths": ["public"]}}`}, []string{"anonymous.paths", "public"}},
		"calls the network":                          {rule(`decision := http.send({"method": "get", "url": "http://127.0.0.1"})`), []string{"http.send"}},
		"calls the network in every":                 {rule("decision := {\"allow\": true} if {\n\tevery x in [1] { http.send({\"url\": x}).status_code == 200 }\n}"), []string{"http.send"}},
		"calls the network by with":                  {rule("f(x) := x\n\ndecision := {\"allow\": y} if y := f({\"a\": 1}) with f as http.send"), []string{"http"}},
		"resolves names":                             {rule(`decision := net.lookup_ip_addr("example.com")`), []string{"net.lookup_ip_addr"}},
		"reads the environment":                      {rule(`decision := opa.runtime()`), []string{"opa.runtime"}},
		"shifts bits":                                {rule(`decision := bits.lsh(1, 100000000)`), []string{"bits.lsh"}},
		"has a number out of bounds":                 {rule("decision := {\"allow\": 1e-30000 * input.token.level < 1}"), []string{"p.rego:3", "1e-30000", "exponent"}},
		"has data out of bounds":                     {files{"iam/config/data.json": `{"headers": ["X-User-ID"], "level": [{"x": 1e-30000}]}`}, []string{"its data", "1e-30000", "exponent"}},
		"is recursive":                               {rule("decision := a\n\na := b\n\nb := a"), []string{"recurs"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := engine(t)
			if err := offer(t, e, files{}); err != nil {
				t.Fatal(err)
			}
			before := e.Revision()
			err := offer(t, e, c.files)
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the reason does not say %q: %v", want, err)
				}
			}
			if e.Revision() != before {
				t.Error("the old one is no longer in force")
			}
			s := e.Status()
			if s.Refused == nil || s.Refused.Reason != err.Error() {
				t.Errorf("status: %+v", s.Refused)
			}
			if d, err := decide(e, facts{}); err != nil || !d.Allow {
				t.Errorf("the old one does not answer: %v", err)
			}
			if err := offer(t, e, rule("decision := {\"allow\": false}")); err != nil {
				t.Fatal(err)
			}
			if e.Status().Refused != nil {
				t.Error("a refusal is shown although a good one came since")
			}
		})
	}
}

func TestAnAnswerOfAnotherShapeIsAnError(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"undefined":                `decision := {"allow": true} if input.nothing`,
		"no object":                `decision := true`,
		"no allow":                 `decision := {"headers": {}}`,
		"allow is a string":        `decision := {"allow": "true"}`,
		"allow is a number":        `decision := {"allow": 1}`,
		"status is 200":            `decision := {"allow": false, "status": 200}`,
		"status is 500":            `decision := {"allow": false, "status": 500}`,
		"status is a string":       `decision := {"allow": false, "status": "403"}`,
		"anonymous is a string":    `decision := {"allow": true, "anonymous": "yes"}`,
		"tenant is a list":         `decision := {"allow": true, "tenant": ["a"]}`,
		"reasons are a string":     `decision := {"allow": false, "reasons": "no"}`,
		"a reason is a string":     `decision := {"allow": false, "reasons": ["no"]}`,
		"headers are a list":       `decision := {"allow": true, "headers": ["X-User-ID"]}`,
		"a header is a number":     `decision := {"allow": true, "headers": {"X-User-ID": 7}}`,
		"a header is an object":    `decision := {"allow": true, "headers": {"X-User-ID": {"a": "b"}}}`,
		"a header holds a number":  `decision := {"allow": true, "headers": {"X-User-ID": ["a", 7]}}`,
		"a header nobody declared": `decision := {"allow": true, "headers": {"X-User-Shoe": "39"}}`,
		"a header of the gateways that the bundle does not declare": `decision := {"allow": true, "headers": {"X-Tenant-ID": "acme"}}`,
		"two rules contradict": "decision := {\"allow\": true} if input.token\n\ndecision := {\"allow\": false} if input.token",
		"a builtin fails":      `decision := {"allow": true} if not base64.decode(input.token.iss)`,
		"a division by zero":   `decision := {"allow": true} if { not 1 / (input.token.n - 1) == 0 } `,
		"the whole directory":  `decision := {"allow": true, "n": count(data.directory)}`,
		"all of data":          `decision := {"allow": true, "n": count([1 | data[_]])}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := engine(t)
			if err := offer(t, e, rule(body)); err != nil {
				if name == "all of data" { // OPA itself finds the recursion
					return
				}
				t.Fatal(err)
			}
			d, err := decideFor(e, map[string]any{"iss": "!", "n": 1}, facts{"directory": &iam.Error{Kind: iam.Internal, Code: "policy_error"}})
			if err == nil || iam.CodeOf(err) != "policy_error" {
				t.Errorf("got %+v, %v", d, err)
			}
		})
	}
}

// What an error says is logged and kept. It tells where to look, and nothing of the token.
func TestAnErrorNamesNoValueOfTheToken(t *testing.T) {
	t.Parallel()
	const planted = "PLANTED-SECRET-1"
	store, err := directory.NewStatic(map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ body, want string }{
		"a date":              {`decision := {"allow": time.parse_rfc3339_ns(input.token.x) > 0}`, "p.rego:3: eval_builtin_error: time.parse_rfc3339_ns"},
		"a number":            {`decision := {"allow": to_number(input.token.x) > 0}`, "p.rego:3: eval_builtin_error: to_number"},
		"in a function":       {"f(x) := to_number(x)\n\ndecision := {\"allow\": f(input.token.x) > 0}", "p.rego:3: eval_builtin_error: to_number"},
		"another type":        {`decision := {"allow": sum(input.token.list) > 0}`, "p.rego:3: eval_type_error: sum"},
		"a contradiction":     {`decision := {"allow": count({input.token.x: v | some v in [1, 2]}) > 0}`, "p.rego:3: eval_conflict_error"},
		"a walk over a realm": {`decision := {"allow": count(data.directory.users[input.token.x]) > 0}`, "data.directory.users cannot be enumerated"},
	} {
		e := engine(t)
		if err := offer(t, e, rule(c.body)); err != nil {
			t.Fatal(err)
		}
		_, err := decideFor(e, map[string]any{"x": planted, "list": []any{planted}}, store)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestAHeaderCarriesWhatItCan(t *testing.T) {
	t.Parallel()
	e := engine(t)
	if err := offer(t, e, files{
		"iam/config/data.json": `{"headers": ["X-User-ID", "X-User-Roles", "X-Scopes"]}`,
		"iam/claims/p.rego":    "package iam.claims\n\ndecision := {\"allow\": true, \"headers\": {\"x-user-id\": input.token.id, \"X-User-Roles\": input.token.roles, \"X-Scopes\": {s | some s in input.token.scopes}}}\n",
	}); err != nil {
		t.Fatal(err)
	}
	ask := func(id string, roles, scopes []string) (policy.Decision, error) {
		return decideFor(e, map[string]any{"id": id, "roles": anys(roles), "scopes": anys(scopes)}, facts{})
	}
	d, err := ask("a,b c", []string{"z", "a"}, []string{"z", "a", "z"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for i, name := range e.Headers() {
		if d.Values[i] != "" {
			got[name] = d.Values[i]
		}
	}
	if diff := cmp.Diff(map[string]string{"X-User-Id": "a,b c", "X-User-Roles": "z,a", "X-Scopes": "a,z"}, got); diff != "" {
		t.Error(diff)
	}
	for name, bad := range map[string][2]string{
		"CR LF": {"a\r\nX-User-Roles: admin", "r"}, "LF": {"a\nb", "r"}, "non-ASCII": {"café", "r"}, "NUL": {"a\x00", "r"}, "DEL": {"a\x7f", "r"},
		"a comma in a role": {"a", "viewer,admin"}, "LF in a role": {"a", "viewer\nadmin"},
	} {
		if _, err := ask(bad[0], []string{bad[1]}, nil); iam.CodeOf(err) != "header_value" || iam.KindOf(err) != iam.Forbidden {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func anys(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

func TestAnEndlessPolicyIsCutOff(t *testing.T) {
	t.Parallel()
	e, err := policy.NewEngine(policy.Config{Log: slog.New(slog.DiscardHandler), Limit: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := offer(t, e, rule("n := [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n\ndecision := {\"allow\": true} if { count([1 | n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]; n[_]]) > 0 }")); err != nil {
		t.Fatal(err)
	}
	if _, err := decide(e, facts{}); iam.CodeOf(err) != "policy_timeout" || iam.KindOf(err) != iam.Unavailable {
		t.Errorf("got %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := e.Decide(gone, e.Revision(), &policy.Question{}, facts{}, time.Now().Add(time.Hour)); iam.CodeOf(err) != "policy_timeout" {
		t.Errorf("a caller who left: %v", err)
	}
	if _, err := e.Decide(ctx, e.Revision(), &policy.Question{}, facts{}, time.Now()); iam.CodeOf(err) != "policy_timeout" {
		t.Errorf("past the deadline: %v", err)
	}
}

// Each step of a policy that doubles something costs as much as all before it.
func TestAnExplodingPolicyIsCutOff(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ from, step string }{
		"lists": {"[1]", "array.concat(X, X)"}, "text": {`"a"`, `concat("", [X, X])`},
	} {
		var body strings.Builder
		body.WriteString("decision := {\"allow\": count(x40) > 0} if {\n\tx0 := " + c.from + "\n")
		for i := range 40 {
			fmt.Fprintf(&body, "\tx%d := %s\n", i+1, strings.ReplaceAll(c.step, "X", fmt.Sprint("x", i)))
		}
		body.WriteString("}\n")
		e, err := policy.NewEngine(policy.Config{Log: slog.New(slog.DiscardHandler)}) // the limit is the usual one
		if err != nil {
			t.Fatal(err)
		}
		if err := offer(t, e, rule(body.String())); err != nil {
			t.Fatal(err)
		}
		if d, err := decide(e, facts{}); iam.CodeOf(err) != "policy_timeout" {
			t.Errorf("%s: %+v, %v", name, d.Allow, err)
		}
	}
}

func TestAFolderMayBeMadeOfLinks(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	files{}.write(t, filepath.Join(root, "releases/1"))
	link("releases/1", "current")
	e := engine(t)
	if err := e.OfferPath(ctx, filepath.Join(root, "current")); err != nil {
		t.Errorf("a folder that is a link: %v", err)
	}
	// As Kubernetes mounts a ConfigMap.
	files{"p.rego": smallest, "data.json": `{"iam": {"config": {"headers": ["X-User-ID"]}}}`, "iam/claims/p.rego": "-", "iam/config/data.json": "-"}.write(t, filepath.Join(root, "map/..2026"))
	link("..2026", "map/..data")
	for _, name := range []string{".manifest", "p.rego", "data.json"} {
		link("..data/"+name, "map/"+name)
	}
	if err := e.OfferPath(ctx, filepath.Join(root, "map")); err != nil {
		t.Errorf("a mounted ConfigMap: %v", err)
	}
}

func TestFactsThatCannotBeReadAreNoAnswer(t *testing.T) {
	t.Parallel()
	e := engine(t)
	away := &iam.Error{Kind: iam.Unavailable, Code: "facts_unavailable"}
	for name, body := range map[string]string{
		"used":             `decision := {"allow": data.directory.tenants.acme.open}`,
		"behind not":       `decision := {"allow": true} if not data.directory.tenants.acme.closed`,
		"behind a default": "default closed := false\n\nclosed := data.directory.tenants.acme.closed\n\ndecision := {\"allow\": true} if not closed",
		"in a collection":  `decision := {"allow": count([1 | data.directory.tenants.acme.closed]) == 0}`,
	} {
		if err := offer(t, e, rule(body)); err != nil {
			t.Fatal(name, err)
		}
		f := facts{"directory/tenants/acme/open": away, "directory/tenants/acme/closed": away}
		if d, err := decide(e, f); iam.CodeOf(err) != "facts_unavailable" {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

// A swap happens between two answers, never within one.
func TestPolicyAndItsDataAlwaysMatch(t *testing.T) {
	t.Parallel()
	e := engine(t)
	version := func(n int) files {
		return files{
			"iam/version/data.json": fmt.Sprintf(`"%d"`, n),
			"iam/claims/p.rego":     fmt.Sprintf("package iam.claims\n\ndecision := {\"allow\": data.iam.version == \"%d\", \"headers\": {}}\n", n),
		}
	}
	if err := offer(t, e, version(0)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if d, err := decide(e, facts{}); err != nil || !d.Allow {
					t.Errorf("rule and data of two revisions met: %v", err)
					return
				}
			}
		})
	}
	for n := range 30 {
		if err := offer(t, e, version(n)); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestWhatTheGuideOffersInsteadOfSprintfWorks(t *testing.T) {
	t.Parallel()
	e := engine(t)
	if err := offer(t, e, rule("decision := {\"allow\": true, \"headers\": {\"X-User-ID\": $\"{input.token.iss}/{input.token.sub}\"}}")); err != nil {
		t.Fatal(err)
	}
	if d, err := decide(e, facts{}); err != nil || !slices.Contains(d.Values, "i/s") {
		t.Errorf("%q, %v", d.Values, err)
	}
}

func TestWhatTheDecisionCanSeeIsReported(t *testing.T) {
	t.Parallel()
	e := engine(t)
	if err := offer(t, e, rule("decision := {\"allow\": x} if { x := input.token.acr == \"2\"; time.now_ns() > 0; every y in [1] { input.request.path != \"\"; y > 0 } }")); err != nil {
		t.Fatal(err)
	}
	r := e.Revision()
	if diff := cmp.Diff([]string{"input.request.path", "input.token.acr"}, r.CacheKey); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"time.now_ns"}, r.Nondeterministic); diff != "" {
		t.Error(diff)
	}
}

// What is undefined at a gateway is undefined in a case, and denied in both.
func TestACaseThatLacksAFactThatIsReadIsDenied(t *testing.T) {
	t.Parallel()
	e := engine(t)
	if err := offer(t, e, rule("decision := {\"allow\": count(denied) == 0}\n\ndenied contains 1 if startswith(input.request.path, \"/x\")")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		input map[string]any
		want  string
	}{
		"no request": {map[string]any{}, "deny 403 because of request_facts_missing"},
		"no path":    {map[string]any{"request": map[string]any{"method": "GET"}}, "deny 403 because of request_facts_missing"},
		"no text":    {map[string]any{"request": map[string]any{"path": ""}}, "deny 403 because of request_facts_missing"},
		"a path":     {map[string]any{"request": map[string]any{"path": "/y"}}, "allow because of "},
		"another":    {map[string]any{"request": map[string]any{"path": "/x"}}, "deny because of "},
	} {
		answer, err := e.Case(t.Context(), e.Revision(), policy.Case{Title: name, Input: c.input})
		if err != nil || answer.String() != c.want {
			t.Errorf("%s: %v, %v, want %s", name, answer, err, c.want)
		}
	}
}

func TestAPolicyThatReadsWhatNoGatewayIsBelievedAboutIsWarnedOf(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]int{`decision := {"allow": input.request.path == "/"}`: 1, `decision := {"allow": input.token.sub == "a"}`: 0} {
		for _, untold := range []bool{true, false} {
			var logs bytes.Buffer
			e, err := policy.NewEngine(policy.Config{Headers: []string{"X-User-ID"}, Untold: untold, Log: slog.New(slog.NewJSONHandler(&logs, nil))})
			if err != nil {
				t.Fatal(err)
			}
			if err := offer(t, e, rule(body)); err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(logs.String(), `"level":"WARN"`); untold && n != want || !untold && n != 0 {
				t.Errorf("%s, untold is %t: %d warnings: %s", body, untold, n, &logs)
			}
		}
	}
}

func TestAnonymousPathsMatchWholeSegments(t *testing.T) {
	t.Parallel()
	e := engine(t)
	if err := offer(t, e, files{"iam/config/data.json": `{"headers": ["X-User-ID"], "anonymous": {"paths": ["/public", "/assets/"]}}`}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		"/public": true, "/public/": true, "/public/x": true, "/publicity": false, "/assets": true, "/assets/a.css": true, "/": false, "": false, "/x/public": false,
	} {
		if got := e.Revision().Anonymous(path, false); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
	if e.Revision().Anonymous("/x", true) {
		t.Error("a preflight is anonymous although the bundle does not say so")
	}
}

// eventually waits for what a goroutine of the program will do.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(until) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestAFolderIsWatched(t *testing.T) {
	t.Parallel()
	dir := files{}.write(t, t.TempDir())
	e := engine(t)
	if err := e.OfferPath(ctx, dir); err != nil {
		t.Fatal(err)
	}
	watching, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); e.Watch(watching, dir) }()
	defer func() { stop(); <-done }()

	first := e.Revision()
	rule(`decision := {"allow": false}`).write(t, dir)
	eventually(t, "a change comes into force", func() bool { return e.Revision() != first })
	second := e.Revision()
	rule(`decision := {`).write(t, dir)
	eventually(t, "broken Rego is refused", func() bool { return e.Status().Refused != nil })
	if r := e.Status().Refused.Reason; !strings.Contains(r, "p.rego:3") || e.Revision() != second {
		t.Errorf("refused with %q", r)
	}
	rule(`decision := {"allow": false}`).write(t, dir)
	eventually(t, "the old text is fine again", func() bool { return e.Status().Refused == nil })
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a folder that is gone is refused", func() bool { return e.Status().Refused != nil })
	if e.Revision().Digest != second.Digest {
		t.Error("the last good one is no longer in force")
	}
}

func TestABundleFileIsAPolicy(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	if err := os.WriteFile(file, files{".manifest": `{"roots": ["iam"], "revision": "v7"}`}.tarball(t), 0o644); err != nil {
		t.Fatal(err)
	}
	e := engine(t)
	if err := e.OfferPath(ctx, file); err != nil {
		t.Fatal(err)
	}
	if e.Revision().Name != "v7" {
		t.Errorf("name %q", e.Revision().Name)
	}
	if err := os.WriteFile(file, []byte("no archive"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := e.OfferPath(ctx, file); err == nil || e.Status().Refused == nil {
		t.Error("what is no archive was accepted")
	}
}

// OPA fetches; the gate decides.
func TestABundleFromAServerComesThroughTheGate(t *testing.T) {
	t.Parallel()
	var served atomic.Pointer[[]byte]
	put := func(f files) {
		b := f.tarball(t)
		served.Store(&b)
	}
	put(files{".manifest": `{"roots": ["iam"], "revision": "one"}`})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(*served.Load()) }))
	defer srv.Close()
	config, err := json.Marshal(map[string]any{
		"services": map[string]any{"b": map[string]any{"url": srv.URL}},
		"bundles":  map[string]any{"main": map[string]any{"service": "b", "resource": "/b.tar.gz", "polling": map[string]int{"min_delay_seconds": 1, "max_delay_seconds": 1}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	e := engine(t)
	m, err := policy.StartManager(ctx, e, config, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Stop(ctx)
	eventually(t, "the first bundle comes into force", func() bool { return e.Revision() != nil })
	if r := e.Revision(); r.Name != "one" || !slices.Equal(r.Headers, []string{"X-User-ID"}) {
		t.Errorf("in force: %+v", r)
	}
	if d, err := decide(e, facts{}); err != nil || !d.Allow {
		t.Errorf("%+v, %v", d, err)
	}
	first := e.Revision()
	tooMuch := files{} // each of its files would do
	for i := range 10 {
		tooMuch["iam/d"+strconv.Itoa(i)+"/data.json"] = `"` + strings.Repeat("x", 7<<20) + `"`
	}
	for want, bad := range map[string]files{
		"http.send":        rule(`decision := http.send({"method": "get", "url": "http://127.0.0.1"})`),
		"entrypoint":       rule(`other := 1`),
		"GATEWAY_HEADERS":  {"iam/config/data.json": `{"headers": ["X-User-Shoe"]}`},
		`the root ""`:      {".manifest": "-"},
		`"directory"`:      {".manifest": `{"roots": ["iam", "directory"]}`},
		`"system"`:         {".manifest": `{"roots": ["iam", "system"]}`},
		"rego_parse_error": rule(`decision := {`),
		"more than 64 MB":  tooMuch,
	} {
		put(bad)
		eventually(t, want, func() bool { r := e.Status().Refused; return r != nil && strings.Contains(r.Reason, want) })
		if e.Revision() != first {
			t.Fatalf("%s: the old one is no longer in force", want)
		}
	}
	put(files{".manifest": `{"roots": ["iam"], "revision": "one"}`})
	eventually(t, "the bad one is taken back", func() bool { return e.Status().Refused == nil })
	put(files{".manifest": `{"roots": ["iam"], "revision": "two"}`, "iam/claims/p.rego": strings.Replace(smallest, "u1", "u2", 1)})
	eventually(t, "a good one comes into force", func() bool { return e.Revision().Name == "two" })
	if e.Status().Refused != nil {
		t.Errorf("refused: %+v", e.Status().Refused)
	}
}

// A policy of several bundles is one policy: a part of it, which may lack what denies, is none,
// and in whichever order the parts come it is the same.
func TestAPolicyOfSeveralBundlesComesIntoForceWhole(t *testing.T) {
	t.Parallel()
	var both atomic.Bool
	rules := files{"iam/claims/p.rego": "package iam.claims\n\nimport data.extra\n\ndecision := {\"allow\": count(extra.denials) == 0, \"tenant\": \"\", \"headers\": {}}\n"}.tarball(t)
	extra := files{
		".manifest": `{"roots": ["extra"]}`, "iam/claims/p.rego": "-", "iam/config/data.json": "-", "extra/p.rego": "package extra\n\ndenials contains \"all\"\n",
	}.tarball(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/a.tar.gz":
			_, _ = w.Write(rules)
		case both.Load():
			_, _ = w.Write(extra)
		default:
			http.Error(w, "not yet", http.StatusNotFound)
		}
	}))
	defer srv.Close()
	start := func(first, second string) (*policy.Engine, func()) {
		poll := `, "polling": {"min_delay_seconds": 1, "max_delay_seconds": 1}}`
		config := `{"services": {"b": {"url": "` + srv.URL + `"}}, "bundles": {"` + first + `": {"service": "b", "resource": "/a.tar.gz"` + poll + `, "` + second + `": {"service": "b", "resource": "/b.tar.gz"` + poll + `}}`
		e := engine(t)
		m, err := policy.StartManager(ctx, e, []byte(config), "test")
		if err != nil {
			t.Fatal(err)
		}
		return e, func() { m.Stop(ctx) }
	}
	one, stopOne := start("a", "b")
	defer stopOne()
	eventually(t, "the other part is missed", func() bool { return one.Status().Refused != nil })
	if one.Revision() != nil {
		t.Fatal("a part of a policy is in force")
	}
	both.Store(true)
	other, stopOther := start("a", "b")
	defer stopOther()
	for _, e := range []*policy.Engine{one, other} {
		eventually(t, "all of it is in force", func() bool { return e.Revision() != nil })
		if d, err := decide(e, facts{}); err != nil || d.Allow {
			t.Errorf("%+v, %v", d, err)
		}
	}
	if one.Revision().Digest != other.Revision().Digest {
		t.Error("the same parts are two policies")
	}
}

// keyPair is a key that signs, and the PEM of the one that verifies.
func keyPair(t testing.TB) (authoring.Signer, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err1 := x509.MarshalPKCS8PrivateKey(key)
	public, err2 := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	signer := authoring.Signer{File: filepath.Join(t.TempDir(), "private.pem"), ID: "k"}
	if err := os.WriteFile(signer.File, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
}

// repacked is a bundle in which something is replaced, once.
func repacked(t testing.TB, packed []byte, from, to string) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil || !bytes.Contains(text, []byte(from)) {
		t.Fatalf("no %s in %q: %v", from, text, err)
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(bytes.Replace(text, []byte(from), []byte(to), 1)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Over HTTP as from a file: what is not signed with the key is refused, and the old one
// serves on.
func TestOnlyWhatIsSignedComesIntoForce(t *testing.T) {
	t.Parallel()
	signer, verify := keyPair(t)
	verifier, err := policy.ParseKey(verify)
	if err != nil {
		t.Fatal(err)
	}
	bundleOf := func(revision string, sign bool) []byte {
		t.Helper()
		f := files{".manifest": `{"roots": ["iam"]}`, "iam/claims/p_test.rego": "package iam.claims_test\n\ntest_x if true\n"}
		b, err := authoring.Build(f.write(t, t.TempDir()), revision, nil)
		if err == nil && sign {
			b, err = authoring.Sign(b, signer)
		}
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	signed, unsigned := bundleOf("signed", true), bundleOf("unsigned", false)
	newEngine := func() *policy.Engine {
		t.Helper()
		e, err := policy.NewEngine(policy.Config{SignedOnly: true, Key: verifier, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	refusedForSignature := func(e *policy.Engine) bool {
		r := e.Status().Refused
		return r != nil && strings.Contains(r.Reason, ".signatures.json") && e.Revision().Name == "signed"
	}

	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	put := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e := newEngine()
	put(signed)
	if err := e.OfferPath(ctx, file); err != nil {
		t.Fatal(err)
	}
	put(unsigned)
	if err := e.OfferPath(ctx, file); err == nil || !refusedForSignature(e) {
		t.Errorf("from a file: %v, %+v", err, e.Status())
	}
	put(repacked(t, signed, `"u1"`, `"u2"`)) // another rule, the same signature
	if err := e.OfferPath(ctx, file); err == nil || e.Revision().Name != "signed" {
		t.Errorf("tampered with: %v", err)
	}

	var served atomic.Pointer[[]byte]
	served.Store(&signed)
	var fetched atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fetched.Add(1)
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(*served.Load())))
		http.ServeContent(w, r, "b.tar.gz", time.Time{}, bytes.NewReader(*served.Load()))
	}))
	defer srv.Close()
	config, err := json.Marshal(map[string]any{
		"services": map[string]any{"b": map[string]any{"url": srv.URL}},
		"keys":     map[string]any{"k": map[string]any{"algorithm": "ES256", "key": string(verify)}},
		"bundles": map[string]any{"main": map[string]any{
			"service": "b", "resource": "/b.tar.gz", "signing": map[string]any{"keyid": "k"}, "polling": map[string]int{"min_delay_seconds": 1, "max_delay_seconds": 1},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	e = newEngine()
	m, err := policy.StartManager(ctx, e, config, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Stop(ctx)
	eventually(t, "the signed one comes into force", func() bool { return e.Revision() != nil && e.Revision().Name == "signed" })
	served.Store(&unsigned)
	eventually(t, "the unsigned one is refused", func() bool { return refusedForSignature(e) })
	served.Store(&signed)
	eventually(t, "the refusal is history", func() bool { return e.Status().Refused == nil })

	// What came in another way is not good because this is.
	e.Refuse(ctx, "git", "", errors.New("no signature"))
	before := fetched.Load()
	eventually(t, "OPA fetches again", func() bool { return fetched.Load() > before+2 })
	if r := e.Status().Refused; r == nil || r.Source != "git" {
		t.Errorf("refused is %+v", r)
	}
}

func TestAnOPAConfigurationThatWouldTakeAnythingIsRefused(t *testing.T) {
	t.Parallel()
	for want, config := range map[string]string{
		"it does nothing":   `{}`,
		`"type": "oci"`:     `{"services": {"s": {"url": "https://127.0.0.1:1", "type": "OCI"}}, "bundles": {"b": {"service": "s", "resource": "r"}}}`,
		`service "s" has`:   `{"services": [{"name": "s", "url": "https://127.0.0.1:1", "type": "oci"}], "discovery": {"service": "s", "resource": "d"}}`,
		`"file:" resource`:  `{"bundles": {"b": {"resource": "file:///b.tar.gz"}}}`,
		"write \"bundles\"": `{"bundle": {"name": "x"}, "bundles": {"a": {}}}`,
		"no \"signing\"":    "keys: {k: {key: x}}\nbundles: {main: {resource: /x}}",
		"neither JSON":      "\t{",
	} {
		if _, err := policy.StartManager(ctx, engine(t), []byte(config), "test"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", config, err)
		}
	}
}

// Where only what is signed is taken, OPA must be told to ask for it.
func TestAnOPAConfigurationThatWouldTakeTheUnsignedIsRefused(t *testing.T) {
	t.Parallel()
	e, err := policy.NewEngine(policy.Config{SignedOnly: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string]string{
		`bundles: {main: {resource: /x}}`:            `bundle "main" has no "signing"`,
		`bundles: {main: {resource: /x, signing: }}`: `bundle "main" has no "signing"`,
		`discovery: {resource: /x}`:                  `"discovery" has no "signing"`,
		`discovery: {resource: /x, signing: null}`:   `"discovery" has no "signing"`,
	} {
		if _, err := policy.StartManager(ctx, e, []byte(config), "test"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", config, err)
		}
	}
}

func TestGatewayHeadersAreChecked(t *testing.T) {
	t.Parallel()
	_, err := policy.NewEngine(policy.Config{Headers: []string{"X-User-ID", "Authorization", "x-user-id", "X-User_ID", "X-User-"}})
	for _, want := range []string{"Authorization", "x-user-id", "X-User_ID", `"X-User-"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not named: %v", want, err)
		}
	}
}
