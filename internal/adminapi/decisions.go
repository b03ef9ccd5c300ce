package adminapi

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/policyops/explain"
	"iam-service/internal/postgres"
)

// Decisions is the decision log, as far as it can be searched.
type Decisions interface {
	Find(ctx context.Context, f iam.DecisionFilter) ([]iam.RecordedDecision, error)
	Get(ctx context.Context, id string) (iam.RecordedDecision, bool, error)
	Count(ctx context.Context, q postgres.CountDecisions) ([]iam.DecisionCount, error)
}

type decisionBody struct {
	Decision string          `json:"decision" doc:"id, as in X-Decision-ID"`
	At       time.Time       `json:"at"`
	Revision string          `json:"revision"`
	Allow    bool            `json:"allow"`
	Issuer   string          `json:"issuer,omitempty"`
	Subject  string          `json:"subject,omitempty"`
	ClientID string          `json:"client_id,omitempty"`
	Tenant   string          `json:"tenant,omitempty" doc:"the active one, else the requested one"`
	Codes    []string        `json:"codes"`
	Event    json.RawMessage `json:"event,omitempty" doc:"as in OPA's decision log"`
}

func wireDecision(d iam.RecordedDecision) decisionBody {
	return decisionBody{
		Decision: d.ID,
		At:       d.At,
		Revision: d.Revision,
		Allow:    d.Allow,
		Issuer:   d.Issuer,
		Subject:  d.Subject,
		ClientID: d.ClientID,
		Tenant:   d.Tenant,
		Codes:    d.Codes,
		Event:    d.Event,
	}
}

// OnDecisions is an input about decisions of one tenant, or of the whole platform.
type OnDecisions struct {
	Tenant string `query:"tenant" maxLength:"64" doc:"id of the active tenant of the decisions, else of the requested one. Administrators and auditors of the tenant must use it; they see names of its members and clients only."`
}

func (i OnDecisions) target() target { return target{tenant: i.Tenant} }

// visibility is how much of the decision log a caller may see.
type visibility int

const (
	seesAll visibility = iota
	seesTenant
)

// visible authorizes the caller, and returns what it may see: everything, or only the tenant of the request.
func (a *server) visible(ctx context.Context, c call) (visibility, error) {
	return admin.Do(ctx, a.Service, c.caller, c.readOnly(), func(ctx context.Context, w *admin.Work) (visibility, error) {
		anywhere, err := w.Anywhere(ctx)
		if anywhere {
			return seesAll, err
		}
		return seesTenant, err
	})
}

// redact removes from decisions what the tenant of the request is not authorized to see.
func (a *server) redact(ctx context.Context, c call, found []iam.RecordedDecision) ([]iam.RecordedDecision, error) {
	return admin.Do(ctx, a.Service, c.caller, c.readOnly(), func(ctx context.Context, w *admin.Work) ([]iam.RecordedDecision, error) {
		return w.DecisionsWithin(ctx, found)
	})
}

func (a *server) requireDecisionLog() error {
	if a.Decisions == nil {
		return &iam.Error{
			Kind:   iam.Conflict,
			Code:   "decisions_off",
			Detail: "the decision log cannot be searched: DECISIONS_DATABASE_URL is not set",
		}
	}
	return nil
}

func (a *server) listDecisions(ctx context.Context, c call, in *struct {
	OnDecisions
	Paged
	Issuer   string    `query:"issuer" maxLength:"512"`
	Subject  string    `query:"subject" maxLength:"255"`
	ClientID string    `query:"client_id" maxLength:"255"`
	Code     string    `query:"code" maxLength:"64" doc:"of a reason"`
	Outcome  string    `query:"outcome" enum:"allowed,denied"`
	From     time.Time `query:"from" doc:"not earlier than this (RFC 3339)"`
	To       time.Time `query:"to" doc:"earlier than this"`
},
) (*collection[decisionBody], error) {
	sees, err := a.visible(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := a.requireDecisionLog(); err != nil {
		return nil, err
	}
	var invalid []iam.FieldError
	for _, parameter := range []struct{ name, value string }{
		{"issuer", in.Issuer}, {"subject", in.Subject}, {"client_id", in.ClientID}, {"tenant", in.Tenant}, {"code", in.Code},
	} {
		if !isText(parameter.value) {
			invalid = append(invalid, iam.FieldError{Pointer: parameter.name, Detail: "must be UTF-8 without a NUL"})
		}
	}
	if err := iam.InvalidFields(invalid); err != nil {
		return nil, err
	}
	f := iam.DecisionFilter{
		Issuer:   in.Issuer,
		Subject:  in.Subject,
		ClientID: in.ClientID,
		Tenant:   in.Tenant,
		Code:     in.Code,
		From:     in.From,
		To:       in.To,
		Limit:    in.Limit + 1,
	}
	if in.Outcome != "" {
		allow := in.Outcome == "allowed"
		f.Allow = &allow
	}
	if err := in.cursor(&f.Before, &f.BeforeID); err != nil {
		return nil, err
	}
	if !isText(f.BeforeID) {
		return nil, invalidCursor()
	}
	if sees == seesTenant && in.Subject+in.ClientID != "" {
		f.Issuer = cmp.Or(f.Issuer, a.Issuer)
		known, err := admin.Do(ctx, a.Service, c.caller, c.task, func(ctx context.Context, w *admin.Work) (bool, error) {
			return w.Names(ctx, f.Issuer, f.Subject, f.ClientID)
		})
		if err != nil || !known {
			return all(nil, wireDecision), err
		}
	}
	found, err := a.Decisions.Find(ctx, f)
	if err != nil {
		return nil, err
	}
	for i := range found {
		found[i].Event = nil // readDecision returns it, for one decision
	}
	if sees == seesTenant {
		if found, err = a.redact(ctx, c, found); err != nil {
			return nil, err
		}
	}
	return pageOf(ctx, in.Paged, found, wireDecision, func(d iam.RecordedDecision) []any { return []any{d.At, d.ID} })
}

func (a *server) readDecision(ctx context.Context, c call, in *struct {
	OnDecisions
	Decision string `path:"decision" maxLength:"64" doc:"id, as in X-Decision-ID"`
},
) (*resource[decisionBody], error) {
	sees, err := a.visible(ctx, c)
	if err != nil {
		return nil, err
	}
	d, err := a.findDecision(ctx, in.Decision)
	if err != nil {
		return nil, err
	}
	if sees == seesTenant {
		redacted, err := a.redact(ctx, c, []iam.RecordedDecision{d})
		if err == nil && len(redacted) == 0 {
			err = errNoDecision
		}
		if err == nil {
			d = redacted[0]
			d.Event, err = explain.EventWithin(d.Event)
		}
		if err != nil {
			return nil, err
		}
	}
	return &resource[decisionBody]{Status: 200, Body: wireDecision(d)}, nil
}

// errNoDecision is the same for a decision that does not exist and one that the caller may not see.
var errNoDecision = iam.Errorf(iam.NotFound, "not found")

func (a *server) findDecision(ctx context.Context, id string) (iam.RecordedDecision, error) {
	if err := a.requireDecisionLog(); err != nil {
		return iam.RecordedDecision{}, err
	}
	var d iam.RecordedDecision
	var found bool
	var err error
	if isText(id) {
		d, found, err = a.Decisions.Get(ctx, id)
	}
	if err == nil && !found {
		err = errNoDecision
	}
	return d, err
}
