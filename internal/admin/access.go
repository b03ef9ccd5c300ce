package admin

import (
	"context"
	"slices"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Kinds of who holds something in a tenant.
const (
	AccessUser    = "user"
	AccessClient  = "client"
	AccessMapping = "mapping" // every user whose token has a claim: no person can be named
)

// AccessQuestion asks who holds a role or a permission in a tenant, or what one of its clients holds.
type AccessQuestion struct {
	iam.Goal
	Client string    // a client_id, in place of a goal
	At     time.Time // as it was then, from the audit; zero: now
}

// Access is that a user, a client or a mapping holds a role or a permission in a tenant, and by which paths. It is in force.
type Access struct {
	Kind            string
	User            string // of a user; issuer and subject are empty for one that was erased
	Issuer, Subject string
	ClientID        string
	Mapping         iam.Mapping
	Held            iam.Goal
	Paths           []iam.Path
}

// AccessCursor is the place of an item in the list: users by id, then clients by issuer and client_id, then mappings
// by issuer, claim and value. Of one client it is Kind and Name: roles, then permissions.
type AccessCursor struct{ Kind, Issuer, Name, Value string }

// AccessPage is one page of a list of access.
type AccessPage struct {
	Items        []Access
	Next         AccessCursor // where the next page begins
	More         bool         // there may be a next page; a page can have fewer items than were asked for
	AsOf         time.Time
	TenantStatus string // nothing is held in a tenant that is not active
}

// maxExamined is how many members one page looks at: a page of a list in which few of many are in force is short
// rather than slow.
const maxExamined = 2000

// holdersRead is the smallest number of members that are read at once.
const holdersRead = 50

// Access lists who holds a role or a permission in a tenant, or what a client holds there: what is in force, at the
// question's moment. It equals Effective of each member.
func (w *Work) Access(ctx context.Context, tenant string, q AccessQuestion, after AccessCursor, limit int) (AccessPage, error) {
	f, err := w.accessFacts(ctx, tenant, q.At)
	if err != nil {
		return AccessPage{}, err
	}
	return f.page(ctx, q, f.graph.Ways(q.Goal), after, limit)
}

func (f *accessFacts) page(ctx context.Context, q AccessQuestion, ways iam.Ways, after AccessCursor, limit int) (AccessPage, error) {
	page := AccessPage{AsOf: f.asOf, TenantStatus: f.tenant.Status}
	if q.Client != "" {
		err := f.clientPage(ctx, q.Client, after, limit, &page)
		return page, err
	}
	if f.tenant.Status != iam.TenantActive {
		return page, nil
	}
	switch after.Kind {
	case "", AccessUser:
		if full, err := f.users(ctx, q.Goal, ways, after.Name, limit, &page); err != nil || full {
			return page, err
		}
		after = AccessCursor{}
		fallthrough
	case AccessClient:
		if full, err := f.clientsWith(ctx, q.Goal, ways, after, limit, &page); err != nil || full {
			return page, err
		}
		after = AccessCursor{}
		fallthrough
	default:
		return page, f.mappingsWith(ctx, q.Goal, ways, after, limit, &page)
	}
}

// EachAccess calls each with every item of the list of Access, in its order, and with the moment that it belongs to. It
// reads pages in the transaction, so all of them are of one snapshot, and memory does not grow with the list.
func (w *Work) EachAccess(ctx context.Context, tenant string, q AccessQuestion, each func(Access, time.Time) error) error {
	f, err := w.accessFacts(ctx, tenant, q.At)
	if err != nil {
		return err
	}
	ways := f.graph.Ways(q.Goal)
	for after := (AccessCursor{}); ; {
		page, err := f.page(ctx, q, ways, after, exportPage)
		if err != nil {
			return err
		}
		for _, a := range page.Items {
			if err := each(a, page.AsOf); err != nil {
				return err
			}
		}
		if !page.More {
			return nil
		}
		after = page.Next
	}
}

const exportPage = 1000

// accessFacts are the facts of one tenant at one moment, and how its members and clients of that moment are read.
type accessFacts struct {
	tenant  iam.Tenant
	roles   []iam.Role
	graph   iam.Graph
	asOf    time.Time
	issuers iam.Issuers

	// candidates lists by id users who may hold one of some roles (nil: any), after an id; fewer than limit: no more.
	candidates func(ctx context.Context, roles []string, after string, limit int) ([]string, error)
	holders    func(ctx context.Context, users []string) ([]postgres.Holder, error)
	clients    func(ctx context.Context, after postgres.Identity, limit int) ([]iam.Client, error)
	mappings   func(ctx context.Context) ([]iam.Mapping, error)
}

// accessFacts reads the facts of a tenant at a moment; zero: now.
func (w *Work) accessFacts(ctx context.Context, tenant string, at time.Time) (*accessFacts, error) {
	if !at.IsZero() {
		return w.factsAt(ctx, tenant, at)
	}
	t, err := w.Tenant(ctx, tenant)
	if err != nil {
		return nil, err
	}
	f := &accessFacts{tenant: t, issuers: w.s.cfg.Issuers}
	if f.asOf, err = w.tx.Began(ctx); err != nil {
		return nil, err
	}
	if f.roles, err = w.tx.Roles(ctx, tenant); err != nil {
		return nil, err
	}
	f.graph = iam.NewGraph(f.roles)
	f.candidates = func(ctx context.Context, roles []string, after string, limit int) ([]string, error) {
		if roles == nil {
			return w.tx.MemberIDs(ctx, tenant, after, limit)
		}
		return w.tx.RoleHolders(ctx, tenant, roles, after, limit)
	}
	f.holders = func(ctx context.Context, users []string) ([]postgres.Holder, error) {
		return w.tx.Holders(ctx, tenant, users)
	}
	f.clients = func(ctx context.Context, after postgres.Identity, limit int) ([]iam.Client, error) {
		return w.tx.TenantClients(ctx, tenant, after, limit)
	}
	f.mappings = func(ctx context.Context) ([]iam.Mapping, error) { return w.tx.Mappings(ctx, tenant) }
	return f, nil
}

// why says why a membership is not in force; nothing where it is.
func (f *accessFacts) why(h postgres.Holder) []string {
	why := []string{}
	for code, is := range map[string]bool{
		"user_blocked": h.UserStatus != iam.UserActive, "tenant_" + f.tenant.Status: f.tenant.Status != iam.TenantActive,
		"membership_suspended": h.Status == iam.MembershipSuspended, "membership_expired": !h.ExpiresAt.IsZero() && !h.ExpiresAt.After(f.asOf),
		// An erased user's issuer is not known any more.
		"issuer_does_not_reach_tenant": h.Issuer != "" && !f.issuers.Reaches(h.Issuer, f.tenant.ID),
	} {
		if is {
			why = append(why, code)
		}
	}
	slices.Sort(why)
	return why
}

// users adds the users who hold a goal; full: the page ends there.
func (f *accessFacts) users(ctx context.Context, goal iam.Goal, ways iam.Ways, after string, limit int, page *AccessPage) (full bool, err error) {
	roles := ways.Roles()
	if len(roles) == 0 {
		return false, nil
	}
	for examined := 0; ; {
		n := max(limit-len(page.Items), holdersRead)
		ids, err := f.candidates(ctx, roles, after, n)
		if err != nil {
			return false, err
		}
		holders, err := f.holders(ctx, ids)
		if err != nil {
			return false, err
		}
		for _, h := range holders {
			if len(page.Items) == limit {
				break
			}
			after = h.User
			if len(f.why(h)) > 0 {
				continue
			}
			if paths := ways.Paths(h.RolesAt(f.asOf), h.EndOf); len(paths) > 0 {
				page.Items = append(page.Items, Access{Kind: AccessUser, User: h.User, Issuer: h.Issuer, Subject: h.Subject, Held: goal, Paths: paths})
			}
		}
		if len(page.Items) < limit {
			if len(ids) < n {
				return false, nil
			}
			after = ids[len(ids)-1]
		}
		if examined += len(ids); len(page.Items) == limit || examined >= maxExamined {
			page.Next, page.More = AccessCursor{Kind: AccessUser, Name: after}, true
			return true, nil
		}
	}
}

// clientsWith adds the clients of the tenant that hold a goal, by a role or a scope: a scope means the permission of its name.
func (f *accessFacts) clientsWith(ctx context.Context, goal iam.Goal, ways iam.Ways, after AccessCursor, limit int, page *AccessPage) (full bool, err error) {
	last := postgres.Identity{Issuer: after.Issuer, Name: after.Name}
	for {
		if len(page.Items) == limit {
			page.Next, page.More = AccessCursor{Kind: AccessClient, Issuer: last.Issuer, Name: last.Name}, true
			return true, nil
		}
		list, err := f.clients(ctx, last, exportPage)
		if err != nil {
			return false, err
		}
		for _, c := range list {
			if len(page.Items) == limit {
				break
			}
			last = postgres.Identity{Issuer: c.Issuer, Name: c.ClientID}
			if !f.acts(c) {
				continue
			}
			paths := ways.Paths(c.Roles, never)
			if goal.Permission != "" && slices.Contains(c.Scopes, goal.Permission) {
				paths = append(paths, iam.Path{Kind: iam.PathScope, Scope: goal.Permission})
			}
			if len(paths) > 0 {
				page.Items = append(page.Items, Access{Kind: AccessClient, Issuer: c.Issuer, ClientID: c.ClientID, Held: goal, Paths: paths})
			}
		}
		if len(list) < exportPage && (len(list) == 0 || last == postgres.Identity{Issuer: list[len(list)-1].Issuer, Name: list[len(list)-1].ClientID}) {
			return false, nil
		}
	}
}

func never(string) time.Time { return time.Time{} }

// acts reports whether a client of the tenant is allowed to act there.
func (f *accessFacts) acts(c iam.Client) bool {
	return c.Status == iam.ClientActive && f.issuers.Reaches(c.Issuer, f.tenant.ID)
}

// mappingsWith adds the mappings that grant a goal.
func (f *accessFacts) mappingsWith(ctx context.Context, goal iam.Goal, ways iam.Ways, after AccessCursor, limit int, page *AccessPage) error {
	list, err := f.mappings(ctx)
	if err != nil {
		return err
	}
	for _, m := range list {
		at := AccessCursor{Kind: AccessMapping, Issuer: m.Issuer, Name: m.Claim, Value: m.Value}
		if after.Kind == AccessMapping && compareCursors(at, after) <= 0 || !f.issuers.Reaches(m.Issuer, f.tenant.ID) {
			continue
		}
		paths := ways.Paths(m.Roles, never)
		if len(paths) == 0 {
			continue
		}
		if len(page.Items) == limit {
			page.More = true
			break
		}
		page.Items = append(page.Items, Access{Kind: AccessMapping, Issuer: m.Issuer, Mapping: m, Held: goal, Paths: paths})
		page.Next = at
	}
	if page.More && page.Next.Kind != AccessMapping { // the page was full before the first mapping
		page.Next = AccessCursor{Kind: AccessMapping}
	}
	return nil
}

func compareCursors(a, b AccessCursor) int {
	return slices.Compare([]string{a.Issuer, a.Name, a.Value}, []string{b.Issuer, b.Name, b.Value})
}

// clientPage adds what one client holds: its roles, then its permissions, by name.
func (f *accessFacts) clientPage(ctx context.Context, id string, after AccessCursor, limit int, page *AccessPage) error {
	c, err := f.client(ctx, id)
	if err != nil {
		return err
	}
	if f.tenant.Status != iam.TenantActive || !f.acts(c) {
		return nil
	}
	reached := f.graph.Reach(c.Roles, never)
	for _, s := range c.Scopes {
		reached.Permissions[s] = append(reached.Permissions[s], iam.Path{Kind: iam.PathScope, Scope: s})
	}
	for _, part := range []struct {
		kind  string
		paths map[string][]iam.Path
		goal  func(string) iam.Goal
	}{
		{"role", reached.Roles, func(n string) iam.Goal { return iam.Goal{Role: n} }},
		{"permission", reached.Permissions, func(n string) iam.Goal { return iam.Goal{Permission: n} }},
	} {
		if after.Kind == "permission" && part.kind == "role" {
			continue
		}
		for _, name := range sortedKeys(part.paths) {
			if after.Kind == part.kind && name <= after.Name {
				continue
			}
			if len(page.Items) == limit {
				page.More = true
				return nil
			}
			page.Items = append(page.Items, Access{Kind: AccessClient, Issuer: c.Issuer, ClientID: c.ClientID, Held: part.goal(name), Paths: part.paths[name]})
			page.Next = AccessCursor{Kind: part.kind, Name: name}
		}
	}
	return nil
}

// client finds a client of the tenant by its client_id. A client of another tenant is not found.
func (f *accessFacts) client(ctx context.Context, id string) (iam.Client, error) {
	for after := (postgres.Identity{}); ; {
		list, err := f.clients(ctx, after, exportPage)
		if err != nil {
			return iam.Client{}, err
		}
		for _, c := range list {
			if c.ClientID == id {
				return c, nil
			}
			after = postgres.Identity{Issuer: c.Issuer, Name: c.ClientID}
		}
		if len(list) < exportPage {
			return iam.Client{}, errNotFound
		}
	}
}
