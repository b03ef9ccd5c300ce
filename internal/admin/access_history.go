package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// A question about an earlier moment is answered from the audit: from the chain of the tenant and that of the platform.
// Where the audit has no entry of an object, as far as it reaches, the object has not changed and is as it is today.
// Which tenants an issuer reaches is configuration, of which nothing is recorded: that of today counts.

// checkMoment rejects a moment that the audit does not tell everything of, and one that has not come yet.
func (w *Work) checkMoment(ctx context.Context, name string, at time.Time) error {
	now, err := w.tx.Began(ctx)
	if err != nil {
		return err
	}
	if at.After(now) {
		return iam.InvalidFields([]iam.FieldError{{Pointer: name, Detail: "must not be in the future: it is " + timestamp(now)}})
	}
	earliest, err := w.tx.EarliestMoment(ctx)
	if err == nil && at.Before(earliest) {
		err = &iam.Error{
			Kind: iam.Invalid, Code: "before_retention", Detail: "the audit does not reach back that far: what was removed from it is unknown",
			Fields: []iam.FieldError{{Pointer: name, Detail: "must not be earlier than " + timestamp(earliest) + ", the earliest moment that the audit tells everything of"}},
		}
	}
	return err
}

// factsAt are the facts of a tenant at an earlier moment.
func (w *Work) factsAt(ctx context.Context, tenant string, at time.Time) (*accessFacts, error) {
	if !iam.ValidTenantID(tenant) {
		return nil, errNotFound
	}
	if err := w.checkMoment(ctx, "at", at); err != nil {
		return nil, err
	}
	f := &accessFacts{asOf: at, issuers: w.s.cfg.Issuers}
	h := &history{w: w, tenant: tenant, at: at}
	var err error
	if f.tenant, err = h.tenantThen(ctx); err != nil {
		return nil, err
	}
	if f.roles, err = h.roles(ctx); err != nil {
		return nil, err
	}
	f.graph = iam.NewGraph(f.roles)
	f.candidates, f.holders = h.candidates, h.holders
	f.mappings = h.mappings
	f.clients = h.clients
	return f, nil
}

// history reads one tenant as it was at a moment.
type history struct {
	w      *Work
	tenant string
	at     time.Time
	exists bool // today

	list []iam.Client // nil until they are read
}

// read decodes the document of a state; false: the object did not exist.
func read[T any](s postgres.State, into *T) (bool, error) {
	if len(s.Doc) == 0 {
		return false, nil
	}
	if err := json.Unmarshal(s.Doc, into); err != nil {
		return false, fmt.Errorf("an audit entry of %q: %w", s.Object, err)
	}
	return true, nil
}

func (h *history) tenantThen(ctx context.Context) (iam.Tenant, error) {
	today, err := h.w.Tenant(ctx, h.tenant)
	if err != nil && iam.KindOf(err) != iam.NotFound {
		return today, err
	}
	h.exists = err == nil
	states, err := h.w.tx.StatesOfAt(ctx, h.tenant, iam.KindTenant, []string{h.tenant}, h.at)
	if err != nil {
		return today, err
	}
	if !states[0].Audited {
		if !h.exists {
			return today, errNotFound
		}
		return today, nil
	}
	var doc tenantDoc
	there, err := read(states[0], &doc)
	if err == nil && !there {
		err = errNotFound
	}
	if err == nil && !h.exists {
		err = h.checkWhole(ctx)
	}
	return iam.Tenant{ID: h.tenant, Slug: doc.Slug, Name: doc.Name, Status: doc.Status, Attributes: doc.Attributes}, err
}

// checkWhole rejects a tenant that was deleted, and of which entries were removed: the deletion records the tenant alone, so a role
// or a membership whose last entry is gone cannot be known any more.
func (h *history) checkWhole(ctx context.Context) error {
	cut, err := h.w.tx.Cut(ctx, h.tenant)
	if err == nil && cut {
		err = &iam.Error{
			Kind: iam.Invalid, Code: "before_retention",
			Detail: "the tenant was deleted, and the audit does not tell everything of it: entries of it were removed by audit prune. " +
				"No moment of it can be asked about, but for what is left in GET /v1/audit",
		}
	}
	return err
}

// roles are those that the tenant saw, by name.
func (h *history) roles(ctx context.Context) ([]iam.Role, error) {
	byName := map[string]iam.Role{}
	today, err := h.w.tx.Roles(ctx, h.tenant)
	if err != nil {
		return nil, err
	}
	for _, r := range today {
		byName[r.Name] = r
	}
	for _, chain := range []string{"", h.tenant} {
		states, err := h.w.tx.StatesAt(ctx, chain, iam.KindRole, h.at)
		if err != nil {
			return nil, err
		}
		for _, s := range states {
			var doc roleDoc
			there, err := read(s, &doc)
			switch {
			case err != nil:
				return nil, err
			case there:
				byName[s.Object] = iam.Role{Tenant: chain, Name: s.Object, Permissions: doc.Permissions, Inherits: doc.Inherits, Service: doc.Service}
			case byName[s.Object].Tenant == chain: // a name can have gone from a tenant to the platform, or back
				delete(byName, s.Object)
			}
		}
	}
	roles := make([]iam.Role, 0, len(byName))
	for _, name := range sortedKeys(byName) {
		roles = append(roles, byName[name])
	}
	return roles, nil
}

func (h *history) mappings(ctx context.Context) ([]iam.Mapping, error) {
	today, err := h.w.tx.Mappings(ctx, h.tenant)
	if err != nil {
		return nil, err
	}
	byID := map[string]iam.Mapping{}
	for _, m := range today {
		byID[m.ID()] = m
	}
	states, err := h.w.tx.StatesAt(ctx, h.tenant, iam.KindMapping, h.at)
	if err != nil {
		return nil, err
	}
	for _, s := range states {
		var doc mappingDoc
		there, err := read(s, &doc)
		if err != nil {
			return nil, err
		}
		delete(byID, s.Object)
		if there {
			byID[s.Object] = iam.Mapping{Tenant: h.tenant, Issuer: doc.Issuer, Claim: doc.Claim, Value: doc.Value, Roles: doc.Roles}
		}
	}
	list := make([]iam.Mapping, 0, len(byID))
	for _, m := range byID {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b iam.Mapping) int {
		return slices.Compare([]string{a.Issuer, a.Claim, a.Value}, []string{b.Issuer, b.Claim, b.Value})
	})
	return list, nil
}

// clients lists the clients of the tenant as they were. Their number is small, next to that of members.
func (h *history) clients(ctx context.Context, after postgres.Identity, limit int) ([]iam.Client, error) {
	if h.list == nil {
		if err := h.readClients(ctx); err != nil {
			return nil, err
		}
	}
	from, _ := slices.BinarySearchFunc(h.list, after, func(c iam.Client, a postgres.Identity) int {
		if slices.Compare([]string{c.Issuer, c.ClientID}, []string{a.Issuer, a.Name}) <= 0 {
			return -1
		}
		return 1
	})
	return h.list[from:min(len(h.list), from+limit)], nil
}

func (h *history) readClients(ctx context.Context) error {
	byID := map[string]iam.Client{}
	for after := (postgres.Identity{}); ; {
		today, err := h.w.tx.TenantClients(ctx, h.tenant, after, exportPage)
		if err != nil {
			return err
		}
		for _, c := range today {
			byID[c.ClientID], after = c, postgres.Identity{Issuer: c.Issuer, Name: c.ClientID}
		}
		if len(today) < exportPage {
			break
		}
	}
	states, err := h.w.tx.StatesAt(ctx, h.tenant, iam.KindClient, h.at)
	if err != nil {
		return err
	}
	for _, s := range states {
		issuer := h.w.s.cfg.Issuer // of all clients that are managed here
		if c, known := byID[s.Object]; known {
			issuer = c.Issuer
		}
		delete(byID, s.Object)
		var doc clientDoc
		there, err := read(s, &doc)
		if err != nil {
			return err
		}
		if there {
			byID[s.Object] = iam.Client{Issuer: issuer, ClientID: s.Object, Tenant: h.tenant, Status: doc.Status, Roles: doc.Roles, Scopes: doc.Scopes}
		}
	}
	h.list = make([]iam.Client, 0, len(byID))
	for _, c := range byID {
		h.list = append(h.list, c)
	}
	slices.SortFunc(h.list, func(a, b iam.Client) int {
		return slices.Compare([]string{a.Issuer, a.ClientID}, []string{b.Issuer, b.ClientID})
	})
	return nil
}

// candidates are the holders of one of the roles today, and the members whose membership has changed since. A holder of then
// who is neither has lost it with the tenant: of a deleted tenant, all members that the audit names are candidates.
func (h *history) candidates(ctx context.Context, roles []string, after string, limit int) ([]string, error) {
	since := postgres.ObjectFilter{Chain: h.tenant, Kind: iam.KindMember, After: h.at}
	if !h.exists {
		since.After = time.Time{}
	}
	var today []string
	var err error
	switch {
	case !h.exists:
	case roles == nil:
		today, err = h.w.tx.MemberIDs(ctx, h.tenant, after, limit)
	default:
		today, err = h.w.tx.RoleHolders(ctx, h.tenant, roles, after, limit)
	}
	if err != nil {
		return nil, err
	}
	changed, err := h.w.tx.Objects(ctx, since, after, limit)
	return firstOf(limit, today, changed), err
}

// firstOf merges sorted lists, each of which has at least its first limit elements.
func firstOf(limit int, lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.Sort(all)
	all = slices.Compact(all)
	return all[:min(limit, len(all))]
}

// holders are the memberships that some users had.
func (h *history) holders(ctx context.Context, users []string) ([]postgres.Holder, error) {
	if len(users) == 0 {
		return nil, nil
	}
	today, err := h.w.tx.Holders(ctx, h.tenant, users)
	if err != nil {
		return nil, err
	}
	byID := map[string]postgres.Holder{}
	for _, m := range today {
		byID[m.User] = m
	}
	members, err := h.w.tx.StatesOfAt(ctx, h.tenant, iam.KindMember, users, h.at)
	if err != nil {
		return nil, err
	}
	people, err := h.w.tx.StatesOfAt(ctx, "", iam.KindUser, users, h.at)
	if err != nil {
		return nil, err
	}
	names, err := h.w.tx.UserNames(ctx, users)
	if err != nil {
		return nil, err
	}
	var then []postgres.Holder
	for i, user := range users {
		x, member := byID[user]
		if members[i].Audited {
			var doc memberDoc
			if member, err = read(members[i], &doc); err != nil {
				return nil, err
			}
			x.Member = iam.Member{Membership: iam.Membership{Tenant: h.tenant, User: user, Status: doc.Status, Roles: doc.Roles, Terms: doc.RoleTerms}}
			if doc.ExpiresAt != "" {
				if x.ExpiresAt, err = time.Parse(time.RFC3339Nano, doc.ExpiresAt); err != nil {
					return nil, fmt.Errorf("an audit entry of %q: %w", user, err)
				}
			}
		}
		if !member {
			continue
		}
		name := names[user] // none: erased since
		x.Issuer, x.Subject = name.Issuer, name.Name
		if x.UserStatus == "" {
			x.UserStatus = iam.UserActive // unless an entry says otherwise
		}
		if people[i].Audited {
			var doc userDoc
			there, err := read(people[i], &doc)
			if err != nil {
				return nil, err
			}
			if !there {
				continue
			}
			x.UserStatus = doc.Status
		}
		then = append(then, x)
	}
	return then, nil
}
