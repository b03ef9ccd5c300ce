package adminapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

type auditBody struct {
	Chain      string          `json:"chain" doc:"id of a tenant; empty: the platform"`
	Seq        int64           `json:"seq"`
	At         time.Time       `json:"at"`
	ActorKind  string          `json:"actor_kind" enum:"user,client,operator,stream"`
	Actor      string          `json:"actor" doc:"id of a user, a client_id, or the operator who ran a command"`
	Via        string          `json:"via" enum:"api,command,bootstrap,loop,signal"`
	Address    string          `json:"address,omitempty"`
	RequestID  string          `json:"request_id,omitempty"`
	DecisionID string          `json:"decision_id,omitempty"`
	Action     string          `json:"action"`
	Kind       string          `json:"kind"`
	Object     string          `json:"object"`
	Before     json.RawMessage `json:"before,omitempty" doc:"absent: it was created"`
	After      json.RawMessage `json:"after,omitempty" doc:"absent: it was deleted"`
	Changes    []fieldChange   `json:"changes" doc:"the fields in which before and after differ"`
	Hash       string          `json:"hash" doc:"of this entry and all earlier ones, in hex"`
}

type fieldChange struct {
	Field  string          `json:"field" doc:"JSON Pointer (RFC 6901)"`
	Before json.RawMessage `json:"before,omitempty" doc:"absent: it was not there"`
	After  json.RawMessage `json:"after,omitempty" doc:"absent: it is no more"`
}

func wireChanges(list []iam.FieldChange) []fieldChange {
	out := make([]fieldChange, len(list))
	for i, c := range list {
		out[i] = fieldChange(c)
	}
	return out
}

func wireEntry(e iam.AuditEntry) auditBody {
	return auditBody{
		Chain:      e.Chain,
		Seq:        e.Seq,
		At:         e.At.UTC(),
		ActorKind:  e.ActorKind,
		Actor:      e.Actor,
		Via:        e.Via,
		Address:    e.Address,
		RequestID:  e.RequestID,
		DecisionID: e.DecisionID,
		Action:     e.Action,
		Kind:       e.Kind,
		Object:     e.Object,
		Before:     e.Before,
		After:      e.After,
		Changes:    wireChanges(e.Changes()),
		Hash:       hex.EncodeToString(e.Hash),
	}
}

type auditIn struct {
	Paged
	Tenant string    `query:"tenant" maxLength:"64" doc:"id of the tenant; absent: the whole platform"`
	Actor  string    `query:"actor" maxLength:"255"`
	Action string    `query:"action" maxLength:"64" doc:"as in member:create"`
	Kind   string    `query:"kind" enum:"tenant,role,user,member,request,mapping,service,client,policy,event,signal,instance,assertion_key,scim_user,scim_group"`
	Object string    `query:"object" maxLength:"255" doc:"id or name"`
	From   time.Time `query:"from" doc:"not earlier than this (RFC 3339)"`
	Until  time.Time `query:"until" doc:"earlier than this"`
}

func (i auditIn) target() target { return target{tenant: i.Tenant} }

func (a *server) listAudit(ctx context.Context, w *admin.Work, in *auditIn) (*collection[auditBody], error) {
	f := postgres.AuditFilter{
		Actor:  in.Actor,
		Action: in.Action,
		Kind:   in.Kind,
		Object: in.Object,
		From:   in.From,
		Until:  in.Until,
		Limit:  in.Limit + 1,
	}
	if err := in.cursor(&f.BeforeAt, &f.BeforeChain, &f.BeforeSeq); err != nil {
		return nil, err
	}
	list, err := w.Audit(ctx, f)
	if err != nil {
		return nil, err
	}
	return pageOf(ctx, in.Paged, list, wireEntry, func(e iam.AuditEntry) []any { return []any{e.At, e.Chain, e.Seq} })
}

// AuditLine is an entry of the audit as it is on the wire.
func AuditLine(e iam.AuditEntry) any { return wireEntry(e) }
