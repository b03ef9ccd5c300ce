package rollout_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policy/authoring"
	"iam-service/internal/policyops/rollout"
)

// STATE_DIR is for a start without the database. A revision that was rolled back since must not become active
// from there.
func TestAStartUsesStateOnlyWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	dir := t.TempDir()
	with := func(headers ...string) *replica {
		return f.replica("one", func(pc *policy.Config, rc *rollout.Config) { rc.StateDir, pc.Headers = dir, headers })
	}
	one := with()
	other := candidate("v1")
	other.Data = map[string]any{"iam": map[string]any{"config": map[string]any{"headers": []any{"X-User-Roles"}}}}
	f.ok(one.engine.Submit(ctx, other))
	f.ok(one.engine.Submit(ctx, candidate("v2")))
	one.Prepare(ctx)
	if text, err := os.ReadFile(filepath.Join(dir, "policy.json")); err != nil || !strings.Contains(string(text), candidate("v2").Digest()) || !strings.Contains(string(text), `"seq":2`) {
		t.Errorf("%s, %v: the activation is missing", text, err)
	}
	f.ok(f.rollback(one)) // while no replica runs

	// It cannot activate the revision that the database names, and STATE_DIR has another one.
	again := with("X-User-ID")
	if err := again.Sync(ctx); err == nil {
		t.Fatal("it runs a policy that declares an unknown header")
	}
	if err := again.FromState(ctx); err != nil || again.name() != "" {
		t.Errorf("%q is active, %v", again.name(), err)
	}

	// While the database is down, the policy of STATE_DIR is active.
	away := with()
	unreachable := errors.New("it does not answer")
	away.AfterRead(func() error { return unreachable })
	if err := away.Sync(ctx); !errors.Is(err, unreachable) {
		t.Fatalf("got %v", err)
	}
	f.ok(away.FromState(ctx))
	if away.name() != "v2" {
		t.Errorf("%q is active", away.name())
	}
	unreachable = nil
	f.ok(away.Sync(ctx))
	away.Prepare(ctx)
	if away.name() != "v1" {
		t.Errorf("%q is active, and the database names another", away.name())
	}

	// A late replica does not overwrite the policy of a newer activation.
	f.ok(away.engine.Submit(ctx, candidate("v3")))
	late := with()
	f.ok(late.Sync(ctx))
	f.ok(away.engine.Submit(ctx, candidate("v4")))
	away.Prepare(ctx)
	late.Prepare(ctx)
	if text, err := os.ReadFile(filepath.Join(dir, "policy.json")); err != nil || !strings.Contains(string(text), candidate("v4").Digest()) {
		t.Errorf("%s, %v: a late replica has overwritten it", text, err)
	}
}

// Keys are rotated: while both are configured, each verifies its bundles.
func TestKeysCanBeRotated(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	dir := t.TempDir()
	oldFile, oldPEM := f.key(dir, "old")
	newFile, newPEM := f.key(dir, "new")
	folder := filepath.Join(dir, "policy")
	for name, text := range candidate("v1").Modules {
		f.ok(os.MkdirAll(filepath.Dir(filepath.Join(folder, name)), 0o755))
		f.ok(os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))
	}
	f.ok(os.MkdirAll(filepath.Join(folder, "iam", "config"), 0o755))
	f.ok(os.WriteFile(filepath.Join(folder, "iam", "config", "data.json"), []byte(`{"headers": ["X-User-ID"]}`), 0o600))
	f.ok(os.WriteFile(filepath.Join(folder, ".manifest"), []byte(`{"roots": ["iam"], "revision": "v1"}`), 0o600))
	with := func(keys ...string) *replica {
		return f.replica("r", func(pc *policy.Config, rc *rollout.Config) {
			key, err := policy.ParseKey([]byte(strings.Join(keys, "")))
			f.ok(err)
			pc.Key, pc.SignedOnly, rc.Unsigned = key, true, false
		})
	}
	send := func(r *replica, file string) error {
		packed, err := authoring.Build(folder, "v1", &authoring.Signer{File: file, ID: "iam"})
		f.ok(err)
		c, err := r.engine.Unpack("test", packed)
		if err != nil {
			return err
		}
		return r.engine.Submit(ctx, c)
	}
	f.ok(send(with(oldPEM), oldFile))
	f.ok(with(oldPEM, newPEM).Sync(ctx))
	f.ok(with(newPEM, oldPEM).Sync(ctx))
	if err := with(newPEM).Sync(ctx); err == nil {
		t.Error("a bundle of the old key is verified by the new one")
	}
	if err := send(with(newPEM), oldFile); err == nil {
		t.Error("a bundle of the old key is accepted with the new one")
	}
	f.ok(send(with(newPEM), newFile))
	last := with(newPEM)
	f.ok(last.Sync(ctx))
	if last.name() != "v1" {
		t.Errorf("%q is active", last.name())
	}
}

// A key alone verifies nothing: a folder is recorded as unverified, also where a key is configured.
func TestWhatVerifiedARevisionIsRecorded(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	dir := t.TempDir()
	file, public := f.key(dir, "key")
	folder := filepath.Join(dir, "policy")
	for name, text := range map[string]string{
		".manifest": `{"roots": ["iam"]}`, "iam/config/data.json": `{"headers": ["X-User-ID"]}`, "iam/claims/p.rego": candidate("v1").Modules["iam/claims/p.rego"],
	} {
		f.ok(os.MkdirAll(filepath.Dir(filepath.Join(folder, name)), 0o755))
		f.ok(os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))
	}
	with := func(signedOnly bool) *replica {
		return f.replica("r", func(pc *policy.Config, rc *rollout.Config) {
			key, err := policy.ParseKey([]byte(public))
			f.ok(err)
			pc.Key, pc.SignedOnly, rc.Unsigned = key, signedOnly, !signedOnly
		})
	}
	verified := func() (by string) {
		t.Helper()
		r, _, err := f.db.PolicyBundle(ctx, f.active())
		f.ok(err)
		return r.Verified
	}
	f.ok(with(false).engine.SubmitPath(ctx, folder))
	if by := verified(); by != iam.VerifiedByNobody {
		t.Errorf("a folder was verified by %s", by)
	}
	f.ok(with(false).Sync(ctx)) // a start that accepts it
	if err := with(true).Sync(ctx); err == nil {
		t.Error("a replica that requires signatures accepts a folder of another one")
	}
	packed, err := authoring.Build(folder, "", &authoring.Signer{File: file, ID: "iam"})
	f.ok(err)
	bundle := filepath.Join(dir, "bundle.tar.gz")
	f.ok(os.WriteFile(bundle, packed, 0o600))
	f.ok(with(true).engine.SubmitPath(ctx, bundle))
	if by := verified(); by != iam.VerifiedByKey {
		t.Errorf("a signed bundle was verified by %s", by)
	}
	f.ok(with(true).Sync(ctx))
}

// A policy in STATE_DIR needs the verification that the database recorded.
func TestAPolicyInStateNeedsTheSignatureThatItNeededBefore(t *testing.T) {
	t.Parallel()
	_, public := newFleet(t).key(t.TempDir(), "key")
	key, err := policy.ParseKey([]byte(public))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		verified string
		strict   bool   // at the start: bundles must be signed
		byOPA    bool   // at the start: OPA fetches bundles
		another  bool   // policy.json describes another policy
		known    bool   // policy.json has the verification
		want     string // active; empty: none
	}{
		"unverified, signatures required": {verified: iam.VerifiedByNobody, strict: true, byOPA: true, known: true},
		"unverified, no signatures":       {verified: iam.VerifiedByNobody, known: true, want: "v1"},
		"by OPA, which still fetches":     {verified: iam.VerifiedByOPA, strict: true, byOPA: true, known: true, want: "v1"},
		"by OPA, which no longer fetches": {verified: iam.VerifiedByOPA, strict: true, known: true},
		"by OPA, not recorded":            {verified: iam.VerifiedByOPA, strict: true, byOPA: true},
		"by OPA, of another policy":       {verified: iam.VerifiedByOPA, strict: true, byOPA: true, known: true, another: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, dir := newFleet(t), t.TempDir()
			with := func(strict, byOPA bool) *replica {
				return f.replica("r", func(pc *policy.Config, rc *rollout.Config) {
					pc.Key, pc.SignedOnly, rc.Unsigned, rc.ByOPA, rc.StateDir = key, strict, !strict, byOPA, dir
				})
			}
			first := with(false, true)
			c := candidate("v1")
			c.Verified = test.verified
			f.ok(first.engine.Submit(ctx, c))
			first.Prepare(ctx)
			file := filepath.Join(dir, "policy.json")
			text, err := os.ReadFile(file)
			f.ok(err)
			about := map[string]any{}
			f.ok(json.Unmarshal(text, &about))
			if about["verified"] != test.verified {
				t.Errorf("got %s", text)
			}
			if test.another {
				about["digest"] = candidate("v2").Digest()
			}
			if !test.known {
				delete(about, "verified")
			}
			text, err = json.Marshal(about)
			f.ok(err)
			f.ok(os.WriteFile(file, text, 0o600))
			again := with(test.strict, test.byOPA)
			if err := again.FromState(ctx); (err == nil) != (test.want != "") || again.name() != test.want {
				t.Errorf("%q is active, %v", again.name(), err)
			}
		})
	}
}

func (f *fleet) key(dir, name string) (file, public string) {
	f.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.ok(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	f.ok(err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	f.ok(err)
	file = filepath.Join(dir, name+".pem")
	f.ok(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return file, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}
