package token

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// introspect asks the issuer about a token that is no JWT (RFC 7662). Only an
// active answer is kept, and only shortly.
func (v *Verifier) introspect(ctx context.Context, raw, idp string, now, deadline time.Time) (*Token, error) {
	is := v.first
	if idp != "" {
		if is = v.byID(idp); is == nil {
			return nil, invalid("no issuer is called %q, which the gateway named", idp)
		}
	}
	switch {
	case is.IntrospectionClientID == "":
		return nil, invalid("it is no JWT, and introspection is off")
	case !opaque(raw):
		return nil, invalid("it is neither a JWT nor a b64token of RFC 6750")
	}
	set := is.current(now)
	if set == nil {
		return nil, unavailable("keys_unavailable", errors.New("the issuer was never reached"))
	}
	if set.introspection == "" {
		return nil, invalid("its issuer has no introspection endpoint")
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	form := url.Values{"token": {raw}, "token_type_hint": {"access_token"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, set.introspection, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, unavailable("keys_unavailable", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Authorization", basicAuth(is.IntrospectionClientID, is.IntrospectionClientSecret))
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
		return nil, invalid("its issuer says it is not active")
	}
	// The answer came from the issuer itself, over a connection we made.
	if _, there := claims["iss"]; !there {
		claims["iss"] = is.URL
	}
	delete(claims, "active")
	t, err := is.token(claims, now, v.only)
	if err != nil {
		return nil, err
	}
	t.until = now.Add(v.cfg.IntrospectionTTL)
	return t, nil
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
