package devrauth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The authorization code grant with PKCE, refresh tokens with rotation, revocation (RFC 7009) and logout (OpenID Connect
// RP-Initiated Logout 1.0), as strict as Ory Hydra, in its words. Instead of a password, a person is one click.

// codeLifetime is how long a code can be redeemed.
const codeLifetime = time.Minute

// grant is what a person has allowed a client: a code, and the refresh tokens that came of it.
type grant struct {
	client, user string
	claims       map[string]any // of the user
	redirectURI  string
	challenge    string
	nonce        string
	scopes       []string
	audience     []string
	expires      time.Time // of the code
	redeemed     bool
	revoked      bool
	refresh      string // the one that is valid
}

// Refreshes is how often a refresh token was redeemed with success.
func (s *Server) Refreshes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refreshed
}

// RefreshTokens are all that were ever issued.
func (s *Server) RefreshTokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.refreshes))
}

// RevokeAll revokes all refresh tokens, as a provider does whose administrator ends a person's sessions.
func (s *Server) RevokeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.refreshes {
		g.revoked = true
	}
}

// clientOf finds a client by its id, whether it was configured or provisioned.
func (s *Server) clientOf(id string) (Client, bool) {
	for _, c := range s.Clients {
		if c.ID == id {
			return c, true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.registered[id]
	if r == nil {
		return Client{}, false
	}
	texts := func(name string) (all []string) {
		list, _ := r.metadata[name].([]any) // none is fine
		for _, v := range list {
			all = append(all, fmt.Sprint(v))
		}
		return all
	}
	scope, _ := r.metadata["scope"].(string) // likewise
	c := Client{ID: id, Scopes: strings.Fields(scope), Audience: texts("audience"), RedirectURIs: texts("redirect_uris"), LogoutURIs: texts("post_logout_redirect_uris")}
	if len(r.secrets) > 0 {
		c.Secret = r.secrets[0]
	}
	return c, true
}

const malformed = "The request is missing a required parameter, includes an invalid parameter value, includes a parameter more than once, or is otherwise malformed. "

// authorize serves the authorization endpoint: a page with one link for each user, or with dev_user that user's login.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	c, ok := s.clientOf(q.Get("client_id"))
	if !ok {
		http.Error(w, "invalid_client: The requested OAuth 2.0 Client does not exist.", http.StatusUnauthorized)
		return
	}
	if !slices.Contains(c.RedirectURIs, q.Get("redirect_uri")) { // exactly: RFC 9700, section 2.1
		http.Error(w, "invalid_request: The 'redirect_uri' parameter does not match any of the OAuth 2.0 Client's pre-registered redirect urls.", http.StatusBadRequest)
		return
	}
	code, why := s.rejected(q, c)
	user := q.Get("dev_user")
	claims, known := s.Users[user]
	switch {
	case code != "":
	case user == "deny":
		code, why = "access_denied", "The resource owner or authorization server denied the request."
	case user == "":
		s.choose(w, r)
		return
	case !known:
		http.Error(w, "no such user", http.StatusNotFound)
		return
	}
	back, err := url.Parse(q.Get("redirect_uri"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := back.Query()
	answer.Set("state", q.Get("state"))
	answer.Set("iss", s.Issuer) // RFC 9207
	if code != "" {
		answer.Set("error", code)
		answer.Set("error_description", why)
	} else {
		answer.Set("code", s.allow(q, c, user, claims))
	}
	back.RawQuery = answer.Encode()
	http.Redirect(w, r, back.String(), http.StatusSeeOther)
}

// rejected is the error of an authorization request that is sent back to the client; "" if there is none.
func (s *Server) rejected(q url.Values, c Client) (code, why string) {
	for name, values := range q {
		if len(values) > 1 && name != "audience" {
			return "invalid_request", malformed + "Parameter '" + name + "' is repeated."
		}
	}
	for _, scope := range strings.Fields(q.Get("scope")) {
		if !slices.Contains(c.Scopes, scope) {
			return "invalid_scope", fmt.Sprintf("The requested scope is invalid, unknown, or malformed. The OAuth 2.0 Client is not allowed to request scope '%s'.", scope)
		}
	}
	for _, a := range requestedAudience(q) {
		if !slices.Contains(c.Audience, a) {
			return "invalid_request", malformed + fmt.Sprintf("Requested audience '%s' has not been whitelisted by the OAuth 2.0 Client.", a)
		}
	}
	switch {
	case q.Get("response_type") != "code":
		return "unsupported_response_type", "The authorization server does not support obtaining a token using this method."
	case len(q.Get("state")) < 8:
		return "invalid_state", "The state is missing or does not have enough characters and is therefore considered too weak. Request parameter 'state' must be at least be 8 characters long to ensure sufficient entropy."
	case q.Get("nonce") != "" && len(q.Get("nonce")) < 8:
		return "insufficient_entropy", "The request used a security parameter (e.g., anti-replay, anti-csrf) with insufficient entropy."
	case q.Get("code_challenge") == "":
		return "invalid_request", malformed + "Clients must include a code_challenge when performing the authorize code flow, but it is missing."
	case q.Get("code_challenge_method") != "S256":
		return "invalid_request", malformed + "Clients must use code_challenge_method=S256, plain is not allowed."
	}
	return "", ""
}

func requestedAudience(q url.Values) (all []string) {
	for _, several := range q["audience"] {
		all = append(all, strings.Fields(several)...)
	}
	return all
}

// allow makes the code of a user.
func (s *Server) allow(q url.Values, c Client, user string, claims map[string]any) string {
	g := &grant{
		client: c.ID, user: user, claims: claims, redirectURI: q.Get("redirect_uri"), challenge: q.Get("code_challenge"), nonce: q.Get("nonce"),
		scopes: strings.Fields(q.Get("scope")), audience: requestedAudience(q), expires: time.Now().Add(codeLifetime),
	}
	code := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[code] = g
	return code
}

var choosePage = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Development R-Auth</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}li{margin:.4rem 0}small{color:#555}</style></head>
<body><main><h1>Sign in to {{.Client}}</h1><p>The development R-Auth asks for no password. Sign in as:</p>
<ul>{{range .Users}}<li><a href="{{.URL}}">{{.Name}}</a> <small>{{.About}}</small></li>{{end}}</ul>
<p><a href="{{.Deny}}">Cancel</a></p></main></body></html>
`))

// choose serves the page of users.
func (s *Server) choose(w http.ResponseWriter, r *http.Request) {
	as := func(user string) string {
		q := r.URL.Query()
		q.Set("dev_user", user)
		return "?" + q.Encode()
	}
	type entry struct{ Name, About, URL string }
	var users []entry
	for _, name := range slices.Sorted(maps.Keys(s.Users)) {
		users = append(users, entry{Name: name, About: s.About[name], URL: as(name)})
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	_ = choosePage.Execute(w, map[string]any{"Client": r.URL.Query().Get("client_id"), "Users": users, "Deny": as("deny")}) // the caller is gone
}

// public authenticates a client that has no secret by its id, and others as authenticate does.
func (s *Server) public(r *http.Request) (Client, bool) {
	if c, ok := s.clientOf(r.PostFormValue("client_id")); ok && c.Secret == "" && len(c.RedirectURIs) > 0 {
		return c, true
	}
	c, ok := s.authenticate(r)
	if !ok {
		return c, false
	}
	return s.clientOf(c.ID)
}

func badGrant(w http.ResponseWriter, why string) {
	reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant", "error_description": "The provided authorization grant (e.g., authorization code, resource owner credentials) or refresh token is " +
		"invalid, expired, revoked, does not match the redirection URI used in the authorization request, or was issued to another client. " + why})
}

// redeem serves the grant types authorization_code (RFC 6749, section 4.1.3; RFC 7636) and refresh_token (section 6). A code or a
// refresh token that is used twice revokes all that came of it.
func (s *Server) redeem(w http.ResponseWriter, r *http.Request) {
	c, ok := s.public(r)
	if !ok {
		reply(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
		return
	}
	s.mu.Lock()
	g, why := s.grantOf(r, c)
	s.mu.Unlock()
	if why != "" {
		badGrant(w, why)
		return
	}
	response, err := s.issue(g, c)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	reply(w, http.StatusOK, response)
}

// grantOf finds and uses the grant of a request to the token endpoint; s.mu is held.
func (s *Server) grantOf(r *http.Request, c Client) (g *grant, why string) {
	if r.PostFormValue("grant_type") == "refresh_token" {
		g = s.refreshes[r.PostFormValue("refresh_token")]
		switch {
		case g == nil || g.client != c.ID || g.revoked:
			return nil, "The refresh token has not been found, or was revoked."
		case g.refresh != r.PostFormValue("refresh_token"):
			g.revoked = true
			return nil, "Token is inactive because it was used already: all tokens of this login are revoked."
		}
		s.refreshed++
		return g, ""
	}
	g = s.codes[r.PostFormValue("code")]
	verifier := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	switch {
	case g == nil || g.client != c.ID:
		return nil, "The authorization code has not been found."
	case g.redeemed:
		g.revoked = true
		return nil, "The authorization code was used already: all tokens of this login are revoked."
	case time.Now().After(g.expires):
		return nil, "The authorization code has expired."
	case g.redirectURI != r.PostFormValue("redirect_uri"):
		return nil, "The 'redirect_uri' from this request does not match the one from the authorize request."
	case subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(verifier[:])), []byte(g.challenge)) != 1:
		return nil, "The PKCE code challenge did not match the code verifier."
	}
	g.redeemed = true
	return g, ""
}

// issue makes the tokens of a grant.
func (s *Server) issue(g *grant, c Client) (map[string]any, error) {
	claims := maps.Clone(g.claims)
	claims["client_id"], claims["aud"], claims["scp"] = c.ID, append([]string{}, g.audience...), g.scopes
	access, err := s.Mint("ES256", claims)
	if err != nil {
		return nil, err
	}
	ttl := s.TTL
	if ttl == 0 {
		ttl = 15 * time.Minute
	}
	response := map[string]any{"access_token": access, "token_type": "bearer", "expires_in": int(ttl.Seconds()), "scope": strings.Join(g.scopes, " ")}
	if slices.Contains(g.scopes, "openid") {
		hash := sha256.Sum256([]byte(access))
		id, err := s.Sign("ES256", map[string]any{"typ": "JWT"}, s.claims(map[string]any{
			"sub": g.claims["sub"], "aud": []string{c.ID}, "nonce": g.nonce, "at_hash": base64.RawURLEncoding.EncodeToString(hash[:16]), "auth_time": time.Now().Unix(),
		}))
		if err != nil {
			return nil, err
		}
		response["id_token"] = id
	}
	if slices.Contains(g.scopes, "offline_access") {
		token := rand.Text()
		s.mu.Lock()
		g.refresh = token
		s.refreshes[token] = g
		s.mu.Unlock()
		response["refresh_token"] = token
	}
	return response, nil
}

// revoke serves RFC 7009: the token, and all that came of the same login.
func (s *Server) revoke(w http.ResponseWriter, r *http.Request) {
	c, ok := s.public(r)
	if !ok {
		reply(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.refreshes[r.PostFormValue("token")]; g != nil && g.client == c.ID {
		g.revoked = true
	}
	w.WriteHeader(http.StatusOK) // also of an unknown one: section 2.2
}

// logout serves the end of a session: back to the client where it has registered the URI, and the ID token is ours.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	to := q.Get("post_logout_redirect_uri")
	if to == "" {
		fmt.Fprintln(w, "You are signed out.")
		return
	}
	claims := jwt.MapClaims{}
	_, err := jwt.NewParser(jwt.WithoutClaimsValidation(), jwt.WithValidMethods([]string{"ES256"})).ParseWithClaims(q.Get("id_token_hint"), claims, func(*jwt.Token) (any, error) {
		_, private := s.Private("ES256")
		return private.Public(), nil
	})
	if err != nil {
		http.Error(w, "invalid_request: Logout failed because query parameter post_logout_redirect_uri is set but id_token_hint is missing or invalid.", http.StatusBadRequest)
		return
	}
	audience, _ := claims.GetAudience() // none: no client
	for _, id := range audience {
		if c, ok := s.clientOf(id); ok && slices.Contains(c.LogoutURIs, to) {
			http.Redirect(w, r, to, http.StatusSeeOther)
			return
		}
	}
	http.Error(w, "invalid_request: Logout failed because query parameter post_logout_redirect_uri is not a whitelisted as a post_logout_redirect_uri for the client.", http.StatusBadRequest)
}
