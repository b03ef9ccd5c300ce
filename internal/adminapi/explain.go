package adminapi

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
)

// explainBody names what to explain: a token, a recorded decision, or a subject.
type explainBody struct {
	Token    string         `json:"token,omitempty" maxLength:"8192" doc:"an access token for gateways; it is neither stored nor logged"`
	Decision string         `json:"decision,omitempty" maxLength:"64" doc:"id of a recorded decision"`
	Issuer   string         `json:"issuer,omitempty" maxLength:"512" doc:"of the subject; absent: R-Auth"`
	Subject  string         `json:"subject,omitempty" maxLength:"255"`
	ClientID string         `json:"client_id,omitempty" maxLength:"255" doc:"without a subject: the client itself"`
	Claims   map[string]any `json:"claims,omitempty" doc:"further claims of the token"`
	Tenant   string         `json:"tenant,omitempty" maxLength:"64" doc:"the requested tenant"`
	Revision string         `json:"revision,omitempty" maxLength:"64" doc:"absent: the active one"`
	At       time.Time      `json:"at,omitzero" doc:"input.now of the policy; absent: now, or the time of the decision. Facts are always current"`
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
	Text string `json:"text" doc:"the explanation for people"`
}

func (a *server) explain(ctx context.Context, c call, in *struct {
	OnDecisions
	Body explainBody
},
) (*resource[explanationBody], error) {
	sees, err := a.visible(ctx, c)
	if err != nil {
		return nil, err
	}
	var x explain.Explanation
	if sees == seesAll {
		x, err = a.explainAny(ctx, c, in.Body)
	} else {
		x, err = a.explainForTenant(ctx, c, in.Body)
	}
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	x.Text(&text)
	return &resource[explanationBody]{Status: 200, Body: explanationBody{x, text.String()}}, nil
}

// explainAny explains to a caller who may see all decisions.
func (a *server) explainAny(ctx context.Context, c call, b explainBody) (explain.Explanation, error) {
	q, err := a.explainQuestion(ctx, b)
	if err != nil {
		return explain.Explanation{}, err
	}
	if !b.At.IsZero() {
		q.Now = b.At
	}
	var revision *policy.Revision // nil: the active one
	switch {
	case b.Revision == "", a.isActive(b.Revision):
	default:
		read := admin.Task{Action: c.task.Action}
		stored, err := admin.Do(ctx, a.Service, c.caller, read, func(ctx context.Context, w *admin.Work) (iam.PolicyRevision, error) {
			return w.PolicyRevision(ctx, b.Revision)
		})
		if err == nil {
			revision, err = a.Policies.Revision(ctx, stored.Digest)
		}
		if err != nil {
			return explain.Explanation{}, err
		}
	}
	x, err := a.Explain.Explain(ctx, revision, q)
	if err != nil || !triable(x, q) {
		return x, err
	}
	// The tenant is the caller's to see: they see all.
	read := admin.Task{Action: c.task.Action}
	x.Requestable, err = admin.Do(ctx, a.Service, c.caller, read, func(ctx context.Context, w *admin.Work) ([]explain.Requestable, error) {
		return a.wouldAllow(ctx, w, q, explain.Trial{Revision: revision, Tenant: cmp.Or(q.Tenant, x.Tenant)})
	})
	return x, err
}

// triable reports whether another role could have allowed what was denied: to a person, by the policy.
func triable(x explain.Explanation, q explain.Question) bool {
	return !x.Allow && x.Status == http.StatusForbidden && q.Token != nil && !q.Token.Program() && cmp.Or(q.Tenant, x.Tenant) != ""
}

// wouldAllow finds the roles that a subject can ask for, and that would have allowed q.
func (a *server) wouldAllow(ctx context.Context, w *admin.Work, q explain.Question, t explain.Trial) ([]explain.Requestable, error) {
	can, err := w.RequestableBy(ctx, t.Tenant, q.Token.Issuer, q.Token.Subject)
	if err != nil {
		return nil, err
	}
	var roles []iam.Role
	for _, r := range can {
		if !r.Assigned {
			roles = append(roles, r.Role)
		}
	}
	if len(roles) == 0 {
		return nil, nil
	}
	t.Facts, t.Engine, t.Issuers, t.HeaderMax = w.Facts(), a.Explain.Engine, a.Issuers, a.HeaderMax
	return t.Requestable(ctx, q, roles)
}

// explainForTenant explains to a caller who may see one tenant: a decision about it, or what would be decided for one of its
// members or clients.
func (a *server) explainForTenant(ctx context.Context, c call, b explainBody) (x explain.Explanation, err error) {
	tenant := c.task.Tenant
	var invalid []iam.FieldError
	if b.Token != "" {
		invalid = append(invalid, iam.FieldError{Pointer: "/token", Detail: "is not allowed with ?tenant=: use subject, client_id or decision"})
	}
	if b.Revision != "" {
		invalid = append(invalid, iam.FieldError{Pointer: "/revision", Detail: "is not allowed with ?tenant=: only the active policy is explained"})
	}
	if b.Tenant != "" && b.Tenant != tenant {
		invalid = append(invalid, iam.FieldError{Pointer: "/tenant", Detail: "must be the tenant of the request"})
	}
	if err := iam.InvalidFields(invalid); err != nil {
		return x, err
	}
	if b.Decision != "" {
		d, err := a.findDecision(ctx, b.Decision)
		if err == nil && d.Tenant != tenant {
			err = errNoDecision
		}
		if err != nil {
			return x, err
		}
	}
	b.Tenant = tenant
	q, err := a.explainQuestion(ctx, b)
	if err != nil {
		return x, err
	}
	if !b.At.IsZero() {
		q.Now = b.At
	}
	return admin.Do(ctx, a.Service, c.caller, c.readOnly(), func(ctx context.Context, w *admin.Work) (explain.Explanation, error) {
		within := explain.Within{
			Tenant:    tenant,
			Facts:     w.Facts(),
			Engine:    a.Explain.Engine,
			Issuers:   a.Issuers,
			HeaderMax: a.HeaderMax,
		}
		x, err := within.Explain(ctx, q)
		if err == nil && triable(x, q) {
			x.Requestable, err = a.wouldAllow(ctx, w, q, explain.Trial{Tenant: tenant})
		}
		return x, err
	})
}

// explainQuestion builds the request to explain from the token, the decision or the subject that b names.
func (a *server) explainQuestion(ctx context.Context, b explainBody) (explain.Question, error) {
	given := 0
	for _, named := range []bool{b.Token != "", b.Decision != "", b.Subject != "" || b.ClientID != ""} {
		if named {
			given++
		}
	}
	if given != 1 {
		return explain.Question{}, iam.InvalidFields([]iam.FieldError{{Pointer: "", Detail: "must have one of token, decision, and subject or client_id"}})
	}
	if b.Decision != "" {
		d, err := a.findDecision(ctx, b.Decision)
		if err != nil {
			return explain.Question{}, err
		}
		return explain.FromRecord(d)
	}
	if b.Tenant != "" && !iam.ValidTenantID(b.Tenant) {
		return explain.Question{}, iam.InvalidFields([]iam.FieldError{{Pointer: "/tenant", Detail: "is not a valid id of a tenant"}})
	}
	q := explain.Question{Tenant: b.Tenant}
	var err error
	r := b.Request
	written := enrich.RequestFacts{Gateway: r.Gateway, Method: r.Method, Scheme: r.Scheme, Host: r.Host, Path: r.Path, ClientIP: r.ClientIP}
	if q.Request, err = written.Normalized(); err != nil {
		return q, err
	}
	if b.Token != "" {
		q.Token, err = a.VerifyGateway(ctx, b.Token, "", time.Now().Add(verifyWait))
		if iam.KindOf(err) == iam.Unauthenticated { // the fault is in the body, not in the caller's own token
			err = iam.InvalidFields([]iam.FieldError{{Pointer: "/token", Detail: "is rejected before any policy is evaluated: " + err.Error()}})
		}
		return q, err
	}
	subject, issuer := b.Subject, cmp.Or(b.Issuer, a.Issuer)
	if subject == "" {
		subject = b.ClientID // a client is its own subject
	}
	issued := b.At
	if issued.IsZero() {
		issued = time.Now()
	}
	q.Token, err = explain.Of(issuer, subject, b.ClientID, b.Claims, issued)
	return q, err
}
