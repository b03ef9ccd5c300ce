package console

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"golang.org/x/oauth2"

	"iam-service/internal/iam"
	"iam-service/internal/problem"
	"iam-service/internal/token"
)

// Errors that the page shows after a login without success.
const (
	accessDenied        = "access_denied"
	loginExpired        = "login_expired"
	loginFailed         = "login_failed"
	providerUnavailable = "provider_unavailable"
)

// loginLifetime is how long a person may take at the provider.
const loginLifetime = 10 * time.Minute

// returns are routes of the page: fragments as browsers write them, so that a login leads nowhere else.
var returns = regexp.MustCompile("^#/[!$-;=?-Z_a-z~%]{0,1000}$")

// transaction is a login under way, in a cookie of the browser that began it.
type transaction struct {
	State    string    `json:"state"`
	Nonce    string    `json:"nonce"`
	Verifier string    `json:"verifier"` // PKCE
	Return   string    `json:"return"`
	Expires  time.Time `json:"expires"`
}

// login begins one: GET login?return=%23/path. Only a navigation can: no image or frame of another page.
func (c *Console) login(w http.ResponseWriter, r *http.Request) error {
	if dest := r.Header.Get("Sec-Fetch-Dest"); dest != "" && dest != "document" {
		return &iam.Error{Kind: iam.Forbidden, Code: "csrf", Detail: "a login is a navigation of the browser, and no part of a page"}
	}
	m, err := c.provider.metadata(r.Context())
	if err != nil {
		return c.loginEnded(w, r, providerUnavailable, clean(err))
	}
	t := transaction{State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), Return: r.URL.Query().Get("return"), Expires: time.Now().Add(loginLifetime)}
	if !returns.MatchString(t.Return) {
		t.Return = "#/"
	}
	text, err := json.Marshal(t)
	if err != nil {
		return err
	}
	value, err := c.sealCookie(forLogin, text)
	if err != nil {
		return err
	}
	// Lax: the provider's redirect, which comes from another site, must bring it.
	c.setCookie(w, c.cookie+"-login", value, http.SameSiteLaxMode, loginLifetime)
	redirect(w, http.StatusFound, c.provider.oauth(m).AuthCodeURL(t.State, c.provider.options(t.Verifier, t.Nonce)...))
	return nil
}

// loginError is a login without success: what the page shows, and what is logged.
type loginError struct {
	code string
	err  error
}

func (e *loginError) Error() string { return e.code + ": " + e.err.Error() }
func (e *loginError) Unwrap() error { return e.err }

func failed(code string, err error) error { return &loginError{code, err} }

// callback ends a login: the provider has sent the browser back.
func (c *Console) callback(w http.ResponseWriter, r *http.Request) error {
	t, begun := c.transaction(r)
	c.setCookie(w, c.cookie+"-login", "", http.SameSiteLaxMode, 0) // once
	ctx, cancel := context.WithTimeout(r.Context(), loginLimit)
	defer cancel()
	who, err := c.identify(ctx, r.URL.Query(), t, begun)
	if err == nil {
		err = c.begin(ctx, w, r, who)
	}
	if e, ok := errors.AsType[*loginError](err); ok {
		return c.loginEnded(w, r, e.code, e.err)
	} else if err != nil {
		return c.loginEnded(w, r, loginFailed, err)
	}
	c.metrics.logins.WithLabelValues("ok").Inc()
	c.cfg.Log.InfoContext(ctx, "console login", slog.String("issuer", who.Issuer), slog.String("subject", who.Subject), slog.String("request_id", problem.RequestID(r)))
	redirect(w, http.StatusSeeOther, "./"+t.Return)
	return nil
}

func (c *Console) transaction(r *http.Request) (t transaction, begun bool) {
	text, err := c.sealed(r, c.cookie+"-login", forLogin)
	return t, err == nil && json.Unmarshal(text, &t) == nil && time.Now().Before(t.Expires)
}

// identify verifies a response of the provider: that this browser asked for it (state), that this provider sent it (RFC 9207),
// that the code was issued for this login (PKCE), the ID token, and that the access token is the same person's and valid for
// the admin API.
func (c *Console) identify(ctx context.Context, q url.Values, t transaction, begun bool) (tokens, error) {
	if !begun {
		return tokens{}, failed(loginExpired, errors.New("the browser sent no login cookie, or an old one"))
	}
	if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(t.State)) != 1 {
		return tokens{}, failed(loginFailed, errors.New("state is not that of the login that this browser began"))
	}
	m, err := c.provider.metadata(ctx)
	if err != nil {
		return tokens{}, failed(providerUnavailable, clean(err))
	}
	if iss := q.Get("iss"); iss != c.cfg.Issuer && (iss != "" || m.SendsIssuer) {
		return tokens{}, failed(loginFailed, errors.New("iss is not the identity provider (RFC 9207)"))
	}
	if code := q.Get("error"); code != "" {
		said := errors.New("the provider responded " + shown(code) + ": " + shown(q.Get("error_description")))
		switch code {
		case accessDenied:
			return tokens{}, failed(accessDenied, said)
		case "server_error", "temporarily_unavailable":
			return tokens{}, failed(providerUnavailable, said)
		}
		return tokens{}, failed(loginFailed, said)
	}
	got, err := c.provider.exchange(ctx, m, q.Get("code"), t.Verifier)
	if err != nil {
		if _, responded := errors.AsType[*oauth2.RetrieveError](err); responded {
			return tokens{}, failed(loginFailed, clean(err))
		}
		return tokens{}, failed(providerUnavailable, clean(err))
	}
	return c.verify(ctx, m, got, t.Nonce)
}

// verify verifies the tokens of a login.
func (c *Console) verify(ctx context.Context, m *metadata, got *oauth2.Token, nonce string) (tokens, error) {
	raw, _ := got.Extra("id_token").(string) // none: it is no token
	id, err := m.verifier.Verify(ctx, raw)
	if err != nil {
		return tokens{}, failed(loginFailed, errors.New("the ID token is not valid: "+shown(err.Error())))
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce)) != 1 {
		return tokens{}, failed(loginFailed, errors.New("the ID token's nonce is not that of this login"))
	}
	if id.AccessTokenHash != "" && id.VerifyAccessToken(got.AccessToken) != nil {
		return tokens{}, failed(loginFailed, errors.New("the ID token's at_hash is not that of the access token"))
	}
	access, err := c.cfg.Verify(ctx, got.AccessToken, "", time.Now().Add(2*time.Second))
	switch {
	case iam.KindOf(err) == iam.Unavailable:
		return tokens{}, failed(providerUnavailable, clean(err))
	case err != nil:
		return tokens{}, failed(loginFailed, errors.New("the access token is not valid for the admin API (ADMIN_AUDIENCE "+c.cfg.Audience+"): "+shown(err.Error())))
	case access.Subject != id.Subject || access.Issuer != id.Issuer:
		return tokens{}, failed(loginFailed, errors.New("the access token is another person's than the ID token"))
	}
	t := tokens{Issuer: id.Issuer, Subject: id.Subject, Access: got.AccessToken, Refresh: got.RefreshToken, ID: raw, Expires: got.Expiry}
	if t.Expires.IsZero() { // expires_in is only recommended (RFC 6749, section 5.1)
		t.Expires = access.Expires
	}
	return t, nil
}

// loginEnded shows a person that they are not signed in, and logs why.
func (c *Console) loginEnded(w http.ResponseWriter, r *http.Request, code string, err error) error {
	c.metrics.logins.WithLabelValues(code).Inc()
	c.cfg.Log.WarnContext(r.Context(), "console login failed", slog.String("code", code), slog.String("reason", token.Hide(err.Error())),
		slog.String("request_id", problem.RequestID(r)))
	redirect(w, http.StatusSeeOther, "./#/signed-out?error="+code)
	return nil
}

func redirect(w http.ResponseWriter, status int, to string) {
	w.Header().Set("Location", to)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
}
