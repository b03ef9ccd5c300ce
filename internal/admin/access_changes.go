package admin

import (
	"context"
	"slices"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// AccessPeriod is the time between two moments.
type AccessPeriod struct{ From, To time.Time }

// AccessChange is what a user, a client or a mapping gained and lost in a tenant between two moments, and the entries of the audit that did it.
type AccessChange struct {
	Tenant          string
	Kind            string // as of an Access
	User            string
	Issuer, Subject string
	ClientID        string
	Mapping         iam.Mapping
	Gained, Lost    Names
	Entries         []iam.AuditEntry // in their order, without before and after; maxCauses at most
	ByTime          bool             // a membership or a role of it started or ended by itself
}

// Names are roles and permissions, sorted.
type Names struct{ Roles, Permissions []string }

func (n Names) empty() bool { return len(n.Roles)+len(n.Permissions) == 0 }

// maxCauses limits the entries that are named for one change.
const maxCauses = 50

// AccessChanges is one page of a list of changes.
type AccessChanges struct {
	Items []AccessChange
	Next  AccessCursor
	More  bool // there may be a next page; a page can have fewer items than were asked for
}

// difference compares one tenant at two moments.
type difference struct {
	w        *Work
	tenant   string
	period   AccessPeriod
	from, to *accessFacts
	same     bool             // roles and status: only members that changed themselves can differ
	exists   bool             // today
	platform bool             // the caller reads the whole platform
	shared   []iam.AuditEntry // about roles and the tenant
}

// checkPeriod fills in the end of a period, which is now where none is given, and rejects one that the audit does not tell everything of.
func (w *Work) checkPeriod(ctx context.Context, p AccessPeriod) (AccessPeriod, error) {
	var err error
	if p.To.IsZero() {
		if p.To, err = w.tx.Began(ctx); err != nil {
			return p, err
		}
	}
	if !p.From.Before(p.To) {
		return p, iam.InvalidFields([]iam.FieldError{{Pointer: "from", Detail: "must be earlier than to"}})
	}
	if err = w.checkMoment(ctx, "from", p.From); err == nil {
		err = w.checkMoment(ctx, "to", p.To)
	}
	return p, err
}

// difference reads the facts of a tenant at both moments. A tenant that did not exist at one of them had no facts then.
func (w *Work) difference(ctx context.Context, tenant string, p AccessPeriod) (*difference, error) {
	d := &difference{w: w, tenant: tenant, period: p}
	var err error
	if d.platform, err = w.Anywhere(ctx); err != nil {
		return nil, err
	}
	found := 0
	for _, side := range []struct {
		into **accessFacts
		at   time.Time
	}{{&d.from, p.From}, {&d.to, p.To}} {
		*side.into, err = w.factsAt(ctx, tenant, side.at)
		switch {
		case iam.KindOf(err) == iam.NotFound:
			*side.into = nothingAt(tenant, side.at)
		case err != nil:
			return nil, err
		default:
			found++
		}
	}
	if found == 0 {
		return nil, errNotFound
	}
	if _, err := w.Tenant(ctx, tenant); err == nil {
		d.exists = true
	} else if iam.KindOf(err) != iam.NotFound {
		return nil, err
	}
	d.same = d.from.tenant.Status == d.to.tenant.Status && slices.EqualFunc(d.from.roles, d.to.roles, func(a, b iam.Role) bool {
		return a.Tenant == b.Tenant && a.Name == b.Name && sameJSON(auditOfRole(a), auditOfRole(b))
	})
	if d.same {
		return d, nil
	}
	for _, about := range []struct{ chain, kind string }{{tenant, iam.KindTenant}, {tenant, iam.KindRole}, {"", iam.KindRole}} {
		entries, err := w.tx.Entries(ctx, postgres.EntryFilter{Chain: about.chain, Kind: about.kind, From: p.From, To: p.To, Limit: 10_000})
		if err != nil {
			return nil, err
		}
		d.shared = append(d.shared, d.named(entries)...)
	}
	return d, nil
}

// ActorPlatform is the kind of an actor whom only those see who read the whole platform.
const ActorPlatform = "platform"

// named removes from entries of the platform who made them and where they are, for a caller who does not read the platform's audit.
func (d *difference) named(entries []iam.AuditEntry) []iam.AuditEntry {
	for i := range entries {
		if e := &entries[i]; e.Chain == "" && !d.platform {
			e.Seq, e.ActorKind, e.Actor, e.Via = 0, ActorPlatform, "", ""
		}
	}
	return entries
}

// nothingAt are the facts of a tenant that did not exist.
func nothingAt(tenant string, at time.Time) *accessFacts {
	return &accessFacts{
		tenant: iam.Tenant{ID: tenant, Status: "deleted"}, graph: iam.NewGraph(nil), asOf: at,
		holders:  func(context.Context, []string) ([]postgres.Holder, error) { return nil, nil },
		clients:  func(context.Context, postgres.Identity, int) ([]iam.Client, error) { return nil, nil },
		mappings: func(context.Context) ([]iam.Mapping, error) { return nil, nil },
	}
}

// AccessChanges lists who gained or lost what in a tenant: users by id, then clients, then mappings.
func (w *Work) AccessChanges(ctx context.Context, tenant string, p AccessPeriod, after AccessCursor, limit int) (AccessChanges, error) {
	p, err := w.checkPeriod(ctx, p)
	if err != nil {
		return AccessChanges{}, err
	}
	d, err := w.difference(ctx, tenant, p)
	if err != nil {
		return AccessChanges{}, err
	}
	return d.page(ctx, after, limit)
}

// EachAccessChange calls each with every item of the list of AccessChanges.
func (w *Work) EachAccessChange(ctx context.Context, tenant string, p AccessPeriod, each func(AccessChange) error) error {
	p, err := w.checkPeriod(ctx, p)
	if err != nil {
		return err
	}
	d, err := w.difference(ctx, tenant, p)
	if err != nil {
		return err
	}
	for after := (AccessCursor{}); ; {
		page, err := d.page(ctx, after, exportPage)
		if err != nil {
			return err
		}
		for _, c := range page.Items {
			if err := each(c); err != nil {
				return err
			}
		}
		if !page.More {
			return nil
		}
		after = page.Next
	}
}

// UserAccessChanges lists what a user gained and lost in each tenant, by tenant.
func (w *Work) UserAccessChanges(ctx context.Context, user string, p AccessPeriod) ([]AccessChange, error) {
	p, err := w.checkPeriod(ctx, p)
	if err != nil {
		return nil, err
	}
	tenants, err := w.tenantsOf(ctx, user, p.From)
	if err != nil {
		return nil, err
	}
	var list []AccessChange
	for _, tenant := range tenants {
		d, err := w.difference(ctx, tenant, p)
		if iam.KindOf(err) == iam.NotFound {
			continue // at both moments
		}
		if err != nil {
			return nil, err
		}
		changes, err := d.of(ctx, []string{user})
		if err != nil {
			return nil, err
		}
		list = append(list, changes...)
	}
	return list, nil
}

func (d *difference) page(ctx context.Context, after AccessCursor, limit int) (AccessChanges, error) {
	var page AccessChanges
	if after.Kind == "" || after.Kind == AccessUser {
		full, err := d.users(ctx, after.Name, limit, &page)
		if err != nil || full {
			return page, err
		}
		after = AccessCursor{}
	}
	others, err := d.others(ctx)
	if err != nil {
		return page, err
	}
	for _, c := range others {
		at := AccessCursor{Kind: c.Kind, Issuer: c.Issuer, Name: c.ClientID + c.Mapping.Claim, Value: c.Mapping.Value}
		if after.Kind != "" && slices.Compare([]string{at.Kind, at.Issuer, at.Name, at.Value}, []string{after.Kind, after.Issuer, after.Name, after.Value}) <= 0 {
			continue
		}
		if len(page.Items) == limit {
			page.More = true
			if page.Next.Kind == "" {
				page.Next = AccessCursor{Kind: AccessClient} // before all clients
			}
			break
		}
		page.Items, page.Next = append(page.Items, c), at
	}
	return page, nil
}

// held are the names of what a membership grants.
func (f *accessFacts) held(h postgres.Holder) Names {
	if len(f.why(h)) > 0 {
		return Names{}
	}
	reached := f.graph.Reach(h.RolesAt(f.asOf), h.EndOf)
	return Names{sortedKeys(reached.Roles), sortedKeys(reached.Permissions)}
}

// of compares what some users hold, by id.
func (d *difference) of(ctx context.Context, users []string) ([]AccessChange, error) {
	before, err := d.from.holders(ctx, users)
	if err != nil {
		return nil, err
	}
	after, err := d.to.holders(ctx, users)
	if err != nil {
		return nil, err
	}
	type sides struct{ before, after *postgres.Holder }
	byUser := map[string]*sides{}
	for _, user := range users {
		byUser[user] = &sides{}
	}
	for i := range before {
		byUser[before[i].User].before = &before[i]
	}
	for i := range after {
		byUser[after[i].User].after = &after[i]
	}
	var changes []AccessChange
	for _, user := range users {
		c := AccessChange{Tenant: d.tenant, Kind: AccessUser, User: user}
		var had, has Names
		if h := byUser[user].before; h != nil {
			c.Issuer, c.Subject, had = h.Issuer, h.Subject, d.from.held(*h)
			c.ByTime = d.within(h.NextChange(d.period.From))
		}
		if h := byUser[user].after; h != nil {
			c.Issuer, c.Subject, has = h.Issuer, h.Subject, d.to.held(*h)
			c.ByTime = c.ByTime || d.within(h.NextChange(d.period.From))
		}
		if c.compare(had, has) {
			changes = append(changes, c)
		}
	}
	return changes, d.explain(ctx, changes)
}

func (d *difference) within(at time.Time) bool { return !at.IsZero() && !at.After(d.period.To) }

// compare sets what was gained and lost, and reports whether anything was.
func (c *AccessChange) compare(had, has Names) bool {
	c.Gained = Names{notIn(has.Roles, had.Roles), notIn(has.Permissions, had.Permissions)}
	c.Lost = Names{notIn(had.Roles, has.Roles), notIn(had.Permissions, has.Permissions)}
	return !c.Gained.empty() || !c.Lost.empty()
}

// notIn returns the elements of a sorted list that are not in another sorted one; never nil.
func notIn(list, other []string) []string {
	rest := []string{}
	for _, x := range list {
		if _, found := slices.BinarySearch(other, x); !found {
			rest = append(rest, x)
		}
	}
	return rest
}

// explain adds the entries of the audit that are about each user, the membership, and the roles and the tenant that differ.
func (d *difference) explain(ctx context.Context, changes []AccessChange) error {
	if len(changes) == 0 {
		return nil
	}
	index := map[string]int{}
	users := make([]string, len(changes))
	for i, c := range changes {
		users[i], index[c.User] = c.User, i
	}
	for _, about := range []struct {
		chain, kind string
		status      bool
	}{
		{chain: d.tenant, kind: iam.KindMember},
		// Who created a person, or changed a name, is of no concern to another tenant, and explains no access.
		{chain: "", kind: iam.KindUser, status: !d.platform},
	} {
		entries, err := d.w.tx.Entries(ctx, postgres.EntryFilter{
			Chain: about.chain, Kind: about.kind, Objects: users, From: d.period.From, To: d.period.To, Limit: maxCauses, Status: about.status,
		})
		if err != nil {
			return err
		}
		for _, e := range d.named(entries) {
			c := &changes[index[e.Object]]
			c.Entries = append(c.Entries, e)
		}
	}
	for i := range changes {
		d.explainShared(&changes[i])
	}
	return nil
}

// explainShared adds the entries about the tenant and about roles that a change names.
func (d *difference) explainShared(c *AccessChange) {
	for _, e := range d.shared {
		named := slices.Contains(c.Gained.Roles, e.Object) || slices.Contains(c.Lost.Roles, e.Object)
		if e.Kind == iam.KindTenant || named || d.redefined(e.Object, *c) {
			c.Entries = append(c.Entries, e)
		}
	}
	slices.SortStableFunc(c.Entries, func(a, b iam.AuditEntry) int { return a.At.Compare(b.At) })
	c.Entries = c.Entries[:min(len(c.Entries), maxCauses)]
}

// redefined reports whether a role grants, at one of the moments, something that a change names and did not at the other.
func (d *difference) redefined(role string, c AccessChange) bool {
	before, after := d.from.graph.Reach([]string{role}, never), d.to.graph.Reach([]string{role}, never)
	for _, side := range []struct {
		names   Names
		in, out iam.Reached
	}{{c.Gained, after, before}, {c.Lost, before, after}} {
		for _, p := range side.names.Permissions {
			if len(side.in.Permissions[p]) > 0 && len(side.out.Permissions[p]) == 0 {
				return true
			}
		}
		for _, r := range side.names.Roles {
			if len(side.in.Roles[r]) > 0 && len(side.out.Roles[r]) == 0 {
				return true
			}
		}
	}
	return false
}

// others are the clients, then the mappings, whose access differs.
func (d *difference) others(ctx context.Context) ([]AccessChange, error) {
	changes := map[string]*AccessChange{}
	had, has := map[string]Names{}, map[string]Names{}
	for _, side := range []struct {
		f    *accessFacts
		into map[string]Names
	}{{d.from, had}, {d.to, has}} {
		open := side.f.tenant.Status == iam.TenantActive
		for after := (postgres.Identity{}); ; {
			list, err := side.f.clients(ctx, after, exportPage)
			if err != nil {
				return nil, err
			}
			for _, c := range list {
				after = postgres.Identity{Issuer: c.Issuer, Name: c.ClientID}
				key := "c" + c.Issuer + "\x00" + c.ClientID
				changes[key] = &AccessChange{Tenant: d.tenant, Kind: AccessClient, Issuer: c.Issuer, ClientID: c.ClientID}
				if open && side.f.acts(c) {
					reached := side.f.graph.Reach(c.Roles, never)
					for _, s := range c.Scopes {
						reached.Permissions[s] = nil
					}
					side.into[key] = Names{sortedKeys(reached.Roles), sortedKeys(reached.Permissions)}
				}
			}
			if len(list) < exportPage {
				break
			}
		}
		mappings, err := side.f.mappings(ctx)
		if err != nil {
			return nil, err
		}
		for _, m := range mappings {
			key := "m" + m.Issuer + "\x00" + m.Claim + "\x00" + m.Value
			changes[key] = &AccessChange{Tenant: d.tenant, Kind: AccessMapping, Issuer: m.Issuer, Mapping: m}
			if open && side.f.issuers.Reaches(m.Issuer, d.tenant) {
				reached := side.f.graph.Reach(m.Roles, never)
				side.into[key] = Names{sortedKeys(reached.Roles), sortedKeys(reached.Permissions)}
			}
		}
	}
	var list []AccessChange
	for _, key := range sortedKeys(changes) {
		c := changes[key]
		if !c.compare(had[key], has[key]) {
			continue
		}
		kind, object := iam.KindClient, c.ClientID
		if c.Kind == AccessMapping {
			kind, object = iam.KindMapping, c.Mapping.ID()
		}
		var err error
		if c.Entries, err = d.w.tx.Entries(ctx, postgres.EntryFilter{
			Chain: d.tenant, Kind: kind, Objects: []string{object}, From: d.period.From, To: d.period.To, Limit: maxCauses,
		}); err != nil {
			return nil, err
		}
		d.explainShared(c)
		list = append(list, *c)
	}
	return list, nil
}
