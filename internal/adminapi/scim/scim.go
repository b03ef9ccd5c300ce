// Package scim is SCIM 2.0 (RFC 7643, RFC 7644) for tenants: an identity provider's provisioning client creates, changes and
// removes the members of one tenant, and groups of them, at /scim/v2/{tenant} of the admin listener.
//
// It owns the protocol: resources and their schemas, filters, PATCH, paging, ETags and errors in SCIM's form, and how many
// requests of a client are in progress at once. It stores no profile: attributes that it does not know are ignored.
//
// It does not know who is authorized, what a user or a group is here, or how either is stored: each request is a use case of
// package admin, in one transaction. It knows no roles: groups are mapped to them by administrators, by the REST API.
//
// A request passes, in this order:
//
//	authenticate → limit writes → one of few of its client → read the body → decode → admin: authorize, change → encode
//
// Where to look: routes below; users.go and groups.go serve them; query.go reads lists and filters, patch.go the operations
// of PATCH; discovery.go describes the service to its clients.
package scim

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/problem"
)

// Limits of requests.
const (
	maxUserBody  = 256 << 10
	maxGroupBody = 16 << 20  // some 100,000 members
	largeBody    = 256 << 10 // beyond it, the caller is authorized before the body is read,
	largeAtOnce  = 4         // and so many are read and decoded at once, one of each client
	smallAtOnce  = 128       // so many other bodies are read and decoded at once, of all clients: 32 MB
)

const media = "application/scim+json"

// Config of the handler.
type Config struct {
	Service *admin.Service
	Log     *slog.Logger

	// Authenticate identifies the caller of a request.
	Authenticate func(*http.Request) (admin.Caller, error)
	// LimitWrite takes one write of a caller from its rate, and says in the headers how many are left.
	LimitWrite func(admin.Caller, http.Header) error
	// Failures logs errors that are the service's own.
	Failures *problem.Reporter
	// Rejected is notified of errors, rejected tokens among them; it may be nil.
	Rejected func(ctx context.Context, err error, requestID string)
}

// server serves SCIM.
type server struct {
	Config
	turns turns

	largeTurns turns         // of each client
	large      chan struct{} // one element for each large body
	small      chan struct{} // one element for each other body
}

// request is one authenticated request.
type request struct {
	*http.Request
	caller admin.Caller
	tenant string
	body   []byte
}

// New returns the handler of everything below /scim/v2.
func New(cfg Config) http.Handler {
	s := &server{
		Config:     cfg,
		turns:      turns{atOnce: turnsAtOnce},
		largeTurns: turns{atOnce: 1},
		large:      make(chan struct{}, largeAtOnce),
		small:      make(chan struct{}, smallAtOnce),
	}
	r := chi.NewRouter()
	r.NotFound(func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, iam.Errorf(iam.NotFound, "no such path")) })
	r.MethodNotAllowed(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusMethodNotAllowed, "", "the method is not allowed here")
	})
	r.Route("/{tenant}", func(r chi.Router) {
		r.Get("/ServiceProviderConfig", s.serve(s.described(serviceProviderConfig)))
		r.Get("/ResourceTypes", s.serve(s.described(resourceTypes)))
		r.Get("/ResourceTypes/{id}", s.serve(s.described(resourceTypes)))
		r.Get("/Schemas", s.serve(s.described(schemas)))
		r.Get("/Schemas/{id}", s.serve(s.described(schemas)))
		s.resources(r, "/Users", endpoint{s.listUsers, s.createUser, s.readUser, s.putUser, s.patchUser, s.deleteUser})
		s.resources(r, "/Groups", endpoint{s.listGroups, s.createGroup, s.readGroup, s.putGroup, s.patchGroup, s.deleteGroup})
		r.HandleFunc("/Bulk", s.unsupported)
		r.HandleFunc("/Me", s.unsupported)
	})
	return r
}

// handler serves an authenticated request.
type handler func(w http.ResponseWriter, r *request) error

// endpoint is the handlers of one type of resource.
type endpoint struct{ list, create, read, put, patch, remove handler }

func (s *server) resources(r chi.Router, path string, e endpoint) {
	r.Get(path, s.serve(e.list))
	r.Post(path, s.serve(e.create))
	r.Post(path+"/.search", s.serve(e.list))
	r.Get(path+"/{id}", s.serve(e.read))
	r.Put(path+"/{id}", s.serve(e.put))
	r.Patch(path+"/{id}", s.serve(e.patch))
	r.Delete(path+"/{id}", s.serve(e.remove))
}

func (s *server) unsupported(w http.ResponseWriter, r *http.Request) {
	if _, err := s.Authenticate(r); err != nil {
		s.fail(w, r, err)
		return
	}
	writeError(w, http.StatusNotImplemented, "", "this is not supported: see ServiceProviderConfig")
}

// serve authenticates a request, waits for its turn and reads its body.
func (s *server) serve(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer s.recoverPanic(w, r)
		if err := s.handle(w, r, h); err != nil {
			s.fail(w, r, err)
		}
	}
}

func (s *server) handle(w http.ResponseWriter, r *http.Request, h handler) error {
	caller, err := s.Authenticate(r)
	if err != nil {
		return err
	}
	q := &request{Request: r, caller: caller, tenant: chi.URLParam(r, "tenant")}
	if !iam.ValidTenantID(q.tenant) {
		return iam.Errorf(iam.NotFound, "not found")
	}
	if writes(r.Method) {
		if err := s.LimitWrite(caller, w.Header()); err != nil {
			return err
		}
	}
	client := caller.Token.Issuer + "\x00" + caller.Token.Subject + "\x00" + caller.Token.ClientID
	done, err := s.turns.wait(r.Context(), client)
	if err != nil {
		return err
	}
	defer done()
	switch {
	case r.ContentLength > largeBody || r.ContentLength < 0:
		done, err := s.admitLarge(r.Context(), client)
		if err != nil {
			return err
		}
		defer done()
	case r.ContentLength > 0:
		if err := enter(r.Context(), s.small); err != nil {
			return err
		}
		defer func() { <-s.small }()
	}
	if q.body, err = s.read(w, q); err != nil {
		return err
	}
	return h(w, q)
}

// admitLarge waits until a large body may be read, which done ends: the memory for all of them is bounded, and a client that
// sends slowly holds up its own requests before those of others.
func (s *server) admitLarge(ctx context.Context, client string) (done func(), err error) {
	leave, err := s.largeTurns.wait(ctx, client)
	if err != nil {
		return nil, err
	}
	if err := enter(ctx, s.large); err != nil {
		leave()
		return nil, err
	}
	return func() { <-s.large; leave() }, nil
}

// enter waits for a place among the requests of all clients.
func enter(ctx context.Context, places chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, turnsWait)
	defer cancel()
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errBusy
	}
}

func writes(method string) bool { return method != http.MethodGet && method != http.MethodHead }

// read reads the body of a request that has one.
func (s *server) read(w http.ResponseWriter, r *request) ([]byte, error) {
	if !writes(r.Method) || r.Method == http.MethodDelete {
		return nil, nil
	}
	switch kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); {
	case err != nil, kind != media && kind != "application/json":
		return nil, &iam.Error{Kind: iam.Malformed, Code: unsupportedMedia, Detail: "the body must be " + media + " or application/json"}
	}
	most := int64(maxUserBody)
	if pattern := chi.RouteContext(r.Context()).RoutePattern(); strings.Contains(pattern, "/Groups") && !strings.HasSuffix(pattern, "/.search") {
		most = maxGroupBody
	}
	if r.ContentLength > largeBody || r.ContentLength < 0 && most > largeBody {
		if err := s.Service.Authorize(r.Context(), r.caller, admin.Task{Action: "scim:update", Tenant: r.tenant}); err != nil {
			return nil, err
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, &iam.Error{Kind: iam.TooLarge, Detail: fmt.Sprintf("a body has %d bytes at most: change a large group by several PATCH requests", most)}
	}
	if err != nil {
		return nil, malformed(invalidSyntax, "the body cannot be read")
	}
	return body, nil
}

func (s *server) recoverPanic(w http.ResponseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	s.Log.ErrorContext(r.Context(), "request panicked", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	s.fail(w, r, fmt.Errorf("panic: %v", p))
}

// task is what a request asks of package admin.
func (r *request) task(verb string) admin.Task {
	return admin.Task{
		Action: "scim:" + verb,
		Tenant: r.tenant,
		Object: r.id(),
		Writes: verb != "read",
		Bulk:   true,
	}
}

// id is that of the path. The router returns it as it was sent where the client has escaped more than it needs to, such as the
// colons of a schema.
func (r *request) id() string {
	id := chi.URLParam(r.Request, "id")
	if r.URL.RawPath == "" {
		return id
	}
	if plain, err := url.PathUnescape(id); err == nil {
		return plain
	}
	return id
}

// create runs a POST: with an Idempotency-Key, a retry gets the response of the first one, and has no further effect.
func create[T any](ctx context.Context, s *server, r *request, do func(context.Context, *admin.Work) (T, error)) (T, error) {
	key := r.Header.Get("Idempotency-Key")
	if key == "" {
		return admin.Do(ctx, s.Service, r.caller, r.task("create"), do)
	}
	if len(key) > 255 {
		var none T
		return none, malformed(invalidValue, "an Idempotency-Key has 255 bytes at most")
	}
	hash := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s", r.Method, r.URL.RequestURI(), r.body))
	once := admin.Repeatable{Caller: r.caller, Task: r.task("create"), Key: admin.IdempotencyKey{Key: key, Request: hash}}
	out, _, err := admin.DoOnce(ctx, s.Service, once, do)
	return out, err
}

// condition parses If-Match (RFC 9110, section 13.1.1). A version is a weak tag (RFC 7644, section 3.14), so the comparison is
// the weak one.
func (r *request) condition() (c admin.Condition) {
	for _, line := range r.Header.Values("If-Match") {
		for tag := range strings.SplitSeq(line, ",") {
			tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
			if tag == "*" {
				c.Present = true
				continue
			}
			version, _, _ := strings.Cut(strings.Trim(tag, `"`), "-") // a write of a user does not change what follows
			n, err := strconv.ParseInt(version, 10, 64)
			if err != nil {
				n = -1 // not one of our tags
			}
			c.Versions = append(c.Versions, n)
		}
	}
	if c.Present {
		c.Versions = nil
	}
	return c
}

func etag(version int64) string { return `W/"` + strconv.FormatInt(version, 10) + `"` }

// userTag is the version of a user, and a hash of what changes without it: the groups, and whether the membership has expired.
// If-Match compares the version alone.
func userTag(u iam.SCIMUser) string {
	if len(u.Groups) == 0 && !u.Expired {
		return etag(u.Revision)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%t", u.Expired)
	for _, g := range u.Groups {
		fmt.Fprintf(h, "\x00%s\x00%s", g.ID, g.DisplayName)
	}
	return fmt.Sprintf(`W/"%d-%x"`, u.Revision, h.Sum(nil)[:8])
}

// respond writes a resource, or 304 where the caller has this version.
func (r *request) respond(w http.ResponseWriter, status int, version string, v any) error {
	h := w.Header()
	h.Set("ETag", version)
	if !writes(r.Method) {
		for tag := range strings.SplitSeq(strings.Join(r.Header.Values("If-None-Match"), ","), ",") {
			if tag = strings.TrimSpace(tag); tag == "*" || strings.TrimPrefix(tag, "W/") == strings.TrimPrefix(version, "W/") {
				w.WriteHeader(http.StatusNotModified)
				return nil
			}
		}
	}
	return encode(w, status, v)
}

func encode(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", media)
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails only where the caller has disconnected
	return nil
}
