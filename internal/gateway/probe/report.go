package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is the result of a run. It holds no token and no value of an identity header but forged ones and those that
// changed.
type Report struct {
	Gateway    string            `json:"gateway"`
	Started    time.Time         `json:"started"`
	Took       int64             `json:"took_ms"`
	Requests   int               `json:"requests"`
	Protocols  []ProtocolReport  `json:"protocols"`
	Principals []PrincipalReport `json:"principals"`
	Headers    []HeaderReport    `json:"headers"`
	Kinds      map[Kind]int      `json:"kinds"` // faults by kind, all kinds
	Faults     []Fault           `json:"faults"`
	Notes      []string          `json:"notes"` // no faults: what was not tried, and what is worth a look
}

// ProtocolReport reports whether a protocol was tested.
type ProtocolReport struct {
	Name   string `json:"name"`
	Tested bool   `json:"tested"`
	Why    string `json:"why,omitempty"` // not
}

// PrincipalReport is what clean requests of a caller yield.
type PrincipalReport struct {
	Name     string            `json:"name"`
	Protocol string            `json:"protocol"`
	Status   int               `json:"status"`
	Reached  bool              `json:"reached"` // the backend
	Headers  map[string]string `json:"headers"` // present, empty, absent, varies
}

// HeaderReport counts the requests by what they did to one header. A request can be several kinds of fault.
type HeaderReport struct {
	Name       string       `json:"name"`
	Safe       int          `json:"safe"`       // the backend got the right value
	Refused    int          `json:"refused"`    // the request did not reach the backend
	Unanswered int          `json:"unanswered"` // likewise, and the gateway did not respond in time
	Faults     map[Kind]int `json:"faults"`
}

// Fault is what one request did.
type Fault struct {
	Kind      Kind   `json:"kind"`
	Header    string `json:"header,omitempty"` // empty: of the request as a whole
	Principal string `json:"principal"`
	Protocol  string `json:"protocol"`
	Attack    string `json:"attack"`
	Detail    string `json:"detail"`
	Reproduce string `json:"reproduce"` // one line; tokens are $TOKEN and $TOKEN_WITHOUT_ROLES
}

// judge fills the report.
func (r *run) judge(ctx context.Context, shots []*shot) error {
	r.report.Kinds, r.report.Faults = map[Kind]int{}, append([]Fault{}, r.cleanFaults...)
	for _, k := range Kinds {
		r.report.Kinds[k] = 0
	}
	headers := map[string]*HeaderReport{}
	for _, h := range r.Headers {
		headers[h] = &HeaderReport{Name: h, Faults: map[Kind]int{}}
	}
	verdicts := make([]verdict, len(shots))
	for i, s := range shots {
		verdicts[i] = s.judge()
		for _, n := range verdicts[i].notes {
			r.note("%s", n)
		}
		for _, h := range r.Headers {
			count(headers[h], s, verdicts[i])
		}
	}
	for _, h := range r.Headers {
		r.report.Headers = append(r.report.Headers, *headers[h])
	}
	if err := r.noteStatus(shots, verdicts); err != nil {
		return err
	}
	shorter, err := r.shorten(ctx, shots, verdicts)
	if err != nil {
		return err
	}
	for i, s := range shots {
		for _, f := range verdicts[i].findings {
			r.report.Faults = append(r.report.Faults, Fault{
				Kind: f.kind, Header: f.header, Principal: s.who.name, Protocol: s.protocol, Attack: s.attack.name, Detail: f.detail,
				Reproduce: or(shorter[s.key(f)], s.show),
			})
		}
	}
	for _, f := range r.report.Faults {
		r.report.Kinds[f.Kind]++
	}
	return nil
}

// noteStatus notes what was rejected in a way that is worth a look. It returns an error if the gateway was not well.
func (r *run) noteStatus(shots []*shot, verdicts []verdict) error {
	busy, silent, broken, unavailable := 0, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i, s := range shots {
		if s.timedOut && !verdicts[i].reached {
			silent[s.attack.name] = true
		}
		if len(s.responses) == 0 {
			continue
		}
		switch status := s.responses[0].status; {
		case status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests:
			busy++
			unavailable[fmt.Sprintf("%d to %s", status, s.attack.name)] = true
		case status >= 500 && status != http.StatusNotImplemented && status != http.StatusHTTPVersionNotSupported && !has(verdicts[i].findings, Broken):
			broken[fmt.Sprintf("%d to %s", status, s.attack.name)] = true
		}
	}
	if busy*20 > len(shots) {
		return fmt.Errorf("%d of %d requests were answered 503 or 429: the gateway or iam-service limits or is not well", busy, len(shots))
	}
	if busy > 0 {
		r.note("%d requests count as refused that were not answered now: %s", busy, strings.Join(slices.Sorted(maps.Keys(unavailable)), "; "))
	}
	if len(silent) > 0 {
		r.note("no response within %s to: %s", r.Timeout, strings.Join(slices.Sorted(maps.Keys(silent)), "; "))
	}
	if len(broken) > 0 {
		r.note("answered by an error of the server: %s", strings.Join(slices.Sorted(maps.Keys(broken)), "; "))
	}
	return nil
}

// maxShorter bounds the requests that are repeated with a single header.
const maxShorter = 150

// key is what faults share that one request reproduces.
func (s *shot) key(f finding) string {
	return strings.Join([]string{string(f.kind), s.attack.name, s.who.name, s.protocol, f.header}, "|")
}

// shorten repeats exchanges that forged many headers with the first one that is at fault: if the fault is the same,
// that is the request to show.
func (r *run) shorten(ctx context.Context, shots []*shot, verdicts []verdict) (map[string]string, error) {
	again, found := map[string]*shot{}, map[string]finding{}
	known := map[string]bool{}
	var list []*shot
	for i, s := range shots {
		for _, f := range verdicts[i].findings {
			group := strings.Join([]string{string(f.kind), s.attack.name, s.who.name, s.protocol}, "|")
			if !s.attack.each || len(s.names) < 2 || !slices.Contains(s.names, f.header) || known[group] || len(list) >= maxShorter {
				continue
			}
			known[group] = true
			one := r.shot(s.attack, s.who, s.protocol, []string{f.header})
			one.ref, one.anonymous = s.ref, s.anonymous
			again[s.key(f)], found[s.key(f)] = one, f
			list = append(list, one)
		}
	}
	if err := r.send(ctx, list); err != nil {
		return nil, err
	}
	if err := r.look(ctx, list); err != nil {
		return nil, err
	}
	shorter := map[string]string{}
	for key, one := range again {
		for _, f := range one.judge().findings {
			if f.kind == found[key].kind && f.header == found[key].header {
				shorter[key] = one.show
			}
		}
	}
	return shorter, nil
}

func count(h *HeaderReport, s *shot, v verdict) {
	kinds := map[Kind]bool{}
	for _, f := range v.findings {
		if f.header == h.Name {
			kinds[f.kind] = true
		}
	}
	for k := range kinds {
		h.Faults[k]++
	}
	switch {
	case len(kinds) > 0:
	case v.reached:
		h.Safe++
	case s.timedOut:
		h.Unanswered++
	default:
		h.Refused++
	}
}

// JSON writes the report for programs.
func (r Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// Text writes the report for people.
func (r Report) Text(w io.Writer) {
	fmt.Fprintf(w, "gateway    %s\nrequests   %d in %.1f s\n", r.Gateway, r.Requests, float64(r.Took)/1000)
	for _, p := range r.Protocols {
		if p.Tested {
			fmt.Fprintf(w, "protocol   %s\n", p.Name)
		} else {
			fmt.Fprintf(w, "protocol   %s NOT tested: %s\n", p.Name, p.Why)
		}
	}
	for _, p := range r.Principals {
		reaches := "does not reach the backend"
		if p.Reached {
			reaches = "reaches the backend"
		}
		fmt.Fprintf(w, "caller     %s over %s: a clean request is answered %d and %s\n", p.Name, p.Protocol, p.Status, reaches)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "header\tverdict\tsafe\trefused\tunanswered")
	for _, h := range r.Headers {
		verdict := "safe"
		var faults []string
		for _, k := range Kinds {
			if n := h.Faults[k]; n > 0 {
				faults = append(faults, fmt.Sprintf("%s %d", k, n))
			}
		}
		if len(faults) > 0 {
			verdict = strings.Join(faults, ", ")
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\n", h.Name, verdict, h.Safe, h.Refused, h.Unanswered)
	}
	_ = t.Flush() // to the same place as all above
	for _, k := range Kinds {
		r.group(w, k)
	}
	fmt.Fprintln(w)
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	fmt.Fprintf(w, "%d faults\n", len(r.Faults))
}

// remedies say what to change in a gateway.
var remedies = map[Kind]string{
	Forged:   "set or delete every header of GATEWAY_HEADERS, also where iam-service sends an empty value",
	Alias:    "delete names with other characters than letters, digits and hyphens",
	Lost:     "clean Connection before headers are set",
	Twice:    "replace in place of adding; refuse a repeated Authorization",
	Changed:  "take each fact from one source",
	Hint:     "forward " + hintHeader,
	Smuggled: "refuse ambiguous framing, delete Upgrade: h2c, drop trailers",
	Bypass:   "authorize every method and path",
	Path:     "authorize and forward the same path and method",
	Leak:     "pass on status, body and WWW-Authenticate of a denial only",
	Broken:   "keep 401 and 403",
}

// maxShown is how many attacks of a kind are written with all details.
const maxShown = 10

// group writes the faults of a kind: one entry for each attack, with one request that reproduces it.
func (r Report) group(w io.Writer, k Kind) {
	type group struct {
		first   Fault
		headers []string
		callers []string
		n       int
	}
	var groups []*group
	byAttack := map[string]*group{}
	for _, f := range r.Faults {
		if f.Kind != k {
			continue
		}
		g := byAttack[f.Attack]
		if g == nil {
			g = &group{first: f}
			byAttack[f.Attack] = g
			groups = append(groups, g)
		}
		g.n++
		if caller := f.Principal + " over " + f.Protocol; !slices.Contains(g.callers, caller) {
			g.callers = append(g.callers, caller)
		}
		if f.Header != "" && !slices.Contains(g.headers, f.Header) {
			g.headers = append(g.headers, f.Header)
		}
	}
	if len(groups) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s: %d, by %d attacks. Remedy: %s\n", k, r.Kinds[k], len(groups), remedies[k])
	var others []string
	for i, g := range groups {
		if i >= maxShown {
			others = append(others, g.first.Attack)
			continue
		}
		fmt.Fprintf(w, "  %s (%d; %s)\n", g.first.Attack, g.n, strings.Join(g.callers, ", "))
		if len(g.headers) > 0 {
			fmt.Fprintf(w, "    headers    %s\n", strings.Join(g.headers, ", "))
		}
		fmt.Fprintf(w, "    what       %s\n    reproduce  %s\n", g.first.Detail, g.first.Reproduce)
	}
	if len(others) > 0 {
		fmt.Fprintf(w, "  and %s (--format json shows how to reproduce them)\n", strings.Join(others, "; "))
	}
}
