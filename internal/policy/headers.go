package policy

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// headerShape is what a header may be called: no underscore, which gateways drop and backends fold to a hyphen.
var headerShape = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*$`)

// reserved are headers that no claim may be in: those of HTTP itself, hop by hop, with credentials, of the request that
// gateways speak of, and our own. A final * stands for any rest. From the IANA registry of HTTP fields.
var reserved = []string{
	"Accept", "Accept-*", "Access-Control-*", "Age", "Allow", "Alt-Svc", "Authentication-Info", "Authorization", "Cache-Control", "Clear-Site-Data",
	"Connection", "Content-*", "Cookie", "Date", "Early-Data", "Etag", "Expect", "Expires", "Forwarded", "From", "Host", "Http2-Settings", "If-*",
	"Keep-Alive", "Last-Modified", "Link", "Location", "Max-Forwards", "Origin", "Pragma", "Priority", "Proxy-*", "Range", "Referer", "Retry-After",
	"Sec-*", "Server", "Set-Cookie", "Strict-Transport-Security", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent", "Vary", "Via",
	"Www-Authenticate",

	"Baggage", "Traceparent", "Tracestate",
	"X-Envoy-*", "X-Forwarded-*", "X-Gateway-Secret", "X-Http-Method-Override", "X-Original-*", "X-Problem-*", "X-Real-Ip", "X-Request-Id", "X-Rewrite-Url",
	"X-Upstream-Idp-Id",
}

// CheckHeaders validates a list of header names that gateways are configured for. Its error names each that is not valid.
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
	at := slices.IndexFunc(reserved, func(r string) bool {
		prefix, open := strings.CutSuffix(r, "*")
		return c == r || open && strings.HasPrefix(c, prefix)
	})
	if at >= 0 {
		return fmt.Errorf("%q cannot carry a claim: %s belongs to HTTP, to credentials or to the gateway's request", name, reserved[at])
	}
	return nil
}
