package admin

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Users lists users by our ids.
func (w *Work) Users(ctx context.Context, f postgres.UserFilter) ([]iam.User, error) {
	return w.tx.Users(ctx, f)
}

// User returns one user.
func (w *Work) User(ctx context.Context, id string) (iam.User, error) {
	if !canonical(id) {
		return iam.User{}, errNotFound
	}
	read := w.tx.UserByID
	if w.task.Writes {
		read = w.tx.UserForUpdate
	}
	u, found, err := read(ctx, id)
	if err == nil && !found {
		err = errNotFound
	}
	return u, err
}

// canonical reports whether s is an id of a user as we write it: another form of the same
// UUID is no id, since ids are compared as text.
func canonical(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}

// MembershipsOf lists the memberships of a user, by tenant.
func (w *Work) MembershipsOf(ctx context.Context, id string) ([]iam.Member, error) {
	if _, err := w.User(ctx, id); err != nil {
		return nil, err
	}
	return w.tx.MembershipsOf(ctx, id)
}

// CreateUser creates a user.
func (w *Work) CreateUser(ctx context.Context, u iam.User) (iam.User, error) {
	u.Status = iam.UserActive
	wrong := u.Check()
	if _, known := w.s.cfg.Issuers.Find(u.Issuer); !known {
		wrong = append(wrong, iam.FieldError{Pointer: "/issuer", Detail: "is not a trusted issuer"})
	}
	more, err := w.checkAttributes(ctx, "/attributes", u.Attributes)
	if err != nil {
		return u, err
	}
	if err := iam.InvalidFields(append(wrong, more...)); err != nil {
		return u, err
	}
	if err := w.checkMayGrantPlatformRoles(u.PlatformRoles); err != nil {
		return u, err
	}
	made, created, err := w.tx.EnsureUsers(ctx, []postgres.Identity{{Issuer: u.Issuer, Name: u.Subject}}, "")
	if err != nil {
		return u, err
	}
	if !created[made[0].ID] {
		return u, &iam.Error{Kind: iam.Conflict, Code: "exists", Detail: "the user exists: " + made[0].ID}
	}
	u.ID, u.Version = made[0].ID, made[0].Version
	if !sameJSON(auditOfUser(made[0]), auditOfUser(u)) {
		if u, err = w.tx.PutUser(ctx, u); err != nil {
			return u, err
		}
	}
	return u, w.userCreated(u)
}

func (w *Work) userCreated(u iam.User) error {
	w.emit(iam.UserCreatedEvent{UserState: stateOfUser(u)})
	return w.record("", iam.KindUser, u.ID, nil, auditOfUser(u))
}

func stateOfUser(u iam.User) iam.UserState {
	return iam.UserState{User: u.ID, Status: u.Status, PlatformRoles: sorted(u.PlatformRoles), DefaultTenant: u.DefaultTenant, Version: u.Version}
}

// UserEdit is what PutUser replaces.
type UserEdit struct {
	Attributes    map[string]any
	PlatformRoles []string
	DefaultTenant string
}

// PutUser replaces a user's attributes, platform roles and default tenant.
func (w *Work) PutUser(ctx context.Context, id string, e UserEdit, c Condition) (iam.User, error) {
	return w.changeUser(ctx, id, c.mandatory(), func(u *iam.User) error {
		u.Attributes, u.PlatformRoles, u.DefaultTenant = e.Attributes, e.PlatformRoles, e.DefaultTenant
		return nil
	})
}

// EditUser changes a part of a user: edit gets the current one. A user who is blocked after it is blocked by the caller:
// no signal lifts the block.
func (w *Work) EditUser(ctx context.Context, id string, c Condition, edit func(*iam.User) error) (iam.User, error) {
	u, err := w.changeUser(ctx, id, c, edit)
	if err == nil && u.Status == iam.UserBlocked {
		err = w.keepBlock(ctx, id)
	}
	return u, err
}

// RevokeTokens revokes all tokens of a user that were issued before a time, which never
// decreases. The zero time is now.
func (w *Work) RevokeTokens(ctx context.Context, id string, before time.Time) (iam.User, error) {
	before, err := revokedBefore(before)
	if err != nil {
		return iam.User{}, err
	}
	return w.changeUser(ctx, id, Condition{}, func(u *iam.User) error {
		if before.After(u.TokensNotBefore) {
			u.TokensNotBefore = before
		}
		return nil
	})
}

// revokedBefore is a revocation time as it is stored; the zero time is now.
func revokedBefore(before time.Time) (time.Time, error) {
	now := time.Now()
	if before.After(now) {
		return before, iam.InvalidFields([]iam.FieldError{{Pointer: "/before", Detail: "must not be in the future: it never decreases"}})
	}
	if before.IsZero() {
		// iat has whole seconds: a token of this second may be older than the revocation.
		before = now.Truncate(time.Second).Add(time.Second)
	}
	return before.Truncate(time.Microsecond), nil
}

func (w *Work) changeUser(ctx context.Context, id string, c Condition, change func(*iam.User) error) (iam.User, error) {
	before, err := w.User(ctx, id)
	if err != nil {
		return before, err
	}
	if err := c.check(before.Version); err != nil {
		return before, err
	}
	after := before
	if err := change(&after); err != nil {
		return before, err
	}
	if sameJSON(auditOfUser(before), auditOfUser(after)) {
		return before, nil
	}
	wrong := after.Check()
	if !sameAttributes(after.Attributes, before.Attributes) {
		more, err := w.checkAttributes(ctx, "/attributes", after.Attributes)
		if err != nil {
			return before, err
		}
		wrong = append(wrong, more...)
	}
	if err := iam.InvalidFields(wrong); err != nil {
		return before, err
	}
	if err := w.checkPlatformRolesHeld(before); err != nil {
		return before, err
	}
	if !slices.Equal(sorted(before.PlatformRoles), sorted(after.PlatformRoles)) {
		added := slices.DeleteFunc(slices.Clone(after.PlatformRoles), func(r string) bool { return slices.Contains(before.PlatformRoles, r) })
		if err := w.checkMayGrantPlatformRoles(added); err != nil {
			return before, err
		}
	}
	if administers(before) && !administers(after) {
		if err := w.checkLastAdmin(ctx, id); err != nil {
			return before, err
		}
	}
	if after, err = w.tx.PutUser(ctx, after); err != nil {
		return before, err
	}
	if before.Status != after.Status && w.caller.Stream == "" {
		if _, err := w.tx.TakeSignalBlocks(ctx, id); err != nil {
			return before, err
		}
	}
	w.userChanged(before, after)
	return after, w.record("", iam.KindUser, id, auditOfUser(before), auditOfUser(after))
}

func (w *Work) userChanged(before, after iam.User) {
	state := stateOfUser(after)
	switch {
	case before.Status == after.Status:
	case after.Status == iam.UserBlocked:
		w.emit(iam.UserBlockedEvent{UserState: state})
	default:
		w.emit(iam.UserUnblockedEvent{UserState: state})
	}
	if !slices.Equal(sorted(before.PlatformRoles), sorted(after.PlatformRoles)) {
		w.emit(iam.UserPlatformRolesAssignedEvent{UserState: state})
	}
	if !before.TokensNotBefore.Equal(after.TokensNotBefore) {
		w.emit(iam.UserTokensRevokedEvent{UserRevoked: iam.UserRevoked{
			User:            after.ID,
			TokensNotBefore: timestamp(after.TokensNotBefore),
			Version:         after.Version,
		}})
	}
	if before.DefaultTenant != after.DefaultTenant || !sameAttributes(before.Attributes, after.Attributes) {
		w.emit(iam.UserUpdatedEvent{UserState: state})
	}
}

// EraseUser deletes a user: issuer, subject, attributes and memberships. Our id stays in the
// audit.
func (w *Work) EraseUser(ctx context.Context, id string, c Condition) error {
	// The lock keeps others from adding memberships, so that each removal is recorded.
	if canonical(id) {
		if err := w.tx.LockUserAndMemberships(ctx, id); err != nil {
			return err
		}
	}
	u, err := w.User(ctx, id)
	if err != nil {
		return err
	}
	if err := c.check(u.Version); err != nil {
		return err
	}
	if err := w.checkPlatformRolesHeld(u); err != nil {
		return err
	}
	if administers(u) {
		if err := w.checkLastAdmin(ctx, id); err != nil {
			return err
		}
	}
	memberships, err := w.tx.MembershipsOf(ctx, id)
	if err != nil {
		return err
	}
	if err := w.tx.DeleteUser(ctx, id); err != nil {
		return err
	}
	w.emit(iam.UserErasedEvent{UserGone: iam.UserGone{User: id}})
	// The audit must not retain attributes.
	u.Attributes = nil
	if err := w.record("", iam.KindUser, id, auditOfUser(u), nil); err != nil {
		return err
	}
	for _, m := range memberships { // by tenant, so that heads of chains are locked in one order
		w.emit(iam.MemberRemovedEvent{MemberGone: iam.MemberGone{Tenant: m.Tenant, User: id}})
		m.Attributes = nil
		if err := w.record(m.Tenant, iam.KindMember, id, auditOfMember(m.Membership), nil); err != nil {
			return err
		}
	}
	return nil
}

func administers(u iam.User) bool {
	return u.Status == iam.UserActive && slices.Contains(u.PlatformRoles, iam.PlatformAdmin)
}

// checkLastAdmin refuses to remove the last platform administrator. The platform is locked: of
// two who remove each other, the second one sees the first removal.
func (w *Work) checkLastAdmin(ctx context.Context, id string) error {
	n, err := w.tx.OtherPlatformAdmins(ctx, id)
	if err != nil || n > 0 {
		return err
	}
	return &iam.Error{Kind: iam.Conflict, Code: "last_platform_admin", Detail: "the last platform administrator cannot be removed: assign another one first"}
}

// checkMayGrantPlatformRoles refuses to grant platform roles that the caller does not hold. A
// platform administrator holds all but policy-admin.
func (w *Work) checkMayGrantPlatformRoles(roles []string) error {
	if slices.Contains(roles, "policy-admin") && w.caller.Token != nil && (w.user == nil || !slices.Contains(w.user.PlatformRoles, "policy-admin")) {
		return &iam.Error{
			Kind: iam.Forbidden, Code: "more_than_held", Detail: "a caller can grant only what they hold",
			Fields: []iam.FieldError{{Pointer: "/platform_roles", Detail: "only a policy administrator can grant this role; the first one is granted with iam-service grant-admin --role policy-admin"}},
		}
	}
	if len(roles) == 0 || w.holdsEverything() {
		return nil
	}
	return &iam.Error{
		Kind: iam.Forbidden, Code: "more_than_held", Detail: "a caller can grant only what they hold",
		Fields: []iam.FieldError{{Pointer: "/platform_roles", Detail: "only a platform administrator can grant platform roles"}},
	}
}

// checkPlatformRolesHeld refuses to change a user with platform roles that the caller does not hold.
func (w *Work) checkPlatformRolesHeld(u iam.User) error {
	if len(u.PlatformRoles) == 0 || w.holdsEverything() {
		return nil
	}
	return &iam.Error{Kind: iam.Forbidden, Code: "more_than_held", Detail: "the user holds platform roles, which the caller does not hold"}
}
