package adminapi

import (
	"context"
	"time"

	"github.com/google/uuid"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// RoleRequestRule says who can ask for a role.
type RoleRequestRule struct {
	By         []string `json:"by" minItems:"1" maxItems:"100" doc:"roles whose holders can ask, also by inheritance"`
	Approval   string   `json:"approval" enum:"required,break_glass" doc:"break_glass: it is granted at once, with an alert"`
	MaxSeconds int64    `json:"max_seconds" minimum:"60" maximum:"31536000" doc:"longest time for which it is granted"`
}

func wireRule(q *iam.Requestable) *RoleRequestRule {
	if q == nil {
		return nil
	}
	return &RoleRequestRule{sorted(q.By), q.Approval, q.MaxSeconds}
}

func (r *RoleRequestRule) rule() *iam.Requestable {
	if r == nil {
		return nil
	}
	return &iam.Requestable{By: r.By, Approval: r.Approval, MaxSeconds: r.MaxSeconds}
}

type roleRequestBody struct {
	ID          string     `json:"id" format:"uuid"`
	Tenant      string     `json:"tenant"`
	User        string     `json:"user" format:"uuid" doc:"who asks: id of the user"`
	Role        string     `json:"role"`
	Seconds     int64      `json:"seconds" doc:"for which it is asked, from its approval"`
	Reason      string     `json:"reason"`
	Approval    string     `json:"approval" enum:"required,break_glass"`
	Status      string     `json:"status" enum:"pending,approved,rejected,cancelled,expired" doc:"expired: it was not decided in time"`
	CreatedAt   time.Time  `json:"created_at"`
	DecideBy    time.Time  `json:"decide_by" doc:"when it expires undecided"`
	DecidedAt   *time.Time `json:"decided_at,omitempty"`
	DeciderKind string     `json:"decider_kind,omitempty" enum:"user,client,operator,service"`
	Decider     string     `json:"decider,omitempty" doc:"as the audit names it; of a break-glass role: who asked"`
	Decision    string     `json:"decision,omitempty" doc:"reason of the decision"`
	ExpiresAt   *time.Time `json:"expires_at,omitempty" doc:"when the role ends that was granted"`
	Version     int64      `json:"version" doc:"as in the ETag"`
}

func wireRequest(q iam.RoleRequest) roleRequestBody {
	b := roleRequestBody{
		ID: q.ID, Tenant: q.Tenant, User: q.User, Role: q.Role, Seconds: q.Seconds, Reason: q.Reason, Approval: q.Approval, Status: q.Status,
		CreatedAt: q.CreatedAt.UTC(), DecideBy: q.DecideBy.UTC(), DecidedAt: optionalTime(q.DecidedAt), DeciderKind: q.DeciderKind, Decider: q.Decider,
		Decision: q.Decision, ExpiresAt: optionalTime(q.ExpiresAt), Version: q.Version,
	}
	if b.Status == iam.RequestPending && !b.DecideBy.After(time.Now()) {
		b.Status = iam.RequestExpired
	}
	return b
}

func requestResource(q iam.RoleRequest, err error) (*resource[roleRequestBody], error) {
	if err != nil {
		return nil, err
	}
	return &resource[roleRequestBody]{Status: 200, ETag: etag(q.Version), Body: wireRequest(q)}, nil
}

// OnRequest is an input about a request for a role.
type OnRequest struct {
	OnTenant
	Request string `path:"request" maxLength:"64" doc:"id of the request"`
}

func (i OnRequest) target() target { return target{tenant: i.Tenant, object: i.Request} }

type roleRequestPost struct {
	Role    string `json:"role" maxLength:"64"`
	Seconds int64  `json:"seconds" minimum:"60" maximum:"31536000" doc:"from its approval; max_seconds of the role at most"`
	Reason  string `json:"reason" minLength:"1" maxLength:"500" doc:"500 bytes at most; audited, so no personal data"`
}

func (a *server) createRequest(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Repeatable
	Body roleRequestPost
},
) (*resource[roleRequestBody], error) {
	out, err := requestResource(w.CreateRequest(ctx, in.Tenant, admin.NewRequest{Role: in.Body.Role, Seconds: in.Body.Seconds, Reason: in.Body.Reason}))
	if err != nil {
		return nil, err
	}
	return out.created(tenantPath(in.Tenant) + "/requests/" + out.Body.ID), nil
}

func (a *server) listRequests(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Paged
	User   string `query:"user" maxLength:"64" doc:"id of who asks"`
	Role   string `query:"role" maxLength:"64"`
	Status string `query:"status" enum:"pending,approved,rejected,cancelled,expired"`
},
) (*collection[roleRequestBody], error) {
	f := postgres.RequestFilter{User: in.User, Role: in.Role, Status: in.Status, Limit: in.Limit + 1}
	if in.User != "" && uuid.Validate(in.User) != nil {
		return nil, iam.InvalidFields([]iam.FieldError{{Pointer: "user", Detail: "is not the id of a user"}})
	}
	if err := in.cursor(&f.Before); err != nil {
		return nil, err
	}
	list, err := w.Requests(ctx, in.Tenant, f)
	if err != nil {
		return nil, err
	}
	return pageOf(ctx, in.Paged, list, wireRequest, func(q iam.RoleRequest) []any { return []any{q.Seq} })
}

func (a *server) readRequest(ctx context.Context, w *admin.Work, in *OnRequest) (*resource[roleRequestBody], error) {
	return requestResource(w.Request(ctx, in.Tenant, in.Request))
}

func (a *server) approveRequest(ctx context.Context, w *admin.Work, in *struct {
	OnRequest
	Repeatable
	Body *struct {
		Reason string `json:"reason,omitempty" maxLength:"500" doc:"500 bytes at most; audited"`
	}
},
) (*resource[roleRequestBody], error) {
	reason := ""
	if in.Body != nil {
		reason = in.Body.Reason
	}
	return requestResource(w.ApproveRequest(ctx, in.Tenant, in.Request, reason))
}

func (a *server) rejectRequest(ctx context.Context, w *admin.Work, in *struct {
	OnRequest
	Repeatable
	Body struct {
		Reason string `json:"reason" minLength:"1" maxLength:"500" doc:"500 bytes at most; audited, and shown to who asked"`
	}
},
) (*resource[roleRequestBody], error) {
	return requestResource(w.RejectRequest(ctx, in.Tenant, in.Request, in.Body.Reason))
}

func (a *server) cancelRequest(ctx context.Context, w *admin.Work, in *OnRequest) (*resource[roleRequestBody], error) {
	return requestResource(w.CancelRequest(ctx, in.Tenant, in.Request))
}

type requestableBody struct {
	Role        string `json:"role"`
	Description string `json:"description"`
	Approval    string `json:"approval" enum:"required,break_glass"`
	MaxSeconds  int64  `json:"max_seconds"`
	Assigned    bool   `json:"assigned" doc:"the caller has it, for a time or for good"`
}

func (a *server) listRequestable(ctx context.Context, w *admin.Work, in *OnTenant) (*collection[requestableBody], error) {
	list, err := w.RequestableRoles(ctx, in.Tenant)
	if err != nil {
		return nil, err
	}
	return all(list, func(r admin.RequestableRole) requestableBody {
		return requestableBody{r.Name, r.Description, r.Request.Approval, r.Request.MaxSeconds, r.Assigned}
	}), nil
}
