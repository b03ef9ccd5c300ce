package probe

import (
	"slices"
	"strings"
	"time"
)

// attack is one way to send a request. A builder that is nil: the protocol cannot express it.
type attack struct {
	name string
	h1   func(m *message, f forgery)
	h2   func(m *message2, f forgery)

	each      bool // forges headers: sent for the identity headers, and for the tenant hint by itself
	carries   bool // sent together with forged identity headers, under their own names
	becomes   Kind // of a forged value that arrives, instead of Forged
	preflight bool // the gateway or the policy may answer it to all
	otherHost bool // may be answered by another virtual host
	replaces  bool // the caller's own lines of these names are left out
	denied    Kind // must be refused for all: the kind of the fault if it is not
	needs     needs
	wait      time.Duration // for further responses on the connection
}

// among reports whether one of the names is that of a's group, or a begins with it.
func (a attack) among(names []string) bool {
	group, _, _ := strings.Cut(a.name, "/")
	return slices.ContainsFunc(names, func(n string) bool { return n == group || strings.Contains(n, "/") && strings.HasPrefix(a.name, n) })
}

// needs is what must be known for an attack to mean something.
type needs int

const (
	nothing needs = iota
	noToken
	aToken
	twoTokens
	aTenant
	anOpenPath
)

// met reports whether an attack can be tried with f.
func (n needs) met(f forgery) bool {
	switch n {
	case noToken:
		return f.token == ""
	case aToken:
		return f.token != ""
	case twoTokens:
		return f.token != "" && f.other != ""
	case aTenant:
		return f.token != "" && f.tenant != ""
	case anOpenPath:
		return f.knowsOpen
	default:
		return true
	}
}

// forgery is what an attack puts into its request.
type forgery struct {
	names     []string // of the headers to forge
	value     string   // that no one else sends
	marker    string
	inner     string // marker of a request inside the request
	path      string
	host      string
	tenant    string // Config.Tenant
	token     string // of this principal
	other     string // another principal's token, if there is one
	open      string // Config.OpenPath, or a guess
	knowsOpen bool   // it is no guess
	bodyless  bool   // POST is rejected where GET is not: bodies go with GET
}

// method is one with which a body is let through.
func (f forgery) method() string {
	if f.bodyless {
		return "GET"
	}
	return "POST"
}

// settle is how long a response to a smuggled request is waited for.
const settle = 150 * time.Millisecond

// Groups are the groups of attacks, which their names begin with.
var Groups = []string{"header", "alias", "hop-by-hop", "trailer", "path", "host", "forwarded", "method", "credentials", "hint", "smuggling", "injection"}

// attacks are all of them.
func attacks() []attack {
	return slices.Concat(spellings(), aliases(), hopByHop(), trailers(), paths(), hosts(), forwarded(), methods(), credentials(), hints(), smuggling(), injections())
}

// spelled forges every header by lines that line returns, in place of the caller's own ones.
func spelled(line func(name, value string) []string) func(*message, forgery) {
	return func(m *message, f forgery) {
		for _, n := range f.names {
			m.drop(n)
		}
		for _, n := range f.names {
			m.add(line(n, f.value)...)
		}
	}
}

func spelled2(fields func(name, value string) []field) func(*message2, forgery) {
	return func(m *message2, f forgery) {
		for _, n := range f.names {
			m.drop(n)
		}
		for _, n := range f.names {
			m.fields = append(m.fields, fields(strings.ToLower(n), f.value)...)
		}
	}
}

func exact(m *message, f forgery) {
	spelled(func(n, v string) []string { return []string{n + ": " + v} })(m, f)
}

func exact2(m *message2, f forgery) {
	spelled2(func(n, v string) []field { return []field{{n, v}} })(m, f)
}

// spellings are ways to write the very name of a header.
func spellings() []attack {
	one := func(format string) func(*message, forgery) { // N and V stand for name and value
		return spelled(func(n, v string) []string {
			return strings.Split(strings.NewReplacer("{N}", n, "{n}", strings.ToLower(n), "{U}", strings.ToUpper(n), "{M}", mixed(n), "{V}", v).Replace(format), "|")
		})
	}
	list := []attack{
		{name: "header/exact", h1: exact, h2: exact2},
		{name: "header/lower case", h1: one("{n}: {V}")},
		{name: "header/upper case", h1: one("{U}: {V}"), h2: spelled2(func(n, v string) []field { return []field{{strings.ToUpper(n), v}} })},
		{name: "header/mixed case", h1: one("{M}: {V}"), h2: spelled2(func(n, v string) []field { return []field{{mixed(n), v}} })},
		{name: "header/two lines", h1: one("{N}: {V}|{N}: {V}2"), h2: spelled2(func(n, v string) []field { return []field{{n, v}, {n, v + "2"}} })},
		{name: "header/two lines, two cases", h1: one("{n}: {V}|{U}: {V}2")},
		{name: "header/no space after the colon", h1: one("{N}:{V}")},
		{name: "header/tab after the colon", h1: one("{N}:\t{V}")},
		{name: "header/space before the colon", h1: one("{N} : {V}"), h2: spelled2(func(n, v string) []field { return []field{{n + " ", v}} })},
		{name: "header/tab before the colon", h1: one("{N}\t: {V}"), h2: spelled2(func(n, v string) []field { return []field{{n + "\t", v}} })},
		{name: "header/NUL before the colon", h1: one("{N}\x00: {V}"), h2: spelled2(func(n, v string) []field { return []field{{n + "\x00", v}} })},
		{name: "header/NUL in the value", h1: one("{N}: {V}\x00"), h2: spelled2(func(n, v string) []field { return []field{{n, v + "\x00"}} })},
		{name: "header/space before the name", h1: one(" {N}: {V}"), h2: spelled2(func(n, v string) []field { return []field{{" " + n, v}} })},
		{name: "header/colon before the name", h1: one(":{N}: {V}")},
		{name: "header/empty", h1: one("{N}:"), h2: spelled2(func(n, _ string) []field { return []field{{n, ""}} })},
		{name: "header/blank", h1: one("{N}:  \t "), h2: spelled2(func(n, _ string) []field { return []field{{n, " "}} })},
		{name: "header/empty, then forged", h1: one("{N}:|{N}: {V}"), h2: spelled2(func(n, v string) []field { return []field{{n, ""}, {n, v}} })},
		{name: "header/comma list", h1: one("{N}: a,{V},b"), h2: spelled2(func(n, v string) []field { return []field{{n, "a," + v}} })},
		{name: "header/folded value", h1: one("{N}:| {V}")},
		{name: "header/folded below another field", h1: one("X-Probe-A: a| {N}: {V}")},
		{name: "header/folded by tab", h1: one("X-Probe-A: a|\t{N}: {V}")},
		{name: "header/after a bare LF", h1: one("X-Probe-A: a\n{N}: {V}"), h2: spelled2(func(n, v string) []field { return []field{{"x-probe-a", "a\n" + n + ": " + v}} })},
		{name: "header/after a bare CR", h1: one("X-Probe-A: a\r{N}: {V}"), h2: spelled2(func(n, v string) []field { return []field{{"x-probe-a", "a\r" + n + ": " + v}} })},
		{name: "header/lines end in LF", h1: func(m *message, f forgery) { exact(m, f); m.eol = "\n" }},
		{name: "header/HTTP 1.0", h1: func(m *message, f forgery) { exact(m, f); m.version = "HTTP/1.0" }},
		{name: "header/before Host", h1: func(m *message, f forgery) {
			for _, n := range f.names {
				m.drop(n)
				m.first(n + ": " + f.value)
			}
		}},
		{name: "header/space on the first line", h1: func(m *message, f forgery) {
			for _, n := range f.names {
				m.drop(n)
				m.first(" " + n + ": " + f.value)
			}
		}},
		{name: "header/after 6,000 characters", h1: func(m *message, f forgery) {
			m.add("X-Probe-A: " + strings.Repeat("a", 6000))
			exact(m, f)
		}, h2: func(m *message2, f forgery) {
			m.add("x-probe-a", strings.Repeat("a", 6000))
			exact2(m, f)
		}},
		{name: "header/after 80 other fields", h1: func(m *message, f forgery) {
			for range 80 {
				m.add("X-Probe-A: a")
			}
			exact(m, f)
		}},
	}
	for i := range list {
		list[i].each, list[i].replaces = true, true
	}
	return list
}

// aliasCharacters are the characters of a token (RFC 9110, section 5.6.2) that are no letter, digit or "-".
const aliasCharacters = "_.~!#$%&'*+^`|"

// aliases are other names, which a program may read as the header's (see fold).
func aliases() []attack {
	alias := func(name string, change func(string) string) attack {
		return attack{
			name: "alias/" + name, each: true,
			h1: func(m *message, f forgery) {
				for _, n := range f.names {
					if c := change(n); c != n {
						m.add(c + ": " + f.value)
					}
				}
			},
			h2: func(m *message2, f forgery) {
				for _, n := range f.names {
					if c := change(n); c != n {
						m.add(strings.ToLower(c), f.value)
					}
				}
			},
		}
	}
	all := func(c string) func(string) string {
		return func(n string) string { return strings.ReplaceAll(n, "-", c) }
	}
	var list []attack
	for _, c := range aliasCharacters {
		list = append(list, alias(string(c), all(string(c))))
	}
	for _, c := range []string{"_", "."} {
		list = append(list,
			alias(c+" for the first hyphen", func(n string) string { return strings.Replace(n, "-", c, 1) }),
			alias(c+" for the last hyphen", func(n string) string {
				i := strings.LastIndexByte(n, '-')
				if i < 0 {
					return n
				}
				return n[:i] + c + n[i+1:]
			}),
		)
	}
	upper := alias("_ in upper case", func(n string) string { return strings.ToUpper(all("_")(n)) })
	lower := alias("_ in lower case", func(n string) string { return strings.ToLower(all("_")(n)) })
	upper.h2, lower.h2 = nil, nil // HTTP/2 has lower case alone
	return append(list, upper, lower,
		alias("space", all(" ")),
		alias("long s", func(n string) string { return strings.NewReplacer("s", "\u017f", "S", "\u017f").Replace(n) }),
		alias("Kelvin sign", func(n string) string { return strings.NewReplacer("k", "\u212a", "K", "\u212a").Replace(n) }),
	)
}

// hopByHop names headers as belonging to the connection: a gateway that strips those (RFC 9110, section 7.6.1) after
// it has set them loses them.
func hopByHop() []attack {
	var list []attack
	lines := []struct {
		name  string
		lines func(names string) []string
	}{
		{"Connection", func(n string) []string { return []string{"Connection: " + n} }},
		{"Connection, lower case", func(n string) []string { return []string{"connection: " + strings.ToLower(n)} }},
		{"Connection with close", func(n string) []string { return []string{"Connection: close, " + n} }},
		{"Connection with keep-alive", func(n string) []string { return []string{"Connection: keep-alive, " + strings.ToLower(n)} }},
		{"two Connection lines", func(n string) []string { return []string{"Connection: keep-alive", "Connection: " + n} }},
		{"Connection with TE", func(n string) []string { return []string{"TE: trailers, " + n, "Connection: TE, " + n} }},
		{"Connection with Upgrade", func(n string) []string {
			return []string{"Connection: Upgrade, " + n, "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: cHJvYmUtcHJvYmUtcHJvYg=="}
		}},
		{"Keep-Alive", func(n string) []string { return []string{"Connection: Keep-Alive", "Keep-Alive: timeout=5, " + n} }},
		{"Proxy-Connection", func(n string) []string { return []string{"Proxy-Connection: close, " + n} }},
		{"TE", func(n string) []string { return []string{"TE: " + n} }},
		{"Trailer", func(n string) []string { return []string{"Trailer: " + n} }},
	}
	for _, l := range lines {
		removed := func(m *message, f forgery) { m.add(l.lines(strings.Join(f.names, ", "))...) }
		list = append(list,
			attack{name: "hop-by-hop/" + l.name, each: true, h1: removed},
			attack{name: "hop-by-hop/" + l.name + ", and forged", each: true, h1: func(m *message, f forgery) { exact(m, f); removed(m, f) }})
	}
	for i, name := range []string{"connection", "te", "keep-alive", "proxy-connection"} {
		list = append(list, attack{name: "hop-by-hop/" + lines[[]int{0, 9, 7, 8}[i]].name + " over HTTP/2", each: true, h2: func(m *message2, f forgery) {
			m.add(name, strings.ToLower(strings.Join(f.names, ", ")))
		}})
	}
	for _, n := range []string{"Authorization", "Host", "X-Forwarded-Uri, X-Forwarded-Method, X-Forwarded-Host, X-Forwarded-Proto, X-Forwarded-For", "X-Original-URI, X-Original-Method", "Connection"} {
		list = append(list, attack{name: "hop-by-hop/Connection names " + n, carries: true, h1: func(m *message, _ forgery) { m.add("Connection: " + n) }})
	}
	return list
}

// trailers are fields behind the body. A gateway or a backend that merges them into the header section
// (RFC 9110, section 6.5.1 warns of it) has looked at the section before they came.
func trailers() []attack {
	chunked := func(declared bool) func(*message, forgery) {
		return func(m *message, f forgery) {
			m.method = f.method()
			m.add("Transfer-Encoding: chunked", "TE: trailers")
			if declared {
				m.add("Trailer: " + strings.Join(f.names, ", "))
			}
			m.body = "5\r\nprobe\r\n0\r\n"
			for _, n := range f.names {
				m.body += n + ": " + f.value + "\r\n"
			}
			m.body += "\r\n"
		}
	}
	over2 := func(declared bool) func(*message2, forgery) {
		return func(m *message2, f forgery) {
			m.set(":method", f.method())
			if declared {
				m.add("trailer", strings.ToLower(strings.Join(f.names, ", ")))
			}
			m.body = []byte("probe")
			for _, n := range f.names {
				m.trailers = append(m.trailers, field{strings.ToLower(n), f.value})
			}
		}
	}
	return []attack{
		{name: "trailer/declared", each: true, becomes: Smuggled, h1: chunked(true), h2: over2(true)},
		{name: "trailer/undeclared", each: true, becomes: Smuggled, h1: chunked(false), h2: over2(false)},
	}
}
