package explain

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/token"
)

// Within explains to a caller who may read one tenant and nothing else, under the active policy.
//
// The decision is evaluated over all facts. The reasons are evaluated again, over
// facts without other tenants, and without the user's platform roles and attributes. Only values
// from these facts or the input are shown: a bundle's data and
// the results of rules can be about other tenants. Headers are shown as the gateway gets them.
// Where the two decisions differ, the first one depends on hidden facts, and the rules are left out.
type Within struct {
	Tenant    string
	Facts     directory.Loader // a snapshot; called by one goroutine at a time
	Engine    *policy.Engine
	Issuers   iam.Issuers
	HeaderMax int
}

// Explain explains a request of a member or a client of the tenant. Any other subject is not
// found.
func (v Within) Explain(ctx context.Context, q Question) (Explanation, error) {
	all := &serial{Loader: v.Facts}
	limited := q
	if q.Token != nil {
		t, err := v.token(ctx, all, q)
		if err != nil {
			return Explanation{}, err
		}
		limited.Token = t
	}
	if r := q.Recorded; r != nil {
		known := *r
		known.Facts = slices.DeleteFunc(slices.Clone(r.Facts), func(f directory.Fact) bool { return !v.shows(f) })
		limited.Recorded = &known
	}
	decided, err := Over(all, v.Engine, v.Issuers, v.HeaderMax).Explain(ctx, nil, q)
	if err != nil {
		return Explanation{}, err
	}
	x, err := Over(&onlyOf{all, v.Tenant}, v.Engine, v.Issuers, v.HeaderMax).Explain(ctx, nil, limited)
	if err != nil {
		return Explanation{}, err
	}
	if x.Status == http.StatusServiceUnavailable {
		x.Detail = "it cannot be decided now" // the reason is for operators
	}
	x.Facts = slices.DeleteFunc(x.Facts, func(f directory.Fact) bool { return !v.shows(f) })
	for i := range x.Rules {
		redact(&x.Rules[i])
	}
	if decided.Revision == x.Revision && decided.Allow == x.Allow && decided.Status == x.Status && decided.Code == x.Code {
		return x, nil
	}
	return Explanation{
		Revision: decided.Revision,
		Name:     decided.Name,
		Allow:    decided.Allow,
		Status:   decided.Status,
		Code:     decided.Code,
		Tenant:   x.Tenant,
		Recorded: x.Recorded,
		Rules:    []policy.Rule{},
		Facts:    []directory.Fact{},
		Detail:   "the decision depends on facts that are not this tenant's, so the rules are not shown: a platform administrator sees them",
	}, nil
}

// redact hides the values of a rule that are from neither the facts nor the input.
func redact(r *policy.Rule) {
	for i := range r.Held {
		redactCondition(&r.Held[i])
	}
	if r.Failed != nil {
		redactCondition(r.Failed)
	}
}

func redactCondition(c *policy.Condition) {
	for i, v := range c.Values {
		if v.Defined && !v.FromFacts {
			c.Values[i] = policy.Value{Name: v.Name, Defined: true, Hidden: true}
		}
	}
	for _, cause := range c.Because {
		for i := range cause.Failed {
			redactCondition(&cause.Failed[i])
		}
	}
}

// shows reports whether the tenant may see that a document was read, and its version. A
// user's document changes with every tenant that it references.
func (v Within) shows(f directory.Fact) bool {
	return f.Path == "tenants/"+v.Tenant
}

// token is the token of the request, with the claims that the tenant may see.
func (v Within) token(ctx context.Context, facts directory.Loader, q Question) (*token.Token, error) {
	t := q.Token
	notFound := iam.Errorf(iam.NotFound, "not found")
	client, known, err := facts.Client(ctx, t.Issuer, t.ClientID)
	if err != nil {
		return nil, err
	}
	ours := known && client.Tenant == v.Tenant
	if t.Program() {
		if !ours {
			return nil, notFound
		}
		return t, nil
	}
	user, _, err := facts.User(ctx, t.Issuer, t.Subject)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(user.Memberships, func(m iam.Membership) bool { return m.Tenant == v.Tenant }) {
		return nil, notFound
	}
	if q.Recorded == nil {
		if t.ClientID != "" && !ours {
			return nil, notFound
		}
		return t, nil // the caller has chosen its claims
	}
	tenant, _, err := facts.Tenant(ctx, v.Tenant)
	if err != nil {
		return nil, err
	}
	value, err := ast.JSON(t.Claims)
	if err != nil {
		return nil, err
	}
	claims := map[string]any{}
	all, _ := value.(map[string]any) // claims are an object
	for name, claim := range all {
		switch name {
		case "iss", "sub", "aud", "scope", "iat", "exp", "nbf", "acr", "amr", "auth_time":
			claims[name] = claim
		case "client_id", "azp":
			if ours || known && client.Tenant == "" {
				claims[name] = claim
			}
		default:
			if mapped := mappedHere(tenant.Mappings, t.Issuer, name, claim); mapped != nil {
				claims[name] = mapped
			}
		}
	}
	return FromClaims(claims, t.IssuedAt)
}

// mappedHere are the values of a claim that a tenant maps to roles; nil: none. Other claims of the
// provider can be about other tenants.
func mappedHere(mappings []iam.Mapping, issuer, name string, claim any) any {
	mapped := func(value any) bool {
		return slices.ContainsFunc(mappings, func(m iam.Mapping) bool { return m.Issuer == issuer && m.Claim == name && m.Value == value })
	}
	list, ok := claim.([]any)
	if !ok {
		if mapped(claim) {
			return claim
		}
		return nil
	}
	var here []any
	for _, value := range list {
		if text, ok := value.(string); ok && mapped(text) {
			here = append(here, value)
		}
	}
	if len(here) == 0 {
		return nil
	}
	return here
}

// serial serializes the calls of a loader that is for one goroutine at a time.
type serial struct {
	directory.Loader
	mu sync.Mutex
}

func (s *serial) User(ctx context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Loader.User(ctx, issuer, subject)
}

func (s *serial) Tenant(ctx context.Context, id string) (iam.TenantFacts, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Loader.Tenant(ctx, id)
}

func (s *serial) Client(ctx context.Context, issuer, clientID string) (iam.ClientFacts, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Loader.Client(ctx, issuer, clientID)
}

// onlyOf loads the facts of one tenant only.
type onlyOf struct {
	directory.Loader
	tenant string
}

func (o *onlyOf) User(ctx context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	u, _, err := o.Loader.User(ctx, issuer, subject)
	u.Memberships = slices.DeleteFunc(slices.Clone(u.Memberships), func(m iam.Membership) bool { return m.Tenant != o.tenant })
	if err != nil || len(u.Memberships) == 0 {
		return iam.UserFacts{}, false, err
	}
	u.Attributes, u.PlatformRoles = nil, nil
	if u.DefaultTenant != o.tenant {
		u.DefaultTenant = ""
	}
	return u, true, nil
}

func (o *onlyOf) Tenant(ctx context.Context, id string) (iam.TenantFacts, bool, error) {
	if id != o.tenant {
		return iam.TenantFacts{}, false, nil
	}
	return o.Loader.Tenant(ctx, id)
}

func (o *onlyOf) Client(ctx context.Context, issuer, clientID string) (iam.ClientFacts, bool, error) {
	c, found, err := o.Loader.Client(ctx, issuer, clientID)
	switch {
	case err != nil || !found || c.Tenant != o.tenant && c.Tenant != "":
		return iam.ClientFacts{}, false, err
	case c.Tenant == "":
		c.Roles, c.Scopes = nil, nil // the platform's own
	}
	return c, true, nil
}

// EventWithin reduces a recorded event to what its tenant may see: the request and
// the decision. Claims, headers and facts can be about other tenants.
func EventWithin(event json.RawMessage) (json.RawMessage, error) {
	type whole struct {
		Input struct {
			Request json.RawMessage `json:"request,omitempty"`
		} `json:"input"`
		Result struct {
			Allow   bool            `json:"allow"`
			Status  int             `json:"status,omitempty"`
			Reasons json.RawMessage `json:"reasons,omitempty"`
		} `json:"result"`
	}
	var w whole
	if err := json.Unmarshal(event, &w); err != nil {
		return nil, err
	}
	return json.Marshal(w)
}
