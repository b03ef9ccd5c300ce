package explain

import (
	"context"
	"maps"
	"slices"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
)

// MaxTried is the largest number of roles that one explanation tries.
const MaxTried = 20

// Requestable is a role that the subject can ask for, and with which the request would have been allowed.
type Requestable struct {
	Role       string `json:"role"`
	Approval   string `json:"approval" enum:"required,break_glass"`
	MaxSeconds int64  `json:"max_seconds"`
}

// Trial is a denied question, and how to ask it again.
type Trial struct {
	Facts     directory.Loader // a snapshot; called by one goroutine at a time
	Engine    *policy.Engine
	Revision  *policy.Revision // nil: the active one
	Issuers   iam.Issuers
	HeaderMax int
	Tenant    string // whose roles are tried
}

// Requestable returns which of some roles would have allowed q: the question is evaluated again for each, over facts in
// which the subject has that role too. At most MaxTried are tried.
func (t Trial) Requestable(ctx context.Context, q Question, roles []iam.Role) ([]Requestable, error) {
	r := t.Revision
	if r == nil {
		if r = t.Engine.Revision(); r == nil {
			return nil, policy.ErrNoPolicy
		}
	}
	facts := &serial{Loader: t.Facts}
	var would []Requestable
	for _, role := range roles[:min(len(roles), MaxTried)] {
		s := Over(&withRole{facts, q.Token.Issuer, q.Token.Subject, t.Tenant, role.Name}, t.Engine, t.Issuers, t.HeaderMax)
		allowed, err := s.allows(ctx, r, q)
		if err != nil {
			return nil, err
		}
		if allowed && role.Request != nil {
			would = append(would, Requestable{role.Name, role.Request.Approval, role.Request.MaxSeconds})
		}
	}
	return would, nil
}

// allows reports whether q is allowed under r. A question that cannot be decided is not.
func (s *Service) allows(ctx context.Context, r *policy.Revision, q Question) (bool, error) {
	now := q.Now
	if now.IsZero() {
		now = time.Now()
	}
	deadline := time.Now().Add(time.Second)
	ask := enrich.Question{
		Revision: r, Token: q.Token, Request: enrich.Request{TenantHint: q.Tenant, Facts: q.Request}, Facts: s.Enricher.View(q.Token, deadline), Now: now,
	}
	o, err := s.Enricher.Ask(ctx, ask, deadline)
	if err != nil && ctx.Err() != nil {
		return false, ctx.Err()
	}
	return err == nil && o.Response.Allowed, nil
}

// withRole loads facts in which a subject has one more role in a tenant.
type withRole struct {
	directory.Loader
	issuer, subject, tenant, role string
}

func (f *withRole) User(ctx context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	u, found, err := f.Loader.User(ctx, issuer, subject)
	if err != nil || !found || issuer != f.issuer || subject != f.subject {
		return u, found, err
	}
	u.Memberships = slices.Clone(u.Memberships)
	for i, m := range u.Memberships {
		if m.Tenant != f.tenant {
			continue
		}
		m.Roles, m.Terms = append(slices.Clone(m.Roles), f.role), maps.Clone(m.Terms)
		delete(m.Terms, f.role)
		u.Memberships[i] = m
	}
	return u, true, nil
}
