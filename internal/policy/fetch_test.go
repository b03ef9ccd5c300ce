package policy_test

import (
	"bytes"
	"compress/gzip"
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
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/policy"
	"iam-service/internal/policy/authoring"
)

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
	await.True(t, "the first bundle comes into force", func() bool { return e.Revision() != nil })
	if r := e.Revision(); r.Name != "one" || !slices.Equal(r.Headers, []string{"X-User-ID"}) {
		t.Errorf("active: %+v", r)
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
		"http.send":         rule(`decision := http.send({"method": "get", "url": "http://127.0.0.1"})`),
		"entrypoint":        rule(`other := 1`),
		"GATEWAY_HEADERS":   {"iam/config/data.json": `{"headers": ["X-User-Shoe"]}`},
		`the root ""`:       {".manifest": "-"},
		`"directory"`:       {".manifest": `{"roots": ["iam", "directory"]}`},
		`"system"`:          {".manifest": `{"roots": ["iam", "system"]}`},
		"rego_parse_error":  rule(`decision := {`),
		"larger than 64 MB": tooMuch,
	} {
		put(bad)
		await.True(t, want, func() bool { r := e.Status().Rejected; return r != nil && strings.Contains(r.Reason, want) })
		if e.Revision() != first {
			t.Fatalf("%s: the old one is no longer active", want)
		}
	}
	put(files{".manifest": `{"roots": ["iam"], "revision": "one"}`})
	await.True(t, "the bad one is taken back", func() bool { return e.Status().Rejected == nil })
	put(files{".manifest": `{"roots": ["iam"], "revision": "two"}`, "iam/claims/p.rego": strings.Replace(smallest, "u1", "u2", 1)})
	await.True(t, "a good one comes into force", func() bool { return e.Revision().Name == "two" })
	if e.Status().Rejected != nil {
		t.Errorf("refused: %+v", e.Status().Rejected)
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
	await.True(t, "the other part is missed", func() bool { return one.Status().Rejected != nil })
	if one.Revision() != nil {
		t.Fatal("a part of a policy is active")
	}
	both.Store(true)
	other, stopOther := start("a", "b")
	defer stopOther()
	for _, e := range []*policy.Engine{one, other} {
		await.True(t, "all of it is active", func() bool { return e.Revision() != nil })
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
		r := e.Status().Rejected
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
	if err := e.SubmitPath(ctx, file); err != nil {
		t.Fatal(err)
	}
	put(unsigned)
	if err := e.SubmitPath(ctx, file); err == nil || !refusedForSignature(e) {
		t.Errorf("from a file: %v, %+v", err, e.Status())
	}
	put(repacked(t, signed, `"u1"`, `"u2"`)) // another rule, the same signature
	if err := e.SubmitPath(ctx, file); err == nil || e.Revision().Name != "signed" {
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
	await.True(t, "the signed one comes into force", func() bool { return e.Revision() != nil && e.Revision().Name == "signed" })
	served.Store(&unsigned)
	await.True(t, "the unsigned one is refused", func() bool { return refusedForSignature(e) })
	served.Store(&signed)
	await.True(t, "the refusal is history", func() bool { return e.Status().Rejected == nil })

	// What came in another way is not good because this is.
	e.Reject(ctx, "git", "", errors.New("no signature"))
	before := fetched.Load()
	await.True(t, "OPA fetches again", func() bool { return fetched.Load() > before+2 })
	if r := e.Status().Rejected; r == nil || r.Source != "git" {
		t.Errorf("refused is %+v", r)
	}
}
