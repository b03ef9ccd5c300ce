package policy

import (
	"strings"
	"testing"
)

func TestAnOperatorMayNameAnyHeaderThatCanCarryAClaim(t *testing.T) {
	t.Parallel()
	if err := CheckHeaders("Remote-User", "X-Region", "X-Auth-Request-Email", "X-User-ID", "X-Citadel-Assertion", "Tenant", "Impersonate-User", "X-Scopes"); err != nil {
		t.Error(err)
	}
	if err := CheckHeaders(DefaultHeaders...); err != nil {
		t.Error(err)
	}
	for name, why := range map[string]string{
		"host": "HTTP", "Content-Type": "HTTP", "content-length": "HTTP", "Retry-After": "HTTP", "Cache-Control": "HTTP", "Vary": "HTTP",
		"Access-Control-Allow-Origin": "HTTP", "Sec-Fetch-Mode": "HTTP", "Location": "HTTP", "Alt-Svc": "HTTP", "Refresh": "HTTP",
		"Connection": "one connection", "Keep-Alive": "one connection", "TE": "one connection", "Trailer": "one connection", "Transfer-Encoding": "one connection",
		"Upgrade": "one connection", "Proxy-Authorization": "one connection", "Proxy-Connection": "one connection",
		"Authorization": "credentials", "cookie": "credentials", "Set-Cookie": "credentials", "WWW-Authenticate": "credentials", "X-Gateway-Secret": "credentials", "DPoP": "credentials",
		"Forwarded": "request", "X-Forwarded-User": "request", "x-forwarded-for": "request", "X-Original-URL": "request", "X-Upstream-IdP-ID": "request",
		"X-Real-IP": "request", "X-HTTP-Method-Override": "request", "X-Rewrite-URL": "request",
		"X-Request-ID": "tracing", "traceparent": "tracing", "X-Accel-Redirect": "a gateway", "x-envoy-auth-headers-to-remove": "a gateway", "grpc-status": "a gateway",
		"X-Problem-Code": "own responses",
		"X_User_ID":      "letters, digits", "X.User": "letters, digits", "X User": "letters, digits", "": "letters, digits", "-X": "letters, digits", "X-Ü": "letters, digits",
		"X--User": "letters, digits", "X-User-": "letters, digits", "X-User\r\nSet-Cookie": "letters, digits", strings.Repeat("X", 65): "letters, digits", "9X": "letters, digits",
	} {
		if err := CheckHeaders(name); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v", name, err)
		}
	}
	err := CheckHeaders("X-A", "Cookie", "x-a", "X_B", "X_A")
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`"Cookie"`, `"x-a" is listed twice`, `"X_B"`, `"X_A"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}
