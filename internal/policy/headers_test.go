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
		"Authorization": "credentials", "cookie": "credentials", "Set-Cookie": "credentials", "host": "HTTP", "Forwarded": "request", "X-Forwarded-User": "request",
		"x-forwarded-for": "request", "Content-Type": "HTTP", "content-length": "HTTP", "Connection": "HTTP", "Keep-Alive": "HTTP", "TE": "HTTP", "Trailer": "HTTP",
		"Transfer-Encoding": "HTTP", "Upgrade": "HTTP", "Proxy-Authorization": "HTTP", "WWW-Authenticate": "HTTP", "Retry-After": "HTTP", "Cache-Control": "HTTP",
		"X-Original-URL": "request", "X-Upstream-IdP-ID": "request", "X-Request-ID": "request", "Access-Control-Allow-Origin": "HTTP", "Sec-Fetch-Mode": "HTTP",
		"X_User_ID": "letters, digits", "X.User": "letters, digits", "X User": "letters, digits", "": "letters, digits", "-X": "letters, digits", "X-Ü": "letters, digits",
		"X-User\r\nSet-Cookie": "letters, digits", strings.Repeat("X", 65): "letters, digits", "9X": "letters, digits", "X-Gateway-Secret": "credentials",
	} {
		if err := CheckHeaders(name); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v", name, err)
		}
	}
	err := CheckHeaders("X-A", "Cookie", "x-a", "X_B")
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`"Cookie"`, `"x-a" is listed twice`, `"X_B"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}
