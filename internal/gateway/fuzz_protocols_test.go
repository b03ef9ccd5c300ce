package gateway_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"iam-service/internal/gateway"
)

// Whatever bytes come as a check, the response is no gRPC error, an allow is for the bearer of the one valid token,
// and what it sets are identity headers.
func FuzzCheck(f *testing.F) {
	for _, in := range []*authv3.CheckRequest{
		asRecorded(f, sandbox), asRecorded(f, istio, "Authorization: Bearer "+valid), raw(asRecorded(f, istio, "Authorization: Bearer "+valid, "X_User_ID: forged", "X-Active-Tenant-ID: acme")),
		asRecorded(f, istio, "Authorization: Bearer "+valid, "Authorization: Bearer x"), {},
	} {
		b, err := proto.Marshal(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("\xff\xff\xff"))
	s := newFuzzed(f)
	conn := connect(f, s.service.NewExtAuthz(nil), nil)
	f.Fuzz(func(t *testing.T, message []byte) {
		out := &authv3.CheckResponse{}
		if err := conn.Invoke(ctx, "/envoy.service.auth.v3.Authorization/Check", message, out, grpc.ForceCodecV2(bytesCodec{})); err != nil {
			t.Fatal(err)
		}
		if out.GetErrorResponse() != nil || out.GetStatus() == nil {
			t.Fatalf("failure_mode_allow covers %v", out)
		}
		if out.GetStatus().GetCode() == 0 {
			t.Fatalf("allowed without a valid token: %v", out)
		}
		s.checkDenied(t, out)
	})
}

// FuzzCheckHeaders sends checks whose fields vary, with the one valid token.
func FuzzCheckHeaders(f *testing.F) {
	f.Add("GET", "/a?b", "a.example", "https", "Bearer "+valid, "x-active-tenant-id", "acme", "10.0.0.1", false)
	f.Add("PUT", "//", "a b", "", "bearer "+valid, "x_user_id", "forged", "", true)
	f.Add("", "", "", "x", "Basic x,Bearer "+valid, "x-user!roles", "admin", "x", true)
	s := newFuzzed(f)
	conn := connect(f, s.service.NewExtAuthz(nil), nil)
	f.Fuzz(func(t *testing.T, method, path, host, scheme, authorization, name, value, source string, encodeRaw bool) {
		in := asRecorded(t, istio)
		from := in.GetAttributes().GetRequest().GetHttp()
		for _, pseudo := range []string{":method", ":path", ":authority"} {
			delete(from.GetHeaders(), pseudo)
		}
		from.Method, from.Path, from.Host, from.Scheme = method, path, host, scheme
		authorization = strings.ReplaceAll(authorization, valid, s.token)
		from.Headers["authorization"], from.Headers[name] = authorization, strings.ReplaceAll(value, valid, s.token)
		in.GetAttributes().GetSource().GetAddress().GetSocketAddress().Address = source
		if encodeRaw {
			in = raw(in)
		}
		message, err := proto.Marshal(in)
		if err != nil {
			return // not UTF-8: FuzzCheck sends such
		}
		out := &authv3.CheckResponse{}
		if err := conn.Invoke(ctx, "/envoy.service.auth.v3.Authorization/Check", message, out, grpc.ForceCodecV2(bytesCodec{})); err != nil {
			t.Fatal(err)
		}
		if out.GetStatus().GetCode() != 0 {
			s.checkDenied(t, out)
			return
		}
		if !strings.HasSuffix(strings.TrimRight(authorization, " "), s.token) && !strings.HasSuffix(strings.TrimRight(value, " "), valid) {
			t.Fatalf("allowed with %q", authorization)
		}
		subject := ""
		for _, h := range out.GetOkResponse().GetHeaders() {
			if !slices.Contains(s.headers, http.CanonicalHeaderKey(h.GetHeader().GetKey())) {
				t.Errorf("sets %v", h)
			}
			if h.GetHeader().GetKey() == "x-user-subject" {
				subject = h.GetHeader().GetValue()
			}
		}
		if subject != "alice" {
			t.Errorf("allowed for %q", subject)
		}
	})
}

func (s *fuzzed) checkDenied(t *testing.T, out *authv3.CheckResponse) {
	t.Helper()
	if status := out.GetDeniedResponse().GetStatus().GetCode(); status != 401 && status != 403 {
		t.Errorf("%v", out)
	}
	if out.GetOkResponse() != nil || out.GetDynamicMetadata() != nil {
		t.Errorf("a denial with claims: %v", out)
	}
	for _, h := range out.GetDeniedResponse().GetHeaders() {
		if slices.Contains(s.headers, http.CanonicalHeaderKey(h.GetHeader().GetKey())) {
			t.Errorf("a denial sets %v", h)
		}
	}
}

// bytesCodec sends bytes as they are, and decodes a response.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	return proto.Unmarshal(data.Materialize(), v.(proto.Message))
}

// Whatever body comes, both plugins deny it unless it has the one valid token.
func FuzzDataAPI(f *testing.F) {
	for _, body := range []string{
		kongs(valid, ""), apisixs(valid, ""), kongs("", `, "authorization": ["Bearer `+valid+`"]`), apisixs(valid, `, "x-active-tenant-id": "acme"`), "{}", `{"input": null}`, `{"input": {"request": {"http": []}}}`,
	} {
		f.Add([]byte(body))
	}
	s := newFuzzed(f)
	handler := s.service.Handler()
	f.Fuzz(func(t *testing.T, body []byte) {
		body = bytes.ReplaceAll(body, []byte(valid), []byte(s.token))
		req := httptest.NewRequest(http.MethodPost, gateway.DataPath, bytes.NewReader(body))
		req.RemoteAddr = "127.0.0.1:1"
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, req)
		var sent struct {
			Result struct {
				Allow   *bool
				Status  int
				Headers map[string]string
			}
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &sent); err != nil || rec.Code != 200 || sent.Result.Allow == nil {
			t.Fatalf("%d %s: %v", rec.Code, rec.Body, err)
		}
		if !*sent.Result.Allow {
			if sent.Result.Status != 401 && sent.Result.Status != 403 {
				t.Errorf("%s", rec.Body)
			}
			return
		}
		if !bytes.Contains(body, []byte(s.token)) || sent.Result.Headers["X-User-Subject"] != "alice" {
			t.Fatalf("allowed: %s", rec.Body)
		}
		for name := range sent.Result.Headers {
			if !slices.Contains(s.headers, http.CanonicalHeaderKey(name)) {
				t.Errorf("sets %s", name)
			}
		}
	})
}
