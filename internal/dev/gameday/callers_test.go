package gameday

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// kind is what callers ask.
type kind string

const (
	cached    kind = "cached"        // the same token again: a cached decision
	fresh     kind = "new token"     // a new token of a known user: verified anew, the decision is cached
	unseen    kind = "first look-up" // a user whom no replica has looked up
	denied    kind = "denied"        // a tenant that the user may not act in
	anonymous kind = "no token"      // no token
	removed   kind = "role"          // the user whose role is removed during the outage
	write     kind = "admin write"   // creates a role
	client    kind = "new client"    // creates an OAuth2 client, here and in R-Auth
	foreign   kind = "unknown key"   // a token that is signed with a key that R-Auth does not publish
)

// usual are the kinds of every game day, with their rates a second.
var usual = map[kind]int{cached: 10, fresh: 10, unseen: 10, denied: 5, anonymous: 5, removed: 10, write: 2}

// well is the response of each kind when all is well.
var well = map[kind]int{
	cached: 200, fresh: 200, unseen: 200, denied: 403, anonymous: 401, removed: 200, write: 201, client: 201, foreign: 401,
}

// response is one, as its caller saw it.
type response struct {
	kind       kind
	at         time.Duration // when the request was sent, from the start of the callers
	took       time.Duration
	status     int    // 0: none, the connection failed or nothing came within 15 s
	code       string // of the problem document
	retryAfter bool
	editor     bool   // the application was sent the role
	object     string // that a write creates
}

// callers send requests at a steady rate, and record the responses.
type callers struct {
	testing.TB
	front    front
	provider *provider
	rates    map[kind]int
	began    time.Time

	http *http.Client
	stop context.CancelFunc
	all  sync.WaitGroup

	mu        sync.Mutex
	responses []response
	user      int    // the last unseen one
	alice     string // the token of cached
	removed   string
}

func startCallers(t testing.TB, f front, p *provider, rates map[kind]int) *callers {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	c := &callers{
		TB: t, front: f, provider: p, rates: rates, began: time.Now(), stop: stop,
		http: &http.Client{Timeout: 15 * time.Second, // an administrator waits for 10 s where PostgreSQL hangs
			Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
		alice: p.token("alice"), removed: p.token("removed"),
	}
	t.Cleanup(c.end)
	for k, rate := range rates {
		c.all.Go(func() {
			tick := time.NewTicker(time.Second / time.Duration(rate))
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					c.all.Go(func() { c.send(k) })
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return c
}

// login replaces the tokens that are used again, as clients do whose tokens are rejected.
func (c *callers) login() {
	alice, removed := c.provider.token("alice"), c.provider.token("removed")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alice, c.removed = alice, removed
}

// end stops, and waits for the requests in flight.
func (c *callers) end() {
	c.stop()
	c.all.Wait()
}

func (c *callers) now() time.Duration { return time.Since(c.began) }

func (c *callers) send(k kind) {
	r := response{kind: k, at: c.now()}
	req := c.request(k, &r)
	resp, err := c.http.Do(req)
	if err == nil {
		body, readErr := io.ReadAll(resp.Body)
		_ = resp.Body.Close() // read to its end
		if readErr == nil {
			r.status = resp.StatusCode
		}
		r.retryAfter = resp.Header.Get("Retry-After") != ""
		r.editor = slices.Contains(strings.Split(resp.Header.Get("Seen-Roles"), ","), "editor")
		var problem struct {
			Code     string `json:"code"`
			ClientID string `json:"client_id"`
		}
		if json.Unmarshal(body, &problem) == nil {
			r.code = problem.Code
			if k == client {
				r.object = problem.ClientID
			}
		}
	}
	r.took = c.now() - r.at
	c.mu.Lock()
	defer c.mu.Unlock()
	c.responses = append(c.responses, r)
}

// request is the next one of a kind. A POST is not repeated by Go's client, nor by HAProxy once it was sent.
func (c *callers) request(k kind, r *response) *http.Request {
	url, token, body := c.front.public+"/orders", "", any(nil)
	c.mu.Lock()
	alice, ofRemoved := c.alice, c.removed
	c.mu.Unlock()
	switch k {
	case cached, denied:
		token = alice
	case anonymous:
	case fresh:
		token = c.provider.token("alice")
	case unseen:
		c.mu.Lock()
		c.user++
		n := c.user
		c.mu.Unlock()
		token = c.provider.token(fmt.Sprintf("user-%d", n%users+1))
	case removed:
		token = ofRemoved
	case foreign:
		token = c.provider.foreign("alice")
	case write:
		url, token = c.front.admin+"/v1/tenants/acme/roles", c.provider.admin()
		r.object = "r-" + uuid.NewString()
		body = map[string]any{"name": r.object, "permissions": []string{"document:read"}}
	case client:
		url, token = c.front.admin+"/v1/clients", c.provider.admin()
		body = map[string]any{"tenant": "acme", "client_name": "gameday", "grant_types": []string{"client_credentials"}}
	}
	var text []byte
	if body != nil {
		text, _ = json.Marshal(body) // maps of strings
	}
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(text)) //nolint:noctx // the client has a timeout
	if err != nil {
		panic(err) // the URL is ours
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if k == denied {
		req.Header.Set("X-Active-Tenant-ID", "initech") // which is suspended
	}
	return req
}

// recorded are the responses so far, in the order in which the requests were sent.
func (c *callers) recorded() []response {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Clone(c.responses)
	slices.SortFunc(all, func(a, b response) int { return int(a.at - b.at) })
	return all
}
