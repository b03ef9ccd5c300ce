package adminapi

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/policyops/explain"
)

// Decisions is where decisions can be found again.
type Decisions interface {
	Find(ctx context.Context, f iam.DecisionFilter) ([]iam.RecordedDecision, error)
	Get(ctx context.Context, id string) (iam.RecordedDecision, bool, error)
}

type decisionBody struct {
	Decision string          `json:"decision" doc:"its id, as in X-Decision-ID"`
	At       time.Time       `json:"at"`
	Revision string          `json:"revision"`
	Allow    bool            `json:"allow"`
	Issuer   string          `json:"issuer,omitempty"`
	Subject  string          `json:"subject,omitempty"`
	ClientID string          `json:"client_id,omitempty"`
	Tenant   string          `json:"tenant,omitempty" doc:"the active one, else the one that was asked for"`
	Codes    []string        `json:"codes"`
	Event    json.RawMessage `json:"event,omitempty" doc:"as in OPA's decision log"`
}

func wireDecision(d iam.RecordedDecision) decisionBody {
	return decisionBody{d.ID, d.At, d.Revision, d.Allow, d.Issuer, d.Subject, d.ClientID, d.Tenant, d.Codes, d.Event}
}

// OnDecisions is an input about decisions: of one tenant, or of everything.
type OnDecisions struct {
	Tenant string `query:"tenant" maxLength:"64" doc:"id of the tenant that they are about: the active one, else the one that was asked for. Its administrators and auditors say it; they see names of its members and clients only."`
}

func (i OnDecisions) tenant() string { return i.Tenant }

// scope asks whether the caller may what the route is about. It reports whether they may only in
// the tenant that it is about, and are shown nothing else.
func (a *server) scope(ctx context.Context, r asked) (limited bool, err error) {
	task := r.task
	task.Writes = false
	return admin.Do(ctx, a.Service, r.caller, task, func(ctx context.Context, w *admin.Work) (bool, error) {
		anywhere, err := w.Anywhere(ctx)
		return !anywhere, err
	})
}

// within leaves of decisions what the tenant that a request is about may see.
func (a *server) within(ctx context.Context, r asked, list []iam.RecordedDecision) ([]iam.RecordedDecision, error) {
	task := r.task
	task.Writes = false
	return admin.Do(ctx, a.Service, r.caller, task, func(ctx context.Context, w *admin.Work) ([]iam.RecordedDecision, error) {
		return w.DecisionsWithin(ctx, list)
	})
}

// may asks whether the caller may what the route is about, and does nothing.
func (a *server) may(ctx context.Context, r asked) error {
	return a.Service.Authorize(ctx, r.caller, r.task)
}

func (a *server) kept() error {
	if a.Decisions == nil {
		return &iam.Error{Kind: iam.Conflict, Code: "decisions_off", Detail: "decisions cannot be found again here: DECISIONS_DATABASE_URL is not set"}
	}
	return nil
}

func (a *server) listDecisions(ctx context.Context, r asked, in *struct {
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
) (*many[decisionBody], error) {
	limited, err := a.scope(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := a.kept(); err != nil {
		return nil, err
	}
	var wrong []iam.FieldError
	for _, by := range []struct{ name, value string }{{"issuer", in.Issuer}, {"subject", in.Subject}, {"client_id", in.ClientID}, {"tenant", in.Tenant}, {"code", in.Code}} {
		if !isText(by.value) {
			wrong = append(wrong, iam.FieldError{Pointer: by.name, Detail: "must be UTF-8 without a NUL"})
		}
	}
	if err := iam.Refuse(wrong); err != nil {
		return nil, err
	}
	f := iam.DecisionFilter{
		Issuer: in.Issuer, Subject: in.Subject, ClientID: in.ClientID, Tenant: in.Tenant, Code: in.Code, From: in.From, To: in.To, Limit: in.Limit + 1,
	}
	if in.Outcome != "" {
		allow := in.Outcome == "allowed"
		f.Allow = &allow
	}
	if err := in.cursor(&f.Before, &f.BeforeID); err != nil {
		return nil, err
	}
	if !isText(f.BeforeID) {
		return nil, badCursor()
	}
	if limited && in.Subject+in.ClientID != "" {
		f.Issuer = cmp.Or(f.Issuer, a.Issuer)
		known, err := admin.Do(ctx, a.Service, r.caller, r.task, func(ctx context.Context, w *admin.Work) (bool, error) {
			return w.Names(ctx, f.Issuer, f.Subject, f.ClientID)
		})
		if err != nil || !known {
			return &many[decisionBody]{Body: page[decisionBody]{Items: []decisionBody{}}}, err
		}
	}
	list, err := a.Decisions.Find(ctx, f)
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i].Event = nil // one by one
	}
	if limited {
		if list, err = a.within(ctx, r, list); err != nil {
			return nil, err
		}
	}
	return pageOf(ctx, in.Paged, list, wireDecision, func(d iam.RecordedDecision) []any { return []any{d.At, d.ID} })
}

func (a *server) readDecision(ctx context.Context, r asked, in *struct {
	OnDecisions
	Decision string `path:"decision" maxLength:"64" doc:"id, as in X-Decision-ID"`
},
) (*one[decisionBody], error) {
	limited, err := a.scope(ctx, r)
	if err != nil {
		return nil, err
	}
	d, err := a.decision(ctx, in.Decision)
	if err != nil {
		return nil, err
	}
	if limited {
		seen, err := a.within(ctx, r, []iam.RecordedDecision{d})
		if err == nil && len(seen) == 0 {
			err = errNoDecision
		}
		if err == nil {
			d = seen[0]
			d.Event, err = explain.EventWithin(d.Event)
		}
		if err != nil {
			return nil, err
		}
	}
	return &one[decisionBody]{Status: 200, Body: wireDecision(d)}, nil
}

// errNoDecision is the same whether there is none, or none that is the caller's to see.
var errNoDecision = iam.Errorf(iam.NotFound, "not found")

func (a *server) decision(ctx context.Context, id string) (iam.RecordedDecision, error) {
	if err := a.kept(); err != nil {
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
