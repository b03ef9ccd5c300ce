package probe_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/gateway/probe"
)

func TestAConfigurationIsRejectedWithAllItsErrors(t *testing.T) {
	t.Parallel()
	_, err := probe.Run(t.Context(), probe.Config{
		Gateway: "ftp://h/a", Headers: []string{"X-User-ID", "x-user-id", "X User"}, TokenWithoutRoles: "a b", OpenPath: "x", Tenant: "a\nb",
		Echo: "http://e", ListenEcho: ":0", Only: []string{"nonsense"}, Timeout: -1,
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"gateway: ", "token: needed", "token without roles: ", `"x-user-id" is listed twice`, `"X User" is no name`, "open path: ", "tenant: ", "either a URL", `"nonsense" is no group`, "must be positive",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %q", err, want)
		}
	}
	for _, u := range []string{"http://h", "http://h/", "http://h/a//b", "http://h/%61", "http://u:p@h/a", "h/a"} {
		if _, err := probe.Run(t.Context(), probe.Config{Gateway: u, Headers: identity, Token: "t"}); err == nil || !strings.Contains(err.Error(), "gateway: ") {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func TestAGatewayThatCannotBeTestedIsNoGatewayWithoutFaults(t *testing.T) {
	t.Parallel()
	status := func(code int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
	}
	var requests atomic.Int64
	for name, c := range map[string]struct {
		gateway func(backend string) http.Handler
		change  func(cfg *probe.Config)
		want    string
	}{
		"another backend":    {gateway: func(string) http.Handler { return status(200) }, want: "did not reach the echo"},
		"an invalid token":   {change: func(c *probe.Config) { c.Token = "expired" }, want: "answered 401 Unauthorized and does not reach the echo"},
		"a closed open path": {change: func(c *probe.Config) { c.OpenPath = "/closed" }, want: "to the open path /closed is answered 401 Unauthorized"},
		"iam-service away":   {gateway: func(string) http.Handler { return status(503) }, want: "status 503"},
		"an echo that is no": {change: func(c *probe.Config) { c.Echo = c.Gateway }, want: "is no echo"},
		"no echo there":      {change: func(c *probe.Config) { c.Echo = "http://127.0.0.1:1" }, want: "ask the echo"},
		"no gateway there":   {change: func(c *probe.Config) { c.Gateway = "http://127.0.0.1:1/a" }, want: "connection refused"},
		"a taken address":    {change: func(c *probe.Config) { c.ListenEcho, c.Echo = strings.TrimPrefix(c.Echo, "http://"), "" }, want: "start the echo"},
		"too little time":    {change: func(c *probe.Config) { c.Limit = 700 * time.Millisecond; c.Concurrency = 1 }, want: "the run took longer than 700ms"},
		"a gateway that gives up": {
			gateway: func(backend string) http.Handler {
				g := guarded(backend, nil)
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if requests.Add(1) > 60 {
						w.WriteHeader(http.StatusForbidden)
						return
					}
					g.ServeHTTP(w, r)
				})
			}, want: "the results mean nothing",
		},
		"a gateway that limits": {
			gateway: func(backend string) http.Handler {
				g := guarded(backend, nil)
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Accept") == "*/*" && strings.Contains(r.Header.Get("X-Forwarded-Method")+r.Method, "O") {
						w.WriteHeader(http.StatusTooManyRequests)
						return
					}
					g.ServeHTTP(w, r)
				})
			}, change: func(c *probe.Config) { c.Only = []string{"method"} }, want: "were answered 503 or 429",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, backend := echo(t)
			if c.gateway == nil {
				c.gateway = func(backend string) http.Handler { return guarded(backend, nil) }
			}
			cfg := config(serving(t, c.gateway(backend)), backend)
			cfg.Only = []string{"header"}
			if c.change != nil {
				c.change(&cfg)
			}
			if _, err := probe.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestTheEchoIsStartedForTheRun(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	cfg := config(serving(t, naive("http://"+addr)), "")
	cfg.ListenEcho, cfg.Only = addr, []string{"header"}
	if r := run(t, cfg); r.Kinds[probe.Forged] == 0 {
		t.Errorf("%v", r.Kinds)
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("the echo still runs")
	}
}

func TestSingleAttacksAreTriedByName(t *testing.T) {
	t.Parallel()
	_, backend := echo(t)
	cfg := config(serving(t, naive(backend)), backend)
	cfg.Only = []string{"alias/.", "header/two lines, two"}
	r := run(t, cfg)
	tried := map[string]bool{}
	for _, f := range r.Faults {
		tried[f.Attack] = true
	}
	delete(tried, "hint/clean")
	if want := map[string]bool{"alias/.": true, "alias/. for the first hyphen": true, "alias/. for the last hyphen": true, "header/two lines, two cases": true}; !maps.Equal(tried, want) {
		t.Errorf("%v, want %v", tried, want)
	}
}

func TestAnotherAddressThanTheURLsIsConnectedTo(t *testing.T) {
	t.Parallel()
	_, backend := echo(t)
	cfg := config("http://gateway.example", backend)
	cfg.Connect, cfg.Only = strings.TrimPrefix(serving(t, naive(backend)), "http://"), []string{"hint", "credentials"}
	r := run(t, cfg)
	for _, f := range r.Faults {
		if f.Protocol == "HTTP/1.1" && f.Attack != "hint/clean" && (!strings.Contains(f.Reproduce, "Host: gateway.example") || !strings.Contains(f.Reproduce, "nc -q 2 127.0.0.1 ")) {
			t.Errorf("%s", f.Reproduce)
		}
	}
	if r.Kinds[probe.Hint] == 0 {
		t.Errorf("%v", r.Kinds)
	}
}

// A signed identity is another one for each request.
func TestASignedTokenInAHeaderMayChange(t *testing.T) {
	t.Parallel()
	_, backend := echo(t)
	to, err := url.Parse(backend)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(serving(t, &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
		r.Out.Header.Set("X-Assertion", "eyJhbGciOiJFUzI1NiJ9."+base64.RawURLEncoding.EncodeToString([]byte(r.In.Method))+".c2ln")
	}}), backend)
	cfg.Headers, cfg.Only = []string{"X-Assertion"}, []string{"method", "header"}
	r := run(t, cfg)
	if f := r.Headers[0].Faults; len(f) > 0 || r.Headers[0].Safe < 20 {
		t.Errorf("%+v", r.Headers[0])
	}
}

func TestWithoutTheEchosAddressTheResponsesAreRead(t *testing.T) {
	t.Parallel()
	_, backend := echo(t)
	cfg := config(serving(t, naive(backend)), "")
	cfg.Only, cfg.TokenWithoutRoles, cfg.Tenant, cfg.OpenPath = []string{"header", "alias"}, "", "", ""
	r := run(t, cfg)
	if r.Kinds[probe.Forged] == 0 || r.Kinds[probe.Alias] == 0 {
		t.Errorf("%v", r.Kinds)
	}
	notes := strings.Join(r.Notes, "\n")
	for _, want := range []string{"seen through the gateway's responses alone", "no user without roles", "no tenant was given", "no path that is open", "only these attacks"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no note %q", want)
		}
	}
}

func TestTheReportAsJSONHasItsDocumentedShape(t *testing.T) {
	t.Parallel()
	_, backend := echo(t)
	cfg := config(serving(t, naive(backend)), backend)
	cfg.Only = []string{"alias"}
	r := run(t, cfg)
	var b bytes.Buffer
	if err := r.JSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Gateway    string
		Requests   int
		Protocols  []struct{ Name string }
		Principals []struct {
			Name    string
			Reached bool
			Headers map[string]string
		}
		Headers []struct {
			Name   string
			Safe   *int
			Faults map[string]int
		}
		Kinds  map[string]int
		Faults []struct{ Kind, Header, Principal, Protocol, Attack, Detail, Reproduce string }
		Notes  []string
	}
	d := json.NewDecoder(&b)
	if err := d.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if len(got.Protocols) != 2 || len(got.Principals) != 8 || len(got.Headers) != len(identity) || len(got.Kinds) != len(probe.Kinds) || len(got.Faults) != len(r.Faults) || len(got.Notes) == 0 {
		t.Errorf("%+v", got)
	}
	if p := got.Principals[0]; p.Headers["X-Decision-ID"] != "absent" || p.Headers["X-User-ID"] != "present" {
		t.Errorf("%+v", p)
	}
	for _, f := range got.Faults {
		if f.Kind == "" || f.Principal == "" || f.Protocol == "" || f.Attack == "" || f.Detail == "" || f.Reproduce == "" {
			t.Errorf("%+v", f)
		}
	}
}

// A long report shows ten attacks of a kind in full, and names the rest.
func TestALongReportNamesEveryAttack(t *testing.T) {
	t.Parallel()
	r := probe.Report{Kinds: map[probe.Kind]int{probe.Alias: 30}}
	for i := range 30 {
		r.Faults = append(r.Faults, probe.Fault{Kind: probe.Alias, Header: "X-User-ID", Attack: "alias/" + string(rune('A'+i)), Reproduce: "repro"})
	}
	var b strings.Builder
	r.Text(&b)
	if n := strings.Count(b.String(), "reproduce  "); n != 10 {
		t.Errorf("%d shown", n)
	}
	for _, f := range r.Faults {
		if !strings.Contains(b.String(), f.Attack) {
			t.Errorf("%s is missing", f.Attack)
		}
	}
}
