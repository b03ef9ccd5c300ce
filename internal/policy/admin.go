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

// AdminEntrypoint is the rule that answers whether somebody may do something
// administrative.
const AdminEntrypoint = "data.iam.admin.decision"

// AdminQuestion is what is asked of AdminEntrypoint. What is not known is empty.
type AdminQuestion struct {
	Claims   ast.Value // of the verified token
	Action   string    // "member:create"
	Tenant   string    // that it is about
	Object   string    // that it is about, by id or name
	Method   string
	ClientIP string
}

// AdminDecision is the answer.
type AdminDecision struct {
	Allow    bool
	Status   int // of a deny: 401, 403 or 404, which says no more than that nothing is there
	Reasons  []Reason
	Revision string
}

// Administer evaluates AdminEntrypoint of the revision in force. It fails as
// Decide does. The answer is never kept.
func (e *Engine) Administer(ctx context.Context, q AdminQuestion, facts Facts, deadline time.Time) (AdminDecision, error) {
	r := e.current.Load()
	if r == nil {
		return AdminDecision{}, ErrNoPolicy
	}
	if !r.administers {
		return AdminDecision{}, &iam.Error{Kind: iam.Unavailable, Code: "no_policy", Detail: "the policy in force says nothing about administration"}
	}
	began := time.Now()
	ev := &evaluation{facts: facts, ctx: ctx, began: began, waited: facts.Waited(), limit: e.cfg.Limit, deadline: deadline}
	rs, err := r.eval(ctx, AdminEntrypoint, r.admin, q.input(), ev)
	if err != nil {
		return AdminDecision{}, err
	}
	d, err := adminDecision(rs)
	if err != nil {
		return AdminDecision{}, brokenAt(AdminEntrypoint, r, "%w", err)
	}
	d.Revision = r.ID
	return d, nil
}

// adminDecision reads the answer strictly: what is not of the agreed shape is an
// error.
func adminDecision(rs rego.ResultSet) (AdminDecision, error) {
	doc, err := answerOf(rs)
	if err != nil {
		return AdminDecision{}, err
	}
	allow, ok := boolean(doc, keyAllow)
	if !ok {
		return AdminDecision{}, errors.New("the answer has no boolean allow")
	}
	d := AdminDecision{Allow: allow, Status: http.StatusForbidden}
	if t := doc.Get(keyStatus); t != nil {
		switch n, _ := t.Value.(ast.Number); n { // another type is "", which is refused below
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

// input is q as the policy sees it. What is not known is absent, never "".
func (q *AdminQuestion) input() ast.Value {
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
