package token

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"iam-service/internal/bounded"
	"iam-service/internal/iam"
)

const (
	maxDocumentBytes = 1 << 20         // bytes of a discovery document or a JWKS
	keyStoreTimeout  = 2 * time.Second // of storing and of loading keys
	fetchesBurst     = 4               // for unknown keys
	missingEntries   = 256
	minRSABits       = 2048
)

// errNoKeys means that an issuer published no usable key.
var errNoKeys = errors.New("its JWKS has no key that can sign with RS256, ES256 or EdDSA and has a kid")

// issuer is a trusted issuer and its keys.
type issuer struct {
	Issuer
	v *Verifier

	keys atomic.Pointer[keySet]

	fetches *rate.Limiter // for unknown keys
	missing *bounded.Cache[string, struct{}]

	mu        sync.Mutex // of what follows
	flight    *fetchFlight
	lastTried time.Time
	lastErr   error // of the last fetch; nil: it went well
}

func newIssuer(i Issuer, v *Verifier) *issuer {
	return &issuer{
		Issuer: i, v: v, fetches: rate.NewLimiter(rate.Every(v.cfg.CoolDown), fetchesBurst),
		missing: bounded.New[string](missingEntries, missingEntries, func(struct{}) int64 { return 1 }),
	}
}

// keySet is the result of one fetch. It is immutable. One without keys is valid too: the issuer has
// withdrawn all.
type keySet struct {
	fetchedAt     time.Time // when the fetch began
	byID          map[string]*signingKey
	unused        map[string]string // kid → why the key is not used
	introspection string            // endpoint; may be empty
	token         string            // as above
}

type signingKey struct {
	id, alg string
	public  any
}

// fetchFlight is a fetch that several requests wait for.
type fetchFlight struct {
	done chan struct{}
	err  error
}

// stillHasKey reports whether the key that signed t is still among the keys: the same id and the same key. A set does not
// change, so it is searched once for each token.
func (is *issuer) stillHasKey(t *Token, now time.Time) bool {
	set := is.current(now)
	if set == nil {
		return false
	}
	if t.foundIn.Load() == set {
		return true
	}
	k := t.signedBy
	same := set.byID[k.id]
	if same != k && (same == nil || same.alg != k.alg || !sameKey(same.public, k.public)) {
		return false
	}
	t.foundIn.Store(set)
	return true
}

// current is the key set, unless it is too old.
func (is *issuer) current(now time.Time) *keySet {
	set := is.keys.Load()
	if set == nil || now.Sub(set.fetchedAt) > is.v.cfg.MaxAge {
		return nil
	}
	return set
}

// key finds a key by id. An issuer signs with a new key at once, so an unknown id is looked for
// by a fetch that begins after the token arrived: without one the token cannot be verified (503), and is never invalid.
// The fetches of an issuer for unknown ids are limited to a burst, then to one in each cool-down. An id that was
// missing in a fetch is invalid until a cool-down after the last one, so that old tokens cause no fetch.
func (is *issuer) key(ctx context.Context, kid string, q request) (*signingKey, error) {
	if set := is.current(q.now); set != nil {
		if k := set.byID[kid]; k != nil {
			return k, nil
		}
	}
	wait, cancel := q.wait(ctx)
	defer cancel()
	for {
		set := is.current(is.v.cfg.now())
		if set != nil {
			if k := set.byID[kid]; k != nil {
				return k, nil
			}
			_, missing := is.missing.Get(kid)
			if missing = missing && q.now.Sub(set.fetchedAt) < is.v.cfg.CoolDown; missing || !set.fetchedAt.Before(q.now) {
				is.missing.Add(kid, struct{}{})
				return nil, is.reject(NoKey, "its issuer %s has no key of its kid", is.URL)
			}
		}
		f, err := is.fetchForKey(ctx, q.now)
		if err != nil {
			return nil, err
		}
		select {
		case <-f.done:
			if f.err != nil {
				return nil, unavailable("keys_unavailable", f.err)
			}
		case <-wait.Done():
			return nil, unavailable("keys_timeout", fmt.Errorf("%s did not respond in time: %w", is.URL, context.Cause(wait)))
		}
	}
}

// fetchForKey joins the running fetch, or begins one within the limits.
func (is *issuer) fetchForKey(ctx context.Context, now time.Time) (*fetchFlight, error) {
	is.mu.Lock()
	defer is.mu.Unlock()
	switch {
	case is.flight != nil:
		return is.flight, nil
	case is.lastErr != nil && now.Sub(is.lastTried) < is.v.cfg.CoolDown:
		return nil, unavailable("keys_unavailable", is.lastErr)
	case !is.fetches.AllowN(now, 1):
		return nil, unavailable("keys_withheld", fmt.Errorf("too many unknown keys of %s: the next fetch is not due yet", is.URL))
	}
	f := is.beginFetch(is.v.cfg.now())
	go is.runFetch(context.WithoutCancel(ctx), f)
	return f, nil
}

// beginFetch begins a flight; is.mu is held.
func (is *issuer) beginFetch(now time.Time) *fetchFlight {
	is.flight = &fetchFlight{done: make(chan struct{})}
	is.lastTried = now
	return is.flight
}

func (is *issuer) runFetch(ctx context.Context, f *fetchFlight) {
	set, discovery, jwks, err := is.fetch(ctx)
	before := is.keys.Load()
	if err == nil {
		is.keys.Store(set)
	}
	is.mu.Lock()
	is.flight, is.lastErr, f.err = nil, err, err
	is.mu.Unlock()
	close(f.done)
	if err != nil {
		is.v.cfg.Log.WarnContext(ctx, "issuer keys not fetched", slog.String("issuer", is.URL), slog.Any("err", err))
		return
	}
	is.report(ctx, before, set)
	if k := is.v.cfg.KeyStore; k != nil {
		save := func() (err error) {
			defer iam.Recovered(&err)
			ctx, cancel := context.WithTimeout(ctx, keyStoreTimeout)
			defer cancel()
			return k.SaveKeys(ctx, is.URL, discovery, jwks, set.fetchedAt)
		}
		if err := save(); err != nil {
			is.v.cfg.Log.WarnContext(ctx, "issuer keys not stored", slog.String("issuer", is.URL), slog.Any("err", err))
		}
	}
}

// report logs each key that is not used, once, and that none is left, each time.
func (is *issuer) report(ctx context.Context, before, set *keySet) {
	for kid, why := range set.unused {
		if before == nil || before.unused[kid] != why {
			is.v.cfg.Log.WarnContext(ctx, "key of an issuer is not used", slog.String("issuer", is.URL), slog.String("kid", kid), slog.String("reason", why))
		}
	}
	if len(set.byID) == 0 {
		is.v.cfg.OnError("jwks", "no_usable_key")
		is.v.cfg.Log.ErrorContext(ctx, "issuer has withdrawn all keys: all of its tokens are rejected", slog.String("issuer", is.URL), slog.Any("err", errNoKeys))
	}
}

// refresh fetches now, regardless of the cool-down, or joins the running fetch.
func (is *issuer) refresh(ctx context.Context) error {
	is.mu.Lock()
	f := is.flight
	if f == nil {
		f = is.beginFetch(is.v.cfg.now())
		go is.runFetch(context.WithoutCancel(ctx), f)
	}
	is.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fetch reads discovery and keys.
func (is *issuer) fetch(ctx context.Context) (set *keySet, discovery, jwks []byte, err error) {
	defer iam.Recovered(&err)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	defer context.AfterFunc(is.v.closed, cancel)()
	at := is.v.cfg.now()
	if discovery, err = is.discover(ctx); err != nil {
		return nil, nil, nil, err
	}
	doc, err := parseDiscovery(discovery, is.URL)
	if err != nil {
		is.v.cfg.OnError("discovery", "bad_response")
		return nil, nil, nil, err
	}
	if jwks, err = is.v.get(ctx, "jwks", doc.JWKSURI); err != nil {
		return nil, nil, nil, err
	}
	if set, err = newKeySet(doc, jwks, at); err != nil {
		is.v.cfg.OnError("jwks", "bad_response")
		return nil, nil, nil, fmt.Errorf("%s: %w", doc.JWKSURI, err)
	}
	return set, discovery, jwks, nil
}

// TokenEndpoint is the first issuer's (RFC 6749, section 3.2), from its discovery document.
func (v *Verifier) TokenEndpoint() (string, error) {
	set := v.first.keys.Load()
	if set == nil || set.token == "" {
		return "", fmt.Errorf("the discovery document of %s has no token_endpoint", v.first.URL)
	}
	return set.token, nil
}

// Algorithms are the signature algorithms of an issuer's usable keys, sorted; none: no key was fetched.
func (v *Verifier) Algorithms(issuer string) []string {
	all := map[string]bool{}
	if is := v.issuers[issuer]; is != nil {
		if set := is.keys.Load(); set != nil {
			for _, k := range set.byID {
				all[k.alg] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// KeyState is the state of the keys of one issuer.
type KeyState struct {
	Issuer    string
	Available bool
	Age       time.Duration
	Err       error // of the last fetch
}

// Keys returns the state of all issuers' keys, the first issuer first.
func (v *Verifier) Keys() []KeyState {
	states := make([]KeyState, 0, len(v.cfg.Issuers))
	now := v.cfg.now()
	for _, i := range v.cfg.Issuers {
		is := v.issuers[i.URL]
		s := KeyState{Issuer: i.URL}
		set := is.current(now)
		if set != nil {
			s.Available, s.Age = true, now.Sub(set.fetchedAt)
		}
		is.mu.Lock()
		s.Err = is.lastErr
		is.mu.Unlock()
		if s.Err == nil && set != nil && len(set.byID) == 0 {
			s.Err = errNoKeys
		}
		states = append(states, s)
	}
	return states
}
