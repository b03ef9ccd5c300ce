package probe

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Kind is a kind of fault.
type Kind string

// Kinds of faults. The first six concern one header.
const (
	Forged   Kind = "forged"   // the client's value reaches the backend
	Lost     Kind = "lost"     // a header is missing or empty where a clean request has it
	Alias    Kind = "alias"    // the client's value reaches the backend under a name that programs read as the header's
	Twice    Kind = "twice"    // the backend gets several lines of a header
	Changed  Kind = "changed"  // the backend gets another value than from a clean request
	Hint     Kind = "hint"     // the tenant that the client asks for is not what iam-service was asked about
	Smuggled Kind = "smuggled" // a request or field reaches the backend that the gateway did not see as such
	Bypass   Kind = "bypass"   // a request is let through, of a caller whose clean request is denied
	Path     Kind = "path"     // the backend gets another path or method than the client sent
	Leak     Kind = "leak"     // a denial shows identity headers to the client
	Broken   Kind = "5xx"      // a denial arrives as an error of the server
)

// Kinds lists all kinds in the order of a report.
var Kinds = []Kind{Forged, Alias, Lost, Twice, Changed, Hint, Smuggled, Bypass, Path, Leak, Broken}

// known is what a clean request of a principal yields.
type known struct {
	status    int
	reached   bool
	fields    map[string]clean  // by header
	plain     map[string]string // by header: the values without a tenant hint
	stripped  string            // prefix of the path that the gateway takes off
	blindPath bool              // the gateway rewrites paths in a way that is not understood
}

// clean is a header of a clean request.
type clean struct {
	present bool
	value   string
	varies  bool // from one clean request to the next, as a decision id does
}

// trial is one exchange, and all that is known of it.
type trial struct {
	attack    *attack
	headers   []string // all identity headers
	forged    string   // the value that the client sent
	names     []string // of the headers whose values it forged, or that it named
	method    string
	target    string
	responses []response
	timedOut  bool
	seen      []Seen // with the marker of the request
	inner     []Seen // with the marker of the request inside it
	ref       known
	anonymous bool // what a clean request without a token does: it is let through
}

// finding is a fault of one trial.
type finding struct {
	kind   Kind
	header string // empty: of the request as a whole
	detail string
}

// verdict is the result of a trial.
type verdict struct {
	findings []finding
	reached  bool     // the backend got the request
	notes    []string // what is no fault, and worth a look
}

// overriding are headers from which some frameworks take another method or path than the request line's.
var overriding = []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url"}

// judge compares what reached the backend with what a clean request of the same principal yields.
func (t *trial) judge() verdict {
	v := verdict{reached: len(t.seen) > 0}
	add := func(k Kind, header, format string, args ...any) {
		v.findings = append(v.findings, finding{k, header, fmt.Sprintf(format, args...)})
	}
	for i := range t.seen {
		s := &t.seen[i]
		for _, h := range t.headers {
			t.judgeHeader(h, s, add)
		}
		t.judgeRequest(s, add)
		if t.arrivedAsTrailer(s) {
			v.notes = append(v.notes, "trailer fields with the names of identity headers reach the backend, as trailers: a backend that merges them into its headers can be deceived")
		}
		for _, l := range s.Headers {
			if name := http.CanonicalHeaderKey(l.Name); slices.Contains(overriding, name) && l.Value != "" {
				v.notes = append(v.notes, "a client's "+name+" reaches the backend: some frameworks take method or path from it")
			}
		}
	}
	for i := range t.inner {
		if s := &t.inner[i]; !t.anonymous || t.carriesForged(s) {
			add(Smuggled, "", "a second request, %s %s, reached the backend without being authorized", s.Method, s.Target)
		}
	}
	t.judgeResponses(v.reached, add)
	if v.reached && !t.ref.reached && t.attack.preflight && !has(v.findings, Bypass) {
		v.notes = append(v.notes, t.attack.name+" is let through: intended only if the policy allows it")
	}
	v.findings = slices.CompactFunc(v.findings, func(a, b finding) bool { return a == b })
	return v
}

type addFinding = func(k Kind, header, format string, args ...any)

func (t *trial) judgeHeader(h string, s *Seen, add addFinding) {
	var values []string
	forged := false
	for _, l := range s.Headers {
		client := strings.Contains(l.Value, t.forged) || l.Folded && strings.Contains(l.Name, t.forged)
		switch {
		case !l.Folded && sameName(l.Name, h):
			values = append(values, l.Value)
			forged = forged || client
		case client && fold(l.Name) == fold(h):
			add(Alias, h, "%q reaches the backend with the client's value", l.Name)
		}
	}
	want := t.ref.fields[h]
	kind := Forged
	if t.attack.becomes != "" {
		kind = t.attack.becomes
	}
	if forged {
		add(kind, h, "the client's value reaches the backend: %s", quoted(values))
	}
	if len(values) > 1 {
		add(Twice, h, "%d lines reach the backend", len(values))
	}
	if forged || !t.ref.reached {
		return
	}
	switch {
	case len(values) == 0 && want.present:
		add(Lost, h, "the header is missing; a clean request has it")
	case len(values) == 0:
	case values[0] == want.value || want.varies && values[0] != "":
	case t.sendsNoHint() && values[0] == t.ref.plain[h]:
	case values[0] == "":
		add(Lost, h, "the header is empty; with a clean request it is not")
	case values[0] == t.ref.plain[h]:
		add(Hint, h, "the value is that of a request without the tenant hint: the hint is lost")
	default:
		add(Changed, h, "%s; a clean request has %s", quoted(values[:1]), quoted([]string{want.value}))
	}
}

// sendsNoHint reports whether the caller's own hint was left out, so that no tenant, or the default one, is right.
func (t *trial) sendsNoHint() bool {
	return t.attack.replaces && slices.ContainsFunc(t.names, func(n string) bool { return sameName(n, hintHeader) })
}

func (t *trial) judgeRequest(s *Seen, add addFinding) {
	if t.attack.denied != "" {
		add(t.attack.denied, "", "a request that must be refused reached the backend (%s)", t.attack.name)
	}
	if !t.ref.reached && !t.attack.preflight {
		add(Bypass, "", "the request reached the backend; the clean one is answered %d", t.ref.status)
	}
	for _, f := range s.Framing {
		add(Smuggled, "", "ambiguous framing reaches the backend: %s", f)
	}
	tokens := 0
	for _, l := range s.Headers {
		switch {
		case sameName(l.Name, "Authorization"):
			tokens++
		case sameName(l.Name, "Upgrade") && strings.Contains(strings.ToLower(l.Value), "h2c"):
			add(Smuggled, "", "Upgrade: h2c reaches the backend: if it agrees, requests pass the gateway unseen")
		}
	}
	if tokens > 1 {
		add(Twice, "Authorization", "%d lines reach the backend", tokens)
	}
	if sent, ok := t.normalSent(); ok {
		// Go's path.Clean, and so Traefik, drops the final slash that RFC 3986 leaves of a final dot segment.
		if got := normal(s.Target); got != sent && !(endsInDots(t.target) && got+"/" == sent) {
			add(Path, "", "the backend gets the path %q (normal form %q), the client sent %q (normal form %q)", s.Target, got, t.target, sent)
		}
	}
	// A cache asks by GET for HEAD; RFC 8441, section 5: the CONNECT of HTTP/2 is the GET of an upgrade.
	asked := s.Method == http.MethodGet && (t.method == http.MethodHead || t.method == http.MethodConnect && t.target == s.Target)
	if s.Method != t.method && plainText(t.method) && !asked {
		add(Path, "", "the backend gets the method %q, the client sent %q", s.Method, t.method)
	}
}

func (t *trial) judgeResponses(reached bool, add addFinding) {
	if len(t.responses) == 0 || reached {
		return
	}
	r := t.responses[0]
	denied := !t.ref.reached
	switch {
	case r.status == http.StatusSwitchingProtocols || r.status < 300 && t.method == http.MethodConnect:
		add(Smuggled, "", "the gateway opens a tunnel: status %d", r.status)
	case r.status < 300 && denied && t.ref.status >= 300 && !t.attack.preflight && !t.attack.otherHost:
		add(Bypass, "", "the gateway answers %d by itself; the clean request is answered %d", r.status, t.ref.status)
	case r.status >= 500 && denied && r.status != http.StatusNotImplemented && r.status != http.StatusHTTPVersionNotSupported && r.status != http.StatusServiceUnavailable:
		add(Broken, "", "status %d; the clean request is answered %d", r.status, t.ref.status)
	}
	if r.status < 400 {
		return
	}
	for _, h := range t.headers {
		if _, is := r.header[http.CanonicalHeaderKey(h)]; is {
			add(Leak, h, "the response with status %d has the header", r.status)
		}
	}
}

// carriesForged reports whether the client's own identity headers are in s: what a gateway forwards has lost them.
func (t *trial) carriesForged(s *Seen) bool {
	return slices.ContainsFunc(s.Headers, func(l Line) bool { return strings.Contains(l.Value, t.forged) })
}

func (t *trial) arrivedAsTrailer(s *Seen) bool {
	return slices.ContainsFunc(s.Trailers, func(l Line) bool { return strings.Contains(l.Value, t.forged) })
}

// normalSent is the normal form of what the backend should get.
func (t *trial) normalSent() (string, bool) {
	if t.ref.blindPath || !plainText(strings.ReplaceAll(t.target, "\x00", "")) || !strings.HasPrefix(t.target, "/") && !strings.Contains(t.target, "://") {
		return "", false
	}
	sent := normal(t.target)
	if t.ref.stripped == "" {
		return sent, true
	}
	rest, is := strings.CutPrefix(sent, t.ref.stripped)
	if !strings.HasPrefix(rest, "/") {
		rest = "/" + rest
	}
	return rest, is
}

// plainText reports whether s is visible ASCII without spaces.
func plainText(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// normal is the path of a target, decoded once, without dot segments and doubled slashes: what a backend that
// normalizes would serve.
func normal(target string) string {
	if _, rest, is := strings.Cut(target, "://"); is && !strings.HasPrefix(target, "/") {
		_, p, _ := strings.Cut(rest, "/")
		target = "/" + p
	}
	target, _, _ = strings.Cut(target, "#")
	target, _, _ = strings.Cut(target, "?")
	decoded, err := url.PathUnescape(target)
	if err != nil {
		decoded = target
	}
	p := path.Clean("/" + decoded)
	directory := strings.HasSuffix(decoded, "/") || endsInDots(decoded) // RFC 3986, section 5.2.4
	if directory && p != "/" {
		p += "/"
	}
	return p
}

func endsInDots(path string) bool {
	return strings.HasSuffix(path, "/.") || strings.HasSuffix(path, "/..")
}

// quoted shows values of a client, cut to a readable length.
func quoted(values []string) string {
	var q []string
	for _, v := range values {
		if len(v) > 100 {
			v = v[:100] + "…"
		}
		q = append(q, strconv.Quote(v))
	}
	return strings.Join(q, ", ")
}

func has(findings []finding, k Kind) bool {
	return slices.ContainsFunc(findings, func(f finding) bool { return f.kind == k })
}
