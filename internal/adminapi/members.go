package adminapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

type memberBody struct {
	Tenant     string     `json:"tenant"`
	User       string     `json:"user" format:"uuid" doc:"id of the user"`
	Issuer     string     `json:"issuer"`
	Subject    string     `json:"subject"`
	Status     string     `json:"status" enum:"active,suspended,expired" doc:"expired: active until expires_at, which has passed"`
	Roles      []string   `json:"roles"`
	Attributes attributes `json:"attributes"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty" doc:"absent: never"`
	Version    int64      `json:"version" doc:"as in the ETag"`

	RoleTerms map[string]roleTerm `json:"role_terms,omitempty" doc:"by role: when it is in force, and why it was granted"`
}

// roleTerm is when a role of a member is in force.
type roleTerm struct {
	StartsAt  *time.Time `json:"starts_at,omitempty" doc:"absent: from the beginning"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"absent: as long as the membership; a new one is in the future"`
	Reason    string     `json:"reason,omitempty" maxLength:"500" doc:"500 bytes at most; audited, so no personal data"`
}

// MemberPut has the fields of a member that a PUT replaces.
type MemberPut struct {
	Status     string     `json:"status,omitempty" enum:"active,suspended" default:"active"`
	Roles      []string   `json:"roles,omitempty" maxItems:"100" doc:"names of roles that the tenant sees"`
	Attributes attributes `json:"attributes,omitempty" doc:"4 KB at most; each is declared by some service's manifest"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty" doc:"in the future; absent: never"`

	RoleTerms map[string]roleTerm `json:"role_terms,omitempty" maxProperties:"100" doc:"by role, one of roles: when it is in force; absent: as long as the membership"`
}

type memberPost struct {
	Issuer  string `json:"issuer,omitempty" maxLength:"512" doc:"of their tokens; absent: R-Auth"`
	Subject string `json:"subject" maxLength:"255" doc:"as in their tokens"`
	MemberPut
}

func wireMember(m iam.Member) memberBody {
	b := memberBody{
		Tenant:     m.Tenant,
		User:       m.User,
		Issuer:     m.Issuer,
		Subject:    m.Subject,
		Status:     m.Status,
		Roles:      sorted(m.Roles),
		Attributes: orEmpty(m.Attributes),
		ExpiresAt:  optionalTime(m.ExpiresAt),
		Version:    m.Version,
		RoleTerms:  wireTerms(m.Terms),
	}
	if b.ExpiresAt != nil && b.Status == iam.MembershipActive && (m.Expired || !b.ExpiresAt.After(time.Now())) {
		b.Status = iam.MembershipExpired
	}
	return b
}

func memberResource(m iam.Member) *resource[memberBody] {
	return &resource[memberBody]{Status: 200, ETag: etag(m.Version), Body: wireMember(m)}
}

func wireTerms(terms map[string]iam.RoleTerm) map[string]roleTerm {
	if len(terms) == 0 {
		return nil
	}
	wire := make(map[string]roleTerm, len(terms))
	for role, t := range terms {
		wire[role] = roleTerm{optionalTime(t.StartsAt), optionalTime(t.ExpiresAt), t.Reason}
	}
	return wire
}

// validate rejects the zero time, which is stored for a membership without an end. at points to p.
func (p MemberPut) validate(at string) (wrong []iam.FieldError) {
	zero := func(t *time.Time, pointer string) {
		if t != nil && t.IsZero() {
			wrong = append(wrong, iam.FieldError{Pointer: pointer, Detail: "must be a time after the year 1; omit it where there is none"})
		}
	}
	zero(p.ExpiresAt, at+"/expires_at")
	for _, role := range slices.Sorted(maps.Keys(p.RoleTerms)) {
		zero(p.RoleTerms[role].StartsAt, at+"/role_terms/"+role+"/starts_at")
		zero(p.RoleTerms[role].ExpiresAt, at+"/role_terms/"+role+"/expires_at")
	}
	return wrong
}

func (p MemberPut) membership() iam.Membership {
	m := iam.Membership{Status: p.Status, Roles: p.Roles, Attributes: p.Attributes}
	if m.Status == "" { // huma applies no defaults within a list
		m.Status = iam.MembershipActive
	}
	m.ExpiresAt = timeOrZero(p.ExpiresAt)
	for role, t := range p.RoleTerms {
		if m.Terms == nil {
			m.Terms = make(map[string]iam.RoleTerm, len(p.RoleTerms))
		}
		m.Terms[role] = iam.RoleTerm{StartsAt: timeOrZero(t.StartsAt), ExpiresAt: timeOrZero(t.ExpiresAt), Reason: t.Reason}
	}
	return m
}

func (a *server) memberRow(p memberPost) admin.Row {
	r := admin.Row{Issuer: p.Issuer, Subject: p.Subject, Membership: p.membership()}
	if r.Issuer == "" {
		r.Issuer = a.Issuer
	}
	return r
}

// OnMember is an input about a member.
type OnMember struct {
	OnTenant
	User string `path:"user" maxLength:"64" doc:"id of the user"`
}

func (i OnMember) target() target { return target{tenant: i.Tenant, object: i.User} }

func (a *server) listMembers(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Paged
	Role    string `query:"role" maxLength:"64" doc:"members with this role"`
	Status  string `query:"status" enum:"active,suspended,expired"`
	Issuer  string `query:"issuer" maxLength:"512"`
	Subject string `query:"subject" maxLength:"255"`
	Search  string `query:"search" maxLength:"255" doc:"the beginning of the subject, in any letter case"`

	EndsWithin string `query:"ends_within" maxLength:"20" doc:"members whose membership or a role ends within this time, as in 168h; what ends first comes first"`
},
) (*collection[memberBody], error) {
	within, err := positiveDuration("ends_within", in.EndsWithin)
	if err != nil {
		return nil, err
	}
	f := postgres.MemberFilter{
		Role:    in.Role,
		Status:  in.Status,
		Issuer:  in.Issuer,
		Subject: in.Subject,
		Search:  in.Search,
		Limit:   in.Limit + 1,

		EndsWithin: within,
	}
	cursor := []*string{&f.After}
	key := func(m iam.Member) []any { return []any{m.User} }
	if within > 0 {
		cursor = []*string{&f.AfterEnd, &f.After}
		key = func(m iam.Member) []any { return []any{m.FirstEnd().UTC().Format(time.RFC3339Nano), m.User} }
	}
	if err := in.userCursor(cursor...); err != nil {
		return nil, err
	}
	if _, err := time.Parse(time.RFC3339Nano, f.AfterEnd); err != nil && f.AfterEnd != "" {
		return nil, invalidCursor()
	}
	list, err := w.Members(ctx, in.Tenant, f)
	if err != nil {
		return nil, err
	}
	return pageOf(ctx, in.Paged, list, wireMember, key)
}

// positiveDuration parses a parameter; 0 where it is absent.
func positiveDuration(parameter, s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, iam.InvalidFields([]iam.FieldError{{Pointer: parameter, Detail: "must be a duration as in 168h or 90m"}})
	}
	return d, nil
}

func (a *server) addMember(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Repeatable
	Body memberPost
},
) (*resource[memberBody], error) {
	if err := iam.InvalidFields(in.Body.validate("")); err != nil {
		return nil, err
	}
	outcomes, err := w.PutMembers(ctx, in.Tenant, admin.Batch{Rows: []admin.Row{a.memberRow(in.Body)}, Existing: admin.RejectExisting})
	if err != nil {
		return nil, iam.Rebase(err, "/0", "")
	}
	out := memberResource(outcomes[0].Member)
	return out.created(tenantPath(in.Tenant) + "/members/" + out.Body.User), nil
}

type outcomeBody struct {
	User    string `json:"user" format:"uuid" doc:"id of the user"`
	Result  string `json:"result" enum:"added,replaced,unchanged"`
	Version int64  `json:"version"`
}

// batchBody is a batch in the OpenAPI document; parseBatch validates it row by row.
type batchBody struct {
	Members []memberPost `json:"members" minItems:"1" maxItems:"1000"`
}

// parseBatch decodes a batch. Rows that are malformed or not valid are marked, and every fault in them is returned; the other rows are
// still to be validated.
func (a *server) parseBatch(r *http.Request, body []byte) (rows []admin.Row, invalid []iam.FieldError, err error) {
	var doc any
	ctx := r.Context()
	switch err := a.api.Unmarshal(r.Header.Get("Content-Type"), body, &doc); {
	case errors.Is(err, huma.ErrUnknownContentType):
		return nil, nil, invalidRequest(ctx, http.StatusUnsupportedMediaType, nil)
	case err != nil:
		return nil, nil, invalidRequest(ctx, http.StatusBadRequest, []error{&huma.ErrorDetail{Location: "body", Message: err.Error()}})
	}
	registry := a.api.OpenAPI().Components.Schemas
	path, result := huma.NewPathBuffer(nil, 0), &huma.ValidateResult{}
	path.Push("body")
	huma.Validate(registry, registry.Schema(reflect.TypeFor[batchBody](), true, ""), path, huma.ModeWriteToServer, doc, result)
	skip := map[string]bool{} // by index
	for _, e := range result.Errors {
		d, ok := errors.AsType[*huma.ErrorDetail](e)
		if !ok {
			continue // there are no others
		}
		at, inRow := strings.CutPrefix(pointerOf(d.Location), "/members/")
		if !inRow {
			return nil, nil, invalidRequest(ctx, http.StatusUnprocessableEntity, result.Errors)
		}
		invalid = append(invalid, iam.FieldError{Pointer: "/" + at, Detail: d.Message})
		index, _, _ := strings.Cut(at, "/")
		skip[index] = true
	}
	var b struct{ Members []json.RawMessage }
	if err := json.Unmarshal(body, &b); err != nil {
		return nil, nil, err
	}
	rows = make([]admin.Row, len(b.Members))
	for i, raw := range b.Members {
		if skip[strconv.Itoa(i)] {
			rows[i].Invalid = true
			continue
		}
		var m memberPost
		if err := jsonFormat.Unmarshal(raw, &m); err != nil {
			rows[i].Invalid = true
			invalid = append(invalid, iam.FieldError{Pointer: fmt.Sprintf("/%d", i), Detail: err.Error()})
			continue
		}
		rows[i] = a.memberRow(m)
		invalid = append(invalid, m.validate(fmt.Sprintf("/%d", i))...)
	}
	return rows, invalid, nil
}

func (a *server) batchMembers(ctx context.Context, w *admin.Work, in *struct {
	OnTenant
	Leaving
	Repeatable
},
) (*collection[outcomeBody], error) {
	rows, invalid, err := a.parseBatch(exchangeOf(ctx).r, in.RawBody)
	if err != nil {
		return nil, err
	}
	outcomes, err := w.PutMembers(ctx, in.Tenant, admin.Batch{Rows: rows, Invalid: invalid})
	if err != nil {
		return nil, iam.Rebase(err, "/", "/members/")
	}
	return all(outcomes, wireOutcome), nil
}

func wireOutcome(o admin.Outcome) outcomeBody {
	return outcomeBody{User: o.Member.User, Result: string(o.Effect), Version: o.Member.Version}
}

func (a *server) readMember(ctx context.Context, w *admin.Work, in *OnMember) (*resource[memberBody], error) {
	m, err := w.Member(ctx, in.Tenant, in.User)
	if err != nil {
		return nil, err
	}
	return memberResource(m), nil
}

func (a *server) putMember(ctx context.Context, w *admin.Work, in *struct {
	OnMember
	Conditional
	Leaving
	Body MemberPut
},
) (*resource[memberBody], error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	if err := iam.InvalidFields(in.Body.validate("")); err != nil {
		return nil, err
	}
	m := in.Body.membership()
	m.Tenant, m.User = in.Tenant, in.User
	got, err := w.PutMember(ctx, m, cond)
	if err != nil {
		return nil, err
	}
	return memberResource(got), nil
}

// MemberPatch has the fields of a member that a merge patch can change.
type MemberPatch struct {
	Status     *string    `json:"status,omitempty" enum:"active,suspended"`
	Roles      []string   `json:"roles,omitempty" maxItems:"100" doc:"replaces all roles"`
	Attributes attributes `json:"attributes,omitempty" nullable:"true" doc:"null as a value removes the attribute; null as the object removes all"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty" nullable:"true" doc:"in the future; null: never"`

	RoleTerms map[string]RoleTermPatch `json:"role_terms,omitempty" nullable:"true" maxProperties:"100" doc:"by role, as of PUT; null as a value, or as a field of one, removes it; that of a role which is removed goes with it"`
}

// RoleTermPatch has the fields of a role's term that a merge patch can change.
type RoleTermPatch struct {
	_         struct{}   `nullable:"true"`
	StartsAt  *time.Time `json:"starts_at,omitempty" nullable:"true"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" nullable:"true"`
	Reason    *string    `json:"reason,omitempty" nullable:"true" maxLength:"500"`
}

func (a *server) patchMember(ctx context.Context, w *admin.Work, in *struct {
	OnMember
	Conditional
	Leaving
	Patched
	Body MemberPatch `contentType:"application/merge-patch+json"`
},
) (*resource[memberBody], error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	m, err := w.EditMember(ctx, in.Tenant, in.User, cond, func(m iam.Membership) (iam.Membership, error) {
		s, err := apply(in.Patched, MemberPut{m.Status, m.Roles, m.Attributes, optionalTime(m.ExpiresAt), wireTerms(m.Terms)})
		if err == nil {
			err = iam.InvalidFields(s.validate(""))
		}
		after := s.membership()
		maps.DeleteFunc(after.Terms, func(role string, t iam.RoleTerm) bool { // of a role that the patch removes
			return !slices.Contains(after.Roles, role) && t == m.Terms[role]
		})
		after.Status = s.Status // here null does not mean the default
		after.Tenant, after.User, after.Version = m.Tenant, m.User, m.Version
		return after, err
	})
	if err == nil && in.Body.Status != nil && *in.Body.Status == iam.MembershipSuspended {
		err = w.KeepSuspended(ctx, m)
	}
	if err != nil {
		return nil, err
	}
	return memberResource(m), nil
}

func (a *server) deleteMember(ctx context.Context, w *admin.Work, in *struct {
	OnMember
	Conditional
	Leaving
},
) (*struct{}, error) {
	cond, err := in.condition()
	if err != nil {
		return nil, err
	}
	return nil, w.DeleteMember(ctx, in.Tenant, in.User, cond)
}
