//go:build linux

package bench

import (
	"context"
	"fmt"
	"net"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

// bareCheck answers each check by one response, without doing anything for it: by gRPC's and Envoy's own code.
type bareCheck struct {
	authv3.UnimplementedAuthorizationServer
	response *authv3.CheckResponse
}

func (b *bareCheck) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return b.response, nil
}

// checkOf is what Envoy sends of a client's request.
func checkOf(token string) *authv3.CheckRequest {
	peer := func(address string) *authv3.AttributeContext_Peer {
		return &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: address}}}}
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: peer("10.1.2.3"), Destination: peer("10.1.2.4"),
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: "13359530607844510314", Method: "GET", Path: "/api/v1/products", Host: "api.example.com", Scheme: "https", Protocol: "HTTP/2", Size: -1,
			Headers: map[string]string{
				":authority": "api.example.com", ":method": "GET", ":path": "/api/v1/products", ":scheme": "https", "accept": "*/*", "user-agent": "curl/8.5.0",
				"x-forwarded-for": "10.1.2.3", "x-forwarded-proto": "https", "x-request-id": "92a6c0f7-0250-944b-9cfc-ae10cbcedd8e", "authorization": "Bearer " + token,
			},
		}},
	}}
}

// serveChecks serves the gRPC side of a variant, and returns its address.
func serveChecks(tb testing.TB, name string, s *service) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(tb, err)
	ours := s.gateway.NewExtAuthz(nil)
	go func() { check(tb, ours.Serve(l)) }()
	if name == "check" {
		return l.Addr().String()
	}
	out, err := dialChecks(tb, l.Addr().String()).Check(context.Background(), checkOf(s.mint(tb, 1)[0]))
	check(tb, err)
	if out.GetOkResponse() == nil {
		tb.Fatal(out)
	}
	bare := grpc.NewServer()
	authv3.RegisterAuthorizationServer(bare, &bareCheck{response: proto.CloneOf(out)})
	if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		tb.Fatal(err)
	}
	go func() { check(tb, bare.Serve(l)) }()
	return l.Addr().String()
}

func dialChecks(tb testing.TB, addr string) authv3.AuthorizationClient {
	tb.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(tb, err)
	tb.Cleanup(func() { _ = conn.Close() })
	return authv3.NewAuthorizationClient(conn)
}

// converseGRPC sends n checks over one connection, one after the other.
func (t *target) converseGRPC(first, n int) error {
	conn, err := grpc.NewClient(t.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := authv3.NewAuthorizationClient(conn)
	for i := range n {
		out, err := client.Check(context.Background(), t.checks[(first+i)%len(t.checks)])
		if err != nil || out.GetOkResponse() == nil {
			return fmt.Errorf("%s: %v, %w", t.name, out, err)
		}
	}
	return nil
}

// BenchmarkChecks is the row of gRPC checks alone, without OPA's server.
func BenchmarkChecks(b *testing.B) {
	bare, _ := child(b, "bare-check")
	ours, _ := child(b, "check")
	for b.Loop() {
		bare.us, bare.server, ours.us, ours.server = nil, nil, nil, nil
		bare.ask(b, perTurn, false)
		ours.ask(b, perTurn, false)
		for range rounds {
			bare.ask(b, perTurnFast, true)
			ours.ask(b, perTurnFast, true)
		}
	}
	m, low, high := ours.ratio(bare)
	fmt.Printf("\ngRPC check of a cached decision: %.1f µs with the client, %.1f alone; bare gRPC handler %.1f and %.1f; %.2f× the CPU (middle half %.2f–%.2f; wanted: at most 1.3×)\n",
		median(ours.us), median(ours.server), median(bare.us), median(bare.server), 1/m, 1/high, 1/low)
}
