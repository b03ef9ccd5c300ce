package iam_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"iam-service/internal/iam"
)

// URIs that a browser may be redirected to, or the provider may fetch.
func TestURIsOfAClient(t *testing.T) {
	t.Parallel()
	long := "https://app.example.com/" + strings.Repeat("a", iam.MaxURIBytes)
	for uri, want := range map[string]string{ // the clients that may have it: "all", "native", "none"
		"https://app.example.com/callback":      "all",
		"https://app.example.com":               "all",
		"https://app.example.com:8443/cb?x=1":   "all",
		"https://93.184.215.14/cb":              "all",
		"https://[2606:2800:21f:cb07::1]/cb":    "all",
		"https://xn--bcher-kva.example/cb":      "all",
		"https://app.example.com./cb":           "all",
		"http://127.0.0.1/cb":                   "native",
		"http://127.0.0.1:52345/cb":             "native",
		"http://[::1]:8000/cb":                  "native",
		"com.example.app:/callback":             "native",
		"com.example.app:callback":              "none",
		"com.example.app:":                      "none",
		"com.example.app:///callback":           "none",
		"com.example.app://host/callback":       "none",
		"myapp:/callback":                       "none",
		"javascript:alert(1)":                   "none",
		"java.script:alert(1)":                  "none",
		"data:text/html,x":                      "none",
		"http://localhost/cb":                   "none",
		"http://app.example.com/cb":             "none",
		"https://localhost/cb":                  "none",
		"https://127.0.0.1/cb":                  "none",
		"https://[::1]/cb":                      "none",
		"https://10.1.2.3/cb":                   "none",
		"https://192.168.0.1/cb":                "none",
		"https://172.16.0.1/cb":                 "none",
		"https://169.254.169.254/latest":        "none",
		"https://[fe80::1]/cb":                  "none",
		"https://[fe80::1%25eth0]/cb":           "none",
		"https://[fd00::1]/cb":                  "none",
		"https://[::ffff:10.0.0.1]/cb":          "none",
		"https://[64:ff9b::a00:1]/cb":           "none",
		"https://[2002:a00:1::]/cb":             "none",
		"https://100.64.0.1/cb":                 "none",
		"https://0.0.0.0/cb":                    "none",
		"https://255.255.255.255/cb":            "none",
		"https://224.0.0.1/cb":                  "none",
		"https://2130706433/cb":                 "none",
		"https://127.1/cb":                      "none",
		"https://0x7f.0.0.1/cb":                 "none",
		"https://0177.0.0.1/cb":                 "none",
		"https://app.127.0.0.1.5/cb":            "none",
		"https://metadata/cb":                   "none",
		"https://metadata.google.internal/cb":   "none",
		"https://printer.local/cb":              "none",
		"https://router.home.arpa/cb":           "none",
		"https://x.localhost/cb":                "none",
		"https://LOCALHOST/cb":                  "none",
		"https://app.example.com/cb#x":          "none",
		"https://app.example.com/cb#":           "none",
		"https://*.example.com/cb":              "none",
		"https://app.example.com/*":             "none",
		"https://user@app.example.com/cb":       "none",
		"https://app.example.com@evil.com/cb":   "none",
		"https://app.example.com\\@evil.com/cb": "none",
		"https://app.example.com/../cb":         "none",
		"https://app.example.com/%2e%2e/cb":     "none",
		"https://app.example.com:0/cb":          "none",
		"https://app.example.com:99999/cb":      "none",
		"https://app.example.com:/cb":           "none",
		"https://app..example.com/cb":           "none",
		"https://bücher.example/cb":             "none",
		"https://app.example.com/c b":           "none",
		"https://app.example.com/\r\nX: y":      "none",
		"https:///cb":                           "none",
		"https://..":                            "none",
		"https://a../cb":                        "none",
		"https://[::10.0.0.1]/cb":               "none",
		"https://[::7f00:1]/cb":                 "none",
		"https://[::ffff:0:10.0.0.1]/cb":        "none",
		"https://[fec0::1]/cb":                  "none",
		"https://[3fff::1]/cb":                  "none",
		"https://192.88.99.1/cb":                "none",
		"https://168.63.129.16/cb":              "none",
		"https://kubernetes.default.svc/cb":     "none",
		"https://./cb":                          "none",
		"https:app.example.com/cb":              "none",
		"//app.example.com/cb":                  "none",
		"/cb":                                   "none",
		"":                                      "none",
		long:                                    "none",
	} {
		web := iam.Registration{ClientName: "x", RedirectURIs: []string{uri}}.WithDefaults()
		native := web
		native.TokenEndpointAuthMethod = "none"
		got := "none"
		switch web, native := web.Check(), native.Check(); {
		case len(web) == 0 && len(native) == 0:
			got = "all"
		case len(native) == 0:
			got = "native"
		case len(web) == 0:
			got = "web alone"
		}
		if got != want {
			t.Errorf("%q is for %s, want %s: %v", uri, got, want, web.Check())
		}
		keys := iam.Registration{ClientName: "x", TokenEndpointAuthMethod: "private_key_jwt", GrantTypes: []string{"client_credentials"}, JWKSURI: uri}
		if fetched := len(keys.Check()) == 0; fetched != (want == "all") {
			t.Errorf("jwks_uri %q: taken is %t: %v", uri, fetched, keys.Check())
		}
	}
}

const (
	publicKey  = `{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"1"}`
	privateKey = `{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}`
)

// Which fields go together.
func TestRegistrationsOfAClient(t *testing.T) {
	t.Parallel()
	site := func(change func(*iam.Registration)) iam.Registration {
		r := iam.Registration{ClientName: "site", RedirectURIs: []string{"https://app.example.com/"}}
		change(&r)
		return r
	}
	machine := func(change func(*iam.Registration)) iam.Registration {
		r := iam.Registration{ClientName: "machine", GrantTypes: []string{"client_credentials"}}
		change(&r)
		return r
	}
	keys := func(set string) func(*iam.Registration) {
		return func(r *iam.Registration) {
			r.TokenEndpointAuthMethod, r.JWKS = "private_key_jwt", json.RawMessage(set)
		}
	}
	for i, c := range []struct {
		r    iam.Registration
		want string // pointers of the invalid fields
	}{
		{site(func(*iam.Registration) {}), ""},
		{site(func(r *iam.Registration) { r.TokenEndpointAuthMethod = "none" }), ""},
		{site(func(r *iam.Registration) {
			r.GrantTypes = []string{"authorization_code", "refresh_token", "client_credentials"}
		}), ""},
		{machine(func(*iam.Registration) {}), ""},
		{machine(func(r *iam.Registration) { r.TokenEndpointAuthMethod = "client_secret_post" }), ""},
		{machine(keys(`{"keys":[` + publicKey + `]}`)), ""},

		{site(func(r *iam.Registration) { r.ClientName = "" }), "/client_name"},
		{site(func(r *iam.Registration) { r.ClientName = "a\x00b" }), "/client_name"},
		{site(func(r *iam.Registration) { r.RedirectURIs = nil }), "/redirect_uris"},
		{site(func(r *iam.Registration) { r.RedirectURIs = append(r.RedirectURIs, r.RedirectURIs[0]) }), "/redirect_uris/1"},
		{site(func(r *iam.Registration) { r.GrantTypes = []string{"implicit"} }), "/grant_types/0 /redirect_uris"},
		{site(func(r *iam.Registration) { r.GrantTypes = []string{"authorization_code", "password"} }), "/grant_types/1"},
		{site(func(r *iam.Registration) { r.ResponseTypes = []string{"token"} }), "/response_types/0"},
		{site(func(r *iam.Registration) { r.ResponseTypes = []string{"code", "code id_token"} }), "/response_types /response_types/1"},
		{site(func(r *iam.Registration) {
			r.TokenEndpointAuthMethod, r.GrantTypes = "none", []string{"authorization_code", "client_credentials"}
		}), "/grant_types"},
		{site(func(r *iam.Registration) { r.PostLogoutRedirectURIs = []string{"http://x.example.com"} }), "/post_logout_redirect_uris/0"},
		{machine(func(r *iam.Registration) { r.TokenEndpointAuthMethod = "none" }), "/grant_types /grant_types"},
		{machine(func(r *iam.Registration) { r.TokenEndpointAuthMethod = "tls_client_auth" }), "/token_endpoint_auth_method"},
		{machine(func(r *iam.Registration) { r.GrantTypes = append(r.GrantTypes, "refresh_token") }), "/grant_types"},
		{machine(func(r *iam.Registration) { r.RedirectURIs = []string{"https://app.example.com/"} }), "/redirect_uris"},
		{machine(func(r *iam.Registration) { r.ResponseTypes = []string{"code"} }), "/response_types"},
		{machine(func(r *iam.Registration) { r.TokenEndpointAuthMethod = "private_key_jwt" }), "/jwks"},
		{machine(func(r *iam.Registration) { r.JWKSURI = "https://app.example.com/keys" }), "/jwks"},
		{machine(func(r *iam.Registration) {
			keys(`{"keys":[` + publicKey + `]}`)(r)
			r.JWKSURI = "https://app.example.com/keys"
		}), "/jwks"},
		{machine(keys(`{"keys":[` + privateKey + `]}`)), "/jwks"},
		{machine(keys(`{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`)), "/jwks"},
		{machine(keys(`{"keys":[]}`)), "/jwks"},
		{machine(keys(`{"keys":[` + strings.Replace(publicKey, `"kid":"1"`, `"D":"x"`, 1) + `]}`)), "/jwks"},
		{machine(keys(`{"keys":[` + strings.Replace(publicKey, `"kid":"1"`, `"p":"x","q":"y"`, 1) + `]}`)), "/jwks"},
		{machine(keys(`{"keys":[` + strings.Replace(publicKey, `"kid":"1"`, `"x5u":"https://169.254.169.254/"`, 1) + `]}`)), "/jwks"},
		{machine(keys(`{"keys":[` + strings.Replace(publicKey, `"kid":"1"`, `"alg":"HS256"`, 1) + `]}`)), "/jwks"},
		{machine(keys(`{"keys":[` + strings.Replace(publicKey, `"kid":"1"`, `"kid":"a\u0000b"`, 1) + `]}`)), "/jwks"},
		{machine(keys(`[]`)), "/jwks"},
		{machine(keys(`{"keys":[` + strings.Replace(publicKey, `"kid":"1"`, `"use":"enc"`, 1) + `]}`)), "/jwks"},
		{machine(keys(`{"keys":[{"kty":"RSA","n":"` + strings.Repeat("A", 64) + `","e":"AQAB"}]}`)), "/jwks"},
		{machine(keys(`{"keys":[` + strings.TrimSuffix(strings.Repeat(publicKey+",", iam.MaxKeysPerClient+1), ",") + `]}`)), "/jwks"},
		{machine(keys(`"` + strings.Repeat("x", iam.MaxJWKSBytes) + `"`)), "/jwks"},
	} {
		var pointers []string
		for _, f := range c.r.WithDefaults().Check() {
			pointers = append(pointers, f.Pointer)
		}
		if got := strings.Join(pointers, " "); got != c.want {
			t.Errorf("%d: invalid are %q, want %q: %v", i, got, c.want, c.r.WithDefaults().Check())
		}
	}
}

// Differs compares what matters, and nothing else.
func TestWhatDiffersIsNamed(t *testing.T) {
	t.Parallel()
	one := iam.Registration{
		ClientID: "a", ClientName: "n", RedirectURIs: []string{"https://a/", "https://b/"}, GrantTypes: []string{"authorization_code", "refresh_token"},
		ResponseTypes: []string{"code"}, TokenEndpointAuthMethod: "private_key_jwt", Scope: "a b", JWKS: json.RawMessage(`{"keys":[` + publicKey + `]}`),
	}
	same := one
	same.RedirectURIs, same.Scope, same.Metadata = []string{"https://b/", "https://a/"}, "b  a", map[string]string{"iam_version": "2"}
	same.JWKS = json.RawMessage(`{ "keys": [ {"kid":"1", ` + strings.TrimPrefix(strings.Replace(publicKey, `,"kid":"1"`, "", 1), "{") + `]}`)
	if got := one.Differs(same); len(got) > 0 {
		t.Errorf("differ in %q", got)
	}
	other := iam.Registration{Scope: "a", JWKSURI: "https://keys/"}
	want := []string{"client_name", "redirect_uris", "grant_types", "response_types", "token_endpoint_auth_method", "scope", "jwks_uri", "jwks"}
	if got := one.Differs(other); !slices.Equal(got, want) {
		t.Errorf("differ in %q, want %q", got, want)
	}
	tidy := iam.Registration{JWKS: json.RawMessage(`{"d":"secret","keys":[` + strings.Replace(publicKey, `"kid":"1"`, `"ext":true`, 1) + `]}`)}.Tidy()
	if strings.Contains(string(tidy.JWKS), "secret") || strings.Contains(string(tidy.JWKS), "ext") {
		t.Errorf("stored is %s", tidy.JWKS)
	}
	for _, none := range []string{``, `null`, `{}`, `{"keys":[]}`} {
		if got := (iam.Registration{JWKS: json.RawMessage(none)}).Differs(iam.Registration{}); len(got) > 0 {
			t.Errorf("%q differs from none", none)
		}
	}
}

func TestASecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	if s := fmt.Sprint(iam.Secret("hush"), []iam.Secret{"hush"}) + fmt.Sprintf("%v %+v %s", iam.Secret("hush"), struct{ S iam.Secret }{"hush"}, iam.Secret("hush")); strings.Contains(s, "hush") {
		t.Error(s)
	}
}

// Any URI is validated, and an accepted one leads to a public host over TLS, to
// this machine, or to an application.
func FuzzURIsOfAClient(f *testing.F) {
	f.Add("https://app.example.com/cb")
	f.Add("http://127.0.0.1:1/")
	f.Add("com.example:/x")
	f.Fuzz(func(t *testing.T, uri string) {
		r := iam.Registration{ClientName: "x", TokenEndpointAuthMethod: "none", RedirectURIs: []string{uri}}.WithDefaults()
		if len(r.Check()) > 0 {
			return
		}
		if strings.ContainsAny(uri, "*#\\ \r\n\t\"<>") || !strings.HasPrefix(uri, "https://") && !strings.HasPrefix(uri, "http://127.") && !strings.HasPrefix(uri, "http://[") && !strings.Contains(uri, ":/") {
			t.Errorf("%q is accepted", uri)
		}
	})
}
