package policy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"iam-service/internal/iam"
)

// AdminEntrypoint is the rule that authorizes administrative actions.
const AdminEntrypoint = "data.iam.admin.decision"

// AdminInput is the policy input of AdminEntrypoint. Unknown fields are empty.
type AdminInput struct {
	Claims   ast.Value // of the verified token
	Action   string    // "member:create"
	Tenant   string    // of the object
	Object   string    // id or name
	Method   string
	ClientIP string
}

// AdminDecision is the decision of AdminEntrypoint.
type AdminDecision struct {
	Allow    bool
	Status   int // of a deny: 401, 403, or 404 where even the object's existence is hidden
	Reasons  []Reason
	Revision string
}

// Administer evaluates AdminEntrypoint of the active revision. It fails as
// Decide does. The decision is never cached.
func (e *Engine) Administer(ctx context.Context, q AdminInput, facts Facts, deadline time.Time) (AdminDecision, error) {
	r := e.current.Load()
	if r == nil {
		return AdminDecision{}, ErrNoPolicy
	}
	if !r.administers {
		return AdminDecision{}, &iam.Error{Kind: iam.Unavailable, Code: "no_policy", Detail: "the active policy has no rules for administration"}
	}
	began := time.Now()
	ev := &evaluation{facts: facts, ctx: ctx, began: began, waited: facts.Waited(), limit: e.cfg.Limit, deadline: deadline}
	rs, err := r.eval(ctx, entrypoint{AdminEntrypoint, r.admin}, q.value(), ev)
	if err != nil {
		return AdminDecision{}, err
	}
	d, err := adminDecision(rs)
	if err != nil {
		return AdminDecision{}, policyErrorAt(AdminEntrypoint, r, "%w", err)
	}
	d.Revision = r.ID
	return d, nil
}

// adminDecision parses a decision strictly: any deviation from the agreed shape is an error.
func adminDecision(rs rego.ResultSet) (AdminDecision, error) {
	doc, err := resultObject(rs)
	if err != nil {
		return AdminDecision{}, err
	}
	allow, ok := boolean(doc, keyAllow)
	if !ok {
		return AdminDecision{}, errors.New("the decision has no boolean allow")
	}
	d := AdminDecision{Allow: allow, Status: http.StatusForbidden}
	if t := doc.Get(keyStatus); t != nil {
		switch n, _ := t.Value.(ast.Number); n { // another type is "", which is rejected below
		case "401":
			d.Status = http.StatusUnauthorized
		case "403":
		case "404":
			d.Status = http.StatusNotFound
		default:
			return AdminDecision{}, fmt.Errorf("status is none of 401, 403 and 404")
		}
	}
	d.Reasons, err = reasons(doc.Get(keyReasons))
	return d, err
}

// value is q as policy input. Unknown fields are absent, never "".
func (q *AdminInput) value() ast.Value {
	in := ast.NewObject()
	if q.Claims != nil {
		in.Insert(termToken, ast.NewTerm(q.Claims))
	}
	put := func(o ast.Object, k, v string) {
		if v != "" {
			o.Insert(ast.StringTerm(k), ast.StringTerm(v))
		}
	}
	put(in, "action", q.Action)
	put(in, "tenant", q.Tenant)
	put(in, "object", q.Object)
	request := ast.NewObject()
	put(request, "method", q.Method)
	put(request, "client_ip", q.ClientIP)
	in.Insert(termRequest, ast.NewTerm(request))
	return in
}
