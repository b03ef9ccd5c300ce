package directory

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/iam"
)

// Root is the first step of every path that a View reads.
const Root = "directory"

// Caller is the subject and client on whose behalf an evaluation reads.
type Caller struct {
	Issuer   string // of the verified token; empty for anonymous: no tenant is reached
	Subject  string // of the token; looking for oneself is free
	ClientID string
	Lookups  LookupBudget // nil: unlimited
}

// LookupBudget limits look-ups of absent documents by one token.
type LookupBudget interface {
	// Take reports whether another look-up is allowed that may find nothing.
	Take() bool
	// Return is called if it found something.
	Return()
}

// View is the facts of one evaluation: a document that it has read does not
// change until it ends. It is used by one goroutine.
type View struct {
	store    *Store
	caller   Caller
	issuer   iam.Issuer
	deadline time.Time
	waited   time.Duration
	pinned   []*entry
	firstFew [4]*entry
}

// View begins an evaluation's view of the facts. Loads end at deadline at
// the latest.
func (s *Store) View(a Caller, deadline time.Time) *View {
	r := &View{store: s, caller: a, deadline: deadline}
	r.issuer, _ = s.cfg.Issuers.Find(a.Issuer) // unknown: reaches nothing
	r.pinned = r.firstFew[:0]
	return r
}

// Prepared is the document of one user, built from facts that its caller has read already.
type Prepared struct{ e *entry }

// PrepareUser builds the document of a user. The store does not cache it.
func PrepareUser(u iam.UserFacts, issuers iam.Issuers) Prepared {
	e := &entry{named: named{User, u.Issuer, u.Subject}} // without a stamp: valid only for the views that it is pinned in
	e.doc, _ = userDocument(u, issuers)                  // a snapshot does not move on: nothing in it expires
	e.fact = factOf(e)
	return Prepared{e}
}

// Pin adds a document to a view that has read nothing yet. Its facts must be of the snapshot that the store reads.
func (r *View) Pin(p Prepared) {
	if p.e != nil {
		r.pinned = append(r.pinned, p.e)
	}
}

// Waited is how long this reading waited for loads so far.
func (r *View) Waited() time.Duration { return r.waited }

// EnumerationError reports that a policy walks over a collection of the directory. Its path ends
// with the kind: further steps can be claims of a token.
type EnumerationError struct{ Path string }

func (e *EnumerationError) Error() string {
	return "data." + strings.ReplaceAll(e.Path, "/", ".") + " cannot be enumerated: name the key (data.directory.users[issuer][subject], data.directory.tenants[id], data.directory.clients[issuer][client_id])"
}

var errNotFound = &storage.Error{Code: storage.NotFoundErr, Message: "document does not exist"}

// Read returns the value of one path below data.directory. It returns a storage error of
// code NotFoundErr for an absent document, *EnumerationError for a path that
// stops above a document, and an iam.Error of kind Unavailable where the
// database cannot be queried.
func (r *View) Read(ctx context.Context, path storage.Path) (ast.Value, error) {
	kd, first, second, rest, err := split(path)
	if err != nil {
		return nil, err
	}
	e, err := r.entry(ctx, kd, first, second)
	if err != nil {
		return nil, err
	}
	if e == nil || e.doc == nil {
		return nil, errNotFound
	}
	if v := Find(e.doc.value, rest); v != nil {
		return v, nil
	}
	return nil, errNotFound
}

// Depth returns how many steps name a document of a kind, such as 4 for users
// (data.directory.users[issuer][subject]); -1 for a kind that does not exist, and 0 for another root.
func Depth(root, kind string) int {
	if root != Root {
		return 0
	}
	switch kind {
	case "users", "clients":
		return 4
	case "tenants":
		return 3
	}
	return -1
}

// split takes a path apart into the key of a document and what lies in it.
func split(path storage.Path) (kd Kind, first, second string, rest storage.Path, err error) {
	if len(path) == 0 || path[0] != Root {
		return 0, "", "", nil, errNotFound
	}
	if len(path) == 1 {
		return 0, "", "", nil, &EnumerationError{Root}
	}
	depth := 4
	switch path[1] {
	case "users":
		kd = User
	case "clients":
		kd = Client
	case "tenants":
		kd, depth = Tenant, 3
	default:
		return 0, "", "", nil, errNotFound
	}
	if len(path) < depth {
		return 0, "", "", nil, &EnumerationError{Root + "/" + path[1]}
	}
	if depth == 4 {
		second = path[3]
	}
	return kd, path[2], second, path[depth:], nil
}

// Find walks from v down a storage path; nil where it leads nowhere.
func Find(v ast.Value, path storage.Path) ast.Value {
	for _, step := range path {
		switch at := v.(type) {
		case ast.Object:
			t := at.Get(ast.InternedTerm(step))
			if t == nil {
				return nil
			}
			v = t.Value
		case *ast.Array:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= at.Len() {
				return nil
			}
			v = at.Elem(i).Value
		default:
			return nil
		}
	}
	return v
}

// entry returns the document of one key, pinned; nil for a key that cannot be
// one.
func (r *View) entry(ctx context.Context, kd Kind, a, b string) (*entry, error) {
	if !readable(kd, a, b, r.issuer) {
		return nil, nil //nolint:nilnil // an absent document is no error
	}
	for _, e := range r.pinned {
		if e.named == (named{kd, a, b}) {
			return e, nil
		}
	}
	e, err := r.lookup(ctx, kd, a, b)
	if err != nil {
		return nil, err
	}
	r.pinned = append(r.pinned, e)
	return e, nil
}

// readable reports whether names can be those of a document that the issuer's tokens
// may have read.
func readable(kd Kind, a, b string, issuer iam.Issuer) bool {
	switch kd {
	case Tenant:
		return iam.ValidTenantID(a) && issuer.Reaches(a)
	case User:
		return iam.ValidIssuer(a) && iam.ValidSubject(b)
	case Client:
		return iam.ValidIssuer(a) && iam.ValidClientID(b)
	default:
		return false // no document is of another kind
	}
}

// lookup gets the document from the caches or by a load, and counts the time of
// waiting and the look-ups of absent documents.
func (r *View) lookup(ctx context.Context, kd Kind, a, b string) (*entry, error) {
	s, k, now := r.store, KeyOf(kd, a, b), r.store.cfg.Clock()
	if !s.fresh(now) {
		return nil, unavailable("facts_stale", fmt.Errorf("freshness not confirmed for %s", s.cfg.MaxStale))
	}
	if e := s.cached(k, named{kd, a, b}, now); e != nil {
		s.present.Hit()
		return e, nil
	}
	s.present.Miss()
	counted := r.caller.Lookups != nil && !r.isOwn(kd, a, b)
	if counted && !r.caller.Lookups.Take() {
		return nil, &iam.Error{Kind: iam.Unavailable, Code: "too_many_misses", Detail: "this token has caused too many lookups of absent documents"}
	}
	e, err := r.load(ctx, named{kd, a, b}, companions{})
	if counted && (err != nil || e.doc != nil) {
		r.caller.Lookups.Return() // it was found, or the load failed
	}
	return e, err
}

// Fact is one document that was read, or looked for.
type Fact struct {
	// Path is as in data.directory, each name written as in a JSON Pointer (RFC 6901):
	// users/<issuer>/<subject>.
	Path    string `json:"path"`
	Version int64  `json:"version,omitempty"` // of the row in it that was changed last; 0: there is no such document
	Hash    string `json:"hash,omitempty"`    // of the document as the policy sees it
}

var (
	escape   = strings.NewReplacer("~", "~0", "/", "~1")
	unescape = strings.NewReplacer("~1", "/", "~0", "~")
)

// Name is the path for people.
func (f Fact) Name() string { return unescape.Replace(f.Path) }

// CurrentFact returns the current state of the document of a Fact. A path without a possible document is
// absent.
func (r *View) CurrentFact(ctx context.Context, path string) (Fact, error) {
	now := Fact{Path: path}
	steps := strings.Split(path, "/")
	names := make([]string, len(steps)+1)
	names[0] = Root
	for i, s := range steps {
		names[i+1] = unescape.Replace(s)
	}
	kd, a, b, rest, err := split(names)
	if err != nil || len(rest) > 0 {
		return now, nil //nolint:nilerr // there is no such document
	}
	e, err := r.entry(ctx, kd, a, b)
	if err != nil || e == nil {
		return now, err
	}
	return e.fact, nil
}

// Facts are all that was read so far.
func (r *View) Facts() []Fact {
	list := make([]Fact, len(r.pinned))
	for i, e := range r.pinned {
		list[i] = e.fact
	}
	return list
}

// factOf names a document, or the place where there is none.
func factOf(e *entry) Fact {
	f := Fact{Path: "tenants/" + e.a}
	switch e.kind {
	case User:
		f.Path = "users/" + escape.Replace(e.a) + "/" + escape.Replace(e.b)
	case Client:
		f.Path = "clients/" + escape.Replace(e.a) + "/" + escape.Replace(e.b)
	default: // as above
	}
	if e.doc != nil {
		f.Version, f.Hash = e.doc.version, strconv.FormatUint(uint64(e.doc.value.Hash()), 16) //nolint:gosec // bits are bits
	}
	return f
}

// Dependencies is what a reading depends on: all that it found and all that it did not
// find.
type Dependencies struct {
	stamp stamp
	until time.Duration
}

// Weight estimates the bytes of the record.
func (rec *Dependencies) Weight() int64 { return int64(8*len(rec.stamp.parts)) + 40 }

// Until is when a fact in the record ends by itself, by the store's clock; 0: none does.
func (rec *Dependencies) Until() time.Duration { return rec.until }

// Dependencies returns what was read so far.
func (r *View) Dependencies() Dependencies {
	n := 0
	for _, e := range r.pinned {
		n += len(e.stamp.parts)
	}
	rec := Dependencies{stamp: stamp{parts: make([]part, 0, n)}}
	for i, e := range r.pinned {
		if i == 0 {
			rec.stamp.epoch = e.stamp.epoch
		} else if rec.stamp.epoch != e.stamp.epoch {
			rec.stamp.epoch = 0 // of two epochs: never true
		}
		rec.stamp.parts = append(rec.stamp.parts, e.stamp.parts...)
		if e.until != 0 && (rec.until == 0 || e.until < rec.until) {
			rec.until = e.until
		}
	}
	if len(r.pinned) == 0 {
		rec.stamp.epoch = r.store.epoch.Load()
	}
	return rec
}

// Validity is whether cached facts are valid, or why they are not.
type Validity int

// The values of Validity.
const (
	Valid   Validity = iota
	Changed          // a fact was changed
	Cleared          // everything was invalidated
	Expired          // a membership has expired, a role has started or ended
	Stale            // the freshness deadline has passed
)

// Validity returns whether rec is valid at now, by the store's clock.
func (s *Store) Validity(rec *Dependencies, now time.Duration) Validity {
	switch {
	case !s.fresh(now):
		return Stale
	case rec.until != 0 && now >= rec.until:
		return Expired
	case rec.stamp.epoch != s.epoch.Load():
		return Cleared
	case !s.unchanged(rec.stamp):
		return Changed
	}
	return Valid
}

// isOwn reports whether a key is the caller's own.
func (r *View) isOwn(kd Kind, a, b string) bool {
	return a == r.caller.Issuer && (kd == User && b == r.caller.Subject || kd == Client && b == r.caller.ClientID)
}

// Principal is what Go checks of the subject and the client of a token, whatever the
// policy.
type Principal struct {
	Known           bool
	ID              string // our id of a user
	Tenant          string // of a client; empty: it is the platform's
	Status          string
	Scopes          []string // of a client: those that it is registered with
	TokensNotBefore time.Time
}

// User returns what is known of a subject.
func (r *View) User(ctx context.Context, issuer, subject string) (Principal, error) {
	return r.principal(ctx, User, issuer, subject)
}

// Client returns what is known of a program.
func (r *View) Client(ctx context.Context, issuer, clientID string) (Principal, error) {
	return r.principal(ctx, Client, issuer, clientID)
}

func (r *View) principal(ctx context.Context, kd Kind, issuer, name string) (Principal, error) {
	e, err := r.entry(ctx, kd, issuer, name)
	if err != nil || e == nil || e.doc == nil {
		return Principal{}, err
	}
	p := Principal{Known: true, ID: e.doc.id, Status: e.doc.status, TokensNotBefore: e.doc.notBefore}
	if kd == Client {
		p.Scopes = e.doc.scopes
	}
	if kd == Client && len(e.doc.tenants) > 0 {
		p.Tenant = e.doc.tenants[0]
	}
	return p, nil
}
