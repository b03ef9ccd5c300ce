package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"iam-service/internal/dev/await"
)

// extAuthzCommands ask the program as Envoy does, by the client of its official module.
func extAuthzCommands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		// check METHOD URL [@TOKEN] [NAME: VALUE]...: what EXT_AUTHZ_ADDR says of the request, as lines of the file answer
		"check": func(ts *testscript.TestScript, _ bool, args []string) {
			conn := dialExtAuthz(ts)
			defer conn.Close()
			scheme, rest, _ := strings.Cut(args[1], "://")
			host, path, _ := strings.Cut(rest, "/")
			sent := map[string]string{":method": args[0], ":path": "/" + path, ":authority": host}
			for _, arg := range args[2:] {
				if token, ok := strings.CutPrefix(arg, "@"); ok {
					sent["authorization"] = "Bearer " + ts.ReadFile(token)
					continue
				}
				name, value, _ := strings.Cut(arg, ": ")
				sent[strings.ToLower(name)] = value
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			out, err := authv3.NewAuthorizationClient(conn).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
				Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
					SocketAddress: &corev3.SocketAddress{Address: "203.0.113.7"},
				}}},
				Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
					Method: args[0], Scheme: scheme, Host: host, Path: "/" + path, Headers: sent,
				}},
			}})
			ts.Check(err)
			ts.Check(os.WriteFile(ts.MkAbs("response"), []byte(linesOf(out)), 0o600))
		},
		// grpchealth STATUS: the health of EXT_AUTHZ_ADDR becomes it, of the server and of Envoy's service
		"grpchealth": func(ts *testscript.TestScript, _ bool, args []string) {
			conn := dialExtAuthz(ts)
			defer conn.Close()
			client := healthv1.NewHealthClient(conn)
			for _, service := range []string{"", "envoy.service.auth.v3.Authorization"} {
				var last string
				if !await.Until(await.Limit, 20*time.Millisecond, func() bool {
					out, err := client.Check(context.Background(), &healthv1.HealthCheckRequest{Service: service})
					last = fmt.Sprint(out.GetStatus(), err)
					return err == nil && out.GetStatus().String() == args[0]
				}) {
					ts.Fatalf("the health of %q is %s", service, last)
				}
			}
		},
	}
}

func dialExtAuthz(ts *testscript.TestScript) *grpc.ClientConn {
	conn, err := grpc.NewClient(ts.Getenv("EXT_AUTHZ_ADDR"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	ts.Check(err)
	return conn
}

// linesOf is a response as Envoy applies it: its status, headers that are set and removed, metadata, and the body of a denial.
func linesOf(out *authv3.CheckResponse) string {
	lines := []string{"grpc " + codes.Code(out.GetStatus().GetCode()).String()}
	if ok := out.GetOkResponse(); ok != nil {
		lines = append(lines, "allowed")
		for _, h := range ok.GetHeaders() {
			lines = append(lines, fmt.Sprintf("set %s: %s (%s)", h.GetHeader().GetKey(), h.GetHeader().GetValue(), h.GetAppendAction()))
		}
		for _, name := range ok.GetHeadersToRemove() {
			lines = append(lines, "remove "+name)
		}
		for name, value := range out.GetDynamicMetadata().AsMap() {
			lines = append(lines, fmt.Sprintf("metadata %s: %v", name, value))
		}
	}
	if denied := out.GetDeniedResponse(); denied != nil {
		lines = append(lines, fmt.Sprintf("denied %d", denied.GetStatus().GetCode()))
		for _, h := range denied.GetHeaders() {
			lines = append(lines, fmt.Sprintf("set %s: %s", h.GetHeader().GetKey(), h.GetHeader().GetValue()))
		}
		lines = append(lines, "body "+strings.TrimSpace(denied.GetBody()))
	}
	slices.Sort(lines[1:])
	return strings.Join(lines, "\n") + "\n"
}
