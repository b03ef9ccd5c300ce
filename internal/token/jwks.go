package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func sameKey(a, b any) bool {
	switch a := a.(type) {
	case *rsa.PublicKey:
		b, ok := b.(*rsa.PublicKey)
		return ok && a.Equal(b)
	case *ecdsa.PublicKey:
		b, ok := b.(*ecdsa.PublicKey)
		return ok && a.Equal(b)
	case ed25519.PublicKey:
		b, ok := b.(ed25519.PublicKey)
		return ok && a.Equal(b)
	}
	return false
}

// newKeySet keeps the keys that can sign with the algorithms we accept. It fails for what is no
// JWKS. One without such a key is one: its issuer has none, so none is trusted.
func newKeySet(doc discoveryDoc, jwks []byte, at time.Time) (*keySet, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &raw); err != nil {
		return nil, fmt.Errorf("no JWKS: %w", err)
	}
	if raw.Keys == nil {
		return nil, errors.New("no JWKS: it has no list of keys")
	}
	set := &keySet{fetchedAt: at, byID: map[string]*signingKey{}, unused: map[string]string{}, introspection: doc.IntrospectionEndpoint, token: doc.TokenEndpoint}
	for _, one := range raw.Keys {
		var head struct {
			KeyID string    `json:"kid"`
			Ops   *[]string `json:"key_ops"`
		}
		if one = bytes.TrimSpace(one); len(one) == 0 || one[0] != '{' {
			return nil, errors.New("no JWKS: one of its keys is no object")
		}
		var k jose.JSONWebKey
		if json.Unmarshal(one, &head) != nil || k.UnmarshalJSON(one) != nil {
			set.unused[head.KeyID] = "it is not understood" // RFC 7517, section 5
			continue
		}
		if k.Use != "" && k.Use != "sig" {
			continue // it says itself that it is for something else
		}
		alg := algorithmOf(k)
		if why := unusableReason(k, alg, head.Ops); why != "" {
			set.unused[k.KeyID] = why
			continue
		}
		set.byID[k.KeyID] = &signingKey{id: k.KeyID, alg: alg, public: k.Key}
	}
	return set, nil
}

// unusableReason returns why a key verifies nothing here; "" where it does.
func unusableReason(k jose.JSONWebKey, alg string, ops *[]string) string {
	public, _ := k.Key.(*rsa.PublicKey) // nil: of another kind
	switch {
	case k.KeyID == "":
		return "it has no kid"
	case !k.IsPublic():
		return "it is no public key"
	case ops != nil && !slices.Contains(*ops, "verify"):
		return "its key_ops do not have verify"
	case public != nil && public.N.BitLen() < minRSABits:
		return fmt.Sprintf("it is RSA of %d bits, %d are the least", public.N.BitLen(), minRSABits)
	case public != nil && roca(public.N):
		return "it has the fingerprint of a broken generator (CVE-2017-15361, ROCA)"
	case alg == "":
		return "it is not for RS256, ES256 or EdDSA"
	}
	return ""
}

// algorithmOf pins the one algorithm that a key is for; "" where there is none.
func algorithmOf(k jose.JSONWebKey) string {
	var alg string
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		alg = "RS256"
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() {
			alg = "ES256"
		}
	case ed25519.PublicKey:
		alg = "EdDSA"
	}
	if k.Algorithm != "" && k.Algorithm != alg && (alg != "EdDSA" || k.Algorithm != "Ed25519") { // RFC 9864 names it so
		return ""
	}
	return alg
}
