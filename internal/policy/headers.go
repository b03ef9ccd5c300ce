package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// headerShape is what a header may be called: no underscore, which gateways drop and backends fold to a hyphen.
var headerShape = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*$`)

// reserved are headers that no claim may be in, by reason. A final * stands for any rest. From the IANA registry of HTTP
// fields and from what gateways and frameworks interpret.
var reserved = []struct {
	why   string
	names []string
}{
	{"HTTP itself, so what reads the message would act on it", []string{
		"Accept", "Accept-*", "Access-Control-*", "Age", "Allow", "Alt-*", "Cache-Control", "Clear-Site-Data", "Content-*", "Date", "Early-Data", "Etag",
		"Expect", "Expires", "From", "Host", "If-*", "Last-Modified", "Link", "Location", "Max-Forwards", "Origin", "Pragma", "Priority", "Range", "Referer",
		"Refresh", "Retry-After", "Sec-*", "Server", "Strict-Transport-Security", "User-Agent", "Vary", "Via",
	}},
	{"one connection, so proxies remove it on the way", []string{
		"Connection", "Http2-Settings", "Keep-Alive", "Proxy-*", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	}},
	{"credentials", []string{
		"Authentication-Info", "Authorization", "Cookie", "Cookie2", "Dpop", "Dpop-*", "Set-Cookie", "Set-Cookie2", "Signature", "Signature-Input", "Www-Authenticate",
		"X-Gateway-Secret",
	}},
	{"the client's request as a gateway or a backend sees it", []string{
		"Forwarded", "Client-Ip", "True-Client-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "X-Forwarded", "X-Forwarded-*", "X-Host", "X-Http-Method", "X-Http-Method-Override",
		"X-Method-Override", "X-Original-*", "X-Real-Ip", "X-Rewrite-Url", "X-Upstream-Idp-Id",
	}},
	{"tracing", []string{"B3", "Baggage", "Traceparent", "Tracestate", "X-B3-*", "X-Request-Id"}},
	{"a gateway, which would act on it", []string{"Grpc-*", "X-Accel-*", "X-Envoy-*", "X-Sendfile"}},
	{"this service's own responses", []string{"X-Problem-*"}},
}

// AssertionHeader carries the signed identity. Gateways copy it, and the service alone fills it: no bundle declares it.
const AssertionHeader = "X-Citadel-Assertion"

// CheckHeaders validates a list of header names that gateways are configured for. Its error joins one for each name that
// is not valid, with the reason. Two names that differ in case, or that a backend which reads CGI variables would take for
// one (RFC 3875, section 4.1.18: X-User-ID and X_User_ID), are never both valid.
func CheckHeaders(names ...string) error {
	var errs []error
	seen := map[string]bool{}
	for _, n := range names {
		c := http.CanonicalHeaderKey(n)
		if err := checkHeader(n); err != nil {
			errs = append(errs, err)
		} else if seen[c] {
			errs = append(errs, fmt.Errorf("%q is listed twice", n))
		}
		seen[c] = true
	}
	return errors.Join(errs...)
}

func checkHeader(name string) error {
	if len(name) > 64 || !headerShape.MatchString(name) {
		return fmt.Errorf("%q is not the name of a header that can carry a claim: letters, digits and single hyphens between them, 64 at most, a letter first", name)
	}
	c := http.CanonicalHeaderKey(name)
	for _, group := range reserved {
		at := slices.IndexFunc(group.names, func(r string) bool {
			prefix, open := strings.CutSuffix(r, "*")
			return c == r || open && strings.HasPrefix(c, prefix)
		})
		if at >= 0 {
			return fmt.Errorf("%q cannot carry a claim: %s belongs to %s", name, group.names[at], group.why)
		}
	}
	return nil
}

// checkDeclared validates a header that a bundle declares. Data has no lines in a bundle, so the error names the lines of
// rules that write the header.
func (e *Engine) checkDeclared(name string, modules map[string]*ast.Module) error {
	if err := checkHeader(name); err != nil {
		return fmt.Errorf("%w%s", err, writtenAt(name, modules))
	}
	c := http.CanonicalHeaderKey(name)
	if c == AssertionHeader {
		return fmt.Errorf("%s cannot be declared%s: the service alone signs identities", name, writtenAt(name, modules))
	}
	if _, configured := e.index[c]; !configured {
		return fmt.Errorf("%s is missing from GATEWAY_HEADERS%s: add it to the gateways first, or they would forward a client's own header", name, writtenAt(name, modules))
	}
	return nil
}

// writtenAt names the places where rules have the name of a header as a literal; "" where none has.
func writtenAt(name string, modules map[string]*ast.Module) string {
	var places []string
	for _, file := range slices.Sorted(maps.Keys(modules)) {
		ast.WalkTerms(modules[file], func(t *ast.Term) bool {
			if s, ok := t.Value.(ast.String); ok && t.Location != nil && strings.EqualFold(string(s), name) {
				if at := fmt.Sprintf("%s:%d", file, t.Location.Row); !slices.Contains(places, at) {
					places = append(places, at)
				}
			}
			return false
		})
	}
	if places == nil {
		return ""
	}
	return " (" + strings.Join(places, ", ") + ")"
}
