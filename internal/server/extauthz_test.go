package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"iam-service/internal/dev/await"
	"iam-service/internal/enrich"
	"iam-service/internal/gateway"
	"iam-service/internal/problem"
)

// asked records the facts of the last request, and denies.
type asked struct {
	facts atomic.Pointer[enrich.RequestFacts]
}

func (a *asked) Enrich(_ context.Context, q enrich.Request) (enrich.Response, error) {
	a.facts.Store(&q.Facts)
	return enrich.Response{Status: 403}, nil
}

// checks is a listener for Envoy's protocol with mTLS.
type checks struct {
	*authority
	*asked
	*extAuthz
	certs *certificates
	files tlsFiles
}

func newChecks(t *testing.T) *checks {
	t.Helper()
	c := &checks{authority: newAuthority(t), asked: &asked{}}
	c.files = filesOf(c.authority, "one")
	var err error
	c.certs, err = c.files.open(slog.New(slog.DiscardHandler), "h2")
	c.ok(err)
	service := gateway.New(gateway.Config{Enricher: c.asked, Log: slog.New(slog.DiscardHandler), Observe: func(context.Context, problem.Observation) {}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	c.ok(err)
	c.extAuthz = &extAuthz{server: service.NewExtAuthz(c.certs.config()), listener: l}
	served := make(chan error, 1)
	go func() { served <- c.serve() }()
	t.Cleanup(func() {
		c.ok(c.stop(context.Background()))
		c.ok(<-served)
	})
	return c
}

// dial is a new connection of a client.
func (c *checks) dial(identity *tls.Config) *grpc.ClientConn {
	c.Helper()
	conn, err := grpc.NewClient(c.listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(identity)))
	c.ok(err)
	c.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (c *checks) check(identity *tls.Config) error {
	c.Helper()
	in := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:  &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "203.0.113.7"}}}},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/a", Host: "api.example.com", Scheme: "https"}},
	}}
	out, err := authv3.NewAuthorizationClient(c.dial(identity)).Check(context.Background(), in)
	if err == nil && out.GetDeniedResponse() == nil {
		c.Errorf("not denied: %v", out)
	}
	return err
}

func TestAPeerWithAClientCertificateIsTrustedAndOneWithoutIsRejected(t *testing.T) {
	t.Parallel()
	c := newChecks(t)
	stranger := newAuthority(t).client("gateway")
	stranger.RootCAs = c.pool()
	for name, identity := range map[string]*tls.Config{"none": c.client(""), "of another authority": stranger} {
		if err := c.check(identity); status.Code(err) != codes.Unavailable || c.facts.Load() != nil {
			t.Errorf("a client certificate: %s: %v", name, err)
		}
	}
	c.ok(c.check(c.client("gateway")))
	if got := c.facts.Load(); got == nil || got.Host != "api.example.com" || got.Scheme != "https" || got.ClientIP.String() != "203.0.113.7" {
		t.Errorf("what the peer says is not trusted: %+v", got)
	}
}

func TestChecksUseAReplacedCertificate(t *testing.T) {
	t.Parallel()
	c := newChecks(t)
	cert, key := c.pair("two")
	c.ok(os.WriteFile(c.files.cert, cert, 0o600))
	c.ok(os.WriteFile(c.files.key, key, 0o600))
	c.certs.reread(context.Background())
	served := ""
	identity := c.client("gateway")
	identity.VerifyConnection = func(s tls.ConnectionState) error {
		served = s.PeerCertificates[0].Subject.CommonName
		return nil
	}
	if err := c.check(identity); err != nil || served != "two" {
		t.Errorf("identifies itself as %q: %v", served, err)
	}
}

func TestGRPCHealthFollowsReadiness(t *testing.T) {
	t.Parallel()
	c := newChecks(t)
	ctx, stop := context.WithCancel(context.Background())
	var ready atomic.Bool
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		c.followReadiness(ctx, ready.Load)
	}()
	client := healthv1.NewHealthClient(c.dial(c.client("gateway")))
	is := func(want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		await.True(t, want.String(), func() bool {
			got, err := client.Check(context.Background(), &healthv1.HealthCheckRequest{})
			return err == nil && got.GetStatus() == want
		})
	}
	is(healthv1.HealthCheckResponse_NOT_SERVING)
	ready.Store(true)
	is(healthv1.HealthCheckResponse_SERVING)
	ready.Store(false)
	is(healthv1.HealthCheckResponse_NOT_SERVING)
	ready.Store(true)
	is(healthv1.HealthCheckResponse_SERVING)
	c.drain()
	is(healthv1.HealthCheckResponse_NOT_SERVING)
	stop()
	<-followed
}
