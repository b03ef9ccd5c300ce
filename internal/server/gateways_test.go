package server

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"iam-service/internal/gateway"
	"iam-service/internal/problem"
)

// serveGateways serves the handler on a gateway listener with these settings, and returns its address.
func serveGateways(t *testing.T, cfg Config, handler http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	work, stop := context.WithCancel(context.Background())
	s := &service{cfg: cfg, log: slog.New(slog.DiscardHandler), gatewayListener: l, work: work}
	s.loops = newLoops(work, s.log, prometheus.NewRegistry())
	t.Cleanup(func() { stop(); s.loops.running.Wait() })
	server, err := s.gatewayServer(handler)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- server.serve() }()
	t.Cleanup(func() {
		_ = server.http.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// protocol requests / of a gateway listener, and returns the protocol of the response.
func protocol(t *testing.T, cfg Config, client *http.Transport, scheme string) (string, error) {
	t.Helper()
	addr := serveGateways(t, cfg, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	t.Cleanup(client.CloseIdleConnections)
	resp, err := (&http.Client{Transport: client}).Get(scheme + "://" + addr)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

func TestTheGatewaysListenerSpeaksHTTP2AndMutualTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	files := filesOf(a, "gateway")
	plain, encrypted, mutual := Config{}, Config{GatewayCert: files.cert, GatewayKey: files.key}, Config{GatewayCert: files.cert, GatewayKey: files.key, GatewayClientCA: files.clientCA}
	withPriorKnowledge := new(http.Protocols)
	withPriorKnowledge.SetUnencryptedHTTP2(true)
	for name, c := range map[string]struct {
		cfg    Config
		client *http.Transport
		scheme string
		want   string // "": no connection
	}{
		"plain text":                       {plain, &http.Transport{}, "http", "HTTP/1.1"},
		"plain text, prior knowledge":      {plain, &http.Transport{Protocols: withPriorKnowledge}, "http", "HTTP/2.0"},
		"TLS, prior knowledge in it":       {encrypted, &http.Transport{TLSClientConfig: a.client(""), Protocols: withPriorKnowledge}, "http", ""},
		"TLS":                              {encrypted, &http.Transport{TLSClientConfig: a.client("")}, "https", "HTTP/1.1"},
		"TLS, ALPN":                        {encrypted, &http.Transport{TLSClientConfig: a.client(""), ForceAttemptHTTP2: true}, "https", "HTTP/2.0"},
		"TLS, of a client in plain text":   {encrypted, &http.Transport{}, "http", ""},
		"mutual TLS":                       {mutual, &http.Transport{TLSClientConfig: a.client("nginx")}, "https", "HTTP/1.1"},
		"mutual TLS without a certificate": {mutual, &http.Transport{TLSClientConfig: a.client("")}, "https", ""},
		"mutual TLS of other authorities":  {mutual, &http.Transport{TLSClientConfig: stranger(t, a)}, "https", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := protocol(t, c.cfg, c.client, c.scheme)
			if c.want == "" && err == nil && got == "HTTP/1.1" || c.want != "" && (err != nil || got != c.want) {
				t.Errorf("%q, %v, want %q", got, err, c.want)
			}
		})
	}
}

// stranger trusts the authority, and has a certificate of another.
func stranger(t *testing.T, a *authority) *tls.Config {
	t.Helper()
	cfg := a.client("")
	cfg.Certificates = newAuthority(t).client("nginx").Certificates
	return cfg
}

// A verified client certificate proves more than an address: what such a peer says of the request is trusted, as over gRPC.
func TestAGatewayWithAClientCertificateIsTrusted(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	files := filesOf(a, "iam")
	encrypted, mutual := Config{GatewayCert: files.cert, GatewayKey: files.key}, Config{GatewayCert: files.cert, GatewayKey: files.key, GatewayClientCA: files.clientCA}
	profiles, err := gateway.Profiles("traefik", "opa")
	a.ok(err)
	const input = `{"input": {"request": {"method": "PUT", "scheme": "https", "host": "api.example.com", "path": "/a",
		"headers": {"x-forwarded-for": "6.6.6.6"}}, "var": {"remote_addr": "203.0.113.7"}}}`
	for _, c := range []struct {
		name         string
		cfg          Config
		method, path string
		http2        bool
		trusted      bool
	}{
		{name: "mutual TLS", cfg: mutual, method: "GET", path: gateway.EnrichPath, trusted: true},
		{name: "mutual TLS over HTTP/2", cfg: mutual, method: "GET", path: gateway.EnrichPath, http2: true, trusted: true},
		{name: "mutual TLS, the data API", cfg: mutual, method: "POST", path: gateway.DataPath, trusted: true},
		{name: "TLS that asks for no certificate", cfg: encrypted, method: "GET", path: gateway.EnrichPath},
		{name: "TLS that asks for no certificate, the data API", cfg: encrypted, method: "POST", path: gateway.DataPath},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			seen := &asked{}
			service := gateway.New(gateway.Config{
				Enricher: seen, Profiles: profiles, Log: slog.New(slog.DiscardHandler), Observe: func(context.Context, problem.Observation) {},
			})
			client := &http.Transport{TLSClientConfig: a.client("gateway"), ForceAttemptHTTP2: c.http2}
			t.Cleanup(client.CloseIdleConnections)
			req, err := http.NewRequestWithContext(t.Context(), c.method, "https://"+serveGateways(t, c.cfg, service.Handler())+c.path, strings.NewReader(input))
			a.ok(err)
			if c.method == http.MethodGet {
				req.Body, req.ContentLength = nil, 0
				for name, value := range map[string]string{"Method": "PUT", "Proto": "https", "Host": "api.example.com", "Uri": "/a", "For": "6.6.6.6, 203.0.113.7"} {
					req.Header.Set("X-Forwarded-"+name, value)
				}
			}
			resp, err := client.RoundTrip(req)
			a.ok(err)
			a.ok(resp.Body.Close())
			got := seen.facts.Load()
			if got == nil {
				t.Fatalf("no issuer was asked: %d", resp.StatusCode)
			}
			all := got.Method == http.MethodPut && got.Scheme == "https" && got.Host == "api.example.com" && got.Path == "/a" && got.ClientIP.String() == "203.0.113.7"
			none := got.Method+got.Scheme+got.Host+got.Path == "" && !got.ClientIP.IsValid()
			if c.trusted && !all || !c.trusted && !none {
				t.Errorf("the facts are %+v", got)
			}
		})
	}
}
