package adminapi

import (
	"cmp"
	"context"
	"net/netip"
	"strings"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
)

// explainBody says what is to be explained: a token, a decision, or who somebody is.
type explainBody struct {
	Token    string         `json:"token,omitempty" maxLength:"8192" doc:"an access token for gateways; it is neither kept nor logged"`
	Decision string         `json:"decision,omitempty" maxLength:"64" doc:"id of a decision that was recorded"`
	Issuer   string         `json:"issuer,omitempty" maxLength:"512" doc:"of the subject; absent: R-Auth"`
	Subject  string         `json:"subject,omitempty" maxLength:"255"`
	ClientID string         `json:"client_id,omitempty" maxLength:"255" doc:"alone: a program"`
	Claims   map[string]any `json:"claims,omitempty" doc:"further claims of the token that they would have"`
	Tenant   string         `json:"tenant,omitempty" maxLength:"64" doc:"that is asked for"`
	Revision string         `json:"revision,omitempty" maxLength:"64" doc:"under another one than what is in force"`
	At       time.Time      `json:"at,omitzero" doc:"time that the policy sees in input.now; absent: now, or when the decision was asked for. The facts are those of now"`
	Request  struct {
		Method  string `json:"method,omitempty" maxLength:"32"`
		Scheme  string `json:"scheme,omitempty" maxLength:"8"`
		Host    string `json:"host,omitempty" maxLength:"255"`
		Path    string `json:"path,omitempty" maxLength:"4096"`
		Gateway string `json:"gateway,omitempty" maxLength:"32"`

		ClientIP netip.Addr `json:"client_ip,omitzero"`
	} `json:"request,omitempty"`
}

type explanationBody struct {
	explain.Explanation
	Text string `json:"text" doc:"for people"`
}

func (a *server) explain(ctx context.Context, r asked, in *struct {
	OnDecisions
	Body explainBody
},
) (*one[explanationBody], error) {
	limited, err := a.scope(ctx, r)
	if err != nil {
		return nil, err
	}
	var x explain.Explanation
	if limited {
		x, err = a.explainWithin(ctx, r, in.Body)
	} else {
		x, err = a.explainAnything(ctx, r, in.Body)
	}
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	x.Text(&text)
	return &one[explanationBody]{Status: 200, Body: explanationBody{x, text.String()}}, nil
}

func (a *server) explainAnything(ctx context.Context, r asked, b explainBody) (explain.Explanation, error) {
	q, err := a.questionOf(ctx, b)
	if err != nil {
		return explain.Explanation{}, err
	}
	if !b.At.IsZero() {
		q.Now = b.At
	}
	var under *policy.Revision
	if b.Revision != "" {
		kept, err := admin.Do(ctx, a.Service, r.caller, admin.Task{Action: r.task.Action}, func(ctx context.Context, w *admin.Work) (iam.PolicyRevision, error) {
			return w.PolicyRevision(ctx, b.Revision)
		})
		if err == nil {
			under, err = a.Policies.Revision(ctx, kept.Digest)
		}
		if err != nil {
			return explain.Explanation{}, err
		}
	}
	return a.Explain.Explain(ctx, under, q)
}

// explainWithin explains to a caller who may see one tenant only: a decision that is about it, or
// what would be decided of one of its members or clients.
func (a *server) explainWithin(ctx context.Context, r asked, b explainBody) (x explain.Explanation, err error) {
	tenant := r.task.Tenant
	var wrong []iam.FieldError
	if b.Token != "" {
		wrong = append(wrong, iam.FieldError{Pointer: "/token", Detail: "is not explained within a tenant: say subject, client_id or decision"})
	}
	if b.Revision != "" {
		wrong = append(wrong, iam.FieldError{Pointer: "/revision", Detail: "is not explained within a tenant: only the active policy is"})
	}
	if b.Tenant != "" && b.Tenant != tenant {
		wrong = append(wrong, iam.FieldError{Pointer: "/tenant", Detail: "is another tenant than the one of the request"})
	}
	if err := iam.Refuse(wrong); err != nil {
		return x, err
	}
	if b.Decision != "" {
		d, err := a.decision(ctx, b.Decision)
		if err == nil && d.Tenant != tenant {
			err = errNoDecision
		}
		if err != nil {
			return x, err
		}
	}
	b.Tenant = tenant
	q, err := a.questionOf(ctx, b)
	if err != nil {
		return x, err
	}
	if !b.At.IsZero() {
		q.Now = b.At
	}
	task := r.task
	task.Writes = false
	return admin.Do(ctx, a.Service, r.caller, task, func(ctx context.Context, w *admin.Work) (explain.Explanation, error) {
		return explain.Within{Tenant: tenant, Facts: w.Facts(), Engine: a.Explain.Engine, Issuers: a.Issuers, HeaderMax: a.HeaderMax}.Explain(ctx, q)
	})
}

// questionOf makes a question of one of three things.
func (a *server) questionOf(ctx context.Context, b explainBody) (explain.Question, error) {
	ways := 0
	for _, given := range []bool{b.Token != "", b.Decision != "", b.Subject != "" || b.ClientID != ""} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return explain.Question{}, iam.Refuse([]iam.FieldError{{Pointer: "", Detail: "say one of token, decision, and subject or client_id"}})
	}
	if b.Decision != "" {
		d, err := a.decision(ctx, b.Decision)
		if err != nil {
			return explain.Question{}, err
		}
		return explain.FromRecord(d)
	}
	if b.Tenant != "" && !iam.ValidTenantID(b.Tenant) {
		return explain.Question{}, iam.Refuse([]iam.FieldError{{Pointer: "/tenant", Detail: "is not the id of a tenant"}})
	}
	q := explain.Question{Tenant: b.Tenant}
	var err error
	if q.Request, err = enrich.NewRequest(b.Request.Gateway, b.Request.Method, b.Request.Scheme, b.Request.Host, b.Request.Path, b.Request.ClientIP); err != nil {
		return q, err
	}
	if b.Token != "" {
		q.Token, err = a.VerifyGateway(ctx, b.Token, "", time.Now().Add(verifyWait))
		if iam.KindOf(err) == iam.Unauthenticated { // it is not the caller's own
			err = iam.Refuse([]iam.FieldError{{Pointer: "/token", Detail: "is refused whatever the policy says: " + err.Error()}})
		}
		return q, err
	}
	subject, issuer := b.Subject, cmp.Or(b.Issuer, a.Issuer)
	if subject == "" {
		subject = b.ClientID // a program speaks for itself
	}
	issued := b.At
	if issued.IsZero() {
		issued = time.Now()
	}
	q.Token, err = explain.Of(issuer, subject, b.ClientID, b.Claims, issued)
	return q, err
}
