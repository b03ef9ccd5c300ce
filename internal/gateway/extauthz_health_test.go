package gateway_test

import (
	"slices"
	"testing"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/world"
)

func TestHealthFollowsReadinessAndStaysDrained(t *testing.T) {
	t.Parallel()
	e := newEnvoy(world.New(t, world.Settings{}))
	is := func(want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		for _, service := range []string{"", "envoy.service.auth.v3.Authorization"} {
			got, err := healthv1.NewHealthClient(e.conn).Check(ctx, &healthv1.HealthCheckRequest{Service: service})
			if err != nil || got.GetStatus() != want {
				t.Errorf("%q is %v, %v; want %v", service, got, err, want)
			}
		}
	}
	is(healthv1.HealthCheckResponse_NOT_SERVING)
	e.server.SetServing(true)
	is(healthv1.HealthCheckResponse_SERVING)
	e.server.SetServing(false)
	is(healthv1.HealthCheckResponse_NOT_SERVING)
	e.server.SetServing(true)
	e.server.Drain()
	is(healthv1.HealthCheckResponse_NOT_SERVING)
	e.server.SetServing(true)
	is(healthv1.HealthCheckResponse_NOT_SERVING)
	if out := e.check(asRecorded(t, istio, world.Bearer(e.Mint("alice", nil)))); e.status(out) != 200 {
		t.Errorf("while it drains: %v", out)
	}
}

func TestReflectionNamesTheService(t *testing.T) {
	t.Parallel()
	e := newEnvoy(world.New(t, world.Settings{}))
	stream, err := reflectionv1.NewServerReflectionClient(e.conn).ServerReflectionInfo(ctx)
	e.OK(err)
	ask := func(q *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
		t.Helper()
		e.OK(stream.Send(q))
		out, err := stream.Recv()
		e.OK(err)
		return out
	}
	var names []string
	for _, s := range ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	symbol := &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "envoy.service.auth.v3.Authorization"}
	if files := ask(&reflectionv1.ServerReflectionRequest{MessageRequest: symbol}).GetFileDescriptorResponse(); !slices.Contains(names, symbol.FileContainingSymbol) || len(files.GetFileDescriptorProto()) == 0 {
		t.Errorf("%v %v", names, files)
	}
	e.OK(stream.CloseSend())
	await.True(t, "the stream ends", func() bool { _, err := stream.Recv(); return err != nil })
}
