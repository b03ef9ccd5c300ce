package adminapi

import (
	"context"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/postgres"
)

// unusedQuery asks for what was not used in a tenant.
type unusedQuery struct {
	OnTenant
	Paged
	Days int    `query:"days" minimum:"1" maximum:"730" default:"90" doc:"without use, today left out"`
	Kind string `query:"kind" enum:"membership,role,client" default:"membership"`
}

type unusedPage struct {
	Items          []unusedBody     `json:"items"`
	Next           string           `json:"next,omitempty" doc:"value of after for the next page; absent on the last page"`
	UnusedSince    string           `json:"unused_since" format:"date" doc:"what is listed was not used from this day on (UTC)"`
	RecordedSince  string           `json:"recorded_since" format:"date" doc:"the first day of which use is known (UTC); of roles, on which decisions named them"`
	RecordedDays   int              `json:"recorded_days" doc:"days since unused_since on which use was recorded"`
	Complete       bool             `json:"complete" doc:"use was recorded on each day since unused_since. If not, what is listed may have been used on the others"`
	Decisions      int64            `json:"decisions" doc:"decisions of these days that were looked at: each evaluation, and a sample of cache hits (DECISION_LOG_SAMPLE)"`
	Dropped        int64            `json:"decisions_dropped" doc:"decisions of these days that were not looked at, under load"`
	Administrators unusedAdminsBody `json:"administrators" doc:"of the tenant, in force; at most 1,000 are counted"`
}

type unusedAdminsBody struct {
	Now  int `json:"now"`
	Left int `json:"left" doc:"without all unused memberships; 0: a trim of all would leave the tenant without an administrator"`
}

type unusedBody struct {
	Kind      string     `json:"kind" enum:"membership,role,client"`
	User      string     `json:"user,omitempty" format:"uuid" doc:"of a membership"`
	Issuer    string     `json:"issuer,omitempty" doc:"of the user or client"`
	Subject   string     `json:"subject,omitempty" doc:"of the user"`
	ClientID  string     `json:"client_id,omitempty"`
	Role      string     `json:"role,omitempty"`
	Global    bool       `json:"global,omitempty" doc:"the role is of the platform: a tenant can take it from its members, and not delete it"`
	Status    string     `json:"status,omitempty" doc:"of the membership or client"`
	CreatedAt time.Time  `json:"created_at"`
	LastUsed  string     `json:"last_used,omitempty" format:"date" doc:"absent: never since recorded_since"`
	Trim      unusedTrim `json:"trim" doc:"what its removal would change; nothing removes it by itself"`
}

type unusedTrim struct {
	Roles         []string `json:"roles,omitempty" doc:"that the member or client would lose, inheritance included"`
	Permissions   []string `json:"permissions,omitempty" doc:"that the member or client would lose"`
	Administrator bool     `json:"administrator,omitempty" doc:"an administrator of the tenant would be removed"`
	Members       int64    `json:"members,omitempty" doc:"whose membership lists the role"`
	Clients       int64    `json:"clients,omitempty" doc:"of the tenant, that have the role"`
	Mappings      int64    `json:"mappings,omitempty" doc:"of the tenant, that grant the role"`
	InheritedBy   []string `json:"inherited_by,omitempty" doc:"roles of the tenant that inherit it, and would lose its permissions"`
}

func wireTrim(t admin.Trim) unusedTrim {
	return unusedTrim{Roles: t.Roles, Permissions: t.Permissions, Administrator: t.Administrator}
}

// unusedItem is an item with its place in the list, and its row in CSV.
type unusedItem struct {
	body unusedBody
	key  []any
	row  []string
}

// items reads the items after a place.
func (q *unusedQuery) items(ctx context.Context, w *admin.Work, u admin.UnusedAccess, issuer, name string, limit int) (items []unusedItem, err error) {
	switch q.Kind {
	case "role":
		roles, err := w.UnusedRoles(ctx, u, name, limit)
		for _, r := range roles {
			items = append(items, unusedItem{unusedBody{
				Kind: q.Kind, Role: r.Name, Global: r.Global, CreatedAt: r.CreatedAt, LastUsed: admin.DayOf(r.LastUsed),
				Trim: unusedTrim{Members: r.Members, Clients: r.Clients, Mappings: r.Mappings, InheritedBy: r.InheritedBy},
			}, []any{"", r.Name}, u.RoleRow(r)})
		}
		return items, err
	case "client":
		clients, err := w.UnusedClients(ctx, u, postgres.Identity{Issuer: issuer, Name: name}, limit)
		for _, c := range clients {
			items = append(items, unusedItem{unusedBody{
				Kind: q.Kind, Issuer: c.Issuer, ClientID: c.ClientID, Status: c.Status, CreatedAt: c.CreatedAt, LastUsed: admin.DayOf(c.LastUsed), Trim: wireTrim(c.Trim),
			}, []any{c.Issuer, c.ClientID}, u.ClientRow(c)})
		}
		return items, err
	}
	members, err := w.UnusedMembers(ctx, u, name, limit)
	for _, m := range members {
		items = append(items, unusedItem{unusedBody{
			Kind: q.Kind, User: m.User, Issuer: m.Issuer, Subject: m.Subject, Status: m.Status, CreatedAt: m.CreatedAt, LastUsed: admin.DayOf(m.LastUsed), Trim: wireTrim(m.Trim),
		}, []any{"", m.User}, u.MemberRow(m)})
	}
	return items, err
}

func (a *server) listUnused(ctx context.Context, c call, in *unusedQuery) (*exportable, error) {
	if format := formatOf(ctx); format != "" {
		return a.export(ctx, c, exporting{format: format, header: admin.UnusedColumns, stream: in.stream})
	}
	var issuer, name string
	if err := in.cursor(&issuer, &name); err != nil {
		return nil, err
	}
	if in.Kind == "membership" {
		if err := in.userCursor(&issuer, &name); err != nil {
			return nil, err
		}
	}
	if !isText(issuer + name) {
		return nil, invalidCursor()
	}
	return a.page(ctx, c, func(ctx context.Context, w *admin.Work) (any, string, error) {
		u, err := w.Unused(ctx, in.Tenant, in.Days, in.Kind == "role")
		if err != nil {
			return nil, "", err
		}
		items, err := in.items(ctx, w, u, issuer, name, in.Limit+1)
		if err != nil {
			return nil, "", err
		}
		body := unusedPage{
			Items: []unusedBody{}, UnusedSince: admin.DayOf(u.Before), RecordedSince: admin.DayOf(u.Recording.Since), RecordedDays: u.Recording.Days,
			Complete: u.Complete(), Decisions: u.Recording.Looked, Dropped: u.Recording.Dropped,
			Administrators: unusedAdminsBody{Now: u.Administrators, Left: u.AdministratorsLeft},
		}
		if len(items) > in.Limit {
			items = items[:in.Limit]
			body.Next = in.encoded(items[len(items)-1].key)
		}
		for _, i := range items {
			body.Items = append(body.Items, i.body)
		}
		return body, body.Next, nil
	})
}

// stream writes the whole list.
func (q *unusedQuery) stream(ctx context.Context, w *admin.Work, put *exportWriter) error {
	const read = 500
	u, err := w.Unused(ctx, q.Tenant, q.Days, q.Kind == "role")
	if err != nil {
		return err
	}
	for issuer, name := "", ""; ; {
		items, err := q.items(ctx, w, u, issuer, name, read)
		if err != nil {
			return err
		}
		for _, i := range items {
			if err := put.each(i.body, [][]string{i.row}); err != nil {
				return err
			}
			issuer, _ = i.key[0].(string) // both are texts
			name, _ = i.key[1].(string)
		}
		if len(items) < read {
			return nil
		}
	}
}
