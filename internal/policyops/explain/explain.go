// Package explain explains why a request is allowed or denied: the decision, the rules that fired,
// and of the others the first condition that failed, with its values.
//
// It owns the explanation and its text for people. The request comes from a token, from a
// recorded decision, or from the identity of a caller; the facts are the current ones. It does
// not know HTTP, SQL or Rego's syntax.
package explain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
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

// Service explains. It is safe for concurrent use.
type Service struct {
	Engine   *policy.Engine
	Enricher *enrich.Service
}

// Over returns a service that needs no running server: it reads facts through loader, which
// must be a snapshot.
func Over(loader directory.Loader, engine *policy.Engine, issuers iam.Issuers, headerMax int) *Service {
	const (
		maxStale = 24 * time.Hour // a snapshot does not become stale
		entries  = 1 << 20        // bytes are the bound
	)
	store := directory.New(loader, directory.Config{Issuers: issuers, Entries: entries, MaxStale: maxStale, Wait: 10 * time.Second})
	store.MarkFresh(store.Now())
	return &Service{engine, enrich.New(enrich.Config{
		Directory: store, Engine: engine, Issuers: issuers, HeaderMax: headerMax, Entries: -1, Log: slog.New(slog.DiscardHandler),
	})}
}

// Question is the request to explain.
type Question struct {
	Token   *token.Token // nil: an anonymous caller
	Tenant  string       // that the request names; empty: none
	Request enrich.RequestFacts
	Now     time.Time // zero: now

	Recorded *Recorded // nil: it is no recorded decision
}

// Recorded is the decision as it was recorded.
type Recorded struct {
	Decision string           `json:"decision"`
	At       time.Time        `json:"at"`
	Revision string           `json:"revision"`
	Allow    bool             `json:"allow"`
	Codes    []string         `json:"codes"`
	Facts    []directory.Fact `json:"facts"`
	Erased   []string         `json:"erased,omitempty"` // input that was not recorded
}

// Explanation explains the decision of a request.
type Explanation struct {
	Revision string            `json:"revision"`
	Name     string            `json:"name,omitempty" doc:"revision in the manifest of the bundle"`
	Allow    bool              `json:"allow"`
	Status   int               `json:"status" doc:"of the response to the gateway"`
	Code     string            `json:"code,omitempty" doc:"of a deny: the first reason's"`
	Detail   string            `json:"detail,omitempty" doc:"where the policy does not decide, or its evaluation fails"`
	Tenant   string            `json:"tenant,omitempty"`
	Headers  map[string]string `json:"headers,omitempty"`
	Rules    []policy.Rule     `json:"rules" doc:"all that can grant or deny, in the order of the files"`
	Facts    []directory.Fact  `json:"facts" doc:"documents that were read, with the versions of their rows; without a version, the document does not exist"`

	Requestable []Requestable `json:"requestable,omitempty" doc:"of a denial: roles that the subject can ask for, each of which would have allowed it"`

	Recorded *Recorded `json:"recorded,omitempty" doc:"the decision as it was recorded"`
	Changed  []string  `json:"changed,omitempty" doc:"documents that have changed since"`
	Unknown  []string  `json:"unknown,omitempty" doc:"input that the policy reads and the record does not have"`
}

// Explain explains under r; nil: the active revision.
func (s *Service) Explain(ctx context.Context, r *policy.Revision, q Question) (Explanation, error) {
	if r == nil {
		if r = s.Engine.Revision(); r == nil {
			return Explanation{}, policy.ErrNoPolicy
		}
	}
	now := q.Now
	if now.IsZero() {
		now = time.Now()
	}
	deadline := time.Now().Add(5 * time.Second)
	facts := s.Enricher.View(q.Token, deadline)
	request := enrich.Request{TenantHint: q.Tenant, Facts: q.Request}
	o, err := s.Enricher.Ask(ctx, enrich.Question{Revision: r, Token: q.Token, Request: request, Facts: facts, Now: now}, deadline)
	x := Explanation{Revision: r.ID, Name: r.Name, Recorded: q.Recorded, Rules: []policy.Rule{}}
	if err != nil {
		known, ours := errors.AsType[*iam.Error](err)
		if !ours {
			return x, err
		}
		x.Code, x.Detail, x.Status = known.Code, known.Error(), statusOf(known.Kind)
	} else {
		x.Allow, x.Status, x.Code, x.Tenant = o.Response.Allowed, o.Response.Status, o.Response.Code, o.Response.Tenant
		if o.Decision.Allow && !x.Allow {
			x.Detail = "the policy allows it in " + o.Decision.Tenant + ", and the token's client acts in its own tenant only"
		}
		if x.Allow {
			x.Status = http.StatusOK
			x.Headers = map[string]string{}
			for i, name := range s.Engine.Headers() {
				if name != http.CanonicalHeaderKey("X-Decision-ID") && o.Response.Values[i] != "" { // of a decision that is not recorded
					x.Headers[name] = o.Response.Values[i]
				}
			}
		}
	}
	if x.Rules, err = s.Engine.Explain(ctx, r, &o.Input, facts); err != nil {
		x.Rules, x.Detail = []policy.Rule{}, strings.TrimSpace(x.Detail+" (the rules cannot be explained: "+err.Error()+")")
	}
	if x.Rules == nil {
		x.Rules = []policy.Rule{} // as JSON it is a list
	}
	if x.Facts = facts.Facts(); x.Facts == nil {
		x.Facts = []directory.Fact{} // as JSON it is a list
	}
	if q.Recorded != nil {
		if x.Changed, err = Changed(ctx, q.Recorded.Facts, facts); err != nil {
			return x, err
		}
		x.Unknown = Unknown(r, q)
	}
	return x, nil
}

func statusOf(k iam.Kind) int {
	switch k {
	case iam.Unauthenticated:
		return http.StatusUnauthorized
	case iam.Forbidden:
		return http.StatusForbidden
	default:
		return http.StatusServiceUnavailable
	}
}

// Changed are the documents of before that have changed, also those that were not read again.
func Changed(ctx context.Context, before []directory.Fact, now *directory.View) ([]string, error) {
	var names []string
	for _, f := range before {
		g, err := now.CurrentFact(ctx, f.Path)
		if err != nil {
			return nil, err
		}
		if f.Hash != g.Hash || f.Version != g.Version {
			names = append(names, f.Name())
		}
	}
	return names, nil
}

// Unknown are the parts of the input that r reads and that were not recorded.
func Unknown(r *policy.Revision, q Question) []string {
	var list []string
	for _, pointer := range q.Recorded.Erased {
		path, ok := strings.CutPrefix(pointer, "/input/")
		if !ok {
			continue
		}
		ref := ast.Ref{ast.InputRootDocument}
		for step := range strings.SplitSeq(path, "/") {
			ref = append(ref, ast.StringTerm(unescape.Replace(step)))
		}
		reads := func(ref ast.Ref) bool { return slices.Contains(r.CacheKey, ref.String()) }
		if reads(ref[:2]) || len(ref) > 2 && reads(ref[:3]) || q.Token == nil && path == "request/path" { // the service reads the path of an anonymous request
			list = append(list, ref.String())
		}
	}
	return list
}

var unescape = strings.NewReplacer("~1", "/", "~0", "~")

// Of returns a token of a caller's identity: claims that no issuer has signed. It fails with an Invalid
// error.
func Of(issuer, subject, clientID string, more map[string]any, now time.Time) (*token.Token, error) {
	claims := maps.Clone(more)
	if claims == nil {
		claims = map[string]any{}
	}
	claims["iss"] = issuer
	put := func(name, value string) {
		if value != "" {
			claims[name] = value
		}
	}
	put("sub", subject)
	put("client_id", clientID)
	return FromClaims(claims, now)
}

// FromClaims returns a token with claims, which need not be verified. Without iat, it was issued
// at now.
func FromClaims(claims map[string]any, now time.Time) (*token.Token, error) {
	text := func(name string) string {
		s, _ := claims[name].(string) // absent, or no string: none
		return s
	}
	t := &token.Token{Issuer: text("iss"), Subject: text("sub"), ClientID: text("client_id"), IssuedAt: now}
	if t.ClientID == "" {
		if t.ClientID = text("azp"); t.ClientID != "" {
			claims = maps.Clone(claims)
			claims["client_id"] = t.ClientID
		}
	}
	if t.Issuer == "" {
		return nil, iam.InvalidFields([]iam.FieldError{{Pointer: "/issuer", Detail: "is missing: the issuer of the subject"}})
	}
	switch n := claims["iat"].(type) {
	case json.Number:
		if f, err := n.Float64(); err == nil {
			t.IssuedAt = time.Unix(int64(f), 0)
		}
	case float64:
		t.IssuedAt = time.Unix(int64(n), 0)
	}
	if !iam.ValidNumbers(claims) {
		return nil, iam.InvalidFields([]iam.FieldError{{Pointer: "/claims", Detail: fmt.Sprintf("holds a number with an exponent beyond 308 or of more than %d characters", iam.MaxNumberBytes)}})
	}
	v, err := ast.InterfaceToValue(claims)
	if err != nil {
		return nil, iam.InvalidFields([]iam.FieldError{{Pointer: "/claims", Detail: "cannot be read: " + err.Error()}})
	}
	t.Claims = v
	return t, nil
}

// FromRecord returns the request of a recorded decision.
func FromRecord(d iam.RecordedDecision) (Question, error) {
	var event struct {
		Path  string `json:"path"`
		Input struct {
			Token   map[string]any `json:"token"`
			Request struct {
				Gateway    string `json:"gateway"`
				Method     string `json:"method"`
				Scheme     string `json:"scheme"`
				Host       string `json:"host"`
				Path       string `json:"path"`
				RawPath    string `json:"raw_path"`
				ClientIP   string `json:"client_ip"`
				TenantHint string `json:"tenant_hint"`
			} `json:"request"`
			Now int64 `json:"now"`
		} `json:"input"`
		Erased []string `json:"erased"`
		Custom struct {
			Facts     []directory.Fact `json:"facts"`
			Preflight bool             `json:"preflight"`
			Ambiguous bool             `json:"ambiguous_path"`
		} `json:"custom"`
	}
	event.Custom.Facts = []directory.Fact{} // as JSON it is a list, also where there are none
	decoder := json.NewDecoder(bytes.NewReader(d.Event))
	decoder.UseNumber()
	if err := decoder.Decode(&event); err != nil {
		return Question{}, fmt.Errorf("read the decision %s: %w", d.ID, err)
	}
	if strings.HasPrefix(event.Path, "iam/authzen/") {
		return Question{}, &iam.Error{Kind: iam.Conflict, Code: "not_an_enrichment", Detail: "the decision is about an AuthZEN evaluation, which cannot be explained: its reasons are in the record"}
	}
	r := event.Input.Request
	q := Question{
		Tenant: r.TenantHint, Now: time.Unix(event.Input.Now, 0),
		Request:  enrich.RequestFacts{Gateway: r.Gateway, Method: r.Method, Scheme: r.Scheme, Host: r.Host, Path: r.Path, RawPath: r.RawPath, Preflight: event.Custom.Preflight, Ambiguous: event.Custom.Ambiguous},
		Recorded: &Recorded{Decision: d.ID, At: d.At, Revision: d.Revision, Allow: d.Allow, Codes: d.Codes, Facts: event.Custom.Facts, Erased: event.Erased},
	}
	if ip, err := netip.ParseAddr(r.ClientIP); err == nil {
		q.Request.ClientIP = ip
	}
	if event.Input.Token == nil {
		return q, nil
	}
	var err error
	q.Token, err = FromClaims(event.Input.Token, q.Now)
	return q, err
}

// Text writes an explanation for people.
func (x Explanation) Text(w io.Writer) {
	word := "denied"
	if x.Allow {
		word = "allowed"
	} else if x.Status == http.StatusServiceUnavailable {
		word = "not decided"
	}
	fmt.Fprintf(w, "%s, %d", word, x.Status)
	if x.Code != "" {
		fmt.Fprintf(w, " %s", x.Code)
	}
	if x.Tenant != "" {
		fmt.Fprintf(w, " in %s", x.Tenant)
	}
	fmt.Fprintf(w, ", by revision %s", x.Revision)
	if x.Name != "" {
		fmt.Fprintf(w, " (%s)", x.Name)
	}
	fmt.Fprintln(w)
	if x.Detail != "" {
		fmt.Fprintln(w, "  "+x.Detail)
	}
	if d := x.Recorded; d != nil {
		was := "denied"
		if d.Allow {
			was = "allowed"
		}
		fmt.Fprintf(w, "  when it was recorded, %s, it was %s by revision %s: %s\n", d.At.UTC().Format(time.RFC3339), was, d.Revision, strings.Join(d.Codes, ", "))
		for _, path := range x.Changed {
			fmt.Fprintf(w, "  changed since: %s\n", path)
		}
		for _, path := range x.Unknown {
			fmt.Fprintf(w, "  not recorded, and read by the policy: %s\n", path)
		}
	}
	for _, r := range x.Requestable {
		fmt.Fprintf(w, "  the role %s would allow it, which the subject can ask for (%s, for %s at most)\n", r.Role, r.Approval, time.Duration(r.MaxSeconds)*time.Second)
	}
	for _, name := range slices.Sorted(maps.Keys(x.Headers)) {
		fmt.Fprintf(w, "  %s: %s\n", name, x.Headers[name])
	}
	fired := func(set func(string) bool, title string) {
		first := true
		for _, r := range x.Rules {
			if !r.Fired || !set(r.Set) {
				continue
			}
			if first {
				fmt.Fprintf(w, "%s:\n", title)
				first = false
			}
			fmt.Fprintf(w, "  %s: %s (%s:%d)\n", r.Code, r.Title, r.File, r.Line)
			for _, c := range r.Held {
				condition(w, "holds", c, "    ")
			}
		}
	}
	grants := func(set string) bool { return set == "grants" }
	by, granted := "granted by", x.Allow
	if !x.Allow {
		by, granted = "otherwise granted by", slices.ContainsFunc(x.Rules, func(r policy.Rule) bool { return r.Fired && grants(r.Set) })
	}
	fired(func(set string) bool { return !grants(set) && (set != "refusals" || !granted) }, "denied by")
	fired(grants, by)
	if granted {
		x.facts(w)
		return
	}
	first := true
	for _, r := range x.Rules {
		if r.Fired || !grants(r.Set) {
			continue
		}
		if first {
			fmt.Fprintln(w, "not granted, because:")
			first = false
		}
		fmt.Fprintf(w, "  %s: %s (%s:%d)\n", r.Code, r.Title, r.File, r.Line)
		if r.Failed != nil {
			condition(w, "fails", *r.Failed, "    ")
		}
		if r.Error != "" {
			fmt.Fprintf(w, "    cannot be evaluated: %s\n", r.Error)
		}
	}
	x.facts(w)
}

func (x Explanation) facts(w io.Writer) {
	if len(x.Facts) == 0 {
		return
	}
	fmt.Fprintln(w, "facts:")
	for _, f := range x.Facts {
		if f.Version == 0 {
			fmt.Fprintf(w, "  %s: not found\n", f.Name())
		} else {
			fmt.Fprintf(w, "  %s, version %d\n", f.Name(), f.Version)
		}
	}
}

func condition(w io.Writer, what string, c policy.Condition, indent string) {
	fmt.Fprintf(w, "%s%s: %s (line %d)\n", indent, what, c.Text, c.Line)
	for _, v := range c.Values {
		if !v.Defined {
			if slices.ContainsFunc(c.Because, func(b policy.Cause) bool { return b.Name == v.Name }) {
				continue // explained below
			}
			fmt.Fprintf(w, "%s  %s is undefined\n", indent, v.Name)
			continue
		}
		if v.Hidden {
			fmt.Fprintf(w, "%s  %s is not shown\n", indent, v.Name)
			continue
		}
		value, err := json.Marshal(v.Value)
		if err != nil {
			value = []byte(fmt.Sprint(v.Value))
		}
		fmt.Fprintf(w, "%s  %s is %s\n", indent, v.Name, value)
	}
	for _, cause := range c.Because {
		for _, f := range cause.Failed {
			fmt.Fprintf(w, "%s  %s has no value:\n", indent, cause.Name)
			condition(w, "fails", f, indent+"    ")
		}
	}
}
