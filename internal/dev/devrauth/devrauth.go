// Package devrauth is an R-Auth for development and tests, in process: discovery,
// JWKS with an RS256, an ES256 and an EdDSA key that can be rotated, signed security
// events, a token endpoint for client credentials, the login of persons, introspection, the admin API with switches for
// faults, and a way to issue a token for any user.
//
// It is insecure on purpose: every caller gets a token of any subject.
package devrauth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// Client is a program that the token endpoint knows.
type Client struct {
	ID, Secret string
	Scopes     []string
	Audience   []string // that its tokens may be for

	RedirectURIs []string // of persons who sign in at it; with no secret it is public
	LogoutURIs   []string // where it may send them after a logout
}

// Server is the provider. Its fields are set before it serves.
type Server struct {
	Issuer   string                    // "iss", and where it serves
	Audience string                    // of tokens that are minted
	Users    map[string]map[string]any // name → claims of the user's tokens; "sub" at least
	About    map[string]string         // name → what the user may do, for the page of a login
	Clients  []Client
	TTL      time.Duration // of tokens; 0: 15 min

	mu     sync.Mutex
	keys   map[string]key // algorithm → the key that signs now
	old    []key          // rotated out but still published
	opaque map[string]map[string]any
	gone   bool // responds 503

	registered map[string]*registration // by the admin API
	issued     []string
	fault      func(method, path string) Fault
	adminToken string
	stream     *stream // of signals
	fetchs     int

	codes     map[string]*grant
	refreshes map[string]*grant
	refreshed int
}

type key struct {
	id      string
	private crypto.Signer
	alg     string
}

// New returns a provider with fresh keys.
func New(issuer, audience string) (*Server, error) {
	s := empty(issuer, audience)
	return s, s.rotateAll("RS256", "ES256", "EdDSA")
}

func empty(issuer, audience string) *Server {
	return &Server{Issuer: issuer, Audience: audience, Users: map[string]map[string]any{}, keys: map[string]key{}, opaque: map[string]map[string]any{},
		codes: map[string]*grant{}, refreshes: map[string]*grant{}}
}

func (s *Server) rotateAll(algs ...string) error {
	for _, alg := range algs {
		if err := s.Rotate(alg, false); err != nil {
			return err
		}
	}
	return nil
}

// NewShared is New, but the RSA key is shared by all providers of this process with the same name: to generate
// one takes a tenth of a second of CPU time.
func NewShared(issuer, audience, name string) (*Server, error) {
	shared.Lock()
	defer shared.Unlock()
	k, ok := shared.keys[name]
	if !ok {
		var err error
		if k, err = newKey("RS256"); err != nil {
			return nil, err
		}
		shared.keys[name] = k
	}
	s := empty(issuer, audience)
	s.keys["RS256"] = k
	return s, s.rotateAll("ES256", "EdDSA")
}

var shared = struct {
	sync.Mutex
	keys map[string]key // RSA keys by name
}{keys: map[string]key{}}

// Rotate replaces the key of an algorithm. The one before stays in the JWKS where
// keepOld says so, as a provider does for a time.
func (s *Server) Rotate(alg string, keepOld bool) error {
	k, err := newKey(alg)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if before, ok := s.keys[alg]; ok && keepOld {
		s.old = append(s.old, before)
	}
	s.keys[alg] = k
	return nil
}

func newKey(alg string) (key, error) {
	k := key{id: strings.ToLower(alg) + "-" + uuid.NewString()[:8], alg: alg}
	var err error
	switch alg {
	case "RS256":
		k.private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		k.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, k.private, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("alg must be RS256, ES256 or EdDSA, is %q", alg)
	}
	return k, err
}

// SetGone makes every endpoint respond 503, as a provider in trouble does.
func (s *Server) SetGone(gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = gone
}

// KeyFetches is how often the JWKS was requested.
func (s *Server) KeyFetches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetchs
}

// Mint signs claims, over the usual ones (iss, aud, iat, exp, jti), as an access
// token. A claim that is nil is left out.
func (s *Server) Mint(alg string, claims map[string]any) (string, error) {
	return s.Sign(alg, map[string]any{"typ": "at+jwt"}, s.claims(claims))
}

// Sign signs exactly these claims, with kid and alg and then header in the header;
// what is nil is left out.
func (s *Server) Sign(alg string, header, claims map[string]any) (string, error) {
	s.mu.Lock()
	k, ok := s.keys[alg]
	s.mu.Unlock()
	if !ok {
		return "", fmt.Errorf("alg must be RS256, ES256 or EdDSA, is %q", alg)
	}
	t := jwt.NewWithClaims(jwt.GetSigningMethod(alg), jwt.MapClaims(claims))
	t.Header["kid"] = k.id
	for name, v := range header {
		if v == nil {
			delete(t.Header, name)
			continue
		}
		t.Header[name] = v
	}
	return t.SignedString(k.private)
}

// Private is the key that signs now, for tests that attack.
func (s *Server) Private(alg string) (kid string, private crypto.Signer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[alg].id, s.keys[alg].private
}

func (s *Server) claims(more map[string]any) map[string]any {
	ttl := s.TTL
	if ttl == 0 {
		ttl = 15 * time.Minute
	}
	now := time.Now()
	claims := map[string]any{"iss": s.Issuer, "aud": s.Audience, "iat": now.Unix(), "exp": now.Add(ttl).Unix(), "jti": uuid.NewString()}
	maps.Copy(claims, more)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return claims
}

// MintOpaque makes a token that only introspection understands.
func (s *Server) MintOpaque(claims map[string]any) string {
	t := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opaque[t] = s.claims(claims)
	return t
}

// Handler serves the provider.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", s.discovery)
	mux.HandleFunc("GET /.well-known/ssf-configuration", s.transmitter)
	mux.HandleFunc("POST /ssf/stream", s.createStream)
	mux.HandleFunc("GET /ssf/status", s.streamStatus)
	mux.HandleFunc("POST /ssf/verify", s.verifyStream)
	mux.HandleFunc("GET /jwks", s.jwks)
	mux.HandleFunc("GET /authorize", s.authorize)
	mux.HandleFunc("POST /token", s.token)
	mux.HandleFunc("POST /revoke", s.revoke)
	mux.HandleFunc("GET /logout", s.logout)
	mux.HandleFunc("POST /introspect", s.introspect)
	mux.HandleFunc("GET /dev/token", s.devToken)
	mux.HandleFunc("POST /dev/rotate", s.devRotate)
	mux.HandleFunc("/admin/clients", s.admin)
	mux.HandleFunc("/admin/clients/", s.admin)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		gone := s.gone
		s.mu.Unlock()
		if gone {
			http.Error(w, "gone for a while", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) discovery(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{
		"issuer": s.Issuer, "jwks_uri": s.Issuer + "/jwks", "token_endpoint": s.Issuer + "/token",
		"introspection_endpoint": s.Issuer + "/introspect", "response_types_supported": []string{"code"},
		"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256", "ES256", "EdDSA"},
		"grant_types_supported":                 []string{"authorization_code", "refresh_token", "client_credentials"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post", "none"},
		"authorization_endpoint":                s.Issuer + "/authorize", "code_challenge_methods_supported": []string{"S256"},
		"revocation_endpoint": s.Issuer + "/revoke", "end_session_endpoint": s.Issuer + "/logout",
		"authorization_response_iss_parameter_supported": true, "scopes_supported": []string{"openid", "offline_access"},
	})
}

// transmitter is its configuration as a transmitter of signals (Shared Signals Framework 1.0, section 7).
func (s *Server) transmitter(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{
		"spec_version": "1_0", "issuer": s.Issuer, "jwks_uri": s.Issuer + "/jwks",
		"delivery_methods_supported": []string{"urn:ietf:rfc:8935"},
		"configuration_endpoint":     s.Issuer + "/ssf/stream", "status_endpoint": s.Issuer + "/ssf/status", "verification_endpoint": s.Issuer + "/ssf/verify",
	})
}

// SET signs a security event token (RFC 8417) with these claims, over the usual ones (iss, iat, jti). A claim that is nil is
// left out.
func (s *Server) SET(claims map[string]any) (string, error) {
	all := map[string]any{"iss": s.Issuer, "iat": time.Now().Unix(), "jti": uuid.NewString()}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return s.Sign("ES256", map[string]any{"typ": "secevent+jwt"}, all)
}

func (s *Server) jwks(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetchs++
	var set jose.JSONWebKeySet
	add := func(k key) {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.private.Public(), KeyID: k.id, Algorithm: k.alg, Use: "sig"})
	}
	for _, k := range s.keys {
		add(k)
	}
	for _, k := range s.old {
		add(k)
	}
	reply(w, http.StatusOK, set)
}

// token serves the client credentials grant (RFC 6749, section 4.4). A token is for the
// audiences that were requested, which the client must list, and for none where none was.
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	if grant := r.PostFormValue("grant_type"); grant == "authorization_code" || grant == "refresh_token" {
		s.redeem(w, r)
		return
	}
	c, ok := s.authenticate(r)
	if !ok {
		w.Header().Set("WWW-Authenticate", "Basic")
		reply(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
		return
	}
	if r.PostFormValue("grant_type") != "client_credentials" {
		reply(w, http.StatusBadRequest, map[string]string{"error": "unsupported_grant_type"})
		return
	}
	scope := strings.Join(c.Scopes, " ")
	audience := []string{}
	for _, several := range r.PostForm["audience"] {
		audience = append(audience, strings.Fields(several)...)
	}
	for _, a := range audience {
		if !slices.Contains(c.Audience, a) {
			reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_request", "error_description": fmt.Sprintf(
				"The request is missing a required parameter, includes an invalid parameter value, includes a parameter more than once, or is otherwise malformed. Requested audience %q has not been whitelisted by the OAuth 2.0 Client.", a,
			)})
			return
		}
	}
	claims := map[string]any{"sub": c.ID, "client_id": c.ID, "scp": append([]string{}, c.Scopes...), "aud": audience} // a list, as Hydra's default is
	t, err := s.Mint("ES256", claims)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	reply(w, http.StatusOK, map[string]any{"access_token": t, "token_type": "Bearer", "expires_in": 900, "scope": scope})
}

// authenticate knows client_secret_basic and client_secret_post.
func (s *Server) authenticate(r *http.Request) (Client, bool) {
	id, secret, basic := r.BasicAuth()
	if basic {
		var err1, err2 error
		id, err1 = url.QueryUnescape(id)
		secret, err2 = url.QueryUnescape(secret)
		if err1 != nil || err2 != nil {
			return Client{}, false
		}
	} else {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	s.mu.Lock()
	provisioned := s.registered[id]
	if provisioned != nil {
		for _, known := range provisioned.secrets {
			if subtle.ConstantTimeCompare([]byte(known), []byte(secret)) == 1 {
				scope, _ := provisioned.metadata["scope"].(string)    // none is fine
				listed, _ := provisioned.metadata["audience"].([]any) // likewise
				s.mu.Unlock()
				c := Client{ID: id, Secret: known, Scopes: strings.Fields(scope)}
				for _, a := range listed {
					c.Audience = append(c.Audience, fmt.Sprint(a))
				}
				return c, true
			}
		}
	}
	s.mu.Unlock()
	for _, c := range s.Clients {
		if c.ID == id && subtle.ConstantTimeCompare([]byte(c.Secret), []byte(secret)) == 1 {
			return c, true
		}
	}
	return Client{}, false
}

// introspect serves RFC 7662.
func (s *Server) introspect(w http.ResponseWriter, r *http.Request) {
	if _, ok := s.authenticate(r); !ok {
		w.Header().Set("WWW-Authenticate", "Basic")
		reply(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
		return
	}
	s.mu.Lock()
	claims, ok := s.opaque[r.PostFormValue("token")]
	s.mu.Unlock()
	if !ok {
		reply(w, http.StatusOK, map[string]any{"active": false})
		return
	}
	response := maps.Clone(claims)
	response["active"] = true
	reply(w, http.StatusOK, response)
}

// devToken makes a token of a sample user: ?user=alice&alg=ES256&aud=…, or &format=opaque.
func (s *Server) devToken(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	claims, ok := s.Users[q.Get("user")]
	if !ok {
		http.Error(w, "no such user", http.StatusNotFound)
		return
	}
	if aud := q.Get("aud"); aud != "" {
		claims = maps.Clone(claims)
		claims["aud"] = aud
	}
	if q.Get("format") == "opaque" {
		fmt.Fprint(w, s.MintOpaque(claims))
		return
	}
	alg := q.Get("alg")
	if alg == "" {
		alg = "ES256"
	}
	t, err := s.Mint(alg, claims)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprint(w, t)
}

func (s *Server) devRotate(w http.ResponseWriter, r *http.Request) {
	if err := s.Rotate(r.URL.Query().Get("alg"), r.URL.Query().Get("keep_old") != "0"); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintln(w, "rotated")
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the caller is gone
}
