package directory

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/iam"
)

// Root is the first step of every path that a Reading answers.
const Root = "directory"

// Asker is on whose behalf an evaluation reads.
type Asker struct {
	Issuer   string // of the verified token; empty for anonymous: no tenant is reached
	Subject  string // of the token; looking for oneself is free
	ClientID string
	Misses   Account // nil: unlimited
}

// Account limits look-ups in vain: one token cannot send us looking for ever.
type Account interface {
	// Take is asked before a look-up that may find nothing.
	Take() bool
	// GiveBack is told when it found something.
	GiveBack()
}

// Reading is what one evaluation sees: a document that it has read once stays
// the same until it ends. It is used by one goroutine.
type Reading struct {
	store    *Store
	asker    Asker
	issuer   iam.Issuer
	deadline time.Time
	waited   time.Duration
	pinned   []*entry
	firstFew [4]*entry
}

// Reading begins an evaluation's view of the facts. Loads end at deadline at
// the latest.
func (s *Store) Reading(a Asker, deadline time.Time) *Reading {
	r := &Reading{store: s, asker: a, deadline: deadline}
	r.issuer, _ = s.cfg.Issuers.Find(a.Issuer) // unknown: reaches nothing
	r.pinned = r.firstFew[:0]
	return r
}

// Waited is how long this reading waited for loads so far.
func (r *Reading) Waited() time.Duration { return r.waited }

// EnumerationError says that a policy walks over a collection of the directory.
type EnumerationError struct{ Path string }

func (e *EnumerationError) Error() string {
	return "data." + strings.ReplaceAll(e.Path, "/", ".") + " cannot be enumerated: name the key (data.directory.users[issuer][subject], data.directory.tenants[id], data.directory.clients[issuer][client_id])"
}

var errNotFound = &storage.Error{Code: storage.NotFoundErr, Message: "document does not exist"}

// Read answers one path below data.directory. It returns a storage error of
// code NotFoundErr for what is not there, *EnumerationError for a path that
// stops above a document, and an iam.Error of kind Unavailable where the
// database cannot be asked.
func (r *Reading) Read(ctx context.Context, path storage.Path) (ast.Value, error) {
	if len(path) == 0 || path[0] != Root {
		return nil, errNotFound
	}
	if len(path) == 1 {
		return nil, &EnumerationError{Root}
	}
	var kd kind
	var depth int
	switch path[1] {
	case "users":
		kd, depth = userKind, 4
	case "clients":
		kd, depth = clientKind, 4
	case "tenants":
		kd, depth = tenantKind, 3
	default:
		return nil, errNotFound
	}
	if len(path) < depth {
		return nil, &EnumerationError{strings.Join(path, "/")}
	}
	second := ""
	if depth == 4 {
		second = path[3]
	}
	e, err := r.entry(ctx, kd, path[2], second)
	if err != nil {
		return nil, err
	}
	if e == nil || e.doc == nil {
		return nil, errNotFound
	}
	if v := Find(e.doc.value, path[depth:]); v != nil {
		return v, nil
	}
	return nil, errNotFound
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
func (r *Reading) entry(ctx context.Context, kd kind, a, b string) (*entry, error) {
	switch kd {
	case tenantKind:
		if !iam.ValidTenantID(a) || !r.issuer.Reaches(a) {
			return nil, nil //nolint:nilnil // nothing there is an answer
		}
	case userKind:
		if !iam.ValidIssuer(a) || !iam.ValidSubject(b) {
			return nil, nil //nolint:nilnil // as above
		}
	case clientKind:
		if !iam.ValidIssuer(a) || !iam.ValidClientID(b) {
			return nil, nil //nolint:nilnil // as above
		}
	}
	for _, e := range r.pinned {
		if e.is(kd, a, b) {
			return e, nil
		}
	}
	e, err := r.ask(ctx, kd, a, b)
	if err != nil {
		return nil, err
	}
	r.pinned = append(r.pinned, e)
	return e, nil
}

// ask gets the document from the store and keeps the account of waiting and of
// look-ups in vain.
func (r *Reading) ask(ctx context.Context, kd kind, a, b string) (*entry, error) {
	counted := r.asker.Misses != nil && !r.own(kd, a, b) && r.store.cached(keyOf(kd, a, b), kd, a, b) == nil
	if counted && !r.asker.Misses.Take() {
		return nil, &iam.Error{Kind: iam.Unavailable, Code: "too_many_misses", Detail: "this token asked for too many things that do not exist"}
	}
	began := time.Now()
	left := min(r.store.cfg.Wait-r.waited, r.deadline.Sub(began))
	e, waited, err := r.store.get(ctx, kd, a, b, began.Add(max(0, left)))
	if waited {
		r.waited += time.Since(began)
	}
	if err != nil {
		return nil, err
	}
	if counted && e.doc != nil {
		r.asker.Misses.GiveBack()
	}
	return e, nil
}

// own reports whether a key is the asker's own.
func (r *Reading) own(kd kind, a, b string) bool {
	return a == r.asker.Issuer && (kd == userKind && b == r.asker.Subject || kd == clientKind && b == r.asker.ClientID)
}

// Principal is what Go itself checks of whoever holds a token, whatever the
// policy says.
type Principal struct {
	Known           bool
	ID              string // our id of a user
	Status          string
	TokensNotBefore time.Time
}

// User returns what is known of a subject.
func (r *Reading) User(ctx context.Context, issuer, subject string) (Principal, error) {
	return r.principal(ctx, userKind, issuer, subject)
}

// Client returns what is known of a program.
func (r *Reading) Client(ctx context.Context, issuer, clientID string) (Principal, error) {
	return r.principal(ctx, clientKind, issuer, clientID)
}

func (r *Reading) principal(ctx context.Context, kd kind, issuer, name string) (Principal, error) {
	e, err := r.entry(ctx, kd, issuer, name)
	if err != nil || e == nil || e.doc == nil {
		return Principal{}, err
	}
	return Principal{Known: true, ID: e.doc.id, Status: e.doc.status, TokensNotBefore: e.doc.notBefore}, nil
}
