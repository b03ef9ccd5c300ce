package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"iam-service/internal/enrich"
	"iam-service/internal/policy"
	"iam-service/internal/problem"
)

// DataPath is the endpoint of the profile opa: OPA's data API, as Kong's and APISIX's plugins call it.
const DataPath = "/v1/data/iam/claims/decision"

// maxDataBytes is a limit of what a plugin sends: headers of a request, and what else its options include.
const maxDataBytes = 256 << 10

// dataProfile returns the profile opa; nil: it is not enabled.
func dataProfile(enabled []Profile) *Profile {
	for i := range enabled {
		if enabled[i].layout == queried {
			return &enabled[i]
		}
	}
	return nil
}

// decideData serves OPA's data API. Every response to a POST is 200 with a result that both plugins understand:
// Kong turns any other status into a 500, and APISIX reads the body whatever the status is.
//
// The plugins' sources: Kong/kong plugins-ee/opa/kong/plugins/opa/handler.lua and decision.lua, apache/apisix
// apisix/plugins/opa.lua and opa/helper.lua.
func (s *Service) decideData(w http.ResponseWriter, r *http.Request, p *Profile) {
	began := time.Now()
	from := s.callerOf(r)
	ctx, span := s.begin(r, p, from)
	in, err := readData(w, r)
	var q enrich.Request
	if err == nil {
		from.requestID = in.headers.Get("X-Request-Id")
		q, err = s.requestOfData(in, p, from.trusted)
	}
	if e := s.authenticate(ctx, r); e != nil {
		err = e
	}
	o := s.decide(ctx, q, err, from)
	w.Header()["Cache-Control"] = noStore
	// Encode fails for values that JSON cannot hold, of which there are none here.
	_ = problem.Encode(w, http.StatusOK, map[string]any{"result": s.resultOf(&o, in.plugin)})
	method := in.reported.method
	if method == "" {
		method = r.Method
	}
	s.observe(ctx, p, method, &o, time.Since(began))
	s.end(span, p, method, &o)
}

// resultOf is what the plugins read.
//
//	          Kong                         APISIX
//	allow     result.allow is a boolean    result.allow is true
//	headers   result.headers: all are set  result.headers, by name: those of send_headers_upstream are set
//	denied    result.status, .headers      result.status_code, .headers, .reason (a body)
//
// APISIX looks names up as its configuration spells them, so they are there in each usual spelling.
func (s *Service) resultOf(o *outcome, plugin plugin) map[string]any {
	if o.status == http.StatusOK {
		set := make(map[string]string, 3*len(s.Headers))
		for i, name := range s.Headers {
			set[name] = o.values[i]
			if plugin == apisix {
				set[strings.ToLower(name)] = o.values[i]
				if i < len(s.Spelled) {
					set[s.Spelled[i]] = o.values[i]
				}
			}
		}
		return map[string]any{"allow": true, "headers": set, "decision_id": o.decision, "tenant": o.tenant}
	}
	set := map[string]string{"Cache-Control": "no-store"}
	if plugin == apisix { // Kong's body is its own
		set["Content-Type"] = "application/problem+json"
	}
	if o.challenge != "" {
		set["WWW-Authenticate"] = o.challenge
	}
	if o.status == http.StatusServiceUnavailable {
		set["Retry-After"] = problem.RetryAfter
	}
	return map[string]any{"allow": false, "headers": set, "status": o.status, "status_code": o.status, "reason": o.problem}
}

// plugin is whose form of input a request has.
type plugin int

const (
	apisix plugin = iota
	kong
)

// queriedInput is the client's request as a plugin describes it.
type queriedInput struct {
	plugin   plugin
	reported reported
	headers  http.Header
	clientIP netip.Addr // of the connection to the gateway, or what its real-IP module made of it
}

// requestOfData reads the input as requestOf reads a request: the headers are the client's, and the facts are
// those of a trusted peer.
func (s *Service) requestOfData(in queriedInput, p *Profile, trusted bool) (enrich.Request, error) {
	var q enrich.Request
	var err error
	if q.Token, err = problem.Bearer(in.headers); err != nil {
		return q, err
	}
	if q.TenantHint, err = tenantHint(in.headers); err != nil {
		return q, err
	}
	q.Facts.Gateway = p.Name
	if !trusted {
		return q, nil
	}
	if q.IdP, err = problem.Single(in.headers, "X-Upstream-Idp-Id"); err != nil {
		return q, err
	}
	h := headers{Header: in.headers}
	facts := in.reported
	forward, origin, url := h.forwarded(), h.original(), h.originalURL()
	// A balancer in front that ends TLS says another scheme than the gateway, and both are right: the gateway's is the
	// one that counts.
	forward.scheme, url.scheme = "", ""
	h.compare(&facts, &forward, "X-Forwarded-…")
	h.compare(&facts, &origin, "X-Original-…")
	h.compare(&facts, &url, "X-Original-URL")
	if h.err != nil {
		return q, h.err
	}
	q.Facts.Method, q.Facts.Scheme, q.Facts.Host = facts.method, facts.scheme, facts.host
	if q.Facts.ClientIP, err = s.behind(in.clientIP, in.headers); err != nil {
		return q, err
	}
	return q, s.complete(&q.Facts, facts.path, in.headers)
}

// behind is the client's address: that of the connection unless it is a trusted proxy, and then X-Forwarded-For is
// followed from the right.
func (s *Service) behind(addr netip.Addr, h http.Header) (netip.Addr, error) {
	if !s.Trusted.Trusts(addr) {
		return addr, nil
	}
	further, err := s.Trusted.Forwarded(h)
	if err != nil || further.IsValid() {
		return further, err
	}
	return addr, nil
}

// readData reads a body. Whatever is no input of one of the two plugins is malformed.
func readData(w http.ResponseWriter, r *http.Request) (queriedInput, error) {
	in := queriedInput{}
	// A body that never comes holds nothing for long; where the deadline cannot be set, the server's own holds.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyPatience))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxDataBytes))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return in, problem.Malformed("the body is larger than 256 KiB")
	} else if err != nil {
		return in, problem.Malformed("the body cannot be read")
	}
	d := dataReader{}
	top := d.object("the body", body)
	input := d.object("input", top["input"])
	request := d.object("input.request", input["request"])
	if sent, ok := request["http"]; ok {
		in.plugin = kong
		request = d.object("input.request.http", sent)
		in.clientIP = d.address("input.client_ip", input["client_ip"])
	} else {
		in.clientIP = d.address("input.var.remote_addr", d.optional("input.var", input["var"])["remote_addr"])
	}
	in.headers = d.headers(request["headers"])
	in.reported = reported{
		method: d.fact("method", request["method"], normalMethod),
		scheme: d.fact("scheme", request["scheme"], policy.NormalScheme),
		host:   d.fact("host", request["host"], policy.NormalHost),
		path:   d.fact("path", request["path"], withoutQuery),
	}
	if d.err != nil {
		return queriedInput{plugin: in.plugin}, d.err
	}
	return in, nil
}

// dataReader reads JSON strictly: names are compared as they are, and none is repeated. After an error it reads nothing.
type dataReader struct{ err error }

func (d *dataReader) fail(what, why string) {
	if d.err == nil {
		d.err = problem.Malformed(what + " " + why)
	}
}

// optional is object, where the member may be missing.
func (d *dataReader) optional(what string, text json.RawMessage) map[string]json.RawMessage {
	if text == nil {
		return nil
	}
	return d.object(what, text)
}

// object returns the members of a JSON object.
func (d *dataReader) object(what string, text json.RawMessage) map[string]json.RawMessage {
	if d.err != nil {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		d.fail(what, "is not a JSON object")
		return nil
	}
	members := map[string]json.RawMessage{}
	for dec.More() {
		var value json.RawMessage
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok || dec.Decode(&value) != nil {
			d.fail(what, "is not a JSON object")
			return nil
		}
		if _, repeated := members[name]; repeated {
			d.fail(what, "has a member twice")
			return nil
		}
		members[name] = value
	}
	if _, err := dec.Token(); err != nil {
		d.fail(what, "is not a JSON object")
		return nil
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		d.fail(what, "is followed by something")
		return nil
	}
	return members
}

// text returns a string; "" where there is none.
func (d *dataReader) text(what string, text json.RawMessage) string {
	if text == nil || d.err != nil {
		return ""
	}
	var s *string
	if err := json.Unmarshal(text, &s); err != nil || s == nil {
		d.fail(what, "is not a string")
		return ""
	}
	return *s
}

// fact returns a fact in its normal form.
func (d *dataReader) fact(name string, text json.RawMessage, normal func(string) (string, bool)) string {
	s := d.text("the "+name, text)
	if s == "" || d.err != nil {
		return ""
	}
	s, ok := normal(s)
	if !ok {
		d.fail("the "+name, "is not valid")
	}
	return s
}

// address returns an IP address; the zero Addr where there is none, as behind a Unix socket.
func (d *dataReader) address(what string, text json.RawMessage) netip.Addr {
	addr, err := netip.ParseAddr(d.text(what, text))
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap().WithZone("")
}

// headers returns those that an enrichment reads. A repeated one is a list in both plugins (ngx.req.get_headers); an
// empty list is what Lua's cjson can write for no headers at all.
func (d *dataReader) headers(text json.RawMessage) http.Header {
	h := http.Header{}
	if text == nil || d.err != nil || bytes.Equal(bytes.TrimSpace(text), []byte("[]")) {
		return h
	}
	sent := d.object("the headers", text)
	for name := range maps.Keys(sent) {
		canonical, ok := read[strings.ToLower(name)]
		if !ok {
			continue
		}
		var one *string
		var many []string
		switch {
		case json.Unmarshal(sent[name], &one) == nil && one != nil:
			h[canonical] = append(h[canonical], *one)
		case json.Unmarshal(sent[name], &many) == nil && many != nil:
			h[canonical] = append(h[canonical], many...)
		default:
			d.fail(canonical, "is neither a string nor a list of strings")
		}
	}
	return h
}
