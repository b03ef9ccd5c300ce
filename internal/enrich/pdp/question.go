package pdp

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/token"
)

// The types of subjects that the directory knows. Any other is the policy's own.
const (
	TypeUser    = "user"     // id: the subject at an issuer
	TypeIAMUser = "iam_user" // id: ours, as in X-User-ID; the policy sees the user
	TypeClient  = "client"   // id: the client_id at an issuer
)

// Entity is a subject or a resource.
type Entity struct {
	Type, ID   string
	Properties map[string]any
}

// Action is what the subject would do.
type Action struct {
	Name       string
	Properties map[string]any
}

// Request is a question. Numbers in it are json.Number, of valid size.
type Request struct {
	Subject  Entity
	Action   Action
	Resource Entity
	Context  map[string]any

	Shared *Shared // what it has in common with others; may be nil
}

// Caller is a client that may ask.
type Caller struct {
	token  *token.Token
	tenant string // "": the client is the platform's
	scopes []string
}

// Caller verifies the access token of a client. It fails with an iam.Error: Unauthenticated, Forbidden, or Unavailable
// where that cannot be verified now.
func (s *Service) Caller(ctx context.Context, raw string) (*Caller, error) {
	if raw == "" {
		return nil, iam.Errorf(iam.Unauthenticated, "a bearer token is needed")
	}
	t, bound, err := s.cfg.Identify(ctx, raw)
	switch {
	case err != nil:
		return nil, err
	case !t.Program():
		return nil, &iam.Error{Kind: iam.Forbidden, Code: "client_required", Detail: "the token is a person's: a client asks, by client credentials"}
	}
	facts := s.cfg.Directory.View(directory.Caller{Issuer: t.Issuer, Subject: t.Subject, ClientID: t.ClientID, Lookups: t.LookupBudget()}, time.Now().Add(s.cfg.Deadline))
	p, err := facts.Client(ctx, t.Issuer, t.ClientID)
	switch {
	case err != nil:
		return nil, err
	case !p.Known || p.Status != iam.ClientActive:
		return nil, &iam.Error{Kind: iam.Forbidden, Code: "client_unknown", Detail: "the client is not registered here"}
	}
	granted := t.Scopes()
	c := &Caller{token: t, tenant: bound}
	for _, scope := range p.Scopes {
		if slices.Contains(granted, scope) {
			c.scopes = append(c.scopes, scope)
		}
	}
	if !slices.Contains(c.scopes, Scope) {
		return nil, &iam.Error{Kind: iam.Forbidden, Code: "scope_missing", Detail: "the client's token and its registration must have the scope " + Scope}
	}
	return c, nil
}

// Tenant is the tenant that the caller can ask about; "" for each that its issuer reaches.
func (c *Caller) Tenant() string { return c.tenant }

func invalid(pointer, detail string) error {
	return &iam.Error{Kind: iam.Malformed, Code: "invalid_evaluation", Detail: "the request is not valid", Fields: []iam.FieldError{{Pointer: pointer, Detail: detail}}}
}

// read interprets a question: its tenant, who its subject and its agent are, and the policy's input.
func (s *Service) read(ctx context.Context, e *evaluation, q *Request) (err error) {
	if e.tenant, err = s.tenantOf(e.caller, q); err != nil {
		return err
	}
	if err := s.subjectOf(ctx, e, q.Subject); err != nil {
		return err
	}
	if e.agent, err = agentOf(e.caller, q.Context); err != nil {
		return err
	}
	e.request = q
	return e.describe()
}

// describe sets what the log and the policy see of a question.
func (e *evaluation) describe() (err error) {
	q := e.request
	e.about = enrich.Authzen{
		SubjectType: e.subjectType, SubjectID: e.subject.id, SubjectIssuer: e.subject.issuer, Action: q.Action.Name,
		ResourceType: q.Resource.Type, ResourceID: q.Resource.ID, Tenant: e.tenant, Agent: e.agent.id,
	}
	e.input, err = inputOf(e, q)
	return err
}

// tenantOf is the tenant of the caller's client, or the one that a client of the platform names.
func (s *Service) tenantOf(c *Caller, q *Request) (string, error) {
	const pointer = "/context/tenant"
	named := ""
	if v, there := q.Context["tenant"]; there {
		var ok bool
		if named, ok = v.(string); !ok || !iam.ValidTenantID(named) {
			return "", invalid(pointer, "must be the id of a tenant")
		}
	}
	switch {
	case named == "" && c.tenant == "":
		return "", invalid(pointer, "is missing: a client of the platform names the tenant")
	case named == "":
		return c.tenant, nil
	case c.tenant != "" && named != c.tenant:
		return "", &iam.Error{Kind: iam.Forbidden, Code: "client_of_another_tenant", Detail: "a client of a tenant asks about that tenant only"}
	case !s.cfg.Issuers.Reaches(c.token.Issuer, named):
		return "", &iam.Error{Kind: iam.Forbidden, Code: "tenant_unknown", Detail: "the client's issuer is not trusted for the tenant"}
	}
	return named, nil
}

// subjectOf sets who a subject is.
func (s *Service) subjectOf(ctx context.Context, e *evaluation, subject Entity) error {
	e.subjectType, e.subject = subject.Type, names{id: subject.ID}
	if iat, there := subject.Properties["iat"]; there {
		n, ok := iat.(json.Number)
		seconds, err := n.Float64()
		if !ok || err != nil || seconds < 0 || seconds > 1e11 {
			return invalid("/subject/properties/iat", "must be when the subject's token was issued, in Unix seconds")
		}
		e.issuedAt = time.Unix(int64(seconds), 0)
	}
	switch subject.Type {
	case TypeIAMUser:
		e.subjectType = TypeUser
		if subject.ID == "" { // a search: the page sets it
			return nil
		}
		e.asked = subject.ID
		var err error
		e.subject, err = s.userByID(ctx, e.caller, subject.ID)
		return err
	case TypeUser, TypeClient:
		var err error
		e.subject.issuer, err = issuerOf(e.caller, "/subject/properties/issuer", subject.Properties)
		return err
	}
	return nil
}

// issuerOf is properties.issuer, or that of the caller.
func issuerOf(c *Caller, pointer string, properties map[string]any) (string, error) {
	v, there := properties["issuer"]
	if !there {
		return c.token.Issuer, nil
	}
	issuer, ok := v.(string)
	if !ok || !iam.ValidIssuer(issuer) {
		return "", invalid(pointer, "must be the issuer of the id, as in the claim iss")
	}
	return issuer, nil
}

// userID is the shape of our ids: other texts are no user's.
var userID = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// ValidUserID reports whether s has the shape of our ids of users.
func ValidUserID(s string) bool { return userID.MatchString(s) }

// userByID returns who a user is, by our id; for no user, names without an id.
func (s *Service) userByID(ctx context.Context, c *Caller, id string) (names, error) {
	unknown := names{issuer: c.token.Issuer, id: ""}
	if !userID.MatchString(id) {
		return unknown, nil
	}
	if n, ok := s.ids.Get(id); ok {
		return n, nil
	}
	budget := s.budgetOf(c)
	if !budget.Take() {
		return names{}, &iam.Error{Kind: iam.Unavailable, Code: "too_many_misses", Detail: "this client has caused too many lookups of absent users"}
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Deadline)
	defer cancel()
	issuer, subject, found, err := s.cfg.Subjects.UserByID(ctx, id)
	if err != nil || found {
		budget.Return()
	}
	switch {
	case err != nil:
		return names{}, unavailable(err)
	case !found:
		return unknown, nil
	}
	n := names{issuer: issuer, id: subject}
	s.ids.Add(id, n)
	return n, nil
}

// confirm compares the user whom a question means by our id with the facts that it is decided on: after an erasure the
// subject may be another user's, or no one's. Then the user is unknown. The view has the document that was compared, so
// the decision depends on it.
func (s *Service) confirm(ctx context.Context, e *evaluation, facts *directory.View) error {
	if e.asked == "" || e.subject.id == "" {
		return nil
	}
	p, err := facts.User(ctx, e.subject.issuer, e.subject.id)
	if err != nil || p.ID == e.asked {
		return err
	}
	s.ids.Remove(e.asked)
	e.subject = names{issuer: e.caller.token.Issuer}
	if err := e.describe(); err != nil {
		return err
	}
	e.question = e.revision.AuthzenQuestion(e.input)
	return nil
}

// unavailable is a failure of the database, with a code.
func unavailable(err error) error {
	code := "facts_unavailable"
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		code = "facts_timeout"
	case iam.CodeOf(err) != "" && iam.CodeOf(err) != "database_unavailable":
		code = iam.CodeOf(err)
	}
	return &iam.Error{Kind: iam.Unavailable, Code: code, Detail: "the facts cannot be read now", Cause: err}
}

// agentOf reads context.agent: the client_id of the client that acts for the subject, or an entity of the type client.
func agentOf(c *Caller, context map[string]any) (names, error) {
	const pointer = "/context/agent"
	v, there := context["agent"]
	if !there {
		return names{}, nil
	}
	bad := invalid(pointer, `must be a client_id, or {"type": "client", "id": CLIENT_ID, "properties": {"issuer": ISSUER}}`)
	id, issuer := "", c.token.Issuer
	switch v := v.(type) {
	case string:
		id = v
	case map[string]any:
		properties, _ := v["properties"].(map[string]any) // absent: none
		if id, _ = v["id"].(string); v["type"] != TypeClient {
			return names{}, bad
		}
		var err error
		if issuer, err = issuerOf(c, pointer+"/properties/issuer", properties); err != nil {
			return names{}, err
		}
	}
	if !iam.ValidClientID(id) {
		return names{}, bad
	}
	return names{issuer: issuer, id: id}, nil
}

// inputOf is the policy's input (policies/schemas/authzen.json).
func inputOf(e *evaluation, q *Request) (ast.Object, error) {
	subject := ast.NewObject()
	put(subject, "type", e.subjectType)
	put(subject, "id", e.subject.id)
	put(subject, "issuer", e.subject.issuer)
	action := ast.NewObject()
	put(action, "name", q.Action.Name)
	resource := ast.NewObject()
	put(resource, "type", q.Resource.Type)
	put(resource, "id", q.Resource.ID)
	var context *ast.Term
	for _, p := range []struct {
		name string
		into ast.Object // nil: it is the object itself
		from map[string]any
	}{
		{name: "subject", into: subject, from: q.Subject.Properties},
		{name: "action", into: action, from: q.Action.Properties},
		{name: "resource", into: resource, from: q.Resource.Properties},
		{name: "context", from: q.Context},
	} {
		object, err := q.Shared.term(p.from)
		if err != nil {
			return nil, invalid("/"+p.name, "cannot be read")
		}
		if p.into == nil {
			context = object
			continue
		}
		p.into.Insert(ast.InternedTerm("properties"), object)
	}
	client := ast.NewObject()
	put(client, "issuer", e.caller.token.Issuer)
	put(client, "client_id", e.caller.token.ClientID)
	put(client, "tenant", e.caller.tenant)
	scopes := make([]*ast.Term, len(e.caller.scopes))
	for i, scope := range slices.Sorted(slices.Values(e.caller.scopes)) {
		scopes[i] = ast.StringTerm(scope)
	}
	client.Insert(ast.InternedTerm("scopes"), ast.ArrayTerm(scopes...))
	in := ast.NewObject(
		[2]*ast.Term{ast.InternedTerm("subject"), ast.NewTerm(subject)},
		[2]*ast.Term{ast.InternedTerm("action"), ast.NewTerm(action)},
		[2]*ast.Term{ast.InternedTerm("resource"), ast.NewTerm(resource)},
		[2]*ast.Term{ast.InternedTerm("context"), context},
		[2]*ast.Term{ast.InternedTerm("tenant"), ast.StringTerm(e.tenant)},
		[2]*ast.Term{ast.InternedTerm("client"), ast.NewTerm(client)},
	)
	if e.agent.id != "" {
		agent := ast.NewObject()
		put(agent, "issuer", e.agent.issuer)
		put(agent, "id", e.agent.id)
		in.Insert(ast.InternedTerm("agent"), ast.NewTerm(agent))
	}
	return in, nil
}

// put sets a string; an empty one is absent.
func put(o ast.Object, name, value string) {
	if value != "" {
		o.Insert(ast.InternedTerm(name), ast.StringTerm(value))
	}
}
