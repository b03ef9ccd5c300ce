package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Limits of the JWKS and of fetches.
const (
	maxJWKS      = 256 << 10
	maxKeys      = 100
	fetchTimeout = 3 * time.Second
	coolDown     = 10 * time.Second // between two fetches, whatever made-up key ids come
	minAge       = 30 * time.Second // bounds of max-age
	maxAge       = 10 * time.Minute
	usualAge     = 5 * time.Minute // without a max-age
)

// keyCache holds the keys of the JWKS.
//
//	none ──fetched──▶ fresh ──max-age──▶ due: fetched by the next request, at most every 10 s
//	                                      └─ unreachable ─▶ stale, used ──MaxStale──▶ none: ErrUnavailable
//
// A request that finds them due waits for the fetch, so that a revoked key is not used; while the last fetch failed, it
// does not wait.
// An unknown key id is fetched for as well, and no more often.
type keyCache struct {
	cfg    *Config
	client *http.Client

	mu      sync.Mutex
	keys    map[string]any
	etag    string
	fetched time.Time     // of the keys; zero: there are none
	due     time.Time     // when they must be fetched again
	tried   time.Time     // of the last fetch
	failed  error         // of the last fetch
	flight  chan struct{} // closed when the fetch that runs ends; nil: none runs
}

func newKeyCache(cfg *Config) *keyCache {
	client := defaultClient()
	if cfg.Client != nil {
		copied := *cfg.Client
		client = &copied
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return errors.New("redirects are not followed") }
	return &keyCache{cfg: cfg, client: client}
}

// get returns the key of an id.
func (c *keyCache) get(ctx context.Context, id string) (any, error) {
	for waited := false; ; waited = true {
		c.mu.Lock()
		now := c.cfg.now()
		usable := !c.fetched.IsZero() && now.Sub(c.fetched) < c.cfg.MaxStale
		key, known := c.keys[id]
		mayFetch := now.Sub(c.tried) >= coolDown || c.tried.IsZero()
		wantsFetch := !usable || !known || !now.Before(c.due)
		if !wantsFetch || waited || !mayFetch && c.flight == nil {
			fetched, failed := c.fetched, c.failed
			c.mu.Unlock()
			switch {
			case usable && known:
				return key, nil
			case usable && failed == nil:
				return nil, invalid("its key %q is not among those of the JWKS", id)
			case usable:
				// The key may be a new one: that cannot be known while the JWKS is unreachable.
				return nil, fmt.Errorf("%w: its key %q is unknown, and the JWKS cannot be fetched: %w", ErrUnavailable, id, failed)
			case fetched.IsZero():
				return nil, fmt.Errorf("%w: the JWKS cannot be fetched: %w", ErrUnavailable, failed)
			}
			return nil, fmt.Errorf("%w: the keys are older than %s: %w", ErrUnavailable, c.cfg.MaxStale, failed)
		}
		if c.flight == nil {
			c.flight, c.tried = make(chan struct{}), now
			go c.fetch(c.etag, c.flight) //nolint:gosec // G118: all who wait share it, so no one request ends it
		}
		flight, unreachable := c.flight, c.failed != nil
		c.mu.Unlock()
		if usable && known && unreachable { // a JWKS that hangs must not hold each request
			return key, nil
		}
		select {
		case <-flight:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
	}
}

// fetch fetches the JWKS for all who wait for it: no one request ends it.
func (c *keyCache) fetch(etag string, done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	got, err := c.request(ctx, etag)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(done)
	c.flight, c.failed = nil, err
	if err != nil {
		return
	}
	now := c.cfg.now()
	c.fetched, c.due = now, now.Add(got.age)
	if got.keys != nil {
		c.keys, c.etag = got.keys, got.etag
	}
}

type fetched struct {
	keys map[string]any // nil: unchanged
	etag string
	age  time.Duration
}

func (c *keyCache) request(ctx context.Context, etag string) (fetched, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.cfg.JWKS, nil)
	if err != nil {
		return fetched{}, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return fetched{}, err
	}
	defer resp.Body.Close()
	got := fetched{etag: resp.Header.Get("ETag"), age: ageOf(resp.Header.Get("Cache-Control"))}
	switch {
	case resp.StatusCode == http.StatusNotModified && etag != "":
		return got, nil
	case resp.StatusCode != http.StatusOK:
		return fetched{}, fmt.Errorf("the JWKS endpoint returned %s", resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxJWKS+1))
	switch {
	case err != nil:
		return fetched{}, err
	case len(body) > maxJWKS:
		return fetched{}, fmt.Errorf("the JWKS has more than %d bytes", maxJWKS)
	}
	got.keys, err = parse(body)
	return got, err
}

// parse reads the keys that can verify an assertion. Others are left out (RFC 7517, section 5).
func parse(text []byte) (map[string]any, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	switch err := json.Unmarshal(text, &set); {
	case err != nil:
		return nil, fmt.Errorf("it is no JWKS: %w", err)
	case set.Keys == nil:
		return nil, errors.New("it is no JWKS: it has no list of keys")
	case len(set.Keys) > maxKeys:
		return nil, fmt.Errorf("the JWKS has more than %d keys", maxKeys)
	}
	keys := map[string]any{}
	for _, one := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(one) != nil || k.KeyID == "" || k.Use != "" && k.Use != "sig" {
			continue
		}
		alg := ""
		switch public := k.Key.(type) { // no private key, and none of HMAC
		case *ecdsa.PublicKey:
			if public.Curve == elliptic.P256() {
				alg = string(jose.ES256)
			}
		case ed25519.PublicKey:
			alg = string(jose.EdDSA)
		}
		if alg != "" && (k.Algorithm == "" || k.Algorithm == alg) {
			keys[k.KeyID] = k.Key
		}
	}
	return keys, nil
}

// ageOf is max-age, within bounds.
func ageOf(cacheControl string) time.Duration {
	for part := range strings.SplitSeq(cacheControl, ",") {
		if text, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(part)), "max-age="); ok {
			if n, err := strconv.Atoi(text); err == nil {
				return max(minAge, min(time.Duration(n)*time.Second, maxAge))
			}
		}
	}
	return usualAge
}
