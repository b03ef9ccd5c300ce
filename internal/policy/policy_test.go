package policy_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/directory"
	"iam-service/internal/policy"
)

var ctx = context.Background()

var discard = slog.New(slog.DiscardHandler)

// facts are documents by their paths; an error instead of one is that of reading it.
type facts map[string]any

func (f facts) Read(_ context.Context, path storage.Path) (ast.Value, error) {
	for n := len(path); n > 0; n-- {
		doc, ok := f[strings.Join(path[:n], "/")]
		if !ok {
			continue
		}
		if err, failed := doc.(error); failed {
			return nil, err
		}
		if v := directory.Find(ast.MustInterfaceToValue(doc), path[n:]); v != nil {
			return v, nil
		}
	}
	return nil, &storage.Error{Code: storage.NotFoundErr}
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
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
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
	return e.SubmitPath(ctx, f.write(t, t.TempDir()))
}

func decide(e *policy.Engine, f policy.Facts) (policy.Decision, error) {
	return decideFor(e, map[string]any{"iss": "i", "sub": "s"}, f)
}

// decideFor asks about a token with these claims.
func decideFor(e *policy.Engine, claims map[string]any, f policy.Facts) (policy.Decision, error) {
	r := e.Revision()
	q := policy.Input{Token: r.Token("", "", "", ast.MustInterfaceToValue(claims)), Now: time.Now()}
	return e.Decide(ctx, &q, policy.Basis{Revision: r, Facts: f, Deadline: time.Now().Add(time.Minute)})
}

func rule(body string) files { return files{"iam/claims/p.rego": "package iam.claims\n\n" + body} }
