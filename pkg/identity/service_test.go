package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	issuer = "https://iam.example.com"
	here   = "orders.example.com"
)

// service is iam-service as a backend sees it: its keys and its JWKS.
type service struct {
	testing.TB
	*httptest.Server
	mu      sync.Mutex
	private map[string]crypto.Signer
	hidden  map[string]bool // signs, and is not published
	down    atomic.Bool
	fetches atomic.Int64
	hold    chan struct{} // if not nil, the JWKS waits for it
	clock   time.Time
}

func newService(t testing.TB) *service {
	t.Helper()
	s := &service{TB: t, private: map[string]crypto.Signer{}, hidden: map[string]bool{}, clock: time.Now().Truncate(time.Second)}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.ok(err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	s.ok(err)
	s.private["ec"], s.private["ed"] = ec, ed
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		if s.hold != nil {
			<-s.hold
		}
		if s.down.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		text := s.jwks()
		w.Header().Set("Cache-Control", "public, max-age=300")
		w.Header().Set("ETag", fmt.Sprintf("%q", fmt.Sprintf("%x", sha256.Sum256(text))))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *service) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *service) jwks() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var set jose.JSONWebKeySet
	for id, k := range s.private {
		if !s.hidden[id] {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Public(), KeyID: id, Use: "sig"})
		}
	}
	text, err := json.Marshal(set)
	s.ok(err)
	return text
}

func (s *service) publish(id string, published bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hidden[id] = !published
}

func (s *service) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clock
}

func (s *service) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = s.clock.Add(d)
}

func (s *service) verifier(cfg Config) *Verifier {
	s.Helper()
	cfg.JWKS, cfg.Issuer, cfg.now = s.URL, issuer, s.now
	if cfg.Audiences == nil {
		cfg.Audiences = []string{here}
	}
	v, err := New(cfg)
	s.ok(err)
	return v
}

// claims are those of a valid assertion. A nil in change removes one.
func (s *service) claims(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": issuer, "aud": here, "sub": "https://auth.example.com#alice", "iat": s.now().Unix(), "exp": s.now().Add(time.Minute).Unix(),
		"txn": "d1", "scope": "", "req_wl": "traefik", "rctx": map[string]any{"authn": "urn:ietf:rfc:6750"},
		"tctx": map[string]any{
			"principal_type": "user", "issuer": "https://auth.example.com", "subject": "alice", "user_id": "u1", "client_id": "web", "tenant": "acme",
			"roles": []string{"auditor", "editor"}, "decision_id": "d1", "policy_revision": "r1",
		},
	}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func (s *service) header(kid string, change map[string]any) map[string]any {
	alg := "ES256"
	if kid == "ed" {
		alg = "EdDSA"
	}
	h := map[string]any{"alg": alg, "kid": kid, "typ": typ}
	maps.Copy(h, change)
	maps.DeleteFunc(h, func(_ string, v any) bool { return v == nil })
	return h
}

// sign signs by hand, so that anything can be forged.
func (s *service) sign(kid string, header, claims map[string]any) string {
	s.Helper()
	input := encode(s, header) + "." + encode(s, claims)
	return input + "." + base64.RawURLEncoding.EncodeToString(s.signature(s.private[kid], input))
}

func (s *service) signature(key crypto.Signer, input string) []byte {
	s.Helper()
	switch key := key.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(key, []byte(input))
	case *ecdsa.PrivateKey:
		sum := sha256.Sum256([]byte(input))
		r, z, err := ecdsa.Sign(rand.Reader, key, sum[:])
		s.ok(err)
		return append(r.FillBytes(make([]byte, 32)), z.FillBytes(make([]byte, 32))...)
	case *rsa.PrivateKey:
		sum := sha256.Sum256([]byte(input))
		sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
		s.ok(err)
		return sig
	}
	return nil
}

func encode(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func (s *service) valid(change map[string]any) string {
	return s.sign("ec", s.header("ec", nil), s.claims(change))
}
