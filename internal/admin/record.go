package admin

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"iam-service/internal/iam"
)

// Documents of the audit: what something was before, and is after. A user's says
// neither issuer nor subject, so that nothing of them is left when they are erased.
type (
	tenantDoc struct {
		Slug       string         `json:"slug"`
		Name       string         `json:"name"`
		Status     string         `json:"status"`
		Attributes map[string]any `json:"attributes,omitempty"`
	}
	roleDoc struct {
		Permissions []string `json:"permissions"`
		Inherits    []string `json:"inherits"`
		Description string   `json:"description,omitempty"`
		Service     string   `json:"service,omitempty"`
	}
	userDoc struct {
		Status          string         `json:"status"`
		PlatformRoles   []string       `json:"platform_roles"`
		DefaultTenant   string         `json:"default_tenant,omitempty"`
		TokensNotBefore string         `json:"tokens_not_before,omitempty"`
		Attributes      map[string]any `json:"attributes,omitempty"`
	}
	memberDoc struct {
		Status     string         `json:"status"`
		Roles      []string       `json:"roles"`
		Attributes map[string]any `json:"attributes,omitempty"`
		ExpiresAt  string         `json:"expires_at,omitempty"`
	}
	clientDoc struct {
		Tenant          string            `json:"tenant,omitempty"`
		Status          string            `json:"status"`
		Roles           []string          `json:"roles"`
		Scopes          []string          `json:"scopes"`
		TokensNotBefore string            `json:"tokens_not_before,omitempty"`
		Registration    *iam.Registration `json:"registration,omitempty"`
	}
	// secretDoc says what was done about a client's secret.
	secretDoc struct {
		Secrets  int64  `json:"secrets"`
		State    string `json:"state"`
		OldUntil string `json:"old_until,omitempty"`
	}
	mappingDoc struct {
		Issuer string   `json:"issuer"`
		Claim  string   `json:"claim"`
		Value  string   `json:"value"`
		Roles  []string `json:"roles"`
	}
)

func docOfTenant(t iam.Tenant) tenantDoc { return tenantDoc{t.Slug, t.Name, t.Status, t.Attributes} }

func docOfRole(r iam.Role) roleDoc {
	return roleDoc{some(r.Permissions), some(r.Inherits), r.Description, r.Service}
}

func docOfUser(u iam.User) userDoc {
	return userDoc{u.Status, some(u.PlatformRoles), u.DefaultTenant, stamp(u.TokensNotBefore), u.Attributes}
}

func docOfMember(m iam.Membership) memberDoc {
	return memberDoc{m.Status, some(m.Roles), m.Attributes, stamp(m.ExpiresAt)}
}

func docOfClient(c iam.ManagedClient) clientDoc {
	d := clientDoc{Tenant: c.Tenant, Status: c.Status, Roles: some(c.Roles), Scopes: some(c.Scopes), TokensNotBefore: stamp(c.TokensNotBefore)}
	if c.Managed {
		r := c.Wanted
		r.RedirectURIs, r.PostLogoutRedirectURIs, r.GrantTypes = some(r.RedirectURIs), some(r.PostLogoutRedirectURIs), some(r.GrantTypes)
		r.Audience = some(r.Audience)
		d.Registration = &r
	}
	return d
}

func docOfSecret(c iam.ManagedClient) secretDoc {
	return secretDoc{c.Secrets, c.SecretState, stamp(c.RetireAt)}
}

func docOfMapping(m iam.Mapping) mappingDoc {
	return mappingDoc{m.Issuer, m.Claim, m.Value, some(m.Roles)}
}

// same reports whether two documents say the same.
func same(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// sameAttributes is same; none at all is as good as an empty object.
func sameAttributes(a, b map[string]any) bool {
	return len(a) == 0 && len(b) == 0 || same(a, b)
}

// some makes an absent list an empty one, and sorts it: lists of names are sets.
func some(list []string) []string {
	sorted := slices.Sorted(slices.Values(list))
	if sorted == nil {
		return []string{}
	}
	return sorted
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
