package admin

import (
	"slices"
	"time"

	"iam-service/internal/iam"
)

// holding is what the caller holds in a tenant that sees these roles, before any change.
func (w *Work) holding(tenant string, roles iam.Graph) iam.Holding {
	switch {
	case w.caller.Token == nil:
		return iam.Holding{Everything: true}
	case w.user != nil:
		return w.heldByUser(tenant, roles)
	case w.client != nil:
		return w.heldByClient(tenant, roles)
	}
	return iam.Holding{}
}

func (w *Work) heldByUser(tenant string, roles iam.Graph) iam.Holding {
	if w.user.Status != iam.UserActive {
		return iam.Holding{}
	}
	issuer, _ := w.s.cfg.Issuers.Find(w.user.Issuer) // unknown: reaches nothing
	if issuer.Platform && slices.Contains(w.user.PlatformRoles, iam.PlatformAdmin) {
		return iam.Holding{Everything: true}
	}
	for _, m := range w.user.Memberships {
		active := m.Status == iam.MembershipActive && m.TenantStatus == iam.TenantActive && (m.ExpiresAt.IsZero() || m.ExpiresAt.After(w.user.AsOf))
		if tenant != "" && m.Tenant == tenant && active && issuer.Reaches(tenant) {
			return roles.Hold(m.Roles)
		}
	}
	return iam.Holding{}
}

func (w *Work) heldByClient(tenant string, roles iam.Graph) iam.Holding {
	issuer, _ := w.s.cfg.Issuers.Find(w.client.Issuer) // unknown: reaches nothing
	if w.client.Tenant == "" && issuer.Platform && slices.Contains(w.client.Scopes, iam.ScopePlatformAdmin) &&
		slices.Contains(w.caller.Token.Scopes(), iam.ScopePlatformAdmin) { // a token can be limited to fewer scopes than its client has
		return iam.Holding{Everything: true}
	}
	if tenant != "" && w.client.Tenant == tenant {
		return roles.Hold(w.client.Roles)
	}
	return iam.Holding{}
}

// holdsEverything reports whether the caller administers the platform.
func (w *Work) holdsEverything() bool { return w.holding("", iam.Graph{}).Everything }

// heldUntil is when what the caller holds in a tenant ends; zero: never.
func (w *Work) heldUntil(tenant string) time.Time {
	if w.user == nil || w.holdsEverything() {
		return time.Time{}
	}
	for _, m := range w.user.Memberships {
		if m.Tenant == tenant {
			return m.ExpiresAt
		}
	}
	return time.Time{}
}

// checkHeld rejects roles of a graph that grant more than is held; verb is what is attempted.
func checkHeld(h iam.Holding, g iam.Graph, names []string, verb, pointer string) error {
	more := h.Beyond(g, names)
	if more == "" {
		return nil
	}
	e := &iam.Error{Kind: iam.Forbidden, Code: "more_than_held", Detail: "a caller can " + verb + " only what they hold"}
	e.Fields = []iam.FieldError{{Pointer: pointer, Detail: "grants " + more + ", which the caller does not hold"}}
	return e
}
