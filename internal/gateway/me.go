package gateway

import (
	"context"
	"net/http"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/problem"
	"iam-service/internal/token"
)

type myTenant struct {
	ID      string `json:"id"`
	Slug    string `json:"slug"`
	Name    string `json:"name"`
	Default bool   `json:"default"`
}

// myTenants serves GET /v1/me/tenants: the bearer's own tenants, for a tenant
// switcher. At most 1,000, the limit of memberships, so it has no pages.
func (s *Service) myTenants(w http.ResponseWriter, r *http.Request) error {
	raw, err := problem.Bearer(r.Header)
	if err != nil {
		return err
	}
	if raw == "" {
		return iam.Errorf(iam.Unauthenticated, "a bearer token is needed")
	}
	t, bound, err := s.Identify(r.Context(), raw)
	if err != nil {
		return err
	}
	if t.Program() {
		return iam.Errorf(iam.Forbidden, "only a user has tenants to switch between")
	}
	list, err := s.tenantsOf(r.Context(), t)
	if err != nil {
		return err
	}
	out := struct {
		Tenants []myTenant `json:"tenants"`
	}{Tenants: []myTenant{}}
	for _, m := range list {
		if bound == "" || m.ID == bound {
			out.Tenants = append(out.Tenants, myTenant(m))
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	return problem.Encode(w, http.StatusOK, out)
}

// tenantsOf reads the list of a subject. Lists share the connections of enrichment, which must not wait
// for them: few are read at once, and one subject occupies one place however many requests it sends.
func (s *Service) tenantsOf(ctx context.Context, t *token.Token) ([]iam.TenantMembership, error) {
	read := s.lists.DoChan(t.Issuer+"\x00"+t.Subject, func() (any, error) {
		ctx := context.WithoutCancel(ctx) // other requests of the subject may wait for it
		patience := time.NewTimer(time.Second)
		defer patience.Stop()
		select {
		case s.listing <- struct{}{}:
			defer func() { <-s.listing }()
		case <-patience.C:
			return nil, &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "too many lists of tenants are requested at once"}
		}
		list, err := s.Tenants.TenantsOf(ctx, t.Issuer, t.Subject)
		if err != nil {
			return nil, &iam.Error{Kind: iam.Unavailable, Code: "facts_unavailable", Detail: "the facts cannot be read now", Cause: err}
		}
		return list, nil
	})
	select {
	case result := <-read:
		list, _ := result.Val.([]iam.TenantMembership)
		return list, result.Err
	case <-ctx.Done():
		return nil, &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "the caller has left"}
	}
}
