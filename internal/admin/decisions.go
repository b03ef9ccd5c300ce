package admin

import (
	"context"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/postgres"
)

// Anywhere reports whether the caller is authorized on the whole platform, and not only in the
// task's tenant. Otherwise the result must be limited to the tenant. A client that has a tenant
// is limited to it.
func (w *Work) Anywhere(ctx context.Context) (bool, error) {
	t := w.caller.Token
	if t == nil || w.task.Tenant == "" {
		return true, nil
	}
	if w.bound {
		return false, nil
	}
	d, err := w.s.cfg.Engine.Administer(ctx, policy.AdminInput{
		Claims: t.Claims, Action: w.task.Action, Object: w.task.Object, Method: w.caller.Method, ClientIP: w.caller.Address,
	}, directory.NewDirect(w.tx, w.s.cfg.Issuers, t.Issuer), time.Now().Add(2*time.Second))
	return d.Allow, err
}

// Facts are the facts as this transaction sees them. They are for one goroutine at a time.
func (w *Work) Facts() directory.Loader { return w.tx }

// Names reports whether a subject is a member, and a client a client, of the task's tenant; empty
// ones do not matter. A filter by other names finds no decisions: otherwise the tenant would
// learn which strangers have requested access.
func (w *Work) Names(ctx context.Context, issuer, subject, clientID string) (bool, error) {
	user, client := postgres.Identity{Issuer: issuer, Name: subject}, postgres.Identity{Issuer: issuer, Name: clientID}
	known, err := w.tx.KnownIn(ctx, w.task.Tenant, []postgres.Identity{user, client})
	if err != nil {
		return false, err
	}
	return (subject == "" || known.Members[user] || known.Clients[user]) && (clientID == "" || known.Clients[client]), nil
}

// DecisionsWithin limits decisions to what the task's tenant is authorized to see: its own, with
// the names of its members and clients. Other subjects are not named.
func (w *Work) DecisionsWithin(ctx context.Context, list []iam.RecordedDecision) ([]iam.RecordedDecision, error) {
	var ids []postgres.Identity
	for _, d := range list {
		ids = append(ids, postgres.Identity{Issuer: d.Issuer, Name: d.Subject}, postgres.Identity{Issuer: d.Issuer, Name: d.ClientID})
	}
	known, err := w.tx.KnownIn(ctx, w.task.Tenant, ids)
	if err != nil {
		return nil, err
	}
	within := make([]iam.RecordedDecision, 0, len(list))
	for _, d := range list {
		if d.Tenant != w.task.Tenant {
			continue
		}
		client := known.Clients[postgres.Identity{Issuer: d.Issuer, Name: d.ClientID}]
		program := d.Subject == "" || d.Subject == d.ClientID
		if named := program && client || !program && known.Members[postgres.Identity{Issuer: d.Issuer, Name: d.Subject}]; !named {
			d.Issuer, d.Subject, d.ClientID = "", "", ""
		}
		if !client {
			d.ClientID = ""
		}
		within = append(within, d)
	}
	return within, nil
}
