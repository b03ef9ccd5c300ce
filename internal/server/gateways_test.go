package server

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// protocol requests / of a gateway listener, and returns the protocol of the response.
func protocol(t *testing.T, cfg Config, client *http.Transport, scheme string) (string, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	work, stop := context.WithCancel(context.Background())
	s := &service{cfg: cfg, log: slog.New(slog.DiscardHandler), gatewayListener: l, work: work}
	s.loops = newLoops(work, s.log, prometheus.NewRegistry())
	t.Cleanup(func() { stop(); s.loops.running.Wait() })
	server, err := s.gatewayServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
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
	t.Cleanup(client.CloseIdleConnections)
	resp, err := (&http.Client{Transport: client}).Get(scheme + "://" + l.Addr().String())
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
