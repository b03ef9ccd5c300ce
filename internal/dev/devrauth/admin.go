package devrauth

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	mrand "math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The admin API, as R-Auth and Ory Hydra have it: clients by their RFC 7591 metadata.

// registration is a client that was provisioned.
type registration struct {
	metadata map[string]any
	secrets  []string // the newest first
	unused   []string // while it authenticates otherwise
	made     time.Time
}

// Fault is what goes wrong with a call of the admin API.
type Fault string

// The faults.
const (
	FaultSlow    Fault = "slow"     // responds after SlowFor
	Fault500     Fault = "500"      // responds 500 and does nothing
	Fault503     Fault = "503"      // responds 503 and does nothing
	Fault429     Fault = "429"      // responds 429 with Retry-After: 0 and does nothing
	FaultCut     Fault = "cut"      // cuts the connection and does nothing
	FaultCutDone Fault = "cut-done" // does it, and cuts the connection
)

// Faults are all of them.
var Faults = []Fault{FaultSlow, Fault500, Fault503, Fault429, FaultCut, FaultCutDone}

// SlowFor is how long FaultSlow waits.
const SlowFor = 300 * time.Millisecond

// Break decides what goes wrong with each call of the admin API that follows; "" is
// nothing. nil mends everything.
func (s *Server) Break(decide func(method, path string) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = decide
}

// BreakSome makes a share of the calls, 0 to 1, go wrong in any way.
func (s *Server) BreakSome(share float64) {
	s.Break(func(string, string) Fault {
		if mrand.Float64() >= share {
			return ""
		}
		return Faults[mrand.IntN(len(Faults))]
	})
}

// AdminToken sets the bearer that the admin API requires; "": none.
func (s *Server) AdminToken(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adminToken = token
}

// Provisioned are the metadata of all clients that the admin API has.
func (s *Server) Provisioned() map[string]map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]map[string]any{}
	for id, r := range s.registered {
		all[id] = maps.Clone(r.metadata)
	}
	return all
}

// Secrets are those of a client that work now, the newest first.
func (s *Server) Secrets(id string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.registered[id]; r != nil {
		return slices.Clone(r.secrets)
	}
	return nil
}

// Issued are all secrets that were ever made by the admin API.
func (s *Server) Issued() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.issued)
}

// secret makes one.
func (s *Server) secret() string {
	text := rand.Text()
	s.issued = append(s.issued, text)
	return text
}

func (s *Server) admin(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	fault, token := Fault(""), s.adminToken
	if s.fault != nil {
		fault = s.fault(r.Method, r.URL.Path)
	}
	s.mu.Unlock()
	if token != "" && r.Header.Get("Authorization") != "Bearer "+token {
		reply(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
		return
	}
	switch fault {
	case FaultSlow:
		time.Sleep(SlowFor)
	case Fault500:
		reply(w, http.StatusInternalServerError, map[string]string{"error": "server_error"})
		return
	case Fault503:
		reply(w, http.StatusServiceUnavailable, map[string]string{"error": "temporarily_unavailable"})
		return
	case Fault429:
		w.Header().Set("Retry-After", "0")
		reply(w, http.StatusTooManyRequests, map[string]string{"error": "slow_down"})
		return
	case FaultCut:
		panic(http.ErrAbortHandler)
	case FaultCutDone:
		s.clients(discard{}, r)
		panic(http.ErrAbortHandler)
	}
	s.clients(w, r)
}

// discard is a response that is thrown away.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

func (s *Server) clients(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(strings.TrimPrefix(r.URL.Path, "/admin/clients"), "/"), "/")
	id := parts[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case id == "" && r.Method == http.MethodPost:
		s.create(w, r)
		return
	case id == "" && r.Method == http.MethodGet:
		s.list(w, r)
		return
	}
	c := s.registered[id]
	if c == nil {
		reply(w, http.StatusNotFound, map[string]string{"error": "not_found"})
		return
	}
	switch rest := strings.Join(parts[1:], "/"); {
	case rest == "secrets/rotate" && len(c.secrets) == 0:
		reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_request", "error_description": "the client has no secret"})
	case rest == "" && r.Method == http.MethodGet:
		reply(w, http.StatusOK, c.metadata)
	case rest == "" && r.Method == http.MethodPut:
		m, ok := metadata(w, r)
		if !ok {
			return
		}
		switch secret, set := m["client_secret"].(string); {
		case set:
			c.secrets = []string{secret}
		case !hasSecret(m):
			c.unused, c.secrets = append(c.secrets, c.unused...), nil
		case len(c.secrets) == 0:
			c.secrets, c.unused = c.unused, nil
		}
		delete(m, "client_secret")
		m["client_id"] = id
		c.metadata = m
		reply(w, http.StatusOK, m)
	case rest == "" && r.Method == http.MethodDelete:
		delete(s.registered, id)
		w.WriteHeader(http.StatusNoContent)
	case rest == "secrets/rotate" && r.Method == http.MethodPost:
		c.secrets = append([]string{s.secret()}, c.secrets...)
		m := maps.Clone(c.metadata)
		m["client_secret"] = c.secrets[0]
		reply(w, http.StatusOK, m)
	case rest == "secrets/rotate" && r.Method == http.MethodDelete:
		c.secrets = c.secrets[:min(1, len(c.secrets))]
		reply(w, http.StatusOK, c.metadata) // as Ory Hydra does, which documents 204
	default:
		reply(w, http.StatusMethodNotAllowed, map[string]string{"error": "invalid_request"})
	}
}

// metadata reads a body, and rejects what a provider rejects.
func metadata(w http.ResponseWriter, r *http.Request) (map[string]any, bool) {
	var m map[string]any
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_client_metadata", "error_description": "no JSON"})
		return nil, false
	}
	uris, _ := m["redirect_uris"].([]any) // none is fine
	for _, u := range uris {
		if p, err := url.Parse(fmt.Sprint(u)); err != nil || p.Scheme == "" || strings.Contains(fmt.Sprint(u), "refuse-me") {
			reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_redirect_uri", "error_description": "redirect_uris: not this one"})
			return nil, false
		}
	}
	out, _ := m["post_logout_redirect_uris"].([]any) // likewise
	for _, u := range out {
		if !slices.ContainsFunc(uris, func(in any) bool { return sameSite(fmt.Sprint(in), fmt.Sprint(u)) }) {
			reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_client_metadata", "error_description": fmt.Sprintf(
				"The value of one of the Client Metadata fields is invalid and the server has rejected this request. Note that an Authorization Server MAY choose to substitute a valid value for any requested parameter of a Client's Metadata. post_logout_redirect_uri %q must match the domain, port, scheme of at least one of the registered redirect URIs but did not", u,
			)})
			return nil, false
		}
	}
	return m, true
}

// sameSite reports whether two URIs have the same scheme, host and port.
func sameSite(a, b string) bool {
	x, err1 := url.Parse(a)
	y, err2 := url.Parse(b)
	return err1 == nil && err2 == nil && x.Scheme == y.Scheme && x.Hostname() == y.Hostname() && x.Port() == y.Port()
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	m, ok := metadata(w, r)
	if !ok {
		return
	}
	delete(m, "client_secret")
	id, _ := m["client_id"].(string) // none: one is made
	if id == "" {
		id = rand.Text()
		m["client_id"] = id
	}
	if s.registered[id] != nil {
		reply(w, http.StatusConflict, map[string]string{"error": "conflict"})
		return
	}
	c := &registration{metadata: m, made: time.Now()}
	response := maps.Clone(m)
	if hasSecret(m) {
		c.secrets = []string{s.secret()}
		response["client_secret"] = c.secrets[0]
	}
	if s.registered == nil {
		s.registered = map[string]*registration{}
	}
	s.registered[id] = c
	reply(w, http.StatusCreated, response)
}

func hasSecret(m map[string]any) bool {
	return m["token_endpoint_auth_method"] != "none" && m["token_endpoint_auth_method"] != "private_key_jwt"
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	ids := slices.Sorted(maps.Keys(s.registered))
	if from := r.URL.Query().Get("page_token"); from != "" {
		i, _ := slices.BinarySearch(ids, from)
		ids = ids[i:]
	}
	size, err := strconv.Atoi(r.URL.Query().Get("page_size"))
	if err != nil || size < 1 || size > 500 {
		size = 100
	}
	if len(ids) > size {
		w.Header().Set("Link", fmt.Sprintf(`</admin/clients?page_size=%d&page_token=%s>; rel="next"`, size, url.QueryEscape(ids[size])))
		ids = ids[:size]
	}
	page := []map[string]any{}
	for _, id := range ids {
		page = append(page, s.registered[id].metadata)
	}
	reply(w, http.StatusOK, page)
}
