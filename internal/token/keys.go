package token

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/time/rate"

	"iam-service/internal/bounded"
	"iam-service/internal/iam"
)

const (
	maxDocument    = 1 << 20         // bytes of a discovery document or a JWKS
	keeperLimit    = 2 * time.Second // for keeping keys, and for reading kept ones
	fetchesBurst   = 4               // for unknown keys
	missingEntries = 256
	minRSABits     = 2048
)

// errNoKeys says that an issuer answered, and that what it answered verifies nothing.
var errNoKeys = errors.New("its JWKS has no key that can sign with RS256, ES256 or EdDSA and has a kid")

// issuer is a trusted issuer with what is known of it.
type issuer struct {
	Issuer
	v *Verifier

	held atomic.Pointer[keySet]

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

// keySet is what one fetch brought. It is immutable. One without keys is the issuer's word too:
// it has withdrawn those it had.
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

// holds reports whether k is still among the keys: the same id and the same key.
func (is *issuer) holds(k *signingKey, now time.Time) bool {
	set := is.current(now)
	if set == nil {
		return false
	}
	same := set.byID[k.id]
	return same == k || same != nil && same.alg == k.alg && sameKey(same.public, k.public)
}

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

// current is what is held and not too old.
func (is *issuer) current(now time.Time) *keySet {
	set := is.held.Load()
	if set == nil || now.Sub(set.fetchedAt) > is.v.cfg.MaxAge {
		return nil
	}
	return set
}

// key finds a key by id. An issuer signs with a new key at once, so an unknown id is looked for
// by a fetch that begins after the token came: without one it is not known (503), never wrong.
// The fetches of an issuer for unknown ids are a few, then one in each cool-down; an id that was
// missing in a fetch is wrong until a cool-down after the last one, so that old tokens cause none.
func (is *issuer) key(ctx context.Context, kid string, now, deadline time.Time) (*signingKey, error) {
	if set := is.current(now); set != nil {
		if k := set.byID[kid]; k != nil {
			return k, nil
		}
	}
	wait, cancel := context.WithTimeout(ctx, deadline.Sub(now))
	defer cancel()
	for {
		set := is.current(is.v.cfg.now())
		if set != nil {
			if k := set.byID[kid]; k != nil {
				return k, nil
			}
			_, missing := is.missing.Get(kid)
			if missing = missing && now.Sub(set.fetchedAt) < is.v.cfg.CoolDown; missing || !set.fetchedAt.Before(now) {
				is.missing.Add(kid, struct{}{})
				return nil, is.reject(NoKey, "its issuer %s has no key of its kid", is.URL)
			}
		}
		f, err := is.fetchForKey(ctx, now)
		if err != nil {
			return nil, err
		}
		select {
		case <-f.done:
			if f.err != nil {
				return nil, unavailable("keys_unavailable", f.err)
			}
		case <-wait.Done():
			return nil, unavailable("keys_timeout", fmt.Errorf("%s did not answer in time: %w", is.URL, context.Cause(wait)))
		}
	}
}

// fetchForKey joins the fetch that is under way, or begins one if there is one left.
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
	f := is.take(is.v.cfg.now())
	go is.fly(context.WithoutCancel(ctx), f)
	return f, nil
}

// take begins a flight; is.mu is held.
func (is *issuer) take(now time.Time) *fetchFlight {
	is.flight = &fetchFlight{done: make(chan struct{})}
	is.lastTried = now
	return is.flight
}

func (is *issuer) fly(ctx context.Context, f *fetchFlight) {
	set, discovery, jwks, err := is.fetch(ctx)
	before := is.held.Load()
	if err == nil {
		is.held.Store(set)
	}
	is.mu.Lock()
	is.flight, is.lastErr, f.err = nil, err, err
	is.mu.Unlock()
	close(f.done)
	if err != nil {
		is.v.cfg.Log.WarnContext(ctx, "keys of an issuer could not be fetched", slog.String("issuer", is.URL), slog.Any("err", err))
		return
	}
	is.report(ctx, before, set)
	if k := is.v.cfg.Keeper; k != nil {
		save := func() (err error) {
			defer iam.Recovered(&err)
			ctx, cancel := context.WithTimeout(ctx, keeperLimit)
			defer cancel()
			return k.SaveKeys(ctx, is.URL, discovery, jwks, set.fetchedAt)
		}
		if err := save(); err != nil {
			is.v.cfg.Log.WarnContext(ctx, "keys of an issuer could not be kept for a start without it", slog.String("issuer", is.URL), slog.Any("err", err))
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

// refresh fetches now, whatever the cool-down says, or joins the fetch that is
// under way.
func (is *issuer) refresh(ctx context.Context) error {
	is.mu.Lock()
	f := is.flight
	if f == nil {
		f = is.take(is.v.cfg.now())
		go is.fly(context.WithoutCancel(ctx), f)
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

// discover asks for OpenID Connect Discovery 1.0, section 4, and where that is
// 404 for RFC 8414.
func (is *issuer) discover(ctx context.Context) ([]byte, error) {
	b, err := is.v.get(ctx, "discovery", strings.TrimSuffix(is.URL, "/")+"/.well-known/openid-configuration")
	var status *StatusError
	if err == nil || !errors.As(err, &status) || status.Status != http.StatusNotFound {
		return b, err
	}
	u, perr := url.Parse(is.URL)
	if perr != nil {
		return nil, perr
	}
	u.Path = "/.well-known/oauth-authorization-server" + strings.TrimSuffix(u.Path, "/") // RFC 8414, section 3.1
	b, err = is.v.get(ctx, "discovery", u.String())
	if errors.As(err, &status) && status.Status == http.StatusNotFound {
		is.v.cfg.OnError("discovery", "bad_response") // now it is one: neither document is there
	}
	return b, err
}

type discoveryDoc struct {
	Issuer                string `json:"issuer"`
	JWKSURI               string `json:"jwks_uri"`
	IntrospectionEndpoint string `json:"introspection_endpoint"`
	TokenEndpoint         string `json:"token_endpoint"`
}

// WrongIssuerError says that a discovery document speaks for another issuer:
// RFC 8414, section 3.3, and OpenID Connect Discovery, section 4.3, demand that
// it is not used.
type WrongIssuerError struct{ Want, Got string }

func (e *WrongIssuerError) Error() string {
	return fmt.Sprintf("its discovery document says it is %q, not %q", e.Got, e.Want)
}

func parseDiscovery(b []byte, issuerURL string) (discoveryDoc, error) {
	var doc discoveryDoc
	if err := json.Unmarshal(b, &doc); err != nil {
		return doc, fmt.Errorf("discovery of %s: %w", issuerURL, err)
	}
	if doc.Issuer != issuerURL {
		return doc, &WrongIssuerError{Want: issuerURL, Got: doc.Issuer}
	}
	own, err := url.Parse(issuerURL)
	if err != nil {
		return doc, fmt.Errorf("discovery of %s: %w", issuerURL, err)
	}
	for name, endpoint := range map[string]string{"jwks_uri": doc.JWKSURI, "introspection_endpoint": doc.IntrospectionEndpoint, "token_endpoint": doc.TokenEndpoint} {
		if endpoint == "" && name != "jwks_uri" {
			continue
		}
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || own.Scheme != "http" || u.Hostname() != own.Hostname()) {
			// Plain http was allowed for the issuer's own host, if at all.
			return doc, fmt.Errorf("discovery of %s: %s is no https URL", issuerURL, name)
		}
	}
	return doc, nil
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
		if why := unfit(k, alg, head.Ops); why != "" {
			set.unused[k.KeyID] = why
			continue
		}
		set.byID[k.KeyID] = &signingKey{id: k.KeyID, alg: alg, public: k.Key}
	}
	return set, nil
}

// unfit says why a key verifies nothing here; "" where it does.
func unfit(k jose.JSONWebKey, alg string, ops *[]string) string {
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

// StatusError is an answer that is no success.
type StatusError struct {
	URL    string
	Status int
}

func (e *StatusError) Error() string { return fmt.Sprintf("%s answered %d", e.URL, e.Status) }

func (v *Verifier) get(ctx context.Context, operation, u string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	return v.do(operation, req)
}

// do returns the body of a 200 in JSON, and counts every failure.
func (v *Verifier) do(operation string, req *http.Request) ([]byte, error) {
	resp, err := v.cfg.Client.Do(req)
	if err != nil {
		if !errors.Is(req.Context().Err(), context.Canceled) { // a caller who left is no failure of the issuer
			v.cfg.OnError(operation, reasonOf(err))
		}
		return nil, err
	}
	defer resp.Body.Close()
	where := req.URL.Redacted()
	if resp.StatusCode != http.StatusOK {
		if operation != "discovery" || resp.StatusCode != http.StatusNotFound { // see discover
			v.cfg.OnError(operation, reasonOfStatus(resp.StatusCode))
		}
		return nil, &StatusError{where, resp.StatusCode}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		v.cfg.OnError(operation, reasonOf(err))
		return nil, fmt.Errorf("read %s: %w", where, err)
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")) // not one: ""
	if len(body) > maxDocument || kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		v.cfg.OnError(operation, "bad_response")
		return nil, fmt.Errorf("%s: %d bytes of %q are not the JSON that was expected", where, len(body), kind)
	}
	return body, nil
}

func reasonOf(err error) string {
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
		return "timeout"
	}
	return "connection"
}

func reasonOfStatus(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return "unauthorized"
	case status == http.StatusForbidden:
		return "forbidden"
	case status == http.StatusTooManyRequests:
		return "rate_limited"
	case status >= http.StatusInternalServerError:
		return "server_error"
	}
	return "bad_response"
}

// Start gets the first keys of all issuers. It returns when the first issuer's are
// held; until then it tries, at most until the given time or the end of ctx. Where
// that issuer does not answer, the keys that were kept are used. Further issuers
// never hold a start up. KeepFresh does the rest.
func (v *Verifier) Start(ctx context.Context, until time.Time) error {
	for _, i := range v.cfg.Issuers[1:] {
		is := v.issuers[i.URL]
		go func() {
			if is.refresh(ctx) != nil {
				_ = is.useKept(ctx) // it is fetched again soon
			}
		}()
	}
	return v.first.begin(ctx, until)
}

// TokenEndpoint is the first issuer's (RFC 6749, section 3.2), as its discovery document
// says.
func (v *Verifier) TokenEndpoint() (string, error) {
	set := v.first.held.Load()
	if set == nil || set.token == "" {
		return "", fmt.Errorf("the discovery document of %s has no token_endpoint", v.first.URL)
	}
	return set.token, nil
}

// KeepFresh fetches the keys of all issuers again and again until ctx ends.
func (v *Verifier) KeepFresh(ctx context.Context) {
	var wg sync.WaitGroup
	for _, is := range v.issuers {
		wg.Go(func() { is.keepFresh(ctx) })
	}
	wg.Wait()
}

// begin gets the first keys, or says why not: Permanent errors at once.
func (is *issuer) begin(ctx context.Context, until time.Time) error {
	waiting, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	// One that is silent must leave time for the kept keys.
	first, cancelFirst := context.WithTimeout(waiting, min(3*time.Second, time.Until(until)/2))
	defer cancelFirst()
	err := is.refreshKeys(first)
	if err == nil || permanent(err) {
		return err
	}
	if !errors.Is(err, errNoKeys) && !unknownHost(err) && is.useKept(ctx) == nil {
		is.v.cfg.Log.WarnContext(ctx, "the issuer is away: starting with the keys that were kept", slog.String("issuer", is.URL), slog.Any("err", err))
		return nil
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		again := is.refreshKeys(waiting)
		if again == nil || permanent(again) {
			return again
		}
		if waiting.Err() == nil { // that time is over is not why
			err = again
		}
		select {
		case <-waiting.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// refreshKeys is refresh that fails where no key came of it.
func (is *issuer) refreshKeys(ctx context.Context) error {
	if err := is.refresh(ctx); err != nil {
		return err
	}
	if set := is.held.Load(); len(set.byID) == 0 {
		return errNoKeys
	}
	return nil
}

// permanent reports whether trying again is pointless: a wrong issuer, a refusal. A name that does
// not exist may exist a moment later, where the issuer or the resolver starts beside us.
func permanent(err error) bool {
	if _, ok := errors.AsType[*WrongIssuerError](err); ok {
		return true
	}
	status, ok := errors.AsType[*StatusError](err)
	return ok && status.Status < 500 && status.Status != http.StatusTooManyRequests
}

// unknownHost reports whether the issuer's name does not exist: a mistake in its URL, which kept keys must not hide.
func unknownHost(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound
}

// useKept puts the kept keys in force.
func (is *issuer) useKept(ctx context.Context) (err error) {
	defer iam.Recovered(&err)
	if is.v.cfg.Keeper == nil {
		return errors.New("no keys are kept")
	}
	ctx, cancel := context.WithTimeout(ctx, keeperLimit)
	defer cancel()
	discovery, jwks, at, err := is.v.cfg.Keeper.LoadKeys(ctx, is.URL)
	if err != nil {
		return err
	}
	if at.IsZero() || is.v.cfg.now().Sub(at) > is.v.cfg.MaxAge {
		return errors.New("no young enough keys are kept")
	}
	doc, err := parseDiscovery(discovery, is.URL)
	if err != nil {
		return err
	}
	set, err := newKeySet(doc, jwks, at)
	if err != nil {
		return err
	}
	if len(set.byID) == 0 {
		return errNoKeys
	}
	is.held.CompareAndSwap(nil, set)
	return nil
}

// keepFresh fetches every Refresh, give or take a tenth, and sooner after a
// failure.
func (is *issuer) keepFresh(ctx context.Context) {
	for {
		every := is.v.cfg.Refresh
		if set := is.held.Load(); set == nil || len(set.byID) == 0 || is.failed() {
			every = min(every, is.v.cfg.CoolDown)
		}
		jitter := time.Duration(rand.Int64N(int64(every)/5+1)) - every/10 //nolint:gosec // no secret
		select {
		case <-ctx.Done():
			return
		case <-time.After(every + jitter):
			_ = is.refresh(ctx) // logged and counted where it happened
		}
	}
}

func (is *issuer) failed() bool {
	is.mu.Lock()
	defer is.mu.Unlock()
	return is.lastErr != nil
}

// KeyState says of one issuer whether keys are held and how old they are.
type KeyState struct {
	Issuer string
	Held   bool
	Age    time.Duration
	Err    error // of the last fetch
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
			s.Held, s.Age = true, now.Sub(set.fetchedAt)
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
