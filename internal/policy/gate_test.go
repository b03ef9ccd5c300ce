package policy_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iam-service/internal/dev/await"
	"iam-service/internal/policy"
	"iam-service/policies"
)

func TestTheEmbeddedPolicyPassesTheGate(t *testing.T) {
	t.Parallel()
	e := engine(t)
	c, err := policy.FromFS("embedded", policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Submit(ctx, c); err != nil {
		t.Fatal(err)
	}
	r := e.Revision()
	if r.Capped || len(r.Nondeterministic) > 0 || len(r.Warnings) > 0 || len(r.Unvalidated) > 0 {
		t.Errorf("the default policy's decisions cannot be cached for long: capped %v, it calls %v; %q", r.Capped, r.Nondeterministic, r.Warnings)
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

func TestABadPolicyIsRejectedAndTheActiveRevisionStays(t *testing.T) {
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
		"declares a header the gateways do not know": {files{"iam/config/data.json": `{"headers": ["X-User-ID", "X-User-Shoe"]}`}, []string{"data.iam.config.headers[1]", "X-User-Shoe", "GATEWAY_HEADERS"}},
		"sets a header the gateways do not know": {
			files{"iam/config/data.json": `{"headers": ["X-User-ID", "X-User-Shoe"]}`, "p.rego": "package iam.claims\n\ndecision := {\"allow\": true, \"headers\": {\n\t\"x-user-shoe\": \"42\",\n}}"},
			[]string{"data.iam.config.headers[1]: X-User-Shoe is missing from GATEWAY_HEADERS (p.rego:4): add it"},
		},
		"sets a header of HTTP": {
			files{"iam/config/data.json": `{"headers": ["X-User-ID", "Set-Cookie"]}`, "p.rego": "package iam.claims\n\ndecision := {\"allow\": true, \"headers\": {\"Set-Cookie\": \"a=b\"}}"},
			[]string{`data.iam.config.headers[1]: "Set-Cookie" cannot carry a claim`, "(p.rego:3)"},
		},
		"signs identities itself": {
			files{"iam/config/data.json": `{"headers": ["X-User-ID", "x-citadel-assertion"]}`},
			[]string{"data.iam.config.headers[1]: x-citadel-assertion cannot be declared: the service alone signs identities"},
		},
		"has a strange anonymous path": {files{"iam/config/data.json": `{"headers": ["X-User-ID"], "anonymous": {"paths": ["public"]}}`}, []string{"anonymous.paths", "public"}},
		"calls the network":            {rule(`decision := http.send({"method": "get", "url": "http://127.0.0.1"})`), []string{"http.send"}},
		"calls the network in every":   {rule("decision := {\"allow\": true} if {\n\tevery x in [1] { http.send({\"url\": x}).status_code == 200 }\n}"), []string{"http.send"}},
		"calls the network by with":    {rule("f(x) := x\n\ndecision := {\"allow\": y} if y := f({\"a\": 1}) with f as http.send"), []string{"http"}},
		"resolves names":               {rule(`decision := net.lookup_ip_addr("example.com")`), []string{"net.lookup_ip_addr"}},
		"reads the environment":        {rule(`decision := opa.runtime()`), []string{"opa.runtime"}},
		"shifts bits":                  {rule(`decision := bits.lsh(1, 100000000)`), []string{"bits.lsh"}},
		"has a number out of bounds":   {rule("decision := {\"allow\": 1e-30000 * input.token.level < 1}"), []string{"p.rego:3", "1e-30000", "exponent"}},
		"has data out of bounds":       {files{"iam/config/data.json": `{"headers": ["X-User-ID"], "level": [{"x": 1e-30000}]}`}, []string{"its data", "1e-30000", "exponent"}},
		"is recursive":                 {rule("decision := a\n\na := b\n\nb := a"), []string{"recurs"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := engine(t, append(slices.Clone(policy.DefaultHeaders), policy.AssertionHeader)...)
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
				t.Error("the old one is no longer active")
			}
			s := e.Status()
			if s.Rejected == nil || s.Rejected.Reason != err.Error() {
				t.Errorf("status: %+v", s.Rejected)
			}
			if d, err := decide(e, facts{}); err != nil || !d.Allow {
				t.Errorf("the old one does not answer: %v", err)
			}
			if err := offer(t, e, rule("decision := {\"allow\": false}")); err != nil {
				t.Fatal(err)
			}
			if e.Status().Rejected != nil {
				t.Error("a refusal is shown although a good one came since")
			}
		})
	}
}

func TestAFolderMayConsistOfLinks(t *testing.T) {
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
	if err := e.SubmitPath(ctx, filepath.Join(root, "current")); err != nil {
		t.Errorf("a folder that is a link: %v", err)
	}
	// As Kubernetes mounts a ConfigMap.
	files{"p.rego": smallest, "data.json": `{"iam": {"config": {"headers": ["X-User-ID"]}}}`, "iam/claims/p.rego": "-", "iam/config/data.json": "-"}.write(t, filepath.Join(root, "map/..2026"))
	link("..2026", "map/..data")
	for _, name := range []string{".manifest", "p.rego", "data.json"} {
		link("..data/"+name, "map/"+name)
	}
	if err := e.SubmitPath(ctx, filepath.Join(root, "map")); err != nil {
		t.Errorf("a mounted ConfigMap: %v", err)
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

func TestAFolderIsWatched(t *testing.T) {
	t.Parallel()
	dir := files{}.write(t, t.TempDir())
	e := engine(t)
	if err := e.SubmitPath(ctx, dir); err != nil {
		t.Fatal(err)
	}
	watching, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); e.Watch(watching, dir) }()
	defer func() { stop(); <-done }()

	first := e.Revision()
	rule(`decision := {"allow": false}`).write(t, dir)
	await.True(t, "a change comes into force", func() bool { return e.Revision() != first })
	second := e.Revision()
	rule(`decision := {`).write(t, dir)
	await.True(t, "broken Rego is refused", func() bool { return e.Status().Rejected != nil })
	if r := e.Status().Rejected.Reason; !strings.Contains(r, "p.rego:3") || e.Revision() != second {
		t.Errorf("refused with %q", r)
	}
	rule(`decision := {"allow": false}`).write(t, dir)
	await.True(t, "the old text is fine again", func() bool { return e.Status().Rejected == nil })
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	await.True(t, "a folder that is gone is refused", func() bool { return e.Status().Rejected != nil })
	if e.Revision().Digest != second.Digest {
		t.Error("the last good one is no longer active")
	}
}

func TestABundleFileIsAPolicy(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	if err := os.WriteFile(file, files{".manifest": `{"roots": ["iam"], "revision": "v7"}`}.tarball(t), 0o644); err != nil {
		t.Fatal(err)
	}
	e := engine(t)
	if err := e.SubmitPath(ctx, file); err != nil {
		t.Fatal(err)
	}
	if e.Revision().Name != "v7" {
		t.Errorf("name %q", e.Revision().Name)
	}
	if err := os.WriteFile(file, []byte("no archive"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := e.SubmitPath(ctx, file); err == nil || e.Status().Rejected == nil {
		t.Error("what is no archive was accepted")
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
