package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"iam-service/internal/problem"
	"iam-service/internal/telemetry/tracing"
)

// ExtAuthzName is the gateway of checks by Envoy's protocol, in policies and in metrics.
const ExtAuthzName = "envoy-grpc"

var extAuthzProfile = Profile{Name: ExtAuthzName, Endpoint: "/" + checkService + "/Check"}

// checkService is the name of the service that Envoy calls.
const checkService = "envoy.service.auth.v3.Authorization"

// Limits of the listener. A message that is too large is a gRPC error, which failure_mode_allow would turn
// into an allow: the limit is far above what Envoy sends without bodies (60 KiB of headers by default).
const (
	maxCheckBytes   = 1 << 20
	maxCheckStreams = 1_000 // of one connection; Envoy has one for each worker
	checkLimit      = 2 * time.Second
)

// ExtAuthz serves envoy.service.auth.v3.Authorization, gRPC health and reflection.
type ExtAuthz struct {
	grpc    *grpc.Server
	health  *health.Server
	gateway *Service
	encoder *okEncoder
}

// NewExtAuthz returns a server that is not serving yet, by its health. transport is its TLS; nil: plain text.
func (s *Service) NewExtAuthz(transport *tls.Config) *ExtAuthz {
	e := &ExtAuthz{health: health.NewServer(), gateway: s, encoder: newOKEncoder(s.Headers, s.EmptyValue)}
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(checkCodec{encoding.GetCodecV2(proto.Name)}),
		grpc.MaxRecvMsgSize(maxCheckBytes),
		grpc.MaxConcurrentStreams(maxCheckStreams),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.ConnectionTimeout(5 * time.Second), // of a handshake
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time:                  time.Minute, // a peer that has vanished holds nothing for longer
			Timeout:               20 * time.Second,
			MaxConnectionAge:      30 * time.Minute, // so that new replicas get connections
			MaxConnectionAgeGrace: 10 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(e.recoverUnary),
		grpc.StreamInterceptor(e.recoverStream),
	}
	if transport != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(transport)))
	}
	e.grpc = grpc.NewServer(options...)
	e.grpc.RegisterService(&checkDesc, e)
	healthv1.RegisterHealthServer(e.grpc, e.health)
	reflection.Register(e.grpc)
	e.SetServing(false)
	return e
}

// Serve serves until Stop.
func (e *ExtAuthz) Serve(l net.Listener) error { return e.grpc.Serve(l) }

// SetServing sets the health that Envoy's health checks see, of the server and of the service.
func (e *ExtAuthz) SetServing(ready bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if ready {
		status = healthv1.HealthCheckResponse_SERVING
	}
	e.health.SetServingStatus("", status)
	e.health.SetServingStatus(checkService, status)
}

// Drain makes the server not serving by its health, permanently. Checks are still served.
func (e *ExtAuthz) Drain() { e.health.Shutdown() }

// Stop lets the checks in flight end, and cuts off those that have not ended when ctx does.
func (e *ExtAuthz) Stop(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.grpc.GracefulStop()
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		e.grpc.Stop()
		<-ended
		return ctx.Err()
	}
}

// checkDesc is the service as Envoy's protocol defines it. Its handler is ours, so that a response can be sent
// as it was encoded, and so that a request that cannot be decoded is denied instead of a gRPC error.
var checkDesc = grpc.ServiceDesc{
	ServiceName: checkService,
	HandlerType: (*checker)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Check", Handler: handleCheck}},
	Metadata:    "envoy/service/auth/v3/external_auth.proto",
}

type checker interface {
	check(ctx context.Context, in *incoming) any
}

func handleCheck(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // gRPC's order
	in := &incoming{}
	if err := decode(in); err != nil {
		return nil, err // the connection failed, or the message is over a limit
	}
	return srv.(checker).check(ctx, in), nil //nolint:forcetypeassert // RegisterService checks it
}

// incoming is a check, or what is wrong with it. Where a codec fails, gRPC itself responds, by an error.
type incoming struct {
	authv3.CheckRequest
	fault error
}

// check decides a check. It returns what checkCodec encodes, and never a gRPC error: Envoy counts one as a
// failure of the service, which failure_mode_allow lets through (GrpcClientImpl::onFailure in Envoy's
// source/extensions/filters/common/ext_authz/ext_authz_grpc_impl.cc; Filter::onComplete, case Error, in
// source/extensions/filters/http/ext_authz/ext_authz.cc). So is CheckResponse.error_response. A denied_response is final
// whatever its HTTP status, 503 included.
func (e *ExtAuthz) check(ctx context.Context, in *incoming) (response any) {
	began := time.Now()
	from := e.peerOf(ctx)
	ctx, span := e.gateway.Tracing.Begin(ctx, sentContext(ctx, from.trusted))
	var o outcome
	method := in.GetAttributes().GetRequest().GetHttp().GetMethod()
	defer func() {
		if v := recover(); v != nil {
			o = e.panicked(ctx, v, from)
			response = deniedResponse(&o)
		}
		e.gateway.observe(ctx, &extAuthzProfile, method, &o, time.Since(began))
		e.gateway.end(span, &extAuthzProfile, method, &o)
	}()
	limited, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	got := receive(&in.CheckRequest, e.encoder)
	if sent := got.Header["X-Request-Id"]; len(sent) > 0 {
		from.requestID = sent[0]
	}
	q, err := e.gateway.requestOfCheck(&in.CheckRequest, &got, from.trusted)
	if in.fault != nil {
		err = in.fault
	}
	o = e.gateway.decide(limited, q, err, from)
	if o.status != http.StatusOK {
		return deniedResponse(&o)
	}
	return e.encoder.encode(&o, got.aliases)
}

// sentContext reads the trace context of a check: Envoy sends it in the metadata where it traces itself.
func sentContext(ctx context.Context, trusted bool) tracing.Incoming {
	in := tracing.Incoming{Name: checkService + "/Check", Trusted: trusted}
	if sent := metadata.ValueFromIncomingContext(ctx, "traceparent"); len(sent) == 1 {
		in.TraceParent = sent[0]
		if state := metadata.ValueFromIncomingContext(ctx, "tracestate"); len(state) == 1 {
			in.TraceState = state[0]
		}
	}
	return in
}

// peerOf returns the peer, and whether it is trusted: it is a trusted proxy, or has authenticated itself by a
// client certificate.
func (e *ExtAuthz) peerOf(ctx context.Context) (from caller) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return from
	}
	if tcp, ok := p.Addr.(*net.TCPAddr); ok {
		from.peer = tcp.AddrPort().Addr().Unmap()
	} else if addr, err := netip.ParseAddrPort(p.Addr.String()); err == nil {
		from.peer = addr.Addr().Unmap()
	}
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		from.trusted = len(info.State.VerifiedChains) > 0
	}
	from.trusted = from.trusted || e.gateway.Trusted.Trusts(from.peer)
	return from
}

// panicked is the outcome of a check that panicked: net/http would end one connection, gRPC ends the process.
func (e *ExtAuthz) panicked(ctx context.Context, v any, from caller) outcome {
	e.gateway.Log.LogAttrs(ctx, slog.LevelError, "check panicked", slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
	return e.gateway.failClosed(ctx, fmt.Errorf("a panic: %v", v), from)
}

// recoverUnary and recoverStream are for health and reflection.
func (e *ExtAuthz) recoverUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
	defer e.recovered(ctx, &err)
	return next(ctx, req)
}

func (e *ExtAuthz) recoverStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer e.recovered(stream.Context(), &err)
	return next(srv, stream)
}

func (e *ExtAuthz) recovered(ctx context.Context, err *error) {
	if v := recover(); v != nil {
		e.gateway.Log.LogAttrs(ctx, slog.LevelError, "gRPC handler panicked", slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
		*err = status.Error(codes.Internal, "internal error")
	}
}

// checkCodec is protobuf's, but for two types: encoded is sent as it is, and a check that cannot be decoded is
// handed to its handler all the same.
type checkCodec struct{ encoding.CodecV2 }

// encoded is a message as it is sent, in a buffer of mem's pool.
type encoded struct{ buffer *[]byte }

func (c checkCodec) Marshal(v any) (mem.BufferSlice, error) {
	if e, ok := v.(encoded); ok {
		return mem.BufferSlice{mem.NewBuffer(e.buffer, mem.DefaultBufferPool())}, nil
	}
	return c.CodecV2.Marshal(v)
}

// grpcCodes are the gRPC status within the response, for Envoy's logs: all but OK are a denial.
var grpcCodes = map[int]int32{
	http.StatusUnauthorized:       int32(codes.Unauthenticated),
	http.StatusForbidden:          int32(codes.PermissionDenied),
	http.StatusServiceUnavailable: int32(codes.Unavailable),
}

func (c checkCodec) Unmarshal(data mem.BufferSlice, v any) error {
	in, ok := v.(*incoming)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if c.CodecV2.Unmarshal(data, &in.CheckRequest) != nil {
		in.Reset()
		in.fault = problem.Malformed("the message is no CheckRequest")
	}
	return nil
}
