package probe_test

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/gateway/probe"
)

var identity = []string{"X-User-ID", "X-Tenant-ID", "X-Active-Tenant-ID", "X-User-Roles", "X-Principal-Type", "X-Decision-ID"}

const (
	home  = "11111111-1111-4111-8111-111111111111" // the tenant without a hint
	other = "22222222-2222-4222-8222-222222222222"
)

// answers is what iam-service would answer: status 200 with the headers, or a denial.
func answers(token, tenant string) (map[string]string, int) {
	user, roles := "alice", "admin"
	switch token {
	case "Bearer token-of-alice":
	case "Bearer token-of-bob":
		user, roles = "bob", ""
	default:
		return nil, http.StatusUnauthorized
	}
	if tenant == "" {
		tenant = home
	}
	if tenant != home && tenant != other {
		return nil, http.StatusForbidden
	}
	return map[string]string{
		"X-User-ID": user, "X-Tenant-ID": tenant, "X-Active-Tenant-ID": tenant, "X-User-Roles": roles, "X-Principal-Type": "user",
		"X-Decision-ID": strconv.FormatInt(decision.Add(1), 10),
	}, http.StatusOK
}

var decision atomic.Int64

// discard is where servers log: attacks are errors.
var discard = log.New(io.Discard, "", 0)

// without names the defences that a gateway lacks.
type without map[string]bool

// guarded is a gateway with every defence but those of no.
func guarded(backend string, no without) http.Handler {
	to, err := url.Parse(backend)
	if err != nil {
		panic(err)
	}
	set := func(h http.Header, values map[string]string) {
		for name := range h {
			if slices.ContainsFunc(identity, func(i string) bool {
				return folded(i) == folded(name) && (!strings.EqualFold(i, name) || !no["deletion"])
			}) && !(no["aliases"] && !slices.Contains(canonical(identity), name)) {
				h.Del(name)
				delete(h, name) // a name that is not canonical
			}
		}
		for name, v := range values {
			switch {
			case no["deletion"] && v == "":
			case no["single lines"]:
				h.Add(name, v)
				h.Add(name, v)
			default:
				h.Set(name, v)
			}
		}
	}
	type key struct{}
	p := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
		r.Out.URL.Path, r.Out.URL.RawPath = r.In.URL.Path, r.In.URL.RawPath
		r.Out.Trailer = nil
		values, _ := r.In.Context().Value(key{}).(map[string]string)
		if !no["open path"] || r.In.URL.Path != "/open" {
			set(r.Out.Header, values)
		}
		if no["one decoding"] {
			r.Out.URL.Path, r.Out.URL.RawPath = strings.ReplaceAll(r.Out.URL.Path, "%2e", "."), ""
		}
		for _, h := range []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url"} {
			r.Out.Header.Del(h)
		}
	}, ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }}
	if no["removal after hop-by-hop"] {
		p.Rewrite = nil
		p.Director = func(r *http.Request) { //nolint:staticcheck // SA1019: that is the fault
			r.URL.Scheme, r.URL.Host = to.Scheme, to.Host
			values, _ := r.Context().Value(key{}).(map[string]string)
			set(r.Header, values)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tokens, hints := r.Header["Authorization"], r.Header["X-Active-Tenant-Id"]
		deny := func(status int) {
			if no["quiet denials"] {
				w.Header().Set("X-User-ID", "alice")
			}
			if no["own status"] && r.Method == http.MethodPut {
				status = http.StatusInternalServerError
			}
			w.WriteHeader(status)
		}
		if r.Method == http.MethodConnect || len(tokens) > 1 && !no["single token"] || len(hints) > 1 {
			deny(http.StatusForbidden)
			return
		}
		if strings.Contains(strings.ToLower(r.Header.Get("Upgrade")), "h2c") && !no["refusal of h2c"] {
			deny(http.StatusForbidden)
			return
		}
		if p := r.URL.EscapedPath(); !no["plain paths"] && !no["one decoding"] && (path.Clean(p) != p || strings.ContainsAny(p, `%;#\`) || !strings.HasPrefix(r.RequestURI, "/")) || r.RequestURI == "*" {
			deny(http.StatusBadRequest)
			return
		}
		hint := ""
		if len(hints) > 0 && !no["hint"] {
			hint = hints[0]
		}
		token := ""
		if len(tokens) > 0 {
			token = tokens[0]
		}
		values, status := answers(token, hint)
		if r.URL.Path == "/open" && token == "" {
			values, status = map[string]string{"X-Principal-Type": "anonymous"}, http.StatusOK
			for _, h := range identity {
				values[h] += ""
			}
		}
		if no["own uri"] && r.Header.Get("X-Forwarded-Uri") == "/open" || no["all methods"] && r.Method == http.MethodHead {
			values, status = map[string]string{}, http.StatusOK
		}
		if status != http.StatusOK {
			deny(status)
			return
		}
		if no["single token"] && len(tokens) > 1 {
			values, _ = answers(tokens[1], hint)
		}
		if no["trailers apart"] {
			_, _ = io.Copy(io.Discard, r.Body)
			for n, v := range r.Trailer {
				values[n] = strings.Join(v, ",")
			}
		}
		p.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, values)))
	})
}

func canonical(names []string) []string {
	var c []string
	for _, n := range names {
		c = append(c, http.CanonicalHeaderKey(n))
	}
	return c
}

func folded(name string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(name))
}

// serving runs a gateway over HTTP/1.1 and HTTP/2 in clear text.
func serving(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = discard
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// echo runs an echo.
func echo(t *testing.T) (e *probe.Echo, base string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e = &probe.Echo{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e, "http://" + l.Addr().String()
}

func config(gateway, echo string) probe.Config {
	return probe.Config{
		Gateway: gateway + "/orders/7", Headers: identity, Token: "token-of-alice", TokenWithoutRoles: "token-of-bob", Tenant: other, OpenPath: "/open", Echo: echo,
		Timeout: 10 * time.Second, Limit: 5 * time.Minute, Concurrency: 16,
	}
}
