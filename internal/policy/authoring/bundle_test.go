package authoring_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/bundle"

	"iam-service/internal/policy"
	"iam-service/internal/policy/authoring"
)

// keyPair writes a private key, and returns it with its public half.
func keyPair(t *testing.T, key crypto.Signer) (authoring.Signer, *policy.Key) {
	t.Helper()
	private, err1 := x509.MarshalPKCS8PrivateKey(key)
	der, err2 := x509.MarshalPKIXPublicKey(key.Public())
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	file := filepath.Join(t.TempDir(), "private.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		t.Fatal(err)
	}
	public, err := policy.ParseKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return authoring.Signer{File: file, ID: "k"}, public
}

func ecKey(t *testing.T, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A key says itself which algorithm it is for.
func TestEachSortOfKeySigns(t *testing.T) {
	t.Parallel()
	packed, err := authoring.Build(folder(t, nil), "v", nil)
	if err != nil {
		t.Fatal(err)
	}
	strong, err1 := rsa.GenerateKey(rand.Reader, 2048)
	weak, err2 := rsa.GenerateKey(rand.Reader, 1024)
	_, other, err3 := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384()), ecKey(t, elliptic.P521()), strong} {
		private, public := keyPair(t, key)
		signed, err := authoring.Sign(packed, private)
		if err == nil {
			_, err = authoring.Verify(signed, public)
		}
		if err != nil {
			t.Errorf("%T: %v", key.Public(), err)
		}
	}
	for _, key := range []crypto.Signer{weak, other} {
		if _, err := policy.SigningAlgorithm(key.Public()); err == nil {
			t.Errorf("%T is taken", key.Public())
		}
	}
}

// A bundle is what its folder is, without tests; a signature is good for these bytes and
// this key alone.
func TestBundlesAreBuiltSignedAndVerified(t *testing.T) {
	t.Parallel()
	dir := folder(t, nil)
	private, public := keyPair(t, ecKey(t, elliptic.P256()))
	_, other := keyPair(t, ecKey(t, elliptic.P256()))
	signed, err := authoring.Build(dir, "v7", &private)
	if err != nil {
		t.Fatal(err)
	}
	b, err := authoring.Verify(signed, public)
	if err != nil || b.Manifest.Revision != "v7" || len(b.Modules) != 4 {
		t.Errorf("%d modules of %q, %v", len(b.Modules), b.Manifest.Revision, err)
	}
	plain, err := authoring.Build(dir, "v7", nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := authoring.Build(dir, "v7", nil)
	if err != nil || !bytes.Equal(plain, again) {
		t.Errorf("the same folder makes other bytes, %v", err)
	}
	resigned, err := authoring.Sign(plain, private)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := authoring.Verify(resigned, public); err != nil {
		t.Error(err)
	}
	// Another rule, under the signature of before.
	changed := folder(t, map[string]string{"iam/claims/mine.rego": "package iam.claims\n\ngrants contains {\"code\": \"x\", \"title\": \"x\"}\n"})
	forged, err := authoring.Build(changed, "v7", nil)
	if err != nil {
		t.Fatal(err)
	}
	forged = withSignature(t, forged, b.Signatures)
	if _, err := authoring.Verify(forged, public); err == nil || !strings.Contains(err.Error(), "digest mismatch") {
		t.Errorf("forged: %v", err)
	}
	for what, verify := range map[string]func() error{
		"unsigned":    func() error { _, err := authoring.Verify(plain, public); return err },
		"another key": func() error { _, err := authoring.Verify(signed, other); return err },
		"no bundle":   func() error { _, err := authoring.Verify([]byte("x"), public); return err },
	} {
		if verify() == nil {
			t.Errorf("%s is taken", what)
		}
	}
	if err := os.Remove(filepath.Join(dir, ".manifest")); err != nil {
		t.Fatal(err)
	}
	if _, err := authoring.Build(dir, "", nil); err == nil || !strings.Contains(err.Error(), ".manifest") {
		t.Errorf("without a manifest: %v", err)
	}
}

// withSignature puts the signature of another bundle on one. OPA tells of it where it was
// verified, and nowhere else.
func withSignature(t *testing.T, packed []byte, signature bundle.SignaturesConfig) []byte {
	t.Helper()
	b, err := bundle.NewReader(bytes.NewReader(packed)).WithSkipBundleVerification(true).Read()
	if err != nil {
		t.Fatal(err)
	}
	b.Signatures = signature
	var out bytes.Buffer
	if err := bundle.NewWriter(&out).DisableFormat(true).Write(b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
