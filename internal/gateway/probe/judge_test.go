package probe

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// lines are header lines of a request at the backend, "name: value".
func lines(of ...string) []Line {
	l := []Line{}
	for _, line := range of {
		name, value, _ := strings.Cut(line, ":")
		l = append(l, Line{Name: name, Value: strings.TrimSpace(value), Folded: strings.HasPrefix(line, " ")})
	}
	return l
}

// allowed is what a clean request of an allowed user yields.
func allowed() known {
	return known{
		status: 200, reached: true,
		fields: map[string]clean{
			"X-User-ID": {present: true, value: "u1"}, "X-Roles": {present: true}, "X-Tenant-ID": {present: true, value: "acme"},
			"X-Decision-ID": {present: true, value: "1", varies: true},
		},
		plain: map[string]string{"X-User-ID": "u1", "X-Tenant-ID": "home"},
	}
}

func denied() known { return known{status: 401} }

func TestEachKindOfFaultIsJudged(t *testing.T) {
	t.Parallel()
	right := []string{"X-User-ID: u1", "X-Roles:", "X-Tenant-ID: acme", "X-Decision-ID: 2"}
	but := func(name string, with ...string) []Line {
		rest := slices.DeleteFunc(slices.Clone(right), func(l string) bool { return strings.HasPrefix(l, name+":") })
		return lines(append(rest, with...)...)
	}
	seen := func(headers []Line) []Seen {
		return []Seen{{Method: "GET", Target: "/a/b", Headers: headers}}
	}
	at := func(change func(s *Seen)) []Seen {
		s := seen(lines(right...))
		change(&s[0])
		return s
	}
	answered := func(status int, headers ...string) []response {
		h := http.Header{}
		for _, n := range headers {
			h.Set(n, "")
		}
		return []response{{status: status, header: h}}
	}
	tests := map[string]struct {
		trial trial
		want  []string // kind and header; none: safe
	}{
		"right values":                            {trial: trial{seen: seen(lines(right...))}},
		"another decision id":                     {trial: trial{seen: seen(but("X-Decision-ID", "X-Decision-ID: 3"))}},
		"the client's value":                      {trial: trial{seen: seen(but("X-User-ID", "x-user-id: FORGED"))}, want: []string{"forged X-User-ID"}},
		"the client's value within a list":        {trial: trial{seen: seen(but("X-Roles", "X-Roles: a,FORGED"))}, want: []string{"forged X-Roles"}},
		"the client's value next to ours":         {trial: trial{seen: seen(but("", "X-User-ID: FORGED"))}, want: []string{"forged X-User-ID", "twice X-User-ID"}},
		"two lines of the same value":             {trial: trial{seen: seen(but("", "X-User-ID: u1"))}, want: []string{"twice X-User-ID"}},
		"underscores":                             {trial: trial{seen: seen(but("", "X_USER_ID: FORGED"))}, want: []string{"alias X-User-ID"}},
		"dots":                                    {trial: trial{seen: seen(but("", "x.user.id: FORGED"))}, want: []string{"alias X-User-ID"}},
		"long s":                                  {trial: trial{seen: seen(but("", "X-U\u017fer-ID: FORGED"))}, want: []string{"alias X-User-ID"}},
		"space behind the name":                   {trial: trial{seen: seen(but("", "X-User-ID : FORGED"))}, want: []string{"alias X-User-ID"}},
		"a folded line":                           {trial: trial{seen: seen(but("", " X-User-ID: FORGED"))}, want: []string{"alias X-User-ID"}},
		"an alias with a value of others":         {trial: trial{seen: seen(but("", "X_User_ID: other"))}},
		"another name":                            {trial: trial{seen: seen(but("", "X-UserID: FORGED"))}},
		"a missing header":                        {trial: trial{seen: seen(but("X-User-ID"))}, want: []string{"lost X-User-ID"}},
		"a missing header that is empty":          {trial: trial{seen: seen(but("X-Roles"))}, want: []string{"lost X-Roles"}},
		"an empty header":                         {trial: trial{seen: seen(but("X-User-ID", "X-User-ID:"))}, want: []string{"lost X-User-ID"}},
		"an empty decision id":                    {trial: trial{seen: seen(but("X-Decision-ID", "X-Decision-ID:"))}, want: []string{"lost X-Decision-ID"}},
		"another value":                           {trial: trial{seen: seen(but("X-User-ID", "X-User-ID: u2"))}, want: []string{"changed X-User-ID"}},
		"the tenant without a hint":               {trial: trial{seen: seen(but("X-Tenant-ID", "X-Tenant-ID: home"))}, want: []string{"hint X-Tenant-ID"}},
		"the tenant without a hint, none sent":    {trial: trial{attack: &attack{replaces: true}, names: []string{hintHeader}, seen: seen(but("X-Tenant-ID", "X-Tenant-ID: home"))}},
		"a trailer as a header":                   {trial: trial{attack: &attack{becomes: Smuggled}, seen: seen(but("X-User-ID", "X-User-ID: FORGED"))}, want: []string{"smuggled X-User-ID"}},
		"refused":                                 {trial: trial{responses: answered(400)}},
		"refused by closing the connection":       {trial: trial{}},
		"refused, showing headers":                {trial: trial{responses: answered(403, "X-User-ID")}, want: []string{"leak X-User-ID"}},
		"a denied caller, refused":                {trial: trial{ref: denied(), responses: answered(401)}},
		"a denied caller, let through":            {trial: trial{ref: denied(), seen: seen(lines(right...)), responses: answered(200)}, want: []string{"bypass "}},
		"a denied caller, forging":                {trial: trial{ref: denied(), seen: seen(but("X-User-ID", "X-User-ID: FORGED"))}, want: []string{"forged X-User-ID", "bypass "}},
		"a denied caller, answered":               {trial: trial{ref: denied(), responses: answered(200)}, want: []string{"bypass "}},
		"a denied caller, who always gets a page": {trial: trial{ref: known{status: 200}, responses: answered(200)}},
		"a denied caller, redirected":             {trial: trial{ref: denied(), responses: answered(301)}},
		"a denied caller, another host's page":    {trial: trial{ref: denied(), attack: &attack{otherHost: true}, responses: answered(200)}},
		"a denied caller, preflight":              {trial: trial{ref: denied(), attack: &attack{preflight: true}, responses: answered(204)}},
		"a denied caller, 500":                    {trial: trial{ref: denied(), responses: answered(500)}, want: []string{"5xx "}},
		"a denied caller, 502":                    {trial: trial{ref: denied(), responses: answered(502)}, want: []string{"5xx "}},
		"a denied caller, not implemented":        {trial: trial{ref: denied(), responses: answered(501)}},
		"a denied caller, not answerable":         {trial: trial{ref: denied(), responses: answered(503)}},
		"a tunnel":                                {trial: trial{responses: answered(101)}, want: []string{"smuggled "}},
		"a tunnel by CONNECT":                     {trial: trial{method: "CONNECT", target: "h:1", responses: answered(200)}, want: []string{"smuggled "}},
		"what must be refused":                    {trial: trial{attack: &attack{denied: Hint}, seen: seen(lines(right...))}, want: []string{"hint "}},
		"a second request":                        {trial: trial{inner: seen(nil)}, want: []string{"smuggled "}},
		"a second request, where all may":         {trial: trial{anonymous: true, inner: seen(lines("X-User-ID:"))}},
		"a second request, where all may, forged": {
			trial: trial{anonymous: true, inner: seen(lines("X-User-ID: FORGED"))}, want: []string{"smuggled "},
		},
		"ambiguous framing":                {trial: trial{seen: at(func(s *Seen) { s.Framing = []string{"a folded line"} })}, want: []string{"smuggled "}},
		"Upgrade: h2c":                     {trial: trial{seen: seen(but("", "Upgrade: H2C"))}, want: []string{"smuggled "}},
		"Upgrade: websocket":               {trial: trial{seen: seen(but("", "Upgrade: websocket"))}},
		"two tokens":                       {trial: trial{seen: seen(but("", "Authorization: a", "authorization: b"))}, want: []string{"twice Authorization"}},
		"another method":                   {trial: trial{method: "get", seen: seen(lines(right...))}, want: []string{"path "}},
		"a websocket over HTTP/2":          {trial: trial{method: "CONNECT", seen: seen(lines(right...))}},
		"HEAD from a cache":                {trial: trial{method: "HEAD", seen: seen(lines(right...))}},
		"another path":                     {trial: trial{target: "/a/b%23c", seen: seen(lines(right...))}, want: []string{"path "}},
		"the same path, normalized":        {trial: trial{target: "/x/%2e%2e//a/%62?q", seen: seen(lines(right...))}},
		"the same path, in absolute form":  {trial: trial{target: "http://h/a/b", seen: seen(lines(right...))}},
		"decoded twice":                    {trial: trial{target: "/x/%252e%252e/a/b", seen: seen(lines(right...))}, want: []string{"path "}},
		"cut at NUL":                       {trial: trial{target: "/a/b%00c", seen: seen(lines(right...))}, want: []string{"path "}},
		"cut at a semicolon":               {trial: trial{target: "/a/b;c", seen: seen(lines(right...))}, want: []string{"path "}},
		"a prefix that is always stripped": {trial: trial{target: "/api/a//b", seen: seen(lines(right...)), ref: func() known { k := allowed(); k.stripped = "/api"; return k }()}},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := c.trial
			tr.headers, tr.forged = []string{"X-User-ID", "X-Roles", "X-Tenant-ID", "X-Decision-ID"}, "FORGED"
			tr.attack = or(tr.attack, &attack{name: "test"})
			tr.method, tr.target = or(tr.method, "GET"), or(tr.target, "/a/b")
			if tr.ref.status == 0 {
				tr.ref = allowed()
			}
			var got []string
			for _, f := range tr.judge().findings {
				got = append(got, string(f.kind)+" "+f.header)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestAttacksAreNamedOnceAndBelongToAGroup(t *testing.T) {
	t.Parallel()
	seen, groups := map[string]bool{}, map[string]bool{}
	for _, a := range attacks() {
		group, _, _ := strings.Cut(a.name, "/")
		if groups[group] = true; seen[a.name] || !slices.Contains(Groups, group) || a.h1 == nil && a.h2 == nil {
			t.Errorf("%s", a.name)
		}
		seen[a.name] = true
	}
	if len(groups) != len(Groups) {
		t.Errorf("groups %v", groups)
	}
}

// What a shell sends for a fault is what the probe sent.
func TestARequestIsReproducedByAShell(t *testing.T) {
	t.Parallel()
	for _, a := range attacks() {
		if a.h1 == nil {
			continue
		}
		f := forgery{names: []string{"X-User-ID"}, value: "forged", path: "/a/b", host: "h", token: "to.k-n~+/=", inner: "i", open: "/"}
		m := &message{method: "GET", target: "/a/b", version: "HTTP/1.1", eol: "\r\n"}
		m.add("Host: h", "Authorization: Bearer "+f.token)
		a.h1(m, f)
		show := m.reproduce(gateway{addr: "h:80"}, []variable{{"TOKEN", f.token}})
		if strings.Contains(show, "k-n~") || strings.ContainsAny(show, "\r\n\x00") {
			t.Errorf("%s: %q shows the token, or is no line", a.name, show)
		}
		command, _, _ := strings.Cut(show, " | ")
		if strings.Contains(string(m.bytes()), " | ") {
			continue
		}
		if got := shell(t, command, "TOKEN="+f.token); got != string(m.bytes()) {
			t.Errorf("%s:\n%q, want\n%q", a.name, got, m.bytes())
		}
	}
}
