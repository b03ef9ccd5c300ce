package pdp

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
)

// Bounds of one page of a search. A page that reaches one ends there: it has a position, and the next page goes on.
const (
	maxCandidates  = 1000        // that are read, whether they are evaluated or of another issuer
	maxSearchTime  = time.Second // after which no further one is
	searchPatience = time.Second // how long a search waits for its place
	chunkSize      = 200         // candidates that are read at once
)

// Page is the part of a search that is asked for.
type Page struct {
	Limit int
	After Position
}

// Position is where a page has ended; zero: it is the first.
type Position struct {
	ID     string `json:"i,omitempty"` // of the last candidate
	Issuer string `json:"s,omitempty"` // of the last client
}

// Found is a page of a search.
type Found struct {
	Entities []Entity // subjects or resources
	Actions  []string
	Next     *Position // nil: this is the last page

	Unlisted bool // of a search of resources: the policy lists none of the type
}

// search is a running page.
type search struct {
	*Service
	caller   *Caller
	base     Request
	page     Page
	revision *policy.Revision
	ends     time.Time
	done     int // candidates that were read
	tenant   string
	issuers  map[string]map[string]any // the subject's properties with each issuer
	found    Found
	last     Position
}

// begin waits for a place and prepares a search. The caller must call end, if there is no error.
func (s *Service) begin(ctx context.Context, c *Caller, q Request, page Page) (x *search, end func(), err error) {
	r, err := s.revision()
	if err != nil {
		return nil, nil, err
	}
	// A tenant's clients share a place; one of the platform has its own.
	owner := names{id: c.tenant}
	if c.tenant == "" {
		owner = names{issuer: c.token.Issuer, id: c.token.ClientID}
	}
	if end, err = s.searching.take(ctx, owner); err != nil {
		return nil, nil, err
	}
	q.Shared = Share(q.Subject.Properties, q.Action.Properties, q.Resource.Properties, q.Context)
	x = &search{
		Service: s, caller: c, base: q, page: page, revision: r, ends: s.cfg.Now().Add(maxSearchTime), last: page.After,
		issuers: map[string]map[string]any{},
	}
	return x, end, nil
}

// timeout bounds a page with its last candidate.
func (s *Service) timeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, maxSearchTime+max(time.Second, s.cfg.Deadline))
}

// full reports whether the page ends before the next candidate. Each page reads some, so that the next one is further.
func (x *search) full() bool {
	return x.count() >= x.page.Limit || x.done >= maxCandidates || x.done > 0 && x.cfg.Now().After(x.ends)
}

func (x *search) count() int { return len(x.found.Entities) + len(x.found.Actions) }

// end ends the page before the last candidate.
func (x *search) end() {
	last := x.last
	x.found.Next = &last
}

// allowed evaluates one candidate. user are the facts of one that were read already.
func (x *search) allowed(ctx context.Context, q Request, user *iam.UserFacts) (bool, error) {
	e := evaluation{caller: x.caller, revision: x.revision, deadline: time.Now().Add(x.cfg.Deadline)}
	if user != nil {
		q.Subject.ID = "" // read finds no user by its id
	}
	if err := x.read(ctx, &e, &q); err != nil {
		return false, err
	}
	facts := x.view(x.caller, e.deadline)
	if user != nil {
		e.subject = names{issuer: user.Issuer, id: user.Subject}
		facts.Pin(directory.PrepareUser(*user, x.cfg.Issuers))
		var err error
		if e.input, err = inputOf(&e, &q); err != nil {
			return false, err
		}
	}
	e.question = x.revision.AuthzenQuestion(e.input)
	result, err := x.evaluate(ctx, &e, facts)
	if err != nil {
		return false, err
	}
	if x.cfg.Directory.Validity(&directory.Dependencies{}, x.cfg.Directory.Now()) == directory.Stale {
		return false, errStale
	}
	return result.decision.Allow && !e.issued(result.notBefore), nil
}

// Subjects searches the members, or the clients, of the tenant who may do q.Action to q.Resource; their type is that of
// q.Subject. Each page reads them anew: who joins or leaves meanwhile may be missing, or there.
func (s *Service) Subjects(ctx context.Context, c *Caller, q Request, page Page) (Found, error) {
	q.Subject.ID = ""
	x, end, err := s.begin(ctx, c, q, page)
	if err != nil {
		return Found{}, s.failed(err)
	}
	defer end()
	ctx, cancel := s.timeout(ctx)
	defer cancel()
	probe := evaluation{caller: c, revision: x.revision}
	if err := s.read(ctx, &probe, &q); err != nil {
		return Found{}, s.failed(err)
	}
	x.tenant = probe.tenant
	only := ""
	if _, limited := q.Subject.Properties["issuer"]; limited {
		if only, err = issuerOf(c, "/subject/properties/issuer", q.Subject.Properties); err != nil {
			return Found{}, s.failed(err)
		}
		if !s.cfg.Issuers.Reaches(only, x.tenant) {
			return x.found, nil // each would be denied
		}
	}
	switch q.Subject.Type {
	case TypeUser, TypeIAMUser:
		err = x.users(ctx, only)
	case TypeClient:
		err = x.clients(ctx, only)
	}
	if err != nil {
		return Found{}, s.failed(err)
	}
	return x.found, nil
}

// users evaluates the members of the tenant; only: of an issuer, unless it is "".
func (x *search) users(ctx context.Context, only string) error {
	for {
		part, err := x.cfg.Subjects.UsersIn(ctx, iam.MembersQuery{Tenant: x.tenant, Issuer: only, After: x.last.ID, Limit: chunkSize})
		if err != nil {
			return unavailable(err)
		}
		for i := range part.Users {
			u := &part.Users[i]
			if x.full() {
				x.end()
				return nil
			}
			x.last = Position{ID: u.ID}
			x.done++
			if err := x.user(ctx, u); err != nil {
				return err
			}
		}
		if part.Read < chunkSize {
			return nil
		}
		x.last = Position{ID: part.Last}
		x.done += part.Read - len(part.Users)
		if x.full() {
			x.end()
			return nil
		}
	}
}

// user evaluates one member, as an evaluation of what is found does.
func (x *search) user(ctx context.Context, u *iam.UserFacts) error {
	if !x.cfg.Issuers.Reaches(u.Issuer, x.tenant) {
		return nil // it would be denied
	}
	q, found := x.base, Entity{Type: x.base.Subject.Type, ID: u.ID}
	if found.Type == TypeUser {
		found.ID = u.Subject
		found.Properties = map[string]any{"issuer": u.Issuer}
		q.Subject.Properties = x.withIssuer(u.Issuer)
	} else {
		q.Subject.Properties = x.withIssuer("")
	}
	allow, err := x.allowed(ctx, q, u)
	if allow && err == nil {
		x.found.Entities = append(x.found.Entities, found)
	}
	return err
}

// clients evaluates the clients of the tenant; only: of an issuer, unless it is "".
func (x *search) clients(ctx context.Context, only string) error {
	for {
		list, err := x.cfg.Subjects.ClientsIn(ctx, x.tenant, x.last.ID, x.last.Issuer, chunkSize)
		if err != nil {
			return unavailable(err)
		}
		for _, client := range list {
			if x.full() {
				x.end()
				return nil
			}
			x.last = Position{ID: client.ClientID, Issuer: client.Issuer}
			x.done++
			if only != "" && client.Issuer != only || !x.cfg.Issuers.Reaches(client.Issuer, x.tenant) {
				continue
			}
			q := x.base
			q.Subject.ID = client.ClientID
			q.Subject.Properties = x.withIssuer(client.Issuer)
			allow, err := x.allowed(ctx, q, nil)
			if err != nil {
				return err
			}
			if allow {
				x.found.Entities = append(x.found.Entities, Entity{Type: TypeClient, ID: client.ClientID, Properties: map[string]any{"issuer": client.Issuer}})
			}
		}
		if len(list) < chunkSize {
			return nil
		}
		if x.full() {
			x.end()
			return nil
		}
	}
}

// withIssuer returns the subject's properties with an issuer; "": without one, as our ids have none.
func (x *search) withIssuer(issuer string) map[string]any {
	all := x.issuers[issuer]
	if all != nil {
		return all
	}
	all = maps.Clone(x.base.Subject.Properties)
	if all == nil {
		all = map[string]any{}
	}
	if all["issuer"] = issuer; issuer == "" {
		delete(all, "issuer")
	}
	x.issuers[issuer] = all
	x.base.Shared.add(all)
	return all
}

// Actions searches the actions that q.Subject may do to q.Resource, among those that the policy names.
func (s *Service) Actions(ctx context.Context, c *Caller, q Request, page Page) (Found, error) {
	q.Action = Action{}
	return s.enumerated(ctx, c, q, page, func(x *search, names policy.Candidates) error {
		return x.each(names.Actions, func(name string) (bool, error) {
			q := x.base
			q.Action.Name = name
			allow, err := x.allowed(ctx, q, nil)
			if allow {
				x.found.Actions = append(x.found.Actions, name)
			}
			return allow, err
		})
	})
}

// Resources searches the resources of q.Resource's type that q.Subject may do q.Action to, among those that the policy
// lists: the service knows no others.
func (s *Service) Resources(ctx context.Context, c *Caller, q Request, page Page) (Found, error) {
	q.Resource.ID = ""
	return s.enumerated(ctx, c, q, page, func(x *search, names policy.Candidates) error {
		x.found.Unlisted = len(names.Resources) == 0
		return x.each(names.Resources, func(id string) (bool, error) {
			q := x.base
			q.Resource.ID = id
			allow, err := x.allowed(ctx, q, nil)
			if allow {
				x.found.Entities = append(x.found.Entities, Entity{Type: q.Resource.Type, ID: id})
			}
			return allow, err
		})
	})
}

// enumerated runs a search over what the policy names.
func (s *Service) enumerated(ctx context.Context, c *Caller, q Request, page Page, run func(*search, policy.Candidates) error) (Found, error) {
	x, end, err := s.begin(ctx, c, q, page)
	if err != nil {
		return Found{}, s.failed(err)
	}
	defer end()
	if !x.revision.Enumerates() {
		return Found{}, &iam.Error{Kind: iam.NotFound, Code: "authzen_not_in_policy", Detail: "the active policy has no rule " + policy.AuthzenCandidates}
	}
	ctx, cancel := s.timeout(ctx)
	defer cancel()
	e := evaluation{caller: c, revision: x.revision, deadline: time.Now().Add(s.cfg.Deadline)}
	if err := s.read(ctx, &e, &q); err != nil {
		return Found{}, s.failed(err)
	}
	names, err := s.cfg.Engine.Enumerate(ctx, e.input, policy.Basis{Revision: x.revision, Facts: s.view(c, e.deadline), Deadline: e.deadline})
	if err == nil {
		err = run(x, names)
	}
	if err != nil {
		return Found{}, s.failed(err)
	}
	return x.found, nil
}

// each evaluates the sorted candidates after the page's position.
func (x *search) each(sorted []string, allowed func(string) (bool, error)) error {
	from, _ := slices.BinarySearchFunc(sorted, x.page.After.ID, func(name, after string) int {
		if strings.Compare(name, after) <= 0 && after != "" {
			return -1
		}
		return 1
	})
	for _, name := range sorted[from:] {
		if x.full() {
			x.end()
			return nil
		}
		x.last = Position{ID: name}
		x.done++
		if _, err := allowed(name); err != nil {
			return err
		}
	}
	return nil
}
