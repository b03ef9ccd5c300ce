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
