package policy_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/policies"
)

// drafts are those of an engine with the default settings.
func drafts(t testing.TB) (*policy.Drafts, map[string]string) {
	t.Helper()
	e, err := policy.NewEngine(policy.Config{Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	c, err := policy.FromFS("embedded", policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	files, err := c.Files()
	if err != nil {
		t.Fatal(err)
	}
	d := policy.NewDrafts(e, []string{os.Args[0], policy.ChildCommand})
	t.Cleanup(d.Close)
	return d, files
}

func changed(files map[string]string, name, text string) map[string]string {
	files = maps.Clone(files)
	files[name] = text
	return files
}

func TestTheErrorsOfADraftAreAtTheirLines(t *testing.T) {
	t.Parallel()
	d, files := drafts(t)
	const more = "iam/claims/more.rego"
	for name, c := range map[string]struct {
		file, text, says string
		row              int
	}{
		"syntax":              {file: more, text: "package iam.claims\n\nx := [1,\n", says: "rego_parse_error", row: 4},
		"an unsafe variable":  {file: more, text: "package iam.claims\n\nx contains y\n", says: "rego_unsafe_var_error", row: 3},
		"type":                {file: more, text: "package iam.claims\n\nx if {\n\tcount(1) > 0\n}\n", says: "rego_type_error", row: 4},
		"an excluded builtin": {file: more, text: "package iam.claims\n\nx := http.send({})\n", says: "http.send is not allowed here", row: 3},
		"a foreign package":   {file: more, text: "# mine\npackage other\n", says: "do not permit 'package other'", row: 2},
		"a wrong root":        {file: ".manifest", text: "{\n  \"roots\": [\"iam\", \"directory\"]\n}\n", says: "belongs to the service", row: 2},
		"no JSON":             {file: "iam/config/data.json", text: "{\n  \"headers\": [,\n}\n", says: "data_error", row: 2},
		"an unknown header":   {file: "iam/config/data.json", text: "{\n  \"headers\": [\n    \"X-Unknown\"\n  ]\n}\n", says: "X-Unknown is missing from GATEWAY_HEADERS", row: 3},
		"no YAML":             {file: "cases/more.yaml", text: "cases:\n  - title: a\n  b: [\n", says: "case_error", row: 2},
		"a case without want": {file: "cases/more.yaml", text: "cases:\n  - title: first\n    input: {}\n    want: {allow: true}\n  - title: second\n    input: {}\n", says: "want.allow must be", row: 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x, err := d.Open(ctx, changed(files, c.file, c.text))
			if err != nil {
				t.Fatal(err)
			}
			defer x.Close()
			if x.Revision != nil || len(x.Errors) == 0 {
				t.Fatalf("it compiles: %v", x.Errors)
			}
			if e := x.Errors[0]; e.File != c.file || e.Row != c.row || !strings.Contains(e.String(), c.says) {
				t.Errorf("got %s at row %d; want %q at row %d", e, e.Row, c.says, c.row)
			}
		})
	}
}

// The embedded policy, its files, and the bundle of them are one policy, and equal files are equal bytes.
func TestTheFilesOfAPolicyAreThePolicy(t *testing.T) {
	t.Parallel()
	d, files := drafts(t)
	embedded, err := policy.FromFS("embedded", policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	files["cases/more.yaml"] = "cases:\n  - title: no token\n    input: {}\n    want: {allow: false, status: 401}\n"
	pack := func(files map[string]string) []byte {
		t.Helper()
		x, err := d.Open(ctx, files)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		packed, err := x.Pack(ctx)
		if err != nil || x.Revision == nil {
			t.Fatal(err, x.Errors)
		}
		return packed
	}
	first := pack(files)
	if !bytes.Equal(first, pack(files)) {
		t.Error("equal files are different bytes")
	}
	e, err := policy.NewEngine(policy.Config{Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	c, err := e.Unpack("bundle", first)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Files()
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Cases) != 1 || again["cases/more.yaml"] == "" {
		t.Errorf("the cases are lost: %v", again)
	}
	second, err := e.Unpack("bundle", pack(again))
	if err != nil {
		t.Fatal(err)
	}
	if c.Digest() != second.Digest() {
		t.Error("the files of a bundle are another policy")
	}
	if c.Cases = nil; c.Digest() != embedded.Digest() {
		t.Error("the files of the embedded policy are another policy")
	}
}

// A draft that loops or allocates without end is stopped, and the next one is evaluated.
func TestADraftThatExceedsALimitIsStopped(t *testing.T) {
	t.Parallel()
	d, files := drafts(t)
	const doubling = `package iam.claims

_list := [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]

denials contains {"code": "never", "title": "never"} if count({[a, b, c, d, e, f, g, h] |
	some a in _list; some b in _list; some c in _list; some d in _list; some e in _list; some f in _list; some g in _list; some h in _list}) == 1
`
	for name, text := range map[string]string{
		"it loops":     strings.ReplaceAll(strings.ReplaceAll(doubling, "{[a, b, c, d, e, f, g, h] |", "[1 |"), "some h in _list}", "some h in _list; h > 10]"),
		"it allocates": doubling,
	} {
		t.Run(name, func(t *testing.T) {
			x, err := d.Open(ctx, changed(files, "iam/claims/more.rego", text))
			if err != nil || x.Revision == nil {
				t.Fatal(err, x.Errors)
			}
			defer x.Close()
			e, err := policy.NewEngine(policy.Config{Log: discard})
			if err != nil {
				t.Fatal(err)
			}
			claims, err := ast.InterfaceToValue(map[string]any{"iss": "https://auth.example.com", "sub": "alice", "client_id": "web"})
			if err != nil {
				t.Fatal(err)
			}
			alice := x.Revision.Token("https://auth.example.com", "alice", "web", claims)
			_, err = e.Decide(ctx, &policy.Input{Token: alice}, policy.Basis{Revision: x.Revision, Facts: noFacts{}})
			if known, ok := errors.AsType[*iam.Error](err); !ok || known.Code != "policy_timeout" {
				t.Errorf("got %v", err)
			}
		})
	}
	x, err := d.Open(ctx, files)
	if err != nil || x.Revision == nil {
		t.Fatal(err)
	}
	defer x.Close()
	e, err := policy.NewEngine(policy.Config{Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.Decide(ctx, &policy.Input{}, policy.Basis{Revision: x.Revision, Facts: noFacts{}})
	if err != nil || got.Allow || got.Status != 401 {
		t.Errorf("got %+v, %v", got, err)
	}
}

// A draft of the default policy with one changed file, compiled and asked.
func BenchmarkDraft(b *testing.B) {
	d, files := drafts(b)
	e, err := policy.NewEngine(policy.Config{Log: discard})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		x, err := d.Open(ctx, changed(files, "iam/claims/more.rego", "package iam.claims\n\n_more := 1\n"))
		if err != nil || x.Revision == nil {
			b.Fatal(err)
		}
		if _, err := e.Decide(ctx, &policy.Input{}, policy.Basis{Revision: x.Revision, Facts: noFacts{}}); err != nil {
			b.Fatal(err)
		}
		if _, err := e.Explain(ctx, x.Revision, &policy.Input{}, noFacts{}); err != nil {
			b.Fatal(err)
		}
		x.Close()
	}
}

// noFacts is an empty directory.
type noFacts struct{}

func (noFacts) Read(context.Context, storage.Path) (ast.Value, error) {
	return nil, &storage.Error{Code: storage.NotFoundErr}
}
func (noFacts) Waited() time.Duration { return 0 }
