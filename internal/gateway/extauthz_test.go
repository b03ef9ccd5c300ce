package gateway_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/logbuffer"
	"iam-service/internal/dev/world"
	"iam-service/internal/enrich"
	"iam-service/internal/gateway"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/problem"
)

// envoy is a client of a world's checks, over a real connection.
type envoy struct {
	*world.World
	conn   *grpc.ClientConn
	server *gateway.ExtAuthz
}

func newEnvoy(w *world.World) *envoy {
	w.Helper()
	server := w.Gateway.NewExtAuthz(nil)
	return &envoy{World: w, server: server, conn: connect(w, server, nil)}
}

// connect serves on a port of its own, and returns a client's connection; identity nil: plain text.
func connect(t testing.TB, server *gateway.ExtAuthz, identity *tls.Config) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Stop(context.Background()), <-served); err != nil {
			t.Error(err)
		}
	})
	transport := insecure.NewCredentials()
	if identity != nil {
		transport = credentials.NewTLS(identity)
	}
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(transport))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// sandbox is what Envoy sends, as its documentation shows it (docs/root/start/sandboxes/ext_authz.rst).
const sandbox = `{"attributes": {
	"destination": {"address": {"socketAddress": {"address": "172.28.0.6", "portValue": 8000}}},
	"metadataContext": {},
	"request": {"time": "2020-07-02T15:04:05Z", "http": {
		"id": "16617514055874272263", "method": "GET", "path": "/service", "host": "localhost:8000", "scheme": "http", "protocol": "HTTP/1.1", "size": "-1",
		"headers": {
			":authority": "localhost:8000", ":method": "GET", ":path": "/service", "accept": "*/*", "user-agent": "curl/7.64.1",
			"x-forwarded-proto": "http", "x-request-id": "b77919c0-f1d4-4b06-b444-5a8b32d5daf4"
		}
	}},
	"source": {"address": {"socketAddress": {"address": "172.28.0.1", "portValue": 36472}}}
}}`

// istio is what Istio's ingress gateway sends, after the example in open-policy-agent/opa-envoy-plugin's
// internal/internal_test.go (curl http://${GATEWAY_URL}/api/v1/products), with the principal of a mesh.
const istio = `{"attributes": {
	"source": {"address": {"socketAddress": {"address": "10.1.2.3", "portValue": 41822}}, "principal": "spiffe://cluster.local/ns/default/sa/sleep"},
	"destination": {"address": {"socketAddress": {"address": "10.1.2.4", "portValue": 8443}}, "principal": "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway"},
	"request": {"http": {
		"id": "13359530607844510314", "method": "GET", "path": "/api/v1/products", "host": "192.168.99.100:31380", "scheme": "http", "protocol": "HTTP/1.1",
		"headers": {
			":authority": "192.168.99.100:31380", ":method": "GET", ":path": "/api/v1/products", ":scheme": "http", "accept": "*/*", "content-length": "0", "user-agent": "curl/7.54.0",
			"x-b3-sampled": "1", "x-b3-spanid": "537f473f27475073", "x-b3-traceid": "537f473f27475073", "x-envoy-internal": "true",
			"x-forwarded-for": "203.0.113.7,10.1.2.3", "x-forwarded-proto": "http", "x-request-id": "92a6c0f7-0250-944b-9cfc-ae10cbcedd8e"
		}
	}},
	"contextExtensions": {}, "metadataContext": {}
}}`

// asRecorded is a recorded check with more headers.
func asRecorded(t testing.TB, text string, headers ...string) *authv3.CheckRequest {
	t.Helper()
	in := &authv3.CheckRequest{}
	if err := protojson.Unmarshal([]byte(text), in); err != nil {
		t.Fatal(err)
	}
	http := in.GetAttributes().GetRequest().GetHttp()
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		name = strings.ToLower(name)
		if had, ok := http.GetHeaders()[name]; ok { // CheckRequestUtils::setHttpRequest: "Merge duplicate headers."
			value = had + "," + value
		}
		http.Headers[name] = value
	}
	return in
}

// raw is a check as Envoy sends it with encode_raw_headers: each header as it came.
func raw(in *authv3.CheckRequest, more ...string) *authv3.CheckRequest {
	http := in.GetAttributes().GetRequest().GetHttp()
	http.HeaderMap = &corev3.HeaderMap{}
	for _, name := range slices.Sorted(maps.Keys(http.GetHeaders())) {
		http.HeaderMap.Headers = append(http.HeaderMap.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(http.GetHeaders()[name])})
	}
	for _, line := range more {
		name, value, _ := strings.Cut(line, ": ")
		http.HeaderMap.Headers = append(http.HeaderMap.Headers, &corev3.HeaderValue{Key: strings.ToLower(name), RawValue: []byte(value)})
	}
	http.Headers = nil
	return in
}

func (e *envoy) check(in *authv3.CheckRequest) *authv3.CheckResponse {
	e.Helper()
	if !e.Unsettled {
		e.Settle()
	}
	out, err := authv3.NewAuthorizationClient(e.conn).Check(ctx, in)
	e.OK(err)
	return out
}

// status is the HTTP status with which Envoy goes on, 200 where it lets the request through: see
// GrpcClientImpl::onSuccess in Envoy's source/extensions/filters/common/ext_authz/ext_authz_grpc_impl.cc.
func (e *envoy) status(out *authv3.CheckResponse) int {
	e.Helper()
	if out.GetStatus() == nil || out.GetErrorResponse() != nil {
		e.Errorf("no status, or one that failure_mode_allow covers: %v", out)
	}
	if codes.Code(out.GetStatus().GetCode()) == codes.OK {
		if out.GetOkResponse() == nil {
			e.Error("an allow without headers")
		}
		return 200
	}
	if out.GetOkResponse() != nil || out.GetDynamicMetadata() != nil {
		e.Errorf("a denial carries claims: %v", out)
	}
	return int(out.GetDeniedResponse().GetStatus().GetCode())
}

// upstream is what the backend gets of a client's headers, by Filter::onComplete in Envoy's
// source/extensions/filters/http/ext_authz/ext_authz.cc: what is set, then what is removed.
func (e *envoy) upstream(in *authv3.CheckRequest, out *authv3.CheckResponse) map[string]string {
	e.Helper()
	got := map[string]string{}
	maps.Copy(got, in.GetAttributes().GetRequest().GetHttp().GetHeaders())
	for _, h := range in.GetAttributes().GetRequest().GetHttp().GetHeaderMap().GetHeaders() {
		got[h.GetKey()] = string(h.GetRawValue())
	}
	for _, h := range out.GetOkResponse().GetHeaders() {
		if h.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD || h.GetAppend() != nil { //nolint:staticcheck // the deprecated field wins where it is set
			e.Errorf("%s does not overwrite", h.GetHeader().GetKey())
		}
		got[strings.ToLower(h.GetHeader().GetKey())] = h.GetHeader().GetValue()
	}
	for _, name := range out.GetOkResponse().GetHeadersToRemove() {
		delete(got, strings.ToLower(name))
	}
	return got
}

func TestChecksOfEnvoyAreDecidedAsRequestsOverHTTP(t *testing.T) {
	t.Parallel()
	e := newEnvoy(world.New(t, world.Settings{Policy: world.Policy{Config: map[string]any{"anonymous": map[string]any{"paths": []any{"/service"}, "preflight": true}}}}))
	alice, bob := world.Bearer(e.Mint("alice", nil)), world.Bearer(e.Mint("bob", nil))
	preflight := func(in *authv3.CheckRequest) *authv3.CheckRequest {
		in.GetAttributes().GetRequest().GetHttp().Method = "OPTIONS"
		delete(in.GetAttributes().GetRequest().GetHttp().GetHeaders(), ":method")
		return in
	}
	for name, c := range map[string]struct {
		in     *authv3.CheckRequest
		status int
		want   map[string]string
	}{
		"allowed":                     {in: asRecorded(t, sandbox, alice), status: 200, want: map[string]string{"x-tenant-id": "acme", "x-user-roles": "editor,viewer", "x-principal-type": "user", "x-user-subject": "alice"}},
		"allowed, by Istio":           {in: asRecorded(t, istio, bob), status: 200, want: map[string]string{"x-tenant-id": "globex", "x-user-roles": "admin,editor,viewer"}},
		"allowed, raw headers":        {in: raw(asRecorded(t, istio, alice)), status: 200, want: map[string]string{"x-tenant-id": "acme"}},
		"another tenant":              {in: asRecorded(t, istio, alice, "X-Active-Tenant-ID: globex"), status: 200, want: map[string]string{"x-tenant-id": "globex", "x-active-tenant-id": "globex"}},
		"not a member":                {in: asRecorded(t, istio, bob, "X-Active-Tenant-ID: acme"), status: 403},
		"no tenant":                   {in: asRecorded(t, istio, world.Bearer(e.Mint("carol", nil))), status: 403},
		"no token":                    {in: asRecorded(t, istio), status: 401},
		"a bad token":                 {in: asRecorded(t, sandbox, world.Bearer("nonsense")), status: 401},
		"anonymous":                   {in: asRecorded(t, sandbox), status: 200, want: map[string]string{"x-principal-type": "anonymous", "x-user-subject": "", "x-tenant-id": ""}},
		"a preflight":                 {in: preflight(asRecorded(t, istio, "Origin: https://app.example.com", "Access-Control-Request-Method: PUT")), status: 200, want: map[string]string{"x-principal-type": "anonymous"}},
		"OPTIONS that is none":        {in: preflight(asRecorded(t, istio)), status: 401},
		"another scheme":              {in: asRecorded(t, istio, "Authorization: Basic Ym9iOnBhc3N3b3Jk"), status: 401},
		"no HTTP at all":              {in: &authv3.CheckRequest{Attributes: &authv3.AttributeContext{}}, status: 401},
		"an empty message":            {in: &authv3.CheckRequest{}, status: 401},
		"names in capitals":           {in: &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Headers: map[string]string{"AUTHORIZATION": alice[len("Authorization: "):]}}}}}, status: 200},
		"a provider that is not hers": {in: asRecorded(t, istio, alice, "X-Upstream-IdP-ID: other"), status: 401},
	} {
		t.Run(name, func(t *testing.T) {
			out := e.check(c.in)
			if got := e.status(out); got != c.status {
				t.Fatalf("%d, want %d: %v", got, c.status, out)
			}
			got := e.upstream(c.in, out)
			for h, want := range c.want {
				if got[h] != want {
					t.Errorf("%s is %q, want %q", h, got[h], want)
				}
			}
		})
	}
	for _, want := range []string{"GET 200", "GET 401", "GET 403", "OPTIONS 200"} {
		if !slices.Contains(e.Observed(), "/system/enrich-token envoy-grpc "+want) {
			t.Errorf("%s is not counted: %v", want, e.Observed())
		}
	}
}

func TestADeniedCheckIsAProblemDocument(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Settings{})
	e := newEnvoy(w)
	for name, c := range map[string]struct {
		lines   []string
		status  int
		code    codes.Code
		headers map[string]string
	}{
		"no token":     {status: 401, code: codes.Unauthenticated, headers: map[string]string{"WWW-Authenticate": "Bearer"}},
		"a bad token":  {lines: []string{world.Bearer("x")}, status: 401, code: codes.Unauthenticated, headers: map[string]string{"WWW-Authenticate": `Bearer error="invalid_token", error_description="the token is expired, revoked, malformed or not for this service"`}},
		"not a member": {lines: []string{world.Bearer(w.Mint("bob", nil)), "X-Active-Tenant-ID: acme"}, status: 403, code: codes.PermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			out := e.check(asRecorded(t, istio, c.lines...))
			if e.status(out) != c.status || codes.Code(out.GetStatus().GetCode()) != c.code {
				t.Errorf("%v", out)
			}
			want := map[string]string{"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
			maps.Copy(want, c.headers)
			got := map[string]string{}
			for _, h := range out.GetDeniedResponse().GetHeaders() {
				got[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			var body map[string]any
			if err := json.Unmarshal([]byte(out.GetDeniedResponse().GetBody()), &body); err != nil || body["status"] != float64(c.status) || !strings.HasPrefix(body["instance"].(string), "/decisions/") {
				t.Errorf("%v %s", err, out.GetDeniedResponse().GetBody())
			}
		})
	}
}

// What the client sends under any name that a backend could read as an identity header does not reach it.
func TestForgedIdentityHeadersAreOverwrittenOrRemoved(t *testing.T) {
	t.Parallel()
	e := newEnvoy(world.New(t, world.Settings{}))
	var forged []string
	for _, h := range policy.DefaultHeaders {
		for _, name := range []string{h, strings.ReplaceAll(h, "-", "_"), strings.ReplaceAll(h, "-", "."), strings.Replace(h, "-", "_", 1), strings.Replace(h, "-", ".", 1), strings.Replace(h, "-", "!", 1)} {
			if h != "X-Active-Tenant-ID" || name != h { // there it is the hint
				forged = append(forged, name+": forged")
			}
		}
	}
	frank := world.Bearer(e.Mint("frank", map[string]any{"groups": nil})) // no role
	for name, in := range map[string]*authv3.CheckRequest{
		"headers":     asRecorded(t, istio, append(forged, frank)...),
		"raw headers": raw(asRecorded(t, istio, append(forged, frank)...)),
	} {
		t.Run(name, func(t *testing.T) {
			out := e.check(in)
			if e.status(out) != 200 {
				t.Fatal(out)
			}
			got := e.upstream(in, out)
			for h, v := range got {
				if v == "forged" {
					t.Errorf("%s reaches the backend", h)
				}
			}
			if v, ok := got["x-user-roles"]; ok {
				t.Errorf("x-user-roles is %q, want none", v)
			}
			for _, h := range out.GetOkResponse().GetHeaders() {
				if !slices.ContainsFunc(policy.DefaultHeaders, func(d string) bool { return strings.EqualFold(d, h.GetHeader().GetKey()) }) || h.GetHeader().GetValue() == "" {
					t.Errorf("sets %v", h)
				}
			}
		})
	}
	// Of a request without any, two aliases for each header are removed all the same: allowed_headers may hide them.
	if n := len(e.check(asRecorded(t, istio, frank)).GetOkResponse().GetHeadersToRemove()); n < 2*len(policy.DefaultHeaders) {
		t.Errorf("%d headers are removed", n)
	}
}

func TestAPlaceholderStandsForAnEmptyHeaderInChecksToo(t *testing.T) {
	t.Parallel()
	e := newEnvoy(world.New(t, world.Settings{EmptyValue: "-"}))
	in := asRecorded(t, istio, world.Bearer(e.Mint("frank", map[string]any{"groups": nil})))
	out := e.check(in)
	if got := e.upstream(in, out); got["x-user-roles"] != "-" {
		t.Errorf("x-user-roles is %q", got["x-user-roles"])
	}
	if roles := out.GetDynamicMetadata().AsMap()["roles"]; !cmp.Equal(roles, []any{}) {
		t.Errorf("roles in the metadata are %q", roles)
	}
}

func TestDynamicMetadataNamesTheDecisionTheTenantAndTheRoles(t *testing.T) {
	t.Parallel()
	e := newEnvoy(world.New(t, world.Settings{}))
	for user, roles := range map[string][]any{"alice": {"editor", "viewer"}, "bob": {"admin", "editor", "viewer"}} {
		in := asRecorded(t, istio, world.Bearer(e.Mint(user, nil)))
		out := e.check(in)
		got := e.upstream(in, out)
		want := map[string]any{"decision_id": got["x-decision-id"], "tenant": got["x-tenant-id"], "roles": roles}
		if diff := cmp.Diff(want, out.GetDynamicMetadata().AsMap()); diff != "" || got["x-decision-id"] == "" {
			t.Errorf("%s: %s", user, diff)
		}
	}
}

// Envoy joins repeated headers by a comma, unless it sends them raw.
func TestARepeatedHeaderOfACheckIsMalformed(t *testing.T) {
	t.Parallel()
	e := newEnvoy(world.New(t, world.Settings{}))
	alice, bob := world.Bearer(e.Mint("alice", nil)), world.Bearer(e.Mint("bob", nil))
	capitals := asRecorded(t, istio, alice)
	capitals.GetAttributes().GetRequest().GetHttp().Headers["Authorization"] = "Bearer x"
	both := asRecorded(t, istio, alice)
	both.GetAttributes().GetRequest().GetHttp().HeaderMap = &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "authorization", Value: bob[len("Authorization: "):]}}}
	for name, in := range map[string]*authv3.CheckRequest{
		"Authorization":                      asRecorded(t, istio, alice, bob),
		"Authorization, the same":            asRecorded(t, istio, alice, alice),
		"Authorization, Basic before Bearer": asRecorded(t, istio, "Authorization: Basic Ym9iOnBhc3N3b3Jk", alice),
		"Authorization, raw":                 raw(asRecorded(t, istio, alice), bob),
		"Authorization, raw, Basic first":    raw(asRecorded(t, istio, "Authorization: Basic Ym9iOnBhc3N3b3Jk"), alice),
		"Authorization in two spellings":     capitals,
		"Authorization in both forms":        both,
		"the hint":                           asRecorded(t, istio, alice, "X-Active-Tenant-ID: acme", "X-Active-Tenant-ID: globex"),
		"the hint, raw":                      raw(asRecorded(t, istio, alice, "X-Active-Tenant-ID: acme"), "X-Active-Tenant-ID: globex"),
	} {
		t.Run(name, func(t *testing.T) {
			if out := e.check(in); e.status(out) != 403 || !strings.Contains(out.GetDeniedResponse().GetBody(), `"code":"malformed_request"`) {
				t.Errorf("%v", out)
			}
		})
	}
}

// failing cannot decide.
type failing func(context.Context) error

func (f failing) Enrich(ctx context.Context, _ enrich.Request) (enrich.Response, error) {
	return enrich.Response{}, f(ctx)
}

// Envoy's failure_mode_allow covers gRPC errors: what cannot be answered is a denial.
func TestACheckThatFailsIsADenialWith503(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		enricher failing
		code     string
		log      string
	}{
		"the facts are stale":   {enricher: func(context.Context) error { return &iam.Error{Kind: iam.Unavailable, Code: "facts_stale"} }, code: "facts_stale", log: "request failed closed"},
		"broken":                {enricher: func(context.Context) error { return errors.New("secret cause") }, log: "request failed closed"},
		"a panic":               {enricher: func(context.Context) error { panic("secret cause") }, log: "check panicked"},
		"it takes for too long": {enricher: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, log: "slow enrichment"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			logs := &logbuffer.Buffer{}
			var counted atomic.Int64
			service := gateway.New(gateway.Config{
				Enricher: c.enricher, Headers: []string{"X-User-Id"}, Log: slog.New(slog.NewJSONHandler(logs, nil)),
				Observe: func(_ context.Context, o problem.Observation) {
					if o.Gateway == "envoy-grpc" && o.Status == 503 {
						counted.Add(1)
					}
				},
			})
			e := &envoy{World: &world.World{TB: t, Unsettled: true}}
			e.conn = connect(t, service.NewExtAuthz(nil), nil)
			out := e.check(asRecorded(t, istio, world.Bearer("x")))
			if e.status(out) != 503 || codes.Code(out.GetStatus().GetCode()) != codes.Unavailable || strings.Contains(out.String(), "secret cause") {
				t.Errorf("%v", out)
			}
			retry := slices.ContainsFunc(out.GetDeniedResponse().GetHeaders(), func(h *corev3.HeaderValueOption) bool {
				return h.GetHeader().GetKey() == "Retry-After" && h.GetHeader().GetValue() == "1"
			})
			if !retry || !strings.Contains(out.GetDeniedResponse().GetBody(), `"instance":"/requests/92a6c0f7-0250-944b-9cfc-ae10cbcedd8e"`) || c.code != "" && !strings.Contains(out.GetDeniedResponse().GetBody(), `"code":"`+c.code+`"`) {
				t.Errorf("%v", out)
			}
			await.True(t, "it is logged and counted", func() bool { return strings.Contains(logs.String(), `"msg":"`+c.log+`"`) && counted.Load() == 1 })
		})
	}
}

// allowing allows each request with these values.
type allowing []string

func (a allowing) Enrich(context.Context, enrich.Request) (enrich.Response, error) {
	return enrich.Response{Allowed: true, Values: a, DecisionID: "d", Tenant: "acme"}, nil
}

// The response is encoded by hand: it must be what Envoy's own messages are, whatever the lengths.
func TestAnAllowIsTheMessageThatEnvoysOwnTypesEncode(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 127, 128, 129, 250, 16_383, 16_384, 70_000} {
		values := allowing{strings.Repeat("a", n), "", strings.Repeat("r", n) + ",s", strings.Repeat("b", n/2)}
		service := gateway.New(gateway.Config{
			Enricher: values, Headers: []string{"X-User-Id", "Remote-User", "X-User-Roles", "Tenant"}, Log: slog.New(slog.DiscardHandler),
			Observe: func(context.Context, problem.Observation) {},
		})
		out, err := authv3.NewAuthorizationClient(connect(t, service.NewExtAuthz(nil), nil)).Check(ctx, asRecorded(t, istio, "X-User_ID: forged"))
		if err != nil {
			t.Fatal(err)
		}
		want := &authv3.CheckResponse{Status: &rpc.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}}}
		for i, name := range []string{"x-user-id", "remote-user", "x-user-roles", "tenant"} {
			if values[i] == "" {
				want.GetOkResponse().HeadersToRemove = append(want.GetOkResponse().HeadersToRemove, name)
				continue
			}
			want.GetOkResponse().Headers = append(want.GetOkResponse().Headers, &corev3.HeaderValueOption{
				Header: &corev3.HeaderValue{Key: name, Value: values[i]}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
			})
		}
		want.GetOkResponse().HeadersToRemove = append(want.GetOkResponse().HeadersToRemove, "x_user_id", "x.user.id", "remote_user", "remote.user", "x_user_roles", "x.user.roles", "x-user_id")
		roles := []any{strings.Repeat("r", n), "s"}
		if want.DynamicMetadata, err = structpb.NewStruct(map[string]any{"decision_id": "d", "tenant": "acme", "roles": roles}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, out, protocmp.Transform()); diff != "" {
			t.Errorf("of %d bytes: %s", n, diff)
		}
	}
}

// A gRPC error would be one that failure_mode_allow covers.
func TestAMessageThatIsNoCheckIsADenial(t *testing.T) {
	t.Parallel()
	e := newEnvoy(world.New(t, world.Settings{}))
	out := &authv3.CheckResponse{}
	e.OK(e.conn.Invoke(ctx, "/envoy.service.auth.v3.Authorization/Check", &anypb.Any{}, out, grpc.ForceCodecV2(rawCodec{})))
	if e.status(out) != 403 || !strings.Contains(out.GetDeniedResponse().GetBody(), `"code":"malformed_request"`) {
		t.Errorf("%v", out)
	}
}

// rawCodec sends bytes that are no message.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer("\xff\xff\xff")}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	return proto.Unmarshal(data.Materialize(), v.(proto.Message))
}
