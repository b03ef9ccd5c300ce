package admin

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"iam-service/internal/iam"
)

// record adds an entry to the audit. Before and after are documents of this file; nil: it did
// not exist, or no longer exists.
func (w *Work) record(chain, kind, object string, before, after any) error {
	e := iam.AuditEntry{
		Chain:      chain,
		ActorKind:  w.actorKind,
		Actor:      w.actor,
		Via:        w.caller.Via,
		Address:    w.caller.Address,
		RequestID:  w.caller.RequestID,
		DecisionID: w.decisionID,
		Action:     w.task.Action,
		Kind:       kind,
		Object:     object,
	}
	var err error
	if before != nil {
		if e.Before, err = json.Marshal(before); err != nil {
			return err
		}
	}
	if after != nil {
		if e.After, err = json.Marshal(after); err != nil {
			return err
		}
	}
	w.entries = append(w.entries, e)
	return nil
}

// emit adds an event to the outbox.
func (w *Work) emit(e iam.Event) { w.events = append(w.events, e) }

// Documents of the audit: the state before and after a change. A user's contains neither
// issuer nor subject, so that nothing personal is left after an erasure.
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

		Request *iam.Requestable `json:"request,omitempty"`
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

		RoleTerms map[string]iam.RoleTerm `json:"role_terms,omitempty"`
	}
	clientDoc struct {
		Tenant          string            `json:"tenant,omitempty"`
		Status          string            `json:"status"`
		Roles           []string          `json:"roles"`
		Scopes          []string          `json:"scopes"`
		TokensNotBefore string            `json:"tokens_not_before,omitempty"`
		Registration    *iam.Registration `json:"registration,omitempty"`
	}
	// secretDoc is the state of a client's secret, without the secret.
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

type (
	scimGroupDoc struct {
		DisplayName string   `json:"display_name"`
		ExternalID  string   `json:"external_id,omitempty"`
		Roles       []string `json:"roles"`
		Members     int      `json:"members"`
	}
	groupMembersDoc struct {
		Added   []string `json:"added,omitempty"`
		Removed []string `json:"removed,omitempty"`
	}
	scimUserDoc struct {
		ExternalID bool `json:"external_id"` // whether there is one: the id itself is the client's, and may be personal
		Active     bool `json:"active"`      // what the client says
	}
	scimSuspensionDoc struct {
		SuspendedBy string `json:"suspended_by"` // client, administrator
	}
)

func auditOfGroup(g iam.SCIMGroup) scimGroupDoc {
	return scimGroupDoc{g.DisplayName, g.ExternalID, sorted(g.Roles), g.Members}
}

func auditOfSCIMUser(u iam.SCIMUser) scimUserDoc { return scimUserDoc{u.ExternalID != "", !u.Inactive} }

func stateOfGroup(g iam.SCIMGroup) iam.SCIMGroupState {
	return iam.SCIMGroupState{Tenant: g.Tenant, Group: g.ID, Roles: sorted(g.Roles), Members: g.Members, Version: g.Version}
}

func auditOfTenant(t iam.Tenant) tenantDoc { return tenantDoc{t.Slug, t.Name, t.Status, t.Attributes} }

func auditOfRole(r iam.Role) roleDoc {
	d := roleDoc{sorted(r.Permissions), sorted(r.Inherits), r.Description, r.Service, nil}
	if q := r.Request; q != nil {
		d.Request = &iam.Requestable{By: sorted(q.By), Approval: q.Approval, MaxSeconds: q.MaxSeconds}
	}
	return d
}

func auditOfUser(u iam.User) userDoc {
	return userDoc{u.Status, sorted(u.PlatformRoles), u.DefaultTenant, timestamp(u.TokensNotBefore), u.Attributes}
}

func auditOfMember(m iam.Membership) memberDoc {
	return memberDoc{m.Status, sorted(m.Roles), m.Attributes, timestamp(m.ExpiresAt), m.Tidy().Terms}
}

func auditOfClient(c iam.ManagedClient) clientDoc {
	d := clientDoc{Tenant: c.Tenant, Status: c.Status, Roles: sorted(c.Roles), Scopes: sorted(c.Scopes), TokensNotBefore: timestamp(c.TokensNotBefore)}
	if c.Managed {
		r := c.Wanted
		r.RedirectURIs, r.PostLogoutRedirectURIs, r.GrantTypes = sorted(r.RedirectURIs), sorted(r.PostLogoutRedirectURIs), sorted(r.GrantTypes)
		r.Audience = sorted(r.Audience)
		d.Registration = &r
	}
	return d
}

func auditOfSecret(c iam.ManagedClient) secretDoc {
	return secretDoc{c.Secrets, c.SecretState, timestamp(c.RetireAt)}
}

func auditOfMapping(m iam.Mapping) mappingDoc {
	return mappingDoc{m.Issuer, m.Claim, m.Value, sorted(m.Roles)}
}

// same reports whether two documents are equal.
func sameJSON(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// sameAttributes is same; none at all is as good as an empty object.
func sameAttributes(a, b map[string]any) bool {
	return len(a) == 0 && len(b) == 0 || sameJSON(a, b)
}

// sorted is a list of names, which is a set, in order; never nil.
func sorted(list []string) []string {
	if len(list) == 0 {
		return []string{}
	}
	return slices.Sorted(slices.Values(list))
}

func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
