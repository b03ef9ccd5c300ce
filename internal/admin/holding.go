package admin

import (
	"slices"
	"time"

	"iam-service/internal/iam"
)

// What a caller holds until some time, they can grant until then at most. A horizon is that time.
var (
	atPresent  = horizon{}              // what is held now, however long: what is revoked, or only kept
	withoutEnd = horizon{lasting: true} // what never expires: clients, mappings, permissions of a role
)

// horizon selects what a caller holds by how long they hold it.
type horizon struct {
	until   time.Time // held until then at least
	lasting bool      // held without an end
}

// until is the horizon of something that ends; zero: never.
func until(end time.Time) horizon { return horizon{until: end, lasting: end.IsZero()} }

// reaches reports whether something that ends, or never does where end is zero, is held up to the horizon.
func (h horizon) reaches(end time.Time) bool {
	return end.IsZero() || !h.lasting && !end.Before(h.until)
}

// holding is what the caller holds now in a tenant that sees these roles, before any change.
func (w *Work) holding(tenant string, roles iam.Graph) iam.Holding {
	return w.holdingUntil(tenant, roles, atPresent)
}

// holdingUntil is the part of holding that the caller holds up to a horizon.
func (w *Work) holdingUntil(tenant string, roles iam.Graph, h horizon) iam.Holding {
	switch {
	case w.caller.Token == nil:
		return iam.Holding{Everything: true}
	case w.user != nil:
		return w.heldByUser(tenant, roles, h)
	case w.client != nil:
		return w.heldByClient(tenant, roles)
	}
	return iam.Holding{}
}

func (w *Work) heldByUser(tenant string, roles iam.Graph, h horizon) iam.Holding {
	if w.user.Status != iam.UserActive {
		return iam.Holding{}
	}
	issuer, _ := w.s.cfg.Issuers.Find(w.user.Issuer) // unknown: reaches nothing
	if issuer.Platform && slices.Contains(w.user.PlatformRoles, iam.PlatformAdmin) {
		return iam.Holding{Everything: true}
	}
	m := w.membership(tenant)
	active := m.Status == iam.MembershipActive && m.TenantStatus == iam.TenantActive && (m.ExpiresAt.IsZero() || m.ExpiresAt.After(w.user.AsOf))
	if !active || !issuer.Reaches(tenant) {
		return iam.Holding{}
	}
	return roles.Hold(slices.DeleteFunc(slices.Clone(m.RolesAt(w.user.AsOf)), func(role string) bool { return !h.reaches(m.EndOf(role)) }))
}

// membership is the caller's own in a tenant; the zero value if there is none.
func (w *Work) membership(tenant string) iam.Membership {
	if w.user == nil || tenant == "" {
		return iam.Membership{}
	}
	for _, m := range w.user.Memberships {
		if m.Tenant == tenant {
			return m
		}
	}
	return iam.Membership{}
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

// memberUntil is when the caller's membership of a tenant ends; zero: never, or the caller needs none.
func (w *Work) memberUntil(tenant string) time.Time {
	if w.user == nil || w.holdsEverything() {
		return time.Time{}
	}
	return w.membership(tenant).ExpiresAt
}

// heldUntil is until when what the caller holds is enough, as it is now; zero: without an end.
func (w *Work) heldUntil(tenant string, g iam.Graph, enough func(iam.Holding) bool) time.Time {
	if w.user == nil || enough(w.holdingUntil(tenant, g, withoutEnd)) { // what a program holds has no end
		return time.Time{}
	}
	m := w.membership(tenant)
	var latest time.Time
	for _, role := range m.RolesAt(w.user.AsOf) {
		end := m.EndOf(role)
		if end.After(latest) && enough(w.holdingUntil(tenant, g, until(end))) {
			latest = end
		}
	}
	return latest
}

// rolesHeldUntil is until when the caller holds all that the named roles grant, which they hold now; zero: without an
// end.
func (w *Work) rolesHeldUntil(tenant string, g iam.Graph, names ...string) time.Time {
	return w.heldUntil(tenant, g, func(h iam.Holding) bool { return h.Beyond(g, names) == "" })
}

// checkLasting rejects roles that the caller holds for a time only, where they are granted to what never expires.
func (w *Work) checkLasting(tenant string, g iam.Graph, names []string, what, pointer string) error {
	more := w.holdingUntil(tenant, g, withoutEnd).Beyond(g, names)
	if more == "" {
		return nil
	}
	e := &iam.Error{Kind: iam.Forbidden, Code: "more_than_held"}
	e.Detail = what + " never expires, and the caller holds what it grants until " + timestamp(w.rolesHeldUntil(tenant, g, names...)) + " only"
	e.Fields = []iam.FieldError{{Pointer: pointer, Detail: "grants " + more + ", which the caller holds for a time only"}}
	return e
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
