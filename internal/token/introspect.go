package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"iam-service/internal/bounded"
	"iam-service/internal/iam"
)

// Bounds on what opaque tokens, which any client can forge, cost their issuers and us.
const (
	introspectionsAtOnce = 64
	unknownAtOnce        = introspectionsAtOnce / 4 // of those, for tokens that were never good: they keep no others waiting
	rejectedEntries      = 1000
	rejectedFor          = 2 * time.Second
)

// introspections bounds the calls of a Verifier: one for each token at a time, so many at once,
// and of tokens that were never good so many in a second. One that turns out to be good does not
// count. It remembers rejected tokens for a moment, apart from the good ones, which they cannot
// evict. Each audience has its own: a flood at the gateways keeps no administrator out.
type introspections struct {
	all, unknown  chan struct{} // one entry for each call under way
	perSecond     float64       // unknown tokens
	unknownBudget bucket        // unknown tokens that were introspected
	rejected      *bounded.Cache[introspected, rejectedToken]

	mu      sync.Mutex
	flights map[introspected]*introspection
}

// introspected is a token at an issuer.
type introspected struct {
	token  [sha256.Size]byte
	issuer *issuer
}

type rejectedToken struct {
	err   error
	until time.Time
}

// introspection is one call that several requests wait for.
type introspection struct {
	done  chan struct{}
	token *Token
	err   error
}

func newIntrospections(perSecond int) *introspections {
	return &introspections{
		all: make(chan struct{}, introspectionsAtOnce), unknown: make(chan struct{}, unknownAtOnce), perSecond: float64(perSecond),
		rejected: bounded.New[introspected](rejectedEntries, rejectedEntries, func(rejectedToken) int64 { return 1 }),
		flights:  map[introspected]*introspection{},
	}
}

// introspect looks a token up at its issuer that is no JWT (RFC 7662).
func (v *Verifier) introspect(ctx context.Context, q request) (*Token, error) {
	is := v.first
	if q.idp != "" {
		if is = v.byID(q.idp); is == nil {
			return nil, reject(Untrusted, "", "no issuer is called %q, which the gateway named", q.idp)
		}
	}
	switch {
	case is.IntrospectionClientID == "" && is.IntrospectionURL == "":
		return nil, reject(Malformed, "", "it is no JWT, and introspection is off")
	case !opaque(q.raw):
		return nil, reject(Malformed, "", "it is neither a JWT nor a b64token of RFC 6750")
	}
	in, key := v.opaque, introspected{q.sum, is}
	endpoint, err := is.introspectionEndpoint(q.now)
	if err != nil {
		return nil, err
	}
	wait, cancel := q.wait(ctx)
	defer cancel()

	in.mu.Lock()
	f := in.flights[key]
	if f == nil {
		if r, ok := in.rejected.Get(key); ok && q.now.Before(r.until) {
			in.mu.Unlock()
			return nil, r.err
		}
		if t, ok := v.cache.Get(q.sum); ok && v.stillValid(t, q.now) { // since the caller looked
			in.mu.Unlock()
			return t, nil
		}
		if !q.known && !in.unknownBudget.take(q.now, in.perSecond, in.perSecond) {
			in.mu.Unlock()
			return nil, unavailable("introspection_limited", errors.New("too many unknown opaque tokens in this second"))
		}
		f = &introspection{done: make(chan struct{})}
		in.flights[key] = f
		go func() {
			// It ends when the first caller that waits for it ends, even if others still wait.
			call, end := q.wait(context.WithoutCancel(ctx))
			defer end()
			f.token, f.err = v.callIssuer(call, is, endpoint, q)
			if f.err == nil {
				v.cache.Add(q.sum, f.token)
				if !q.known {
					in.unknownBudget.Return()
				}
			} else if iam.KindOf(f.err) == iam.Unauthenticated {
				in.rejected.Add(key, rejectedToken{f.err, v.cfg.now().Add(rejectedFor)})
			}
			in.mu.Lock()
			delete(in.flights, key)
			in.mu.Unlock()
			close(f.done)
		}()
	}
	in.mu.Unlock()
	select {
	case <-f.done:
		return f.token, f.err
	case <-wait.Done():
		return nil, unavailable("keys_timeout", context.Cause(wait))
	}
}

// introspectionEndpoint is the configured one, else that of discovery.
func (is *issuer) introspectionEndpoint(now time.Time) (string, error) {
	if is.IntrospectionURL != "" {
		return is.IntrospectionURL, nil
	}
	set := is.current(now)
	switch {
	case set == nil:
		return "", unavailable("keys_unavailable", errors.New("the issuer was never reached"))
	case set.introspection == "":
		return "", is.reject(Malformed, "it is no JWT, and its issuer publishes no introspection endpoint")
	}
	return set.introspection, nil
}

// callIssuer waits for its turn and calls the issuer.
func (v *Verifier) callIssuer(ctx context.Context, is *issuer, endpoint string, q request) (t *Token, err error) {
	defer iam.Recovered(&err)
	turns := []chan struct{}{v.opaque.all}
	if !q.known {
		turns = []chan struct{}{v.opaque.unknown, v.opaque.all}
	}
	for _, turn := range turns {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return nil, unavailable("introspection_limited", errors.New("too many introspections at once"))
		}
	}
	form := url.Values{"token": {q.raw}, "token_type_hint": {"access_token"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, unavailable("keys_unavailable", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if is.IntrospectionClientID != "" {
		req.Header.Set("Authorization", basicAuth(is.IntrospectionClientID, is.IntrospectionClientSecret))
	}
	body, err := v.do("introspect", req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, unavailable("keys_timeout", err)
		}
		return nil, unavailable("keys_unavailable", err)
	}
	var claims map[string]any
	if err := strictJSON(body, &claims); err != nil {
		v.cfg.OnError("introspect", "bad_response")
		return nil, unavailable("keys_unavailable", err)
	}
	if active, _ := claims["active"].(bool); !active {
		return nil, is.reject(Inactive, "its issuer says it is not active")
	}
	// The response came from the issuer itself, over a connection that we made.
	if _, there := claims["iss"]; !there {
		claims["iss"] = is.URL
	}
	delete(claims, "active")
	if t, err = is.token(claims, q.now, v.audience); err != nil {
		return nil, err
	}
	t.until, t.weight = q.now.Add(v.cfg.IntrospectionTTL), weightOf(q.raw)
	return t, checkTime(t, "", q.now)
}

func (v *Verifier) byID(id string) *issuer {
	for _, is := range v.issuers {
		if is.ID == id {
			return is
		}
	}
	return nil
}

// opaque reports whether s is a b64token (RFC 6750, section 2.1).
func opaque(s string) bool {
	body := strings.TrimRight(s, "=")
	for i := range len(body) {
		c := body[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~+/", c) >= 0) {
			return false
		}
	}
	return body != ""
}

// formEncode is how RFC 6749, section 2.3.1, wants ids and secrets in Basic.
func formEncode(s string) string { return url.QueryEscape(s) }
