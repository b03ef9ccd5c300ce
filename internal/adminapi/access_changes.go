package adminapi

import (
	"context"
	"time"

	"iam-service/internal/admin"
)

type accessNames struct {
	Roles       []string `json:"roles"`
	Permissions []string `json:"permissions"`
}

type accessCause struct {
	Chain     string    `json:"chain" doc:"id of a tenant; empty: the platform"`
	Seq       int64     `json:"seq" doc:"0: not shown, as actor and via, to a caller who reads the tenant alone"`
	At        time.Time `json:"at"`
	ActorKind string    `json:"actor_kind" doc:"user, client, operator, service or stream; platform: not shown"`
	Actor     string    `json:"actor"`
	Via       string    `json:"via"`
	Action    string    `json:"action"`
	Kind      string    `json:"kind"`
	Object    string    `json:"object"`
}

type accessChangeBody struct {
	Tenant   string        `json:"tenant"`
	Kind     string        `json:"kind" enum:"user,client,mapping"`
	User     string        `json:"user,omitempty" doc:"id of the user"`
	Issuer   string        `json:"issuer,omitempty" doc:"absent: the user was erased"`
	Subject  string        `json:"subject,omitempty" doc:"of a user; absent: the user was erased"`
	ClientID string        `json:"client_id,omitempty"`
	Claim    string        `json:"claim,omitempty" doc:"of a mapping"`
	Value    string        `json:"value,omitempty" doc:"of the claim"`
	Gained   accessNames   `json:"gained" doc:"held at to, and not at from"`
	Lost     accessNames   `json:"lost" doc:"held at from, and not at to"`
	Entries  []accessCause `json:"entries" doc:"of the audit, by time; at most 50"`
	ByTime   bool          `json:"by_time" doc:"a membership or a role started or ended in between by itself, which no entry says"`
}

func wireAccessChange(c admin.AccessChange) accessChangeBody {
	b := accessChangeBody{
		Tenant:   c.Tenant,
		Kind:     c.Kind,
		User:     c.User,
		Issuer:   c.Issuer,
		Subject:  c.Subject,
		ClientID: c.ClientID,
		Claim:    c.Mapping.Claim,
		Value:    c.Mapping.Value,
		Gained:   accessNames(c.Gained),
		Lost:     accessNames(c.Lost),
		Entries:  make([]accessCause, len(c.Entries)),
		ByTime:   c.ByTime,
	}
	for i, e := range c.Entries {
		b.Entries[i] = accessCause{e.Chain, e.Seq, e.At.UTC(), e.ActorKind, e.Actor, e.Via, e.Action, e.Kind, e.Object}
	}
	return b
}

// AccessChangeLine is a change of access as a line of its export.
func AccessChangeLine(c admin.AccessChange) any { return wireAccessChange(c) }

// Period is an input about the time between two moments.
type Period struct {
	From time.Time `query:"from" required:"true" doc:"the earlier moment (RFC 3339)"`
	To   time.Time `query:"to" doc:"the later moment; absent: now"`
}

func (p Period) period() admin.AccessPeriod { return admin.AccessPeriod(p) }

func (a *server) listAccessChanges(ctx context.Context, c call, in *struct {
	OnTenant
	Paged
	Period
},
) (*exportable, error) {
	if format := formatOf(ctx); format != "" {
		return a.export(ctx, c, exporting{format: format, header: admin.AccessChangeColumns, stream: func(ctx context.Context, w *admin.Work, put *exportWriter) error {
			return w.EachAccessChange(ctx, in.Tenant, in.period(), func(c admin.AccessChange) error {
				return put.each(wireAccessChange(c), admin.AccessChangeRows(c))
			})
		}})
	}
	after, err := in.accessCursor()
	if err != nil {
		return nil, err
	}
	return a.page(ctx, c, func(ctx context.Context, w *admin.Work) (any, string, error) {
		found, err := w.AccessChanges(ctx, in.Tenant, in.period(), after, in.Limit)
		if err != nil {
			return nil, "", err
		}
		body := page[accessChangeBody]{Items: []accessChangeBody{}}
		for _, c := range found.Items {
			body.Items = append(body.Items, wireAccessChange(c))
		}
		if found.More {
			body.Next = in.accessNext(found.Next)
		}
		return body, body.Next, nil
	})
}

func (a *server) listUserAccessChanges(ctx context.Context, w *admin.Work, in *struct {
	OnUser
	Period
},
) (*collection[accessChangeBody], error) {
	list, err := w.UserAccessChanges(ctx, in.User, in.period())
	if err != nil {
		return nil, err
	}
	return all(list, wireAccessChange), nil
}

// accessCursor decodes the place of an item in a list of access.
func (p Paged) accessCursor() (admin.AccessCursor, error) {
	var after admin.AccessCursor
	if err := p.cursor(&after.Kind, &after.Issuer, &after.Name, &after.Value); err != nil {
		return after, err
	}
	if !isText(after.Issuer + after.Name + after.Value) {
		return after, invalidCursor()
	}
	if after.Kind == admin.AccessUser {
		var kind, issuer, name string
		return after, p.userCursor(&kind, &issuer, &name)
	}
	return after, nil
}

// accessNext encodes the place of the next page.
func (p Paged) accessNext(c admin.AccessCursor) string {
	return p.encoded([]any{c.Kind, c.Issuer, c.Name, c.Value})
}
