package decisions

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/token"
)

// Event is one recorded decision in the format of OPA's decision log (EventV1, see
// openpolicyagent.org/docs/management-decision-logs), for its consumers. Fields that OPA does not
// define are below custom.
type Event struct {
	Labels     map[string]string `json:"labels"`
	DecisionID string            `json:"decision_id"`
	Bundles    map[string]Bundle `json:"bundles"`
	Path       string            `json:"path"`
	Input      map[string]any    `json:"input"`
	Result     map[string]any    `json:"result"`
	Erased     []string          `json:"erased,omitempty"` // JSON Pointers (RFC 6901) of values that are not recorded
	RequestBy  string            `json:"requested_by,omitempty"`
	Timestamp  time.Time         `json:"timestamp"`
	TraceID    string            `json:"trace_id,omitempty"` // of the request (W3C Trace Context)
	SpanID     string            `json:"span_id,omitempty"`
	Metrics    map[string]int64  `json:"metrics"`
	Custom     Custom            `json:"custom"`
}

// Bundle is the revision that decided.
type Bundle struct {
	Revision string `json:"revision"` // its digest
}

// Custom has the fields that OPA does not define.
type Custom struct {
	Preflight bool             `json:"preflight,omitempty"`      // the request was a CORS preflight
	Ambiguous bool             `json:"ambiguous_path,omitempty"` // the path can be read in two ways: it is not recorded
	Facts     []directory.Fact `json:"facts,omitempty"`          // the documents that were read, with the versions of their rows
	Repeated  bool             `json:"repeated,omitempty"`       // a cache hit
	Hits      int64            `json:"hits"`                     // cache hits of the entry so far
	Name      string           `json:"policy_name,omitempty"`
}

// DefaultFields are the fields of the input that are recorded by default.
var DefaultFields = []string{
	"token.iss", "token.sub", "token.aud", "token.client_id", "token.scope", "token.acr", "token.amr", "token.groups", "token.roles", "token.entitlements",
	"token.exp", "token.iat", "request.gateway", "request.method", "request.scheme", "request.host", "request.path", "request.tenant_hint", "request.client_ip",
	"request.anonymous",
	"authzen.subject", "authzen.action", "authzen.resource", "authzen.agent",
}

// authzenFields are the parts of the input of an AuthZEN evaluation that can be recorded: names, never properties.
var authzenFields = []string{"authzen.subject", "authzen.action", "authzen.resource", "authzen.agent"}

var (
	fieldShape = regexp.MustCompile(`^token\.[A-Za-z0-9_:/.-]{1,128}$`)
	// secretive matches names of claims that are never recorded. Long words match
	// anywhere: access_token, accessToken, API-Key. Short ones match as words only:
	// auth, and not author or auth_time.
	secretive = regexp.MustCompile(`(?i)passw|passphrase|passcode|(^|[^a-z])pass$|pwd|pw$|(^|[^a-z])pw[^a-z]|jwt|bearer|auth[nz]?$|secret|token|assertion|cookie|credential|authorization|private|session|signature|nonce|cvv|otp$|api.?key|key$|[_.-]code$|^code$|pin$`)
)

// CheckFields validates an allow-list of fields of the input. There are no wildcards.
func CheckFields(fields []string) error {
	var faults []string
	for _, f := range fields {
		request, isRequest := strings.CutPrefix(f, "request.")
		switch {
		case slices.Contains(authzenFields, f):
		case isRequest && slices.Contains(requestFields(), request):
		case secretive.MatchString(strings.TrimPrefix(f, "token.")) && f != "token":
			faults = append(faults, fmt.Sprintf("%q looks like the name of a secret, and is never recorded", f))
		case !fieldShape.MatchString(f):
			faults = append(faults, fmt.Sprintf("%q is neither token.<claim> nor one of request.%s, %s", f, strings.Join(requestFields(), ", request."), strings.Join(authzenFields, ", ")))
		}
	}
	if len(faults) > 0 {
		return errors.New(strings.Join(faults, "; "))
	}
	return nil
}

func requestFields() []string {
	names := []string{"anonymous"}
	for f := range policy.NumFields {
		names = append(names, f.String())
	}
	return names
}

// headersShown are the headers of a response whose values are recorded: identifiers,
// never attributes of people. Of other headers only the presence is recorded.
var headersShown = []string{
	"X-User-ID", "X-User-Subject", "X-Service-ID", "X-Client-ID", "X-Tenant-ID", "X-Active-Tenant-ID", "X-Enriched-Tenant-ID", "X-User-Roles", "X-User-Permissions", "X-Scopes",
	"X-Principal-Type",
}

// masks creates masked events.
type masks struct {
	claims  map[string]bool
	fields  map[string]bool
	headers []string // canonical, parallel to the values of responses
	shown   []bool   // parallel to headers
	labels  map[string]string

	// JSON Pointers of what can be recorded, by name of the claim, by field and by header.
	claimAt  map[string]string
	fieldAt  [policy.NumFields]string
	headerAt []string
}

func newMasks(fields, headers []string, labels map[string]string) *masks {
	m := &masks{claims: map[string]bool{}, fields: map[string]bool{}, headers: headers, labels: labels, claimAt: map[string]string{}}
	for f := range policy.NumFields {
		m.fieldAt[f] = "/input/request/" + f.String()
	}
	for _, f := range fields {
		if claim, ok := strings.CutPrefix(f, "token."); ok {
			m.claims[claim], m.claimAt[claim] = true, claimPointer(claim)
		} else {
			m.fields[strings.TrimPrefix(f, "request.")] = true
		}
	}
	for _, h := range headers {
		shown := slices.ContainsFunc(headersShown, func(name string) bool { return http.CanonicalHeaderKey(name) == h })
		switch h { // they carry the value of a claim
		case http.CanonicalHeaderKey("X-User-Subject"):
			shown = m.claims["sub"]
		case http.CanonicalHeaderKey("X-Client-ID"), http.CanonicalHeaderKey("X-Service-ID"):
			shown = m.claims["client_id"]
		}
		m.shown, m.headerAt = append(m.shown, shown), append(m.headerAt, "/result/headers/"+h)
	}
	return m
}

// event is the masked event of one decision.
func (m *masks) event(e *enrich.Evaluated) *Event {
	out := &Event{
		Labels: m.labels, DecisionID: e.Response.DecisionID, Bundles: map[string]Bundle{"iam": {e.Revision.Digest}}, Path: "iam/claims/decision",
		Input: map[string]any{}, Result: map[string]any{"allow": e.Response.Allowed}, Timestamp: e.At.UTC(),
		TraceID: e.Trace.Trace, SpanID: e.Trace.Span,
		Metrics: map[string]int64{"timer_rego_query_eval_ns": e.Took.Nanoseconds()},
		Custom:  Custom{Facts: m.facts(e.Facts), Repeated: e.Repeated, Hits: e.Hits, Name: e.Revision.Name, Preflight: e.Request.Preflight, Ambiguous: e.Request.Ambiguous},
	}
	if e.Token != nil {
		if claims, ok := e.Token.Claims.(ast.Object); ok {
			out.Input["token"] = m.token(claims, out)
		}
	}
	if e.Authzen != nil {
		out.Path, out.Input["now"] = "iam/authzen/decision", e.At.Unix()
		m.authzen(e.Authzen, out)
		m.result(e, out)
		return out
	}
	out.Input["request"] = m.request(e, out)
	if e.Request.ClientIP.IsValid() && m.fields["client_ip"] {
		out.RequestBy = e.Request.ClientIP.String()
	}
	if e.Input.Now.IsZero() {
		out.Input["now"] = e.At.Unix()
	} else {
		out.Input["now"] = e.Input.Now.Unix()
	}
	m.result(e, out)
	return out
}

// facts are the documents that were read. Their paths contain the values of claims.
func (m *masks) facts(list []directory.Fact) []directory.Fact {
	if m.claims["iss"] && m.claims["sub"] && m.claims["client_id"] {
		return list
	}
	shown := make([]directory.Fact, len(list))
	for i, f := range list {
		steps := strings.Split(f.Path, "/")
		if len(steps) == 3 {
			if !m.claims["iss"] {
				steps[1] = "(masked)"
			}
			if steps[0] == "users" && !m.claims["sub"] || steps[0] == "clients" && !m.claims["client_id"] {
				steps[2] = "(masked)"
			}
			f.Path = strings.Join(steps, "/")
		}
		shown[i] = f
	}
	return shown
}

func (m *masks) token(claims ast.Object, out *Event) map[string]any {
	shown := map[string]any{}
	claims.Foreach(func(k, v *ast.Term) {
		name, ok := k.Value.(ast.String)
		if !ok {
			return
		}
		at, recorded := m.claimAt[string(name)]
		if !recorded {
			out.Erased = append(out.Erased, claimPointer(string(name)))
			return
		}
		value, err := ast.JSON(v.Value)
		if err != nil {
			out.Erased = append(out.Erased, at)
			return
		}
		shown[string(name)] = out.scrub(at, value)
	})
	return shown
}

func (m *masks) request(e *enrich.Evaluated, out *Event) map[string]any {
	request := map[string]any{}
	for f := range policy.NumFields {
		value := e.Input.Fields[f]
		if f == policy.ClientIP && e.Request.ClientIP.IsValid() {
			value = e.Request.ClientIP.String()
		}
		at := m.fieldAt[f]
		switch {
		case value == "":
		case m.fields[f.String()]:
			request[f.String()] = out.scrub(at, value)
		default:
			out.Erased = append(out.Erased, at)
		}
	}
	if m.fields["anonymous"] {
		request["anonymous"] = e.Input.Anonymous
	}
	return request
}

// authzen records what an AuthZEN evaluation was about.
func (m *masks) authzen(about *enrich.Authzen, out *Event) {
	put := func(name string, members map[string]any) {
		at := "/input/" + name
		for member, v := range members {
			if v == "" {
				delete(members, member)
			}
		}
		switch {
		case len(members) == 0:
		case m.fields["authzen."+name]:
			out.Input[name] = out.scrub(at, members)
		default:
			out.Erased = append(out.Erased, at)
		}
	}
	out.Input["tenant"] = about.Tenant
	put("subject", map[string]any{"type": about.SubjectType, "id": about.SubjectID, "issuer": about.SubjectIssuer})
	put("action", map[string]any{"name": about.Action})
	put("resource", map[string]any{"type": about.ResourceType, "id": about.ResourceID})
	put("agent", map[string]any{"id": about.Agent})
}

func (m *masks) result(e *enrich.Evaluated, out *Event) {
	if !e.Response.Allowed && e.Response.Status != 0 {
		out.Result["status"] = e.Response.Status
	}
	if e.Response.Tenant != "" {
		out.Result["tenant"] = e.Response.Tenant
	}
	if len(e.Reasons) > 0 {
		out.Result["reasons"] = e.Reasons
	} else if e.Response.Code != "" {
		out.Result["reasons"] = []policy.Reason{{Code: e.Response.Code}}
	}
	if e.Response.Values == nil {
		return
	}
	headers := map[string]any{}
	for i, value := range e.Response.Values {
		at := m.headerAt[i]
		switch {
		case value == "":
		case m.shown[i]:
			headers[m.headers[i]] = out.scrub(at, value)
		case m.headers[i] != "X-Decision-Id" && m.headers[i] != "X-Policy-Revision": // the event has both already
			out.Erased = append(out.Erased, at)
		}
	}
	out.Result["headers"] = headers
}

// maxValueBytes bounds one recorded value.
const maxValueBytes = 1024

// scrub removes from a value everything that looks like a token or is too long.
func (e *Event) scrub(at string, v any) any {
	switch v := v.(type) {
	case string:
		if len(v) > maxValueBytes {
			e.Erased = append(e.Erased, at)
			return "(too long)"
		}
		if hidden := token.Hide(v); hidden != v {
			e.Erased = append(e.Erased, at)
			return hidden
		}
	case []any:
		for i, x := range v {
			v[i] = e.scrub(fmt.Sprint(at, "/", i), x)
		}
	case map[string]any:
		for k, x := range v {
			if hidden := token.Hide(k); hidden != k || secretive.MatchString(k) {
				e.Erased = append(e.Erased, at+"/"+pointer(hidden))
				delete(v, k)
				continue
			}
			v[k] = e.scrub(at+"/"+pointer(k), x)
		}
	}
	return v
}

var pointers = strings.NewReplacer("~", "~0", "/", "~1")

// claimPointer is the JSON Pointer of a claim, without a token that its name may hold.
func claimPointer(name string) string { return "/input/token/" + pointer(token.Hide(name)) }

// pointer escapes a name for a JSON Pointer (RFC 6901, section 3).
func pointer(name string) string { return pointers.Replace(name) }

// record has the columns for queries of an event, without masked values.
func (m *masks) record(e *enrich.Evaluated, ev *Event, text json.RawMessage) iam.RecordedDecision {
	r := iam.RecordedDecision{
		ID: ev.DecisionID, At: ev.Timestamp, Revision: e.Revision.ID, Allow: e.Response.Allowed, Tenant: e.Response.Tenant, Codes: []string{}, Event: text,
	}
	unmasked := func(claim, value string) string {
		if !m.claims[claim] {
			return ""
		}
		return value
	}
	if e.Token != nil {
		r.Issuer, r.Subject, r.ClientID = unmasked("iss", e.Token.Issuer), unmasked("sub", e.Token.Subject), unmasked("client_id", e.Token.ClientID)
	}
	if about := e.Authzen; about != nil {
		r.Issuer, r.Subject = "", ""
		if (about.SubjectType == "user" || about.SubjectType == "client") && m.fields["authzen.subject"] {
			r.Issuer, r.Subject = unmasked("iss", about.SubjectIssuer), unmasked("sub", about.SubjectID)
		}
	}
	if r.Tenant == "" && m.fields["tenant_hint"] {
		r.Tenant = e.Hint
	}
	for _, reason := range e.Reasons {
		r.Codes = append(r.Codes, reason.Code)
	}
	if len(r.Codes) == 0 && e.Response.Code != "" {
		r.Codes = append(r.Codes, e.Response.Code)
	}
	return r
}
