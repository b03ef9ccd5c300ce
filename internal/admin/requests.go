package admin

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Limits of the requests of one person in one tenant.
const (
	maxPendingRequests = 10
	maxDailyRequests   = 50
)

const codeNotMember = "asker_not_member"

// NewRequest is what a member asks for.
type NewRequest struct {
	Role    string
	Seconds int64 // from the approval
	Reason  string
}

// RequestableRole is a role that a member can ask for.
type RequestableRole struct {
	iam.Role
	Assigned bool // already
}

// asker returns the caller's membership of a tenant, which must be effective. A program, an operator or a stranger asks
// for nothing.
func (w *Work) asker(ctx context.Context, tenant string) (iam.Member, error) {
	none := &iam.Error{Kind: iam.Conflict, Code: codeNotMember, Detail: "only a person who is a member of the tenant can ask for its roles"}
	if w.user == nil {
		return iam.Member{}, none
	}
	m, err := w.Member(ctx, tenant, w.user.ID)
	switch {
	case iam.KindOf(err) == iam.NotFound && err != nil:
		return m, none
	case err != nil:
		return m, err
	case m.Status != iam.MembershipActive || m.Expired || w.user.Status != iam.UserActive:
		return m, none
	}
	return m, nil
}

// canAsk reports whether a member can ask for a role.
func canAsk(graph iam.Graph, m iam.Member, r iam.Role) bool {
	if r.Request == nil {
		return false
	}
	held := graph.Hold(m.RolesAt(m.AsOf))
	return slices.ContainsFunc(r.Request.By, func(by string) bool { return held.Roles[by] })
}

// RequestableRoles lists the roles that the caller can ask for in a tenant; none for one who is no active member.
func (w *Work) RequestableRoles(ctx context.Context, tenant string) ([]RequestableRole, error) {
	m, err := w.asker(ctx, tenant)
	if iam.CodeOf(err) == codeNotMember {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return w.requestableBy(ctx, tenant, m)
}

// RequestableBy lists the roles that a subject can ask for in a tenant; none for one who is no active member.
func (w *Work) RequestableBy(ctx context.Context, tenant, issuer, subject string) ([]RequestableRole, error) {
	members, err := w.tx.Members(ctx, tenant, postgres.MemberFilter{Issuer: issuer, Subject: subject, Limit: 1})
	if err != nil || len(members) == 0 || issuer == "" || subject == "" {
		return nil, err
	}
	if m := members[0]; m.Status != iam.MembershipActive || m.Expired {
		return nil, nil
	}
	return w.requestableBy(ctx, tenant, members[0])
}

func (w *Work) requestableBy(ctx context.Context, tenant string, m iam.Member) ([]RequestableRole, error) {
	roles, err := w.tx.Roles(ctx, tenant)
	if err != nil {
		return nil, err
	}
	graph := iam.NewGraph(roles)
	list := []RequestableRole{}
	for _, r := range roles {
		if canAsk(graph, m, r) {
			list = append(list, RequestableRole{r, slices.Contains(m.Roles, r.Name)})
		}
	}
	return list, nil
}

// CreateRequest asks for a role for the caller. A break-glass role is granted at once.
func (w *Work) CreateRequest(ctx context.Context, tenant string, n NewRequest) (iam.RoleRequest, error) {
	var q iam.RoleRequest
	roles, err := w.lockRoles(ctx, tenant)
	if err != nil {
		return q, err
	}
	m, err := w.asker(ctx, tenant)
	if err != nil {
		return q, err
	}
	graph := iam.NewGraph(roles)
	r := findRole(roles, n.Role)
	wrong := iam.CheckReason("/reason", n.Reason)
	if r == nil || !canAsk(graph, m, *r) {
		wrong = append(wrong, iam.FieldError{Pointer: "/role", Detail: "is not a role that the caller can ask for"})
	} else if n.Seconds < iam.MinRequestSeconds || n.Seconds > r.Request.MaxSeconds {
		wrong = append(wrong, iam.FieldError{Pointer: "/seconds", Detail: fmt.Sprintf("must be %d to %d, is %d", iam.MinRequestSeconds, r.Request.MaxSeconds, n.Seconds)})
	}
	if err := iam.InvalidFields(wrong); err != nil {
		return q, err
	}
	if err := grantable(m, n.Role); err != nil {
		return q, err
	}
	pending, daily, err := w.tx.CountRequests(ctx, tenant, m.User)
	switch {
	case err != nil:
		return q, err
	case pending >= maxPendingRequests:
		return q, &iam.Error{Kind: iam.Conflict, Code: "too_many_requests_pending", Detail: fmt.Sprintf("%d requests are pending, at most %d are allowed: cancel one first", pending, maxPendingRequests)}
	case daily >= maxDailyRequests:
		return q, &iam.Error{Kind: iam.TooManyRequests, Code: "too_many_role_requests", Detail: fmt.Sprintf("a member can ask for %d roles in 24 hours at most", maxDailyRequests)}
	}
	q, err = w.tx.AddRequest(ctx, iam.RoleRequest{
		Tenant: tenant, User: m.User, Role: n.Role, Seconds: n.Seconds, Reason: n.Reason, Approval: r.Request.Approval, Grants: graph.Fingerprint(n.Role),
	}, w.s.cfg.RequestLifetime)
	if err != nil {
		return q, err
	}
	w.emit(iam.RoleRequestedEvent{RoleRequestState: stateOfRequest(q)})
	if err := w.record(tenant, iam.KindRequest, q.ID, nil, auditOfRequest(q)); err != nil || q.Approval != iam.ApprovalBreakGlass {
		return q, err
	}
	changes := []memberChange{w.granted(m, q)}
	if err := w.checkNotManaged(ctx, tenant, changes); err != nil {
		return q, iam.Rebase(err, "/0/roles/0", "/role")
	}
	// The caller does not hold what it grants: who made it a break-glass role did.
	if _, err := w.tx.PutMembers(ctx, tenant, []*iam.Membership{&changes[0].after}); err != nil {
		return q, err
	}
	if err := w.memberChanged(changes[0]); err != nil {
		return q, err
	}
	q, err = w.decideRequest(ctx, q, iam.RequestApproved, "", changes[0].after.Terms[q.Role].ExpiresAt)
	if err == nil {
		w.emit(iam.BreakGlassUsedEvent{RoleRequestState: stateOfRequest(q)})
		w.s.cfg.Log.WarnContext(ctx, "break-glass role granted", slog.String("tenant", tenant), slog.String("user", q.User), slog.String("role", q.Role), slog.String("request", q.ID))
	}
	return q, err
}

// grantable rejects a role that a member has already: without an end, or from a start that lies ahead.
func grantable(m iam.Member, role string) error {
	t, limited := m.Terms[role]
	switch {
	case !slices.Contains(m.Roles, role) || limited && !t.ExpiresAt.IsZero() && !t.StartsAt.After(m.AsOf):
		return nil
	case limited && t.StartsAt.After(m.AsOf):
		return &iam.Error{Kind: iam.Conflict, Code: "role_has_term", Detail: "the role is assigned from " + timestamp(t.StartsAt) + " on: an administrator can change that"}
	}
	return &iam.Error{Kind: iam.Conflict, Code: "role_already_assigned", Detail: "the role is assigned already, without an end"}
}

// granted is the change of a membership that grants what was asked for, from now on. A role that ends later stays so.
func (w *Work) granted(m iam.Member, q iam.RoleRequest) memberChange {
	after := m.Membership
	after.Terms = maps.Clone(m.Terms)
	if after.Terms == nil {
		after.Terms = map[string]iam.RoleTerm{}
	}
	end := m.AsOf.Add(time.Duration(q.Seconds) * time.Second)
	if had := m.Terms[q.Role].ExpiresAt; had.After(end) {
		end = had
	}
	if !slices.Contains(after.Roles, q.Role) {
		after.Roles = append(slices.Clone(after.Roles), q.Role)
	}
	after.Terms[q.Role] = iam.RoleTerm{ExpiresAt: end, Reason: q.Reason}
	return memberChange{before: &m, after: after.Tidy()}
}

// reviews reports whether the caller sees the requests of others.
func (w *Work) reviews(ctx context.Context) (bool, error) {
	if w.caller.Token == nil {
		return true, nil
	}
	err := w.decide(ctx, w.caller.Token, "request:review")
	if kind := iam.KindOf(err); err != nil && (kind == iam.Forbidden || kind == iam.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// Requests lists requests for roles of a tenant, the newest first: the caller's own, or all where they may see them.
func (w *Work) Requests(ctx context.Context, tenant string, f postgres.RequestFilter) ([]iam.RoleRequest, error) {
	if _, err := w.Tenant(ctx, tenant); err != nil {
		return nil, err
	}
	all, err := w.reviews(ctx)
	switch {
	case err != nil:
		return nil, err
	case !all && w.user == nil:
		return nil, nil
	case !all && f.User != "" && f.User != w.user.ID:
		return nil, nil
	case !all:
		f.User = w.user.ID
	}
	return w.tx.Requests(ctx, tenant, f)
}

// Request returns a request. One that the caller may not see is not found.
func (w *Work) Request(ctx context.Context, tenant, id string) (iam.RoleRequest, error) {
	if !iam.ValidTenantID(tenant) || uuid.Validate(id) != nil {
		return iam.RoleRequest{}, errNotFound
	}
	q, found, err := w.tx.Request(ctx, tenant, id)
	if err != nil {
		return q, err
	}
	if found && w.own(q) {
		return q, nil
	}
	all, err := w.reviews(ctx)
	if err == nil && (!found || !all) {
		return iam.RoleRequest{}, errNotFound
	}
	return q, err
}

func (w *Work) own(q iam.RoleRequest) bool { return w.user != nil && w.user.ID == q.User }

// pendingRequest returns a request that can be decided.
func (w *Work) pendingRequest(ctx context.Context, tenant, id string) (iam.RoleRequest, error) {
	q, err := w.Request(ctx, tenant, id)
	if err != nil {
		return q, err
	}
	now, err := w.tx.Now(ctx)
	switch {
	case err != nil:
		return q, err
	case q.Status != iam.RequestPending:
		return q, notPending(q.Status)
	case !q.DecideBy.After(now):
		return q, notPending(iam.RequestExpired)
	}
	return q, nil
}

// othersRequest is pendingRequest of another person than the caller, who may decide about it.
func (w *Work) othersRequest(ctx context.Context, tenant, id string) (iam.RoleRequest, error) {
	q, err := w.pendingRequest(ctx, tenant, id)
	if err == nil && w.own(q) {
		err = &iam.Error{Kind: iam.Forbidden, Code: "own_request", Detail: "no one decides about their own request: another administrator can"}
	}
	return q, err
}

func notPending(status string) error {
	return &iam.Error{Kind: iam.Conflict, Code: "request_not_pending", Detail: "the request is not pending: it is " + status}
}

// ApproveRequest grants what a member has asked for, from now on, by the authority of the caller: they must hold what
// the role grants until it ends.
func (w *Work) ApproveRequest(ctx context.Context, tenant, id, reason string) (iam.RoleRequest, error) {
	roles, err := w.lockRoles(ctx, tenant)
	if err != nil {
		return iam.RoleRequest{}, err
	}
	q, err := w.othersRequest(ctx, tenant, id)
	if err != nil {
		return q, err
	}
	if reason != "" {
		if err := iam.InvalidFields(iam.CheckReason("/reason", reason)); err != nil {
			return q, err
		}
	}
	gone := &iam.Error{Kind: iam.Conflict, Code: "asker_not_active", Detail: "who asked is no active member of the tenant any more: reject the request"}
	m, err := w.Member(ctx, tenant, q.User)
	switch {
	case err != nil && iam.KindOf(err) == iam.NotFound:
		return q, gone
	case err != nil:
		return q, err
	}
	u, err := w.User(ctx, q.User)
	switch {
	case err != nil:
		return q, err
	case u.Status != iam.UserActive || m.Status != iam.MembershipActive || m.Expired:
		return q, gone
	}
	graph := iam.NewGraph(roles)
	r := findRole(roles, q.Role)
	switch {
	case r == nil || !canAsk(graph, m, *r) || q.Seconds > r.Request.MaxSeconds:
		return q, &iam.Error{Kind: iam.Conflict, Code: "role_not_requestable", Detail: "who asked can no longer ask for this role and time: reject the request"}
	case !bytes.Equal(graph.Fingerprint(q.Role), q.Grants):
		return q, &iam.Error{Kind: iam.Conflict, Code: "role_changed", Detail: "the role grants something else than when it was asked for: reject the request, and have it asked for again"}
	}
	if err := grantable(m, q.Role); err != nil {
		return q, err
	}
	changes := []memberChange{w.granted(m, q)}
	if err := w.putMembers(ctx, tenant, roles, changes); err != nil {
		return q, iam.Rebase(err, "/0", "")
	}
	return w.decideRequest(ctx, q, iam.RequestApproved, reason, changes[0].after.Terms[q.Role].ExpiresAt)
}

// RejectRequest refuses a request. It needs a reason.
func (w *Work) RejectRequest(ctx context.Context, tenant, id, reason string) (iam.RoleRequest, error) {
	q, err := w.othersRequest(ctx, tenant, id)
	if err != nil {
		return q, err
	}
	if err := iam.InvalidFields(iam.CheckReason("/reason", reason)); err != nil {
		return q, err
	}
	return w.decideRequest(ctx, q, iam.RequestRejected, reason, time.Time{})
}

// CancelRequest withdraws a request of the caller.
func (w *Work) CancelRequest(ctx context.Context, tenant, id string) (iam.RoleRequest, error) {
	q, err := w.pendingRequest(ctx, tenant, id)
	switch {
	case err != nil:
		return q, err
	case !w.own(q):
		return q, &iam.Error{Kind: iam.Conflict, Code: "not_own_request", Detail: "only who asked can cancel a request: reject it"}
	}
	return w.decideRequest(ctx, q, iam.RequestCancelled, "", time.Time{})
}

// decideRequest stores a decision, with its event and audit entry. Of two decisions the second is a conflict.
func (w *Work) decideRequest(ctx context.Context, q iam.RoleRequest, status, reason string, expires time.Time) (iam.RoleRequest, error) {
	before := auditOfRequest(q)
	q.Status, q.Decision, q.ExpiresAt = status, reason, expires
	q.DeciderKind, q.Decider = w.actorKind, w.actor
	after, done, err := w.tx.DecideRequest(ctx, q)
	switch {
	case err != nil:
		return q, err
	case !done:
		return q, notPending("decided already")
	}
	state := stateOfRequest(after)
	switch status {
	case iam.RequestApproved:
		w.emit(iam.RoleRequestApprovedEvent{RoleRequestState: state})
	case iam.RequestRejected:
		w.emit(iam.RoleRequestRejectedEvent{RoleRequestState: state})
	case iam.RequestCancelled:
		w.emit(iam.RoleRequestCancelledEvent{RoleRequestState: state})
	default:
		w.emit(iam.RoleRequestExpiredEvent{RoleRequestState: state})
	}
	return after, w.record(after.Tenant, iam.KindRequest, after.ID, before, auditOfRequest(after))
}

// ExpireRequests ends requests that no one has decided in time, and returns their number.
func (s *Service) ExpireRequests(ctx context.Context) (int, error) {
	find := func(ctx context.Context, skip []string) ([]postgres.MemberKey, error) {
		return s.cfg.DB.DueRequests(ctx, termsBatch, skip)
	}
	return s.byTenant(ctx, find, "request:expire", func(ctx context.Context, w *Work, tenant string, ids []string) (n int, err error) {
		for _, id := range ids {
			q, found, err := w.tx.Request(ctx, tenant, id)
			if err != nil {
				return n, err
			}
			if !found || q.Status != iam.RequestPending {
				continue // another replica, or an administrator, was faster
			}
			if _, err := w.decideRequest(ctx, q, iam.RequestExpired, "", time.Time{}); err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	})
}

// stateOfRequest is a request in an event, without its reasons.
func stateOfRequest(q iam.RoleRequest) iam.RoleRequestState {
	return iam.RoleRequestState{
		Tenant: q.Tenant, Request: q.ID, User: q.User, Role: q.Role, Seconds: q.Seconds, Approval: q.Approval, Status: q.Status,
		DecideBy: timestamp(q.DecideBy), ExpiresAt: timestamp(q.ExpiresAt), Version: q.Version,
	}
}

type requestDoc struct {
	User      string `json:"user"`
	Role      string `json:"role"`
	Seconds   int64  `json:"seconds"`
	Reason    string `json:"reason"`
	Approval  string `json:"approval"`
	Status    string `json:"status"`
	Decision  string `json:"decision,omitempty"`
	ExpiresAt string `json:"expires_at,omitempty"`
}

func auditOfRequest(q iam.RoleRequest) requestDoc {
	return requestDoc{q.User, q.Role, q.Seconds, q.Reason, q.Approval, q.Status, q.Decision, timestamp(q.ExpiresAt)}
}
