package adminapi

import (
	"context"
	"fmt"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

type accessPath struct {
	Kind      string     `json:"kind" enum:"direct,inherited,scope" doc:"direct: the role is assigned itself; inherited: by one that is; scope: of a client, where its token carries it"`
	Roles     []string   `json:"roles,omitempty" doc:"the assigned role, then those that it inherits, to the one that grants"`
	Scope     string     `json:"scope,omitempty" doc:"of a client"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"the earlier of the role's and the membership's end; absent: never"`
}

func wirePath(p iam.Path) accessPath {
	return accessPath{Kind: p.Kind, Roles: p.Roles, Scope: p.Scope, ExpiresAt: optionalTime(p.ExpiresAt)}
}

func wirePaths(paths []iam.Path) []accessPath {
	out := make([]accessPath, len(paths))
	for i, p := range paths {
		out[i] = wirePath(p)
	}
	return out
}

type accessBody struct {
	Kind       string       `json:"kind" enum:"user,client,mapping" doc:"mapping: every user whose token has the claim, which no list of persons shows"`
	User       string       `json:"user,omitempty" doc:"id of the user"`
	Issuer     string       `json:"issuer,omitempty" doc:"absent: the user was erased"`
	Subject    string       `json:"subject,omitempty" doc:"of a user; absent: the user was erased"`
	ClientID   string       `json:"client_id,omitempty"`
	Claim      string       `json:"claim,omitempty" doc:"of a mapping"`
	Value      string       `json:"value,omitempty" doc:"of the claim"`
	Role       string       `json:"role,omitempty" doc:"what is held"`
	Permission string       `json:"permission,omitempty" doc:"what is held"`
	Paths      []accessPath `json:"paths" doc:"each way by which it is held"`
	ExpiresAt  *time.Time   `json:"expires_at,omitempty" doc:"when the last path ends; absent: never"`
	AsOf       *time.Time   `json:"as_of,omitempty" doc:"in an export, and with at: the moment that it belongs to"`
}

func wireAccess(a admin.Access, asOf time.Time) accessBody {
	return accessBody{
		Kind:       a.Kind,
		User:       a.User,
		Issuer:     a.Issuer,
		Subject:    a.Subject,
		ClientID:   a.ClientID,
		Claim:      a.Mapping.Claim,
		Value:      a.Mapping.Value,
		Role:       a.Held.Role,
		Permission: a.Held.Permission,
		Paths:      wirePaths(a.Paths),
		ExpiresAt:  optionalTime(iam.EndOfPaths(a.Paths)),
		AsOf:       optionalTime(asOf),
	}
}

type accessPage struct {
	Items        []accessBody `json:"items"`
	Next         string       `json:"next,omitempty" doc:"value of after for the next page; absent on the last page"`
	TenantStatus string       `json:"tenant_status" enum:"active,suspended,archived" doc:"nobody holds anything in a tenant that is not active"`
}

// Moment is an input about the facts of now, or of an earlier moment.
type Moment struct {
	At time.Time `query:"at" doc:"as it was then, from the audit (RFC 3339); absent: now"`
}

// AccessQuery is a question about who holds what in a tenant.
type AccessQuery struct {
	OnTenant
	Paged
	Moment
	Permission string `query:"permission" maxLength:"255" doc:"who holds it"`
	Role       string `query:"role" maxLength:"68" doc:"who holds it, assigned or inherited"`
	Client     string `query:"client" maxLength:"255" doc:"client_id: which roles and permissions the client holds in the tenant"`
}

// question validates the query: it asks for one thing.
func (q AccessQuery) question() (admin.AccessQuestion, error) {
	given := 0
	for _, value := range []string{q.Permission, q.Role, q.Client} {
		if value != "" {
			given++
		}
	}
	if given != 1 {
		return admin.AccessQuestion{}, iam.InvalidFields([]iam.FieldError{{
			Pointer: "permission", Detail: fmt.Sprintf("one of permission, role and client is required, and %d are given", given),
		}})
	}
	for name, value := range map[string]string{"permission": q.Permission, "role": q.Role, "client": q.Client} {
		if !isText(value) {
			return admin.AccessQuestion{}, iam.InvalidFields([]iam.FieldError{{Pointer: name, Detail: "must be UTF-8 without a NUL"}})
		}
	}
	return admin.AccessQuestion{Goal: iam.Goal{Role: q.Role, Permission: q.Permission}, Client: q.Client, At: q.At}, nil
}

func (a *server) listAccess(ctx context.Context, c call, in *AccessQuery) (*exportable, error) {
	if format := formatOf(ctx); format != "" {
		check := func() error { _, err := in.question(); return err }
		return a.export(ctx, c, exporting{format: format, check: check, header: admin.AccessColumns, stream: func(ctx context.Context, w *admin.Work, put *exportWriter) error {
			question, err := in.question()
			if err != nil {
				return err
			}
			return w.EachAccess(ctx, in.Tenant, question, func(x admin.Access, asOf time.Time) error {
				return put.each(wireAccess(x, asOf), admin.AccessRows(in.Tenant, x, asOf))
			})
		}})
	}
	after, err := in.accessCursor()
	if err != nil {
		return nil, err
	}
	return a.page(ctx, c, func(ctx context.Context, w *admin.Work) (any, string, error) {
		question, err := in.question()
		if err != nil {
			return nil, "", err
		}
		found, err := w.Access(ctx, in.Tenant, question, after, in.Limit)
		if err != nil {
			return nil, "", err
		}
		body := accessPage{Items: []accessBody{}, TenantStatus: found.TenantStatus}
		for _, x := range found.Items {
			body.Items = append(body.Items, wireAccess(x, in.At))
		}
		if found.More {
			body.Next = in.accessNext(found.Next)
		}
		return body, body.Next, nil
	})
}

type heldBody struct {
	Name      string       `json:"name"`
	Paths     []accessPath `json:"paths" doc:"each way by which it is held"`
	ExpiresAt *time.Time   `json:"expires_at,omitempty" doc:"when the last path ends; absent: never"`
}

func wireHeld(list []admin.Held) []heldBody {
	out := make([]heldBody, len(list))
	for i, h := range list {
		out[i] = heldBody{h.Name, wirePaths(h.Paths), optionalTime(iam.EndOfPaths(h.Paths))}
	}
	return out
}

type userAccessBody struct {
	Tenant       string     `json:"tenant"`
	TenantStatus string     `json:"tenant_status" enum:"active,suspended,archived"`
	User         string     `json:"user" format:"uuid"`
	Status       string     `json:"status" enum:"active,suspended" doc:"of the membership"`
	InForce      bool       `json:"in_force" doc:"if not, nothing is held"`
	Why          []string   `json:"why" doc:"why not: user_blocked, tenant_suspended, tenant_archived, membership_suspended, membership_expired, issuer_does_not_reach_tenant"`
	ExpiresAt    *time.Time `json:"expires_at,omitempty" doc:"of the membership; absent: never"`
	Roles        []heldBody `json:"roles" doc:"by name"`
	Permissions  []heldBody `json:"permissions" doc:"by name"`
	AsOf         *time.Time `json:"as_of,omitempty" doc:"in an export, and with at: the moment that it belongs to"`
}

func wireUserAccess(user string, x admin.UserAccess, asOf time.Time) userAccessBody {
	return userAccessBody{
		Tenant:       x.Tenant,
		TenantStatus: x.TenantStatus,
		User:         user,
		Status:       x.Status,
		InForce:      x.InForce,
		Why:          x.Why,
		ExpiresAt:    optionalTime(x.ExpiresAt),
		Roles:        wireHeld(x.Roles),
		Permissions:  wireHeld(x.Permissions),
		AsOf:         optionalTime(asOf),
	}
}

func (a *server) readMemberAccess(ctx context.Context, w *admin.Work, in *struct {
	OnMember
	Moment
},
) (*resource[userAccessBody], error) {
	x, err := w.MemberAccess(ctx, in.Tenant, in.User, in.At)
	if err != nil {
		return nil, err
	}
	return &resource[userAccessBody]{Status: 200, Body: wireUserAccess(in.User, x, in.At)}, nil
}

func (a *server) listUserAccess(ctx context.Context, c call, in *struct {
	OnUser
	Paged
	Moment
},
) (*exportable, error) {
	if format := formatOf(ctx); format != "" {
		return a.export(ctx, c, exporting{format: format, header: admin.UserAccessColumns, stream: func(ctx context.Context, w *admin.Work, put *exportWriter) error {
			return w.EachUserAccess(ctx, in.User, in.At, func(x admin.UserAccess) error {
				return put.each(wireUserAccess(in.User, x, x.AsOf), admin.UserAccessRows(in.User, x))
			})
		}})
	}
	var after string
	if err := in.cursor(&after); err != nil {
		return nil, err
	}
	return a.page(ctx, c, func(ctx context.Context, w *admin.Work) (any, string, error) {
		list, err := w.UserAccess(ctx, in.User, in.At, after, in.Limit+1)
		if err != nil {
			return nil, "", err
		}
		body := page[userAccessBody]{Items: []userAccessBody{}}
		if len(list) > in.Limit {
			list = list[:in.Limit]
			body.Next = in.encoded([]any{list[in.Limit-1].Tenant})
		}
		for _, x := range list {
			body.Items = append(body.Items, wireUserAccess(in.User, x, in.At))
		}
		return body, body.Next, nil
	})
}

type matrixCell struct {
	Name      string     `json:"name"`
	Kind      string     `json:"kind" enum:"direct,inherited"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"of a role of a member; absent: never"`
}

type matrixRow struct {
	Role    string       `json:"role,omitempty" doc:"of=roles: the role"`
	Global  bool         `json:"global,omitempty" doc:"of every tenant"`
	User    string       `json:"user,omitempty" doc:"of=members: id of the user"`
	Issuer  string       `json:"issuer,omitempty"`
	Subject string       `json:"subject,omitempty"`
	InForce bool         `json:"in_force" doc:"whether the membership is; if not, it has no cells"`
	Cells   []matrixCell `json:"cells" doc:"the permissions of a role, or the roles of a member, by name; what is not held has none"`
}

func wireRow(r admin.MatrixRow) matrixRow {
	row := matrixRow{Role: r.Role, Global: r.Global, User: r.User, Issuer: r.Issuer, Subject: r.Subject, InForce: r.InForce, Cells: make([]matrixCell, len(r.Cells))}
	for i, c := range r.Cells {
		row.Cells[i] = matrixCell{c.Name, c.Kind, optionalTime(c.ExpiresAt)}
	}
	return row
}

// matrixQuery asks for a matrix of a tenant.
type matrixQuery struct {
	OnTenant
	Paged
	Of string `query:"of" enum:"roles,members" default:"roles" doc:"roles: their permissions, by role; members: their roles, by user id"`
}

func (q matrixQuery) matrix() admin.Matrix {
	return admin.Matrix{Tenant: q.Tenant, Members: q.Of == "members"}
}

// stream writes the whole matrix.
func (q matrixQuery) stream(ctx context.Context, w *admin.Work, put *exportWriter) error {
	return w.EachMatrixRow(ctx, q.matrix(), func(columns []string) error {
		if put.csv == nil {
			return nil
		}
		return put.row(columns)
	}, func(r admin.MatrixRow, cells []string) error { return put.each(wireRow(r), [][]string{cells}) })
}

func (a *server) readMatrix(ctx context.Context, c call, in *matrixQuery) (*exportable, error) {
	if format := formatOf(ctx); format != "" {
		return a.export(ctx, c, exporting{format: format, stream: in.stream})
	}
	var after string
	err := in.cursor(&after)
	if err == nil && in.Of == "members" {
		err = in.userCursor(&after)
	}
	if err != nil {
		return nil, err
	}
	return a.page(ctx, c, func(ctx context.Context, w *admin.Work) (any, string, error) {
		list, err := w.Matrix(ctx, in.matrix(), after, in.Limit+1)
		if err != nil {
			return nil, "", err
		}
		body := page[matrixRow]{Items: []matrixRow{}}
		if len(list) > in.Limit {
			list = list[:in.Limit]
			body.Next = in.encoded([]any{list[in.Limit-1].Key()})
		}
		for _, r := range list {
			body.Items = append(body.Items, wireRow(r))
		}
		return body, body.Next, nil
	})
}

// AccessLine is an item of a list of access as a line of its export.
func AccessLine(x admin.Access, asOf time.Time) any { return wireAccess(x, asOf) }

// UserAccessLine is what a user holds in a tenant as a line of an export.
func UserAccessLine(user string, x admin.UserAccess) any { return wireUserAccess(user, x, x.AsOf) }

// MatrixLine is a row of a matrix as a line of its export.
func MatrixLine(r admin.MatrixRow) any { return wireRow(r) }
