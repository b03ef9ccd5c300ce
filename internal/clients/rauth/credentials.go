package rauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// bearer is the token for the admin API; "" where none is needed. With freshToken, a cached one is
// replaced.
func (c *Client) bearer(ctx context.Context, from credential) (string, error) {
	switch {
	case c.cfg.TokenFile != "":
		b, err := os.ReadFile(c.cfg.TokenFile)
		if err != nil {
			return "", unavailable("token_unauthorized", fmt.Errorf("read the token file: %w", err))
		}
		return string(bytes.TrimSpace(b)), nil
	case c.cfg.ClientID == "":
		return "", nil
	}
	select {
	case c.renewing <- struct{}{}:
		defer func() { <-c.renewing }()
	case <-ctx.Done():
		return "", unavailable("token_timeout", ctx.Err())
	}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, oauth2.HTTPClient, c.cfg.HTTP), c.cfg.Timeout)
	defer cancel()
	if c.token != nil && from == cachedToken && (c.token.Expiry.IsZero() || time.Until(c.token.Expiry) > renewEarly) {
		return c.token.AccessToken, nil
	}
	secret := c.cfg.Secret
	if c.cfg.SecretFile != "" {
		b, err := os.ReadFile(c.cfg.SecretFile)
		if err != nil {
			return "", unavailable("token_unauthorized", fmt.Errorf("read the secret file: %w", err))
		}
		secret = string(bytes.TrimSpace(b))
	}
	endpoint, err := c.cfg.TokenURL(ctx)
	if err != nil {
		return "", unavailable("token_connection", err)
	}
	cc := clientcredentials.Config{ClientID: c.cfg.ClientID, ClientSecret: secret, TokenURL: endpoint, AuthStyle: oauth2.AuthStyleInHeader}
	token, err := cc.Token(ctx)
	if err != nil {
		reason := "connection"
		if r, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
			reason = "unauthorized"
			switch {
			case r.Response == nil:
			case r.Response.StatusCode == http.StatusTooManyRequests:
				reason = "rate_limited"
			case r.Response.StatusCode >= http.StatusInternalServerError:
				reason = "server_error"
			}
			err = fmt.Errorf("the token endpoint returned %s", r.ErrorCode) // its message could repeat what we sent
		} else if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
			reason = "timeout"
		}
		return "", unavailable("token_"+reason, err)
	}
	c.token = token
	return token.AccessToken, nil
}
