package admin

import (
	"context"
	"slices"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// SCIMUserEdit is what a tenant's provisioning client writes of a user.
type SCIMUserEdit struct {
	UserName   string // the subject, which never changes
	ExternalID string
	Active     bool
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
	row := Row{Issuer: issuer, Subject: e.UserName, Membership: iam.Membership{Status: e.status()}}
	outcomes, err := w.PutMembers(ctx, tenant, Batch{Rows: []Row{row}, Existing: RejectExisting})
	if err != nil {
		return iam.SCIMUser{}, iam.Rebase(err, "/0/subject", "/userName")
	}
	u := iam.SCIMUser{Member: outcomes[0].Member, ExternalID: e.ExternalID, Suspended: !e.Active}
	if err := w.tx.PutSCIMUser(ctx, &u); err != nil {
		return u, err
	}
	return w.SCIMUser(ctx, tenant, u.User)
}

func (e SCIMUserEdit) status() string {
	if e.Active {
		return iam.MembershipActive
	}
	return iam.MembershipSuspended
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

// EditSCIMUser changes a user: edit gets the current state.
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
	was := SCIMUserEdit{UserName: u.Subject, ExternalID: u.ExternalID, Active: u.Status == iam.MembershipActive}
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
	if e == was {
		return u, nil
	}
	after := u
	after.ExternalID = e.ExternalID
	if e.Active != was.Active {
		if e.Active && !u.Suspended {
			return u, &iam.Error{Kind: iam.Conflict, Code: "suspended_by_administrator", Detail: "an administrator of the tenant has suspended the user: only an administrator can end that"}
		}
		after.Suspended = !e.Active
		after.Status = e.status()
		before := u.Member
		if err := w.writeMembers(ctx, tenant, []memberChange{{before: &before, after: after.Membership}}); err != nil {
			return u, iam.Rebase(err, "/0", "")
		}
	}
	if err := w.tx.PutSCIMUser(ctx, &after); err != nil {
		return u, err
	}
	if e.ExternalID != was.ExternalID {
		// The id itself is the client's, and may be personal: the audit has only whether there is one.
		if err := w.record(tenant, iam.KindSCIMUser, id, scimUserDoc{was.ExternalID != ""}, scimUserDoc{e.ExternalID != ""}); err != nil {
			return u, err
		}
	}
	return w.SCIMUser(ctx, tenant, id)
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
