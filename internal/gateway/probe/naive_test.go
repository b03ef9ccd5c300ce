package probe_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"iam-service/internal/gateway/probe"
)

// naive copies four headers, as many a documented example does. What it does with Connection, aliases and Upgrade is
// what its library does.
func naive(backend string) http.Handler {
	to, err := url.Parse(backend)
	if err != nil {
		panic(err)
	}
	p := &httputil.ReverseProxy{Director: func(r *http.Request) { //nolint:staticcheck // SA1019: it strips what Connection names after this, which is the fault
		r.URL.Scheme, r.URL.Host = to.Scheme, to.Host
		values, _ := answers(r.Header.Get("Authorization"), "") // it does not forward the hint
		for _, h := range []string{"X-User-ID", "X-Tenant-ID", "X-Active-Tenant-ID", "X-User-Roles"} {
			if values[h] != "" { // an empty header is not copied
				r.Header.Set(h, values[h])
			}
		}
	}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, status := answers(r.Header.Get("Authorization"), ""); status != http.StatusOK && r.URL.Path != "/open" {
			w.WriteHeader(status)
			return
		}
		p.ServeHTTP(w, r)
	})
}

// The probe cannot go blind: what is known to be wrong must be found.
func TestANaiveGatewayHasAtLeastFiveKindsOfFault(t *testing.T) {
	t.Parallel()
	_, backend := echo(t)
	r := run(t, config(serving(t, naive(backend)), backend))
	for _, k := range []probe.Kind{probe.Forged, probe.Alias, probe.Lost, probe.Twice, probe.Hint, probe.Smuggled} {
		if r.Kinds[k] == 0 {
			t.Errorf("no fault %s", k)
		}
	}
	for _, h := range r.Headers { // X-User-ID is removed by Connection
		if f := h.Faults; h.Name == "X-User-Roles" && f[probe.Forged] == 0 || h.Name == "X-Principal-Type" && f[probe.Forged] == 0 || h.Name == "X-User-ID" && f[probe.Lost] == 0 {
			t.Errorf("%s: %v", h.Name, f)
		}
	}
}

// A gateway that looks at the first request of a connection and passes on the bytes.
func TestAGatewayThatPassesOnBytesSmuggles(t *testing.T) {
	t.Parallel()
	_, backend := echo(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go passBytes(c, strings.TrimPrefix(backend, "http://"))
		}
	}()
	cfg := config("http://"+l.Addr().String(), backend)
	cfg.Only = []string{"smuggling", "header"}
	r := run(t, cfg)
	if r.Kinds[probe.Smuggled] == 0 || r.Kinds[probe.Forged] == 0 {
		t.Errorf("%v", r.Kinds)
	}
	if p := r.Protocols[1]; p.Tested || p.Why == "" {
		t.Errorf("HTTP/2: %+v", p)
	}
	seconds, ambiguous := map[string]bool{}, map[string]bool{}
	for _, f := range r.Faults {
		if strings.HasPrefix(f.Detail, "a second request") {
			seconds[f.Attack] = true
		}
		if strings.HasPrefix(f.Detail, "ambiguous framing") {
			ambiguous[f.Attack] = true
		}
	}
	for _, attack := range []string{"smuggling/TE.CL, Transfer-Encoding", "smuggling/two Content-Length, 0 last", "smuggling/second request behind the first"} {
		if !seconds[attack] {
			t.Errorf("%s: the second request was not seen", attack)
		}
	}
	for _, attack := range []string{
		"smuggling/CL.TE, Transfer-Encoding", "smuggling/CL.TE, Transfer-Encoding folded", "smuggling/CL.TE, Transfer-Encoding with space before the colon",
		"smuggling/Content-Length with plus", "smuggling/chunks end in LF", "header/folded value", "header/lines end in LF",
	} {
		if !ambiguous[attack] {
			t.Errorf("%s: the framing was not seen", attack)
		}
	}
}

func passBytes(c net.Conn, backend string) {
	defer c.Close()
	var head strings.Builder
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		head.WriteString(line)
		if err != nil {
			return
		}
		if strings.TrimSpace(line) == "" {
			break
		}
	}
	if !strings.Contains(head.String(), "Bearer token-of-alice") && !strings.HasPrefix(head.String(), "GET /open ") {
		_, _ = io.WriteString(c, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	}
	b, err := net.Dial("tcp", backend)
	if err != nil {
		return
	}
	defer b.Close()
	_, _ = io.WriteString(b, head.String())
	go func() { _, _ = io.Copy(b, r) }()
	_, _ = io.Copy(c, b)
}

func TestAGatewayWithTLSIsProbedOverBothProtocols(t *testing.T) {
	t.Parallel()
	_, backend := echo(t)
	s := httptest.NewUnstartedServer(guarded(backend, nil))
	s.Config.ErrorLog = discard
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	cfg := config(s.URL, backend)
	cfg.Only = []string{"header", "injection"}
	if _, err := probe.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
	cfg.TLS = &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	r := run(t, cfg)
	if len(r.Faults) > 0 || !r.Protocols[1].Tested {
		t.Errorf("%d faults, %+v", len(r.Faults), r.Protocols)
	}
}
