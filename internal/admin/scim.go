package admin

import (
	"context"
	"maps"
	"slices"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// SCIMUserEdit is what a tenant's provisioning client writes of a user.
type SCIMUserEdit struct {
	UserName   string // the subject, which never changes
	ExternalID string
	Active     *bool // nil: it says nothing of it
}

// SCIMPage is one page of a list, and how many entries all pages have.
type SCIMPage[T any] struct {
	Items []T
	Total int
}

// provisioner returns the issuer of the tenant's provisioning client that requests this, whose subjects it provisions. It
// rejects all others, whatever the policy decides: no person, no client of another tenant or without the scope.
func (w *Work) provisioner(tenant string) (issuer string, err error) {
	if w.client == nil || w.client.Tenant != tenant || tenant == "" ||
		!slices.Contains(w.client.Scopes, iam.ScopeSCIM) || !slices.Contains(w.caller.Token.Scopes(), iam.ScopeSCIM) {
		return "", &iam.Error{Kind: iam.Forbidden, Code: "not_provisioning", Detail: "only a client of the tenant provisions it, with the scope scim in its registration and in its token"}
	}
	return w.client.Issuer, nil
}

// CheckProvisioner fails unless the tenant's provisioning client requests this.
func (w *Work) CheckProvisioner(tenant string) error {
	_, err := w.provisioner(tenant)
	return err
}

// SCIMUsers lists the members of a tenant that the client's issuer names, with their groups.
func (w *Work) SCIMUsers(ctx context.Context, q postgres.SCIMQuery) (page SCIMPage[iam.SCIMUser], err error) {
	if q.Issuer, err = w.provisioner(q.Tenant); err != nil {
		return page, err
	}
	if page.Total, err = w.tx.CountSCIMUsers(ctx, q); err != nil || q.Limit == 0 {
		return page, err
	}
	if page.Items, err = w.tx.SCIMUsers(ctx, q); err != nil {
		return page, err
	}
	return page, w.withGroups(ctx, q.Tenant, page.Items)
}

func (w *Work) withGroups(ctx context.Context, tenant string, users []iam.SCIMUser) error {
	ids := make([]string, len(users))
	for i, u := range users {
		ids[i] = u.User
	}
	groups, err := w.tx.SCIMGroupsOf(ctx, tenant, ids)
	for i := range users {
		users[i].Groups = groups[users[i].User]
	}
	return err
}

// SCIMUser returns one member of a tenant that the client's issuer names, with its groups.
func (w *Work) SCIMUser(ctx context.Context, tenant, id string) (iam.SCIMUser, error) {
	issuer, err := w.provisioner(tenant)
	if err != nil {
		return iam.SCIMUser{}, err
	}
	if !canonical(id) {
		return iam.SCIMUser{}, errNotFound
	}
	u, found, err := w.tx.SCIMUser(ctx, tenant, issuer, id)
	if err == nil && !found {
		err = errNotFound
	}
	if err != nil {
		return u, err
	}
	one := []iam.SCIMUser{u}
	err = w.withGroups(ctx, tenant, one)
	return one[0], err
}

// CreateSCIMUser makes a subject of the client's issuer a member of a tenant, without roles.
func (w *Work) CreateSCIMUser(ctx context.Context, tenant string, e SCIMUserEdit) (iam.SCIMUser, error) {
	issuer, err := w.provisioner(tenant)
	if err != nil {
		return iam.SCIMUser{}, err
	}
	if err := iam.InvalidFields(e.check()); err != nil {
		return iam.SCIMUser{}, err
	}
	inactive := e.Active != nil && !*e.Active
	row := Row{Issuer: issuer, Subject: e.UserName, Membership: iam.Membership{Status: iam.MembershipActive}}
	if inactive {
		row.Membership.Status = iam.MembershipSuspended
	}
	outcomes, err := w.PutMembers(ctx, tenant, Batch{Rows: []Row{row}, Existing: RejectExisting})
	if err != nil {
		return iam.SCIMUser{}, iam.Rebase(err, "/0/subject", "/userName")
	}
	u := iam.SCIMUser{Member: outcomes[0].Member, ExternalID: e.ExternalID, Inactive: inactive, Suspended: inactive}
	if err := w.tx.PutSCIMUser(ctx, &u); err != nil {
		return u, err
	}
	return w.SCIMUser(ctx, tenant, u.User)
}

func (e SCIMUserEdit) check() (wrong []iam.FieldError) {
	if !iam.ValidSubject(e.UserName) {
		wrong = append(wrong, iam.FieldError{Pointer: "/userName", Detail: "must be the subject of the user's tokens: 1 to 255 bytes of printable ASCII"})
	}
	if e.ExternalID != "" && !iam.ValidSCIMText(e.ExternalID) {
		wrong = append(wrong, iam.FieldError{Pointer: "/externalId", Detail: "must be 1 to 255 bytes of text"})
	}
	return wrong
}

// ErrSuspendedByAdministrator says why a user is not active although the client says so.
var ErrSuspendedByAdministrator = &iam.Error{Kind: iam.Conflict, Code: "suspended_by_administrator", Detail: "an administrator of the tenant has suspended the user: only an administrator can end that"}

// EditSCIMUser changes a user: edit gets the current state. Where the client says active of a user of whom it said inactive, and
// whom an administrator has suspended too, that is all that is stored, and the user that is returned is not active: the
// administrator may end the suspension from then on.
func (w *Work) EditSCIMUser(ctx context.Context, tenant, id string, c Condition, edit func(*SCIMUserEdit) error) (iam.SCIMUser, error) {
	if _, err := w.provisioner(tenant); err != nil {
		return iam.SCIMUser{}, err
	}
	if _, err := w.lockRoles(ctx, tenant); err != nil {
		return iam.SCIMUser{}, err
	}
	u, err := w.SCIMUser(ctx, tenant, id)
	if err != nil {
		return u, err
	}
	if err := c.check(u.Revision); err != nil {
		return u, err
	}
	was := SCIMUserEdit{UserName: u.Subject, ExternalID: u.ExternalID}
	e := was
	if err := edit(&e); err != nil {
		return u, err
	}
	if e.UserName != was.UserName {
		return u, &iam.Error{Kind: iam.Malformed, Code: "immutable", Detail: "userName is the subject of the user's tokens and never changes: another subject is another user"}
	}
	if err := iam.InvalidFields(e.check()); err != nil {
		return u, err
	}
	after := u
	after.ExternalID = e.ExternalID
	if e.Active != nil {
		if after, err = says(u, after, *e.Active); err != nil {
			return u, err
		}
	}
	return w.putSCIMUser(ctx, u, after)
}

// says applies to a user what the client says of active.
func says(u, after iam.SCIMUser, active bool) (iam.SCIMUser, error) {
	after.Inactive = !active
	switch {
	case !active && u.Status == iam.MembershipActive:
		after.Status, after.Suspended = iam.MembershipSuspended, true
	case !active: // a suspension by an administrator stays theirs
	case u.Expired:
		return u, &iam.Error{Kind: iam.Conflict, Code: "membership_expired", Detail: "the membership ended at " + timestamp(u.ExpiresAt) + ": only an administrator of the tenant can prolong it"}
	case u.Status == iam.MembershipActive:
	case u.Suspended:
		after.Status, after.Suspended = iam.MembershipActive, false
	case u.Inactive:
		after = u
		after.Inactive = false
	default:
		return u, ErrSuspendedByAdministrator
	}
	return after, nil
}

// putSCIMUser writes what has changed of a user.
func (w *Work) putSCIMUser(ctx context.Context, u, after iam.SCIMUser) (iam.SCIMUser, error) {
	if after.ExternalID == u.ExternalID && after.Inactive == u.Inactive && after.Status == u.Status {
		return u, nil
	}
	if after.Status != u.Status {
		before := u.Member
		if err := w.writeMembers(ctx, u.Tenant, []memberChange{{before: &before, after: after.Membership}}); err != nil {
			return u, iam.Rebase(err, "/0", "")
		}
	}
	if err := w.tx.PutSCIMUser(ctx, &after); err != nil {
		return u, err
	}
	if was, is := auditOfSCIMUser(u), auditOfSCIMUser(after); was != is {
		if err := w.record(u.Tenant, iam.KindSCIMUser, u.User, was, is); err != nil {
			return u, err
		}
	}
	return w.SCIMUser(ctx, u.Tenant, u.User)
}

// KeepSuspended makes the suspension of a member an administrator's, if it was the provisioning client's: what the client says
// does not end it any more. The caller must hold what the member holds.
func (w *Work) KeepSuspended(ctx context.Context, m iam.Member) error {
	roles, err := w.lockRoles(ctx, m.Tenant)
	if err != nil {
		return err
	}
	was, err := w.tx.TakeSCIMSuspension(ctx, m.Tenant, m.User)
	if err != nil || !was {
		return err
	}
	graph := iam.NewGraph(roles)
	if err := checkHeld(w.holding(m.Tenant, graph), graph, m.Roles, "change", ""); err != nil {
		return err
	}
	return w.record(m.Tenant, iam.KindSCIMUser, m.User, scimSuspensionDoc{"client"}, scimSuspensionDoc{"administrator"})
}

// checkNotInactive rejects resuming by hand whom the tenant's provisioning client calls inactive.
func (w *Work) checkNotInactive(ctx context.Context, tenant string, changes []memberChange) error {
	resumed := map[string]int{} // position of the row
	for i := range changes {
		if c := &changes[i]; c.before != nil && c.resumes() {
			resumed[c.after.User] = c.row
		}
	}
	if len(resumed) == 0 {
		return nil
	}
	inactive, err := w.tx.SCIMInactive(ctx, tenant, slices.Collect(maps.Keys(resumed)))
	if err != nil || len(inactive) == 0 {
		return err
	}
	var wrong []iam.FieldError
	for _, user := range inactive {
		wrong = append(wrong, iam.FieldError{Pointer: rowPointer(resumed[user]) + "/status", Detail: "the tenant's provisioning client says that the user is inactive"})
	}
	return &iam.Error{
		Kind: iam.Conflict, Code: "inactive_by_scim", Fields: byRow(wrong),
		Detail: "whom the identity provider has deactivated, it activates: assign the user to the application there; where it does not provision the user any more, remove the member, and add them again",
	}
}

// DeleteSCIMUser removes a user from a tenant, with all its roles there.
func (w *Work) DeleteSCIMUser(ctx context.Context, tenant, id string, c Condition) error {
	if _, err := w.provisioner(tenant); err != nil {
		return err
	}
	if _, err := w.lockRoles(ctx, tenant); err != nil {
		return err
	}
	u, err := w.SCIMUser(ctx, tenant, id)
	if err != nil {
		return err
	}
	if err := c.check(u.Revision); err != nil {
		return err
	}
	return w.removeMember(ctx, u.Member)
}

// checkNotManaged rejects a change of roles by hand where they belong to groups of the tenant's provisioning client.
func (w *Work) checkNotManaged(ctx context.Context, tenant string, changes []memberChange) error {
	var managed []string
	var wrong []iam.FieldError
	for i := range changes {
		c := &changes[i]
		var was iam.Membership
		if c.before != nil {
			was = c.before.Membership
		}
		if sameJSON(sorted(was.Roles), sorted(c.after.Roles)) && sameJSON(was.Tidy().Terms, c.after.Tidy().Terms) {
			continue
		}
		if managed == nil {
			var err error
			if managed, err = w.tx.SCIMRoles(ctx, tenant); err != nil || len(managed) == 0 {
				return err
			}
		}
		for _, r := range managed {
			_, hasTerm := c.after.Terms[r]
			if hasTerm || slices.Contains(was.Roles, r) != slices.Contains(c.after.Roles, r) {
				wrong = append(wrong, managedRole(rowPointer(c.row)+"/roles", r))
			}
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return &iam.Error{Kind: iam.Conflict, Code: "role_managed_by_scim", Detail: "roles of SCIM groups are granted and revoked by the members of the groups", Fields: wrong}
}
