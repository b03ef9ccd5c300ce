package token

import (
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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxDocument = 1 << 20         // bytes of a discovery document or a JWKS
	keeperLimit = 2 * time.Second // for keeping keys, and for reading kept ones
)

// issuer is a trusted issuer with what is known of it.
type issuer struct {
	Issuer
	v *Verifier

	held atomic.Pointer[keySet]

	mu        sync.Mutex // of what follows
	flight    *fetchFlight
	lastTried time.Time
	lastErr   error // of the last fetch; nil: it went well
}

// keySet is what one fetch brought. It is immutable.
type keySet struct {
	fetchedAt     time.Time
	byID          map[string]*signingKey
	introspection string // endpoint; may be empty
	token         string // as above
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

// key finds a key by id. An unknown id makes at most one fetch in a cool-down:
// it is wrong if the keys were fetched since, and not known if they could not be.
func (is *issuer) key(ctx context.Context, kid string, now, deadline time.Time) (*signingKey, error) {
	if set := is.current(now); set != nil {
		if k := set.byID[kid]; k != nil {
			return k, nil
		}
	}
	if err := is.fetchAfter(ctx, now, deadline); err != nil {
		return nil, err
	}
	if set := is.current(is.v.cfg.now()); set != nil {
		if k := set.byID[kid]; k != nil {
			return k, nil
		}
		return nil, invalid("its issuer %s has no key of its kid", is.URL)
	}
	return nil, unavailable("keys_unavailable", fmt.Errorf("the keys of %s are older than %s", is.URL, is.v.cfg.MaxAge))
}

// fetchAfter makes sure that a fetch has been tried within the cool-down, and
// returns its error.
func (is *issuer) fetchAfter(ctx context.Context, now, deadline time.Time) error {
	is.mu.Lock()
	f := is.flight
	if f == nil {
		if !is.lastTried.IsZero() && now.Sub(is.lastTried) < is.v.cfg.CoolDown {
			err := is.lastErr
			is.mu.Unlock()
			if err != nil {
				return unavailable("keys_unavailable", err)
			}
			return nil
		}
		f = is.take(now)
		go is.fly(context.WithoutCancel(ctx), f)
	}
	is.mu.Unlock()

	wait := time.NewTimer(deadline.Sub(now))
	defer wait.Stop()
	select {
	case <-f.done:
		if f.err != nil {
			return unavailable("keys_unavailable", f.err)
		}
		return nil
	case <-wait.C:
		return unavailable("keys_timeout", fmt.Errorf("%s did not answer in time", is.URL))
	case <-ctx.Done():
		return unavailable("keys_timeout", context.Cause(ctx))
	}
}

// take begins a flight; is.mu is held.
func (is *issuer) take(now time.Time) *fetchFlight {
	is.flight = &fetchFlight{done: make(chan struct{})}
	is.lastTried = now
	return is.flight
}

func (is *issuer) fly(ctx context.Context, f *fetchFlight) {
	set, discovery, jwks, err := is.fetch(ctx)
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
	if k := is.v.cfg.Keeper; k != nil {
		ctx, cancel := context.WithTimeout(ctx, keeperLimit)
		defer cancel()
		if err := k.SaveKeys(ctx, is.URL, discovery, jwks, set.fetchedAt); err != nil {
			is.v.cfg.Log.WarnContext(ctx, "keys of an issuer could not be kept for a start without it", slog.String("issuer", is.URL), slog.Any("err", err))
		}
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

// newKeySet keeps the keys that can sign with the algorithms we accept.
func newKeySet(doc discoveryDoc, jwks []byte, at time.Time) (*keySet, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &raw); err != nil {
		return nil, fmt.Errorf("no JWKS: %w", err)
	}
	set := &keySet{fetchedAt: at, byID: map[string]*signingKey{}, introspection: doc.IntrospectionEndpoint, token: doc.TokenEndpoint}
	for _, one := range raw.Keys {
		var k jose.JSONWebKey
		if err := k.UnmarshalJSON(one); err != nil {
			continue // RFC 7517, section 5: a key that is not understood is ignored
		}
		alg := algorithmOf(k)
		if alg == "" || k.KeyID == "" || !k.IsPublic() || k.Use != "" && k.Use != "sig" {
			continue
		}
		set.byID[k.KeyID] = &signingKey{id: k.KeyID, alg: alg, public: k.Key}
	}
	if len(set.byID) == 0 {
		return nil, errors.New("it has no key that can sign with RS256, ES256 or EdDSA and has a kid")
	}
	return set, nil
}

// algorithmOf pins the one algorithm that a key is for; "" where there is none.
func algorithmOf(k jose.JSONWebKey) string {
	var alg string
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() >= 2048 {
			alg = "RS256"
		}
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
	err := is.refresh(first)
	if err == nil || permanent(err) {
		return err
	}
	if is.useKept(ctx) == nil {
		is.v.cfg.Log.WarnContext(ctx, "the issuer is away: starting with the keys that were kept", slog.String("issuer", is.URL), slog.Any("err", err))
		return nil
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		again := is.refresh(waiting)
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

// permanent reports whether trying again is pointless: a wrong issuer, a name
// that does not exist, a refusal.
func permanent(err error) bool {
	if _, ok := errors.AsType[*WrongIssuerError](err); ok {
		return true
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.IsNotFound
	}
	status, ok := errors.AsType[*StatusError](err)
	return ok && status.Status < 500 && status.Status != http.StatusTooManyRequests
}

// useKept puts the kept keys in force.
func (is *issuer) useKept(ctx context.Context) error {
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
	is.held.CompareAndSwap(nil, set)
	return nil
}

// keepFresh fetches every Refresh, give or take a tenth, and sooner after a
// failure.
func (is *issuer) keepFresh(ctx context.Context) {
	for {
		every := is.v.cfg.Refresh
		if is.held.Load() == nil || is.failed() {
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
		if set := is.current(now); set != nil {
			s.Held, s.Age = true, now.Sub(set.fetchedAt)
		}
		is.mu.Lock()
		s.Err = is.lastErr
		is.mu.Unlock()
		states = append(states, s)
	}
	return states
}
