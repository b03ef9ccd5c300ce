package policy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
	"go.uber.org/goleak"

	"iam-service/internal/dev/await"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policy/authoring"
)

// TestMain is also the child that a candidate is tried in; one with another argument leaves a
// file of that name, so that it is seen that it has run.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == policy.ChildCommand {
		if len(os.Args) > 2 {
			if err := os.WriteFile(os.Args[2], nil, 0o600); err != nil {
				panic(err)
			}
		}
		if err := policy.ServeGate(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// tried is an engine that takes what is signed with a key, and whose children leave a file.
func tried(t *testing.T, key *policy.Key) (e *policy.Engine, ran func() bool) {
	t.Helper()
	mark := filepath.Join(t.TempDir(), "ran")
	e, err := policy.NewEngine(policy.Config{SignedOnly: true, Key: key, Log: discard, Child: []string{os.Args[0], policy.ChildCommand, mark}})
	if err != nil {
		t.Fatal(err)
	}
	return e, func() bool {
		_, err := os.Stat(mark)
		return err == nil
	}
}

// A child takes time and memory: an unsigned bundle gets none, by whichever source it comes.
func TestNoChildRunsForAnUnsignedBundle(t *testing.T) {
	t.Parallel()
	signer, verify := keyPair(t)
	key, err := policy.ParseKey(verify)
	if err != nil {
		t.Fatal(err)
	}
	unsigned, err := authoring.Build(files{}.write(t, t.TempDir()), "unsigned", nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := authoring.Sign(unsigned, signer)
	if err != nil {
		t.Fatal(err)
	}
	forged := repacked(t, signed, `"u1"`, `"u2"`)
	other, _ := keyPair(t)
	byOther, err := authoring.Sign(unsigned, other)
	if err != nil {
		t.Fatal(err)
	}
	for name, packed := range map[string][]byte{"unsigned": unsigned, "forged": forged, "signed by another key": byOther} {
		e, ran := tried(t, key)
		file := filepath.Join(t.TempDir(), "bundle.tar.gz")
		if err := os.WriteFile(file, packed, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := e.SubmitPath(ctx, file); err == nil || ran() {
			t.Errorf("%s, from a file: a child ran: %v; %v", name, ran(), err)
		}
		e, ran = tried(t, key)
		m := manager(t, e, verify, func() []byte { return packed })
		await.True(t, name+" is refused", func() bool { return e.Status().Rejected != nil })
		m.Stop(ctx)
		if ran() {
			t.Errorf("%s, over HTTP: a child ran", name)
		}
	}
	e, ran := tried(t, key)
	m := manager(t, e, verify, func() []byte { return signed })
	defer m.Stop(ctx)
	await.True(t, "what is signed comes into force", func() bool { return e.Revision() != nil })
	if !ran() {
		t.Error("no child ran for what is signed")
	}
}

// The processor time of a child is limited, whichever part of the gate takes it.
func TestACandidateThatDoesNotEndIsRejected(t *testing.T) {
	t.Parallel()
	doubled := "package iam.claims\n\n_t0 := [input.x, 1]\n\n_u0 := [input.x, 1]\n" // types that take OPA a year to compare
	for n := range 60 {
		doubled += fmt.Sprintf("\n_t%d := [_t%d, _t%d]\n\n_u%d := [_u%d, _u%d]\n", n+1, n, n, n+1, n, n)
	}
	for name, f := range map[string]files{
		"compiling it": {"iam/claims/more.rego": doubled + "\n_never if _t60 == _u60\n"},
		"an acceptance case": {
			"iam/claims/p.rego": "package iam.claims\n\ndecision := {\"allow\": count([1 | some a in input.token.list; some b in input.token.list; some c in input.token.list; some d in input.token.list; a + b + c + d < 0]) == 0}\n",
			"cases/c.yaml":      "cases:\n  - title: without end\n    input: {token: {list: [" + strings.Repeat("1, ", 200) + "1]}}\n    want: {allow: true}\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, err := policy.NewEngine(policy.Config{Log: discard, Child: []string{os.Args[0], policy.ChildCommand}, ChildCPU: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			const want = "it exceeds 2s: while compiling, or in its acceptance cases"
			if err := e.SubmitPath(ctx, f.write(t, t.TempDir())); err == nil || !strings.Contains(err.Error(), want) || e.Revision() != nil {
				t.Errorf("%v, want an error with %q", err, want)
			}
		})
	}
}

// A bomb that OPA fetches does not reach it, signed or not.
func TestADecompressionBombOverHTTPIsRejected(t *testing.T) {
	t.Parallel()
	_, verify := keyPair(t)
	key, err := policy.ParseKey(verify)
	if err != nil {
		t.Fatal(err)
	}
	bomb, delta := sparse(t), zipped(t, header("/patch.json", '0', 0))
	for want, packed := range map[string][]byte{"sparse": bomb, "delta bundle": delta} {
		e, _ := tried(t, key)
		m := manager(t, e, verify, func() []byte { return packed })
		await.True(t, want, func() bool { r := e.Status().Rejected; return r != nil && strings.Contains(r.Reason, want) })
		m.Stop(ctx)
	}
}

// manager fetches what is served as the bundle "main", which must be signed.
func manager(t *testing.T, e *policy.Engine, verify []byte, served func() []byte) *policy.Manager {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(served()) }))
	t.Cleanup(srv.Close)
	return start(t, e, map[string]any{
		"services": map[string]any{"b": map[string]any{"url": srv.URL}},
		"keys":     map[string]any{"k": map[string]any{"algorithm": "ES256", "key": string(verify)}},
		"bundles":  map[string]any{"main": fetchedBundle("/b.tar.gz", true)},
	})
}

func start(t *testing.T, e *policy.Engine, config map[string]any) *policy.Manager {
	t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	m, err := policy.StartManager(ctx, e, text, "test")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// fetchedBundle is the configuration of one, or of a discovery.
func fetchedBundle(resource string, signed bool) map[string]any {
	c := map[string]any{"service": "b", "resource": resource, "polling": map[string]int{"min_delay_seconds": 1, "max_delay_seconds": 1}}
	if signed {
		c["signing"] = map[string]any{"keyid": "k"}
	}
	return c
}

// Keys in OPA's configuration verify only the bundles that name one.
func TestTheVerifierOfAFetchedBundleIsReportedTruly(t *testing.T) {
	t.Parallel()
	signer, verify := keyPair(t)
	packed, err := authoring.Build(files{}.write(t, t.TempDir()), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	signedOne, err := authoring.Sign(packed, signer)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/signed.tar.gz" {
			_, _ = w.Write(signedOne)
			return
		}
		_, _ = w.Write(packed)
	}))
	defer srv.Close()
	for signed, want := range map[bool]string{true: iam.VerifiedByOPA, false: iam.VerifiedByNobody} {
		by := make(chan string, 1)
		e, err := policy.NewEngine(policy.Config{Log: discard})
		if err != nil {
			t.Fatal(err)
		}
		e.SetActivator(func(_ context.Context, c *policy.Candidate, _ *policy.Revision) (bool, error) {
			by <- c.Verified
			return true, nil
		})
		config := map[string]any{
			"services": map[string]any{"b": map[string]any{"url": srv.URL}},
			"bundles":  map[string]any{"main": fetchedBundle("/b.tar.gz", signed)},
		}
		if signed {
			config["bundles"] = map[string]any{"main": fetchedBundle("/signed.tar.gz", true)}
			config["keys"] = map[string]any{"k": map[string]any{"algorithm": "ES256", "key": string(verify)}}
		}
		m := start(t, e, config)
		if got := <-by; got != want {
			t.Errorf("signed %v: verified by %q, want %q", signed, got, want)
		}
		m.Stop(ctx)
	}
}

// What is discovered and rejected is reported as if it were in the configuration itself.
func TestDiscoveredAndRejectedBundlesAreReported(t *testing.T) {
	t.Parallel()
	signer, verify := keyPair(t)
	key, err := policy.ParseKey(verify)
	if err != nil {
		t.Fatal(err)
	}
	// discovered is a configuration, packed and signed.
	discovered := func(mainIsSigned bool, sign bool) []byte {
		t.Helper()
		b := bundle.Bundle{Manifest: bundle.Manifest{Roots: &[]string{""}}, Data: map[string]any{"bundles": map[string]any{"main": fetchedBundle("/main.tar.gz", mainIsSigned)}}}
		if sign {
			if err := b.GenerateSignature(bundle.NewSigningConfig(signer.File, "ES256", ""), "k", false); err != nil {
				t.Fatal(err)
			}
		}
		var out bytes.Buffer
		if err := bundle.NewWriter(&out).Write(b); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	build := func(f files, revision string) []byte {
		t.Helper()
		packed, err := authoring.Build(f.write(t, t.TempDir()), revision, nil)
		if err == nil {
			packed, err = authoring.Sign(packed, signer)
		}
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	good, shoe := build(files{}, "good"), build(files{"iam/config/data.json": `{"headers": ["X-User-Shoe"]}`}, "shoe")
	unsigned, err := authoring.Build(files{}.write(t, t.TempDir()), "unsigned", nil)
	if err != nil {
		t.Fatal(err)
	}
	var config, main atomic.Pointer[[]byte]
	put := func(at *atomic.Pointer[[]byte], packed []byte) { at.Store(&packed) }
	put(&config, discovered(true, false))
	put(&main, unsigned)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/config.tar.gz" {
			_, _ = w.Write(*config.Load())
			return
		}
		_, _ = w.Write(*main.Load())
	}))
	defer srv.Close()
	var refused atomic.Int64
	e, err := policy.NewEngine(policy.Config{SignedOnly: true, Key: key, Log: discard, OnCandidate: func(accepted bool) {
		if !accepted {
			refused.Add(1)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	m := start(t, e, map[string]any{
		"services":  map[string]any{"b": map[string]any{"url": srv.URL}},
		"keys":      map[string]any{"k": map[string]any{"algorithm": "ES256", "key": string(verify)}},
		"discovery": fetchedBundle("/config.tar.gz", true),
	})
	defer m.Stop(ctx)
	reported := func(what, source, reason string) {
		t.Helper()
		await.True(t, what, func() bool {
			r := e.Status().Rejected
			return r != nil && strings.HasPrefix(r.Source, source) && strings.Contains(r.Reason, reason)
		})
	}
	reported("an unsigned configuration", "bundle of the configuration", ".signatures.json")
	put(&config, discovered(true, true))
	reported("an unsigned bundle", "bundle main", ".signatures.json")
	put(&main, good)
	await.True(t, "a good one comes into force", func() bool { return e.Revision() != nil && e.Status().Rejected == nil })
	put(&main, shoe)
	reported("a bundle that the gate refuses", "bundle main", "X-User-Shoe")
	put(&main, good)
	await.True(t, "a good one again", func() bool { return e.Status().Rejected == nil })
	put(&config, discovered(false, true))
	reported("a bundle that needs no signature", "bundle main", `no "signing"`)
	if n := refused.Load(); n != 4 {
		t.Errorf("%d rejections were counted, want 4", n)
	}
	if e.Revision().Name != "good" {
		t.Errorf("%q is active", e.Revision().Name)
	}
}
