package console

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/problem"
)

// Sizes in bytes of what a session's cookie holds.
const (
	idBytes     = 16
	secretBytes = 32
)

// early is how long before its end an access token is refreshed.
const early = 10 * time.Second

// tokens are what a row holds, encrypted.
type tokens struct {
	Issuer  string    `json:"iss"`
	Subject string    `json:"sub"`
	Access  string    `json:"access_token"`
	Refresh string    `json:"refresh_token,omitempty"`
	ID      string    `json:"id_token,omitempty"` // the hint of a logout
	Expires time.Time `json:"expires"`            // of Access
}

// fresh reports whether the access token is valid for so long.
func (t tokens) fresh(forAtLeast time.Duration) bool { return time.Until(t.Expires) > forAtLeast }

// session is an open one.
type session struct {
	iam.ConsoleSession
	tokens
	secret []byte // of the cookie
}

// sealTokens encrypts tokens for the row of a session.
func (c *Console) sealTokens(id, secret []byte, t tokens) ([]byte, error) {
	text, err := json.Marshal(t) //nolint:gosec // to be encrypted
	if err != nil {
		return nil, err
	}
	return c.sealer.seal(use{purpose: forRow, salt: secret, data: id}, text)
}

// openTokens decrypts what a row holds, with the secret of the cookie that has its id.
func (c *Console) openTokens(row iam.ConsoleSession, secret []byte) (t tokens, err error) {
	text, err := c.sealer.open(use{purpose: forRow, salt: secret, data: row.ID}, row.Sealed)
	if err == nil {
		err = json.Unmarshal(text, &t)
	}
	return t, err
}

// begin stores a new session and sets its cookie. The session that the browser had before ends.
func (c *Console) begin(ctx context.Context, w http.ResponseWriter, r *http.Request, t tokens) error {
	if before, err := c.open(r); err == nil {
		_ = c.cfg.Store.EndConsoleSession(ctx, before.ConsoleSession.ID) // it ends by itself otherwise
	}
	cookie := make([]byte, idBytes+secretBytes)
	_, _ = rand.Read(cookie) // never fails
	id, secret := hashed(cookie[:idBytes]), cookie[idBytes:]
	sealed, err := c.sealTokens(id, secret, t)
	if err != nil {
		return err
	}
	value, err := c.sealCookie(forSession, cookie)
	if err != nil {
		return err
	}
	_, err = c.cfg.Store.CreateConsoleSession(ctx, iam.ConsoleSession{ID: id, Person: hashed([]byte(t.Issuer + "\n" + t.Subject)), Sealed: sealed}, c.limits)
	if err != nil {
		return err
	}
	c.setCookie(w, c.cookie, value, http.SameSiteStrictMode, c.cfg.Lifetime)
	return nil
}

func hashed(b []byte) []byte {
	h := sha256.Sum256(b)
	return h[:]
}

// open returns the session of a request; errEnded if there is none. The cookie of an ended session stays: a late response
// would delete the one that a new login has set meanwhile.
func (c *Console) open(r *http.Request) (*session, error) {
	cookie, err := c.sealed(r, c.cookie, forSession)
	if err != nil || len(cookie) != idBytes+secretBytes {
		return nil, errEnded
	}
	row, found, err := c.cfg.Store.ConsoleSession(r.Context(), hashed(cookie[:idBytes]))
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, errEnded
	}
	s := &session{ConsoleSession: row, secret: cookie[idBytes:]}
	if s.tokens, err = c.openTokens(row, s.secret); err != nil {
		return nil, errEnded
	}
	return s, nil
}

// extend moves the idle limit, at most once in a thirtieth of it: not every request writes.
func (c *Console) extend(ctx context.Context, s *session) error {
	if left := s.IdleEndsAt.Sub(s.Now); left > c.cfg.Idle-min(c.cfg.Idle/30, time.Minute) || !s.IdleEndsAt.Before(s.EndsAt) {
		return nil
	}
	row, found, err := c.cfg.Store.ExtendConsoleSession(ctx, s.ConsoleSession.ID, c.limits)
	if err != nil {
		return err
	}
	if !found {
		return errEnded
	}
	s.IdleEndsAt = row.IdleEndsAt
	return nil
}

// renew refreshes the access token of a session that has not long to go: once, however many requests and replicas find it so,
// since a provider that rotates refresh tokens takes a second use for theft. An access token that is valid yet is used while the
// provider cannot be reached.
func (c *Console) renew(ctx context.Context, s *session) error {
	if s.fresh(early) {
		return nil
	}
	got, err, _ := c.renewals.Do(string(s.ConsoleSession.ID), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 9*time.Second)
		defer cancel()
		select {
		case c.renewing <- struct{}{}:
			defer func() { <-c.renewing }()
		case <-ctx.Done():
			return nil, unavailable(ctx.Err())
		}
		return c.refresh(ctx, s)
	})
	switch {
	case err == nil:
		s.tokens = got.(tokens) //nolint:forcetypeassert // of refresh
		return nil
	case iam.KindOf(err) == iam.Unavailable && s.fresh(0):
		return nil
	}
	return err
}

// refresh refreshes under the lock of the session's row.
func (c *Console) refresh(ctx context.Context, s *session) (now tokens, err error) {
	result := ""
	found, err := c.cfg.Store.RenewConsoleSession(ctx, s.ConsoleSession.ID, func(ctx context.Context, row iam.ConsoleSession) ([]byte, error) {
		if now, err = c.openTokens(row, s.secret); err != nil {
			return nil, errEnded
		}
		if now.fresh(early) {
			return nil, nil // another replica has
		}
		result = "ok"
		if now, err = c.provider.refresh(ctx, now); err != nil {
			return nil, err
		}
		if access, err := c.cfg.Verify(ctx, now.Access, "", time.Now().Add(2*time.Second)); err == nil && access.Subject != now.Subject {
			return nil, errEnded // else the admin API rejects it, if it must
		}
		return c.sealTokens(row.ID, s.secret, now)
	})
	if err == nil && !found {
		err = errEnded
	}
	switch iam.KindOf(err) { //nolint:exhaustive // others are no outcome of a refresh
	case iam.Unauthenticated:
		result = "ended"
		_ = c.cfg.Store.EndConsoleSession(ctx, s.ConsoleSession.ID) // it is over either way
		c.cfg.Log.InfoContext(ctx, "console session ended by the identity provider", slog.String("issuer", s.Issuer), slog.String("subject", s.Subject))
	case iam.Unavailable:
		result = "unavailable"
		c.cfg.Log.WarnContext(ctx, "console access token not refreshed", slog.Any("err", err))
	}
	if result != "" {
		c.metrics.refreshes.WithLabelValues(result).Inc()
	}
	return now, err
}

// session reports who is signed in: GET session, which extends nothing without extend=1.
func (c *Console) session(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Cache-Control", "no-store")
	s, err := c.open(r)
	if err == nil && r.URL.Query().Get("extend") == "1" {
		err = c.extend(r.Context(), s)
	}
	switch {
	case iam.KindOf(err) == iam.Unauthenticated:
		return problem.Encode(w, http.StatusOK, map[string]any{"authenticated": false})
	case err != nil:
		return err
	}
	return problem.Encode(w, http.StatusOK, map[string]any{
		"authenticated": true, "issuer": s.Issuer, "subject": s.Subject,
		"idle_ends_at": s.IdleEndsAt.UTC().Format(time.RFC3339), "ends_at": s.EndsAt.UTC().Format(time.RFC3339),
	})
}

// logout ends the session here, and its refresh token at the provider: POST logout.
func (c *Console) logout(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Cache-Control", "no-store")
	s, err := c.open(r)
	if err != nil {
		return err
	}
	if err := c.cfg.Store.EndConsoleSession(r.Context(), s.ConsoleSession.ID); err != nil {
		return err
	}
	c.setCookie(w, c.cookie, "", http.SameSiteStrictMode, 0)
	c.provider.revoke(r.Context(), s.tokens)
	c.cfg.Log.InfoContext(r.Context(), "console logout", slog.String("issuer", s.Issuer), slog.String("subject", s.Subject), slog.String("request_id", problem.RequestID(r)))
	return problem.Encode(w, http.StatusOK, map[string]string{"redirect": c.provider.endSession(r.Context(), s.tokens)})
}
