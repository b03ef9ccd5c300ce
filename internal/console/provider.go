package console

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"

	"iam-service/internal/iam"
	"iam-service/internal/token"
)

// discoverEvery is how long the provider's metadata are used.
const discoverEvery = time.Hour

// Limits of calls to the provider: those of a login, of a refresh, which holds a lock, and of a revocation, which a person
// waits for without needing it.
const (
	loginLimit      = 8 * time.Second
	refreshLimit    = 5 * time.Second
	revocationLimit = 3 * time.Second
)

// provider is the identity provider. It is asked when a person signs in, not at a start: the service serves without it.
type provider struct {
	cfg    *Config
	found  atomic.Pointer[metadata]
	flight singleflight.Group
}

func newProvider(cfg *Config) *provider { return &provider{cfg: cfg} }

// Metadata is what the console uses of a provider's discovery document (OpenID Connect Discovery 1.0, section 3; RFC 8414).
type Metadata struct {
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	Revocation    string   `json:"revocation_endpoint"`  // RFC 7009; may be missing
	EndSession    string   `json:"end_session_endpoint"` // RP-Initiated Logout 1.0; may be missing
	Challenges    []string `json:"code_challenge_methods_supported"`
	TokenAuth     []string `json:"token_endpoint_auth_methods_supported"`
	Scopes        []string `json:"scopes_supported"`
	SendsIssuer   bool     `json:"authorization_response_iss_parameter_supported"` // RFC 9207
}

// Check returns what makes a provider unusable for the console; plain http is allowed for one whose issuer has it.
func (m *Metadata) Check(issuer string) error {
	var errs []error
	for _, endpoint := range []struct {
		name, url string
		needed    bool
	}{
		{name: "authorization_endpoint", url: m.Authorization, needed: true},
		{name: "token_endpoint", url: m.Token, needed: true},
		{name: "revocation_endpoint", url: m.Revocation},
		{name: "end_session_endpoint", url: m.EndSession},
	} {
		if endpoint.url == "" && !endpoint.needed {
			continue
		}
		u, err := url.Parse(endpoint.url)
		if err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && strings.HasPrefix(issuer, "http:")) {
			errs = append(errs, fmt.Errorf("its %s %q is no https URL", endpoint.name, endpoint.url))
		}
	}
	if m.Challenges != nil && !slices.Contains(m.Challenges, "S256") {
		errs = append(errs, errors.New("its code_challenge_methods_supported lacks S256 (PKCE, RFC 7636)"))
	}
	return errors.Join(errs...)
}

// Discover fetches the metadata of a provider.
func Discover(ctx context.Context, client *http.Client, issuer string) (*oidc.Provider, Metadata, error) {
	var m Metadata
	p, err := oidc.NewProvider(oidc.ClientContext(ctx, client), issuer)
	if err == nil {
		err = p.Claims(&m)
	}
	if err == nil {
		err = m.Check(issuer)
	}
	return p, m, err
}

type metadata struct {
	Metadata
	verifier *oidc.IDTokenVerifier
	at       time.Time
}

// metadata returns what is known of the provider, and asks it where that is nothing, or old. What is old is used
// while the provider does not respond.
func (p *provider) metadata(ctx context.Context) (*metadata, error) {
	known := p.found.Load()
	if known != nil && time.Since(known.at) < discoverEvery {
		return known, nil
	}
	got, err, _ := p.flight.Do("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loginLimit)
		defer cancel()
		found, m, err := Discover(ctx, p.cfg.Client, p.cfg.Issuer)
		if err != nil {
			return nil, err
		}
		now := &metadata{Metadata: m, verifier: found.Verifier(&oidc.Config{ClientID: p.cfg.ClientID}), at: time.Now()}
		p.found.Store(now)
		return now, nil
	})
	switch {
	case err == nil:
		return got.(*metadata), nil //nolint:forcetypeassert // of the function above
	case known != nil:
		return known, nil
	}
	return nil, err
}

// oauth is the client of the console.
func (p *provider) oauth(m *metadata) *oauth2.Config {
	o := &oauth2.Config{
		ClientID:    p.cfg.ClientID,
		RedirectURL: p.cfg.URL + "/callback",
		Scopes:      p.cfg.Scopes,
		Endpoint:    oauth2.Endpoint{AuthURL: m.Authorization, TokenURL: m.Token, AuthStyle: oauth2.AuthStyleInParams},
	}
	if p.cfg.Secret != nil {
		o.ClientSecret = p.cfg.Secret()
		if len(m.TokenAuth) == 0 || slices.Contains(m.TokenAuth, "client_secret_basic") {
			o.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
		}
	}
	return o
}

// options of an authorization request besides those of OAuth 2.0 and PKCE: Hydra's parameter for the audience of the access
// token, and RFC 8707's where the audience is a URI.
func (p *provider) options(verifier, nonce string) []oauth2.AuthCodeOption {
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier), oidc.Nonce(nonce), oauth2.SetAuthURLParam("audience", p.cfg.Audience)}
	if u, err := url.Parse(p.cfg.Audience); err == nil && u.IsAbs() && u.Host != "" && u.Fragment == "" {
		options = append(options, oauth2.SetAuthURLParam("resource", p.cfg.Audience))
	}
	return options
}

// exchange gets the tokens of a code.
func (p *provider) exchange(ctx context.Context, m *metadata, code, verifier string) (*oauth2.Token, error) {
	return p.oauth(m).Exchange(context.WithValue(ctx, oauth2.HTTPClient, p.cfg.Client), code, oauth2.VerifierOption(verifier))
}

// errEnded is the response to a request without a session.
var errEnded = &iam.Error{Kind: iam.Unauthenticated, Code: "session_ended", Detail: "there is no session of the console, or it has ended: sign in"}

// refresh gets new tokens. It fails with errEnded where the provider rejects the refresh token, and else with an error
// of kind Unavailable.
func (p *provider) refresh(ctx context.Context, t tokens) (tokens, error) {
	if t.Refresh == "" {
		return t, errEnded
	}
	ctx, cancel := context.WithTimeout(ctx, refreshLimit)
	defer cancel()
	m, err := p.metadata(ctx)
	if err != nil {
		return t, unavailable(err)
	}
	got, err := p.oauth(m).TokenSource(context.WithValue(ctx, oauth2.HTTPClient, p.cfg.Client), &oauth2.Token{RefreshToken: t.Refresh}).Token()
	if err != nil {
		if rejected, ok := errors.AsType[*oauth2.RetrieveError](err); ok && rejected.ErrorCode == "invalid_grant" {
			return t, errEnded
		}
		return t, unavailable(err)
	}
	t.Access, t.Refresh, t.Expires = got.AccessToken, got.RefreshToken, got.Expiry
	if id, _ := got.Extra("id_token").(string); id != "" { // a provider need not send a new one
		t.ID = id
	}
	return t, nil
}

func unavailable(err error) error {
	return &iam.Error{Kind: iam.Unavailable, Code: providerUnavailable, Detail: "the identity provider cannot be reached, or does not let the console refresh its access token", Cause: clean(err)}
}

// clean is an error of the provider without what could be a secret: the body of its response.
func clean(err error) error {
	if r, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		status := 0
		if r.Response != nil {
			status = r.Response.StatusCode
		}
		return fmt.Errorf("the token endpoint responded %d %s: %s", status, shown(r.ErrorCode), shown(r.ErrorDescription))
	}
	return errors.New(token.Hide(err.Error()))
}

// shown is a text of the provider as a log line may have it.
func shown(text string) string { return token.Hide(text[:min(len(text), 300)]) }

// revoke revokes a refresh token, and so what it was issued with, where the provider can (RFC 7009).
func (p *provider) revoke(ctx context.Context, t tokens) {
	m, err := p.metadata(ctx)
	if err != nil || m.Revocation == "" || t.Refresh == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revocationLimit)
	defer cancel()
	form := url.Values{"token": {t.Refresh}, "token_type_hint": {"refresh_token"}}
	o := p.oauth(m)
	if o.Endpoint.AuthStyle == oauth2.AuthStyleInParams {
		form.Set("client_id", o.ClientID)
		if o.ClientSecret != "" {
			form.Set("client_secret", o.ClientSecret)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.Revocation, strings.NewReader(form.Encode()))
	if err != nil {
		return
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if o.Endpoint.AuthStyle == oauth2.AuthStyleInHeader {
		req.SetBasicAuth(url.QueryEscape(o.ClientID), url.QueryEscape(o.ClientSecret))
	}
	resp, err := p.cfg.Client.Do(req)
	if err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
		err = fmt.Errorf("the revocation endpoint responded %d", resp.StatusCode)
	}
	p.cfg.Log.WarnContext(ctx, "refresh token not revoked", slog.String("err", token.Hide(err.Error())))
}

// endSession is the URL that ends a session at the provider; "": it has none.
func (p *provider) endSession(ctx context.Context, t tokens) string {
	m, err := p.metadata(ctx)
	if err != nil || m.EndSession == "" {
		return ""
	}
	u, err := url.Parse(m.EndSession)
	if err != nil {
		return ""
	}
	q := u.Query()
	q.Set("client_id", p.cfg.ClientID)
	q.Set("post_logout_redirect_uri", p.cfg.URL+"/")
	if t.ID != "" {
		q.Set("id_token_hint", t.ID)
	}
	u.RawQuery = q.Encode()
	return u.String()
}
