package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"iam-service/internal/enrich"
	"iam-service/internal/iam"
)

// EnrichPath is how metrics call every form of the endpoint.
const EnrichPath = "/system/enrich-token"

// Enricher answers gateways.
type Enricher interface {
	Enrich(ctx context.Context, q enrich.Question) (enrich.Answer, error)
}

// enrichHandler serves /system/enrich-token and everything below it: gateways
// append the client's path and send the client's method.
type enrichHandler struct {
	enricher Enricher
	headers  []string // canonical, parallel to Answer.Values
	trusted  []netip.Prefix
	log      *slog.Logger
	observe  func(gateway, method string, status int, took time.Duration)
}

// belowEnrich reports whether the request is for the endpoint, by the path as it
// was received, and returns what follows the endpoint in it.
func belowEnrich(r *http.Request) (rest string, ok bool) {
	raw := r.URL.EscapedPath()
	raw = strings.TrimPrefix(raw, "/v1")
	rest, ok = strings.CutPrefix(raw, EnrichPath)
	return rest, ok && (rest == "" || rest[0] == '/')
}

func (h *enrichHandler) serve(w http.ResponseWriter, r *http.Request, rest string) {
	began := time.Now()
	if r.ContentLength != 0 {
		// Bodies are not read. On a connection that is to live on, net/http would
		// wait for the body before it sends our answer.
		w.Header().Set("Connection", "close")
	}
	status := h.answer(w, r, rest)
	took := time.Since(began)
	if took > slow {
		h.log.LogAttrs(r.Context(), slog.LevelWarn, "slow enrichment", slog.Int("status", status), slog.Duration("took", took))
	}
	h.observe("generic", r.Method, status, took)
}

// slow is what gets a line of its own: half of what gateways wait at most.
const slow = 100 * time.Millisecond

func (h *enrichHandler) answer(w http.ResponseWriter, r *http.Request, rest string) int {
	w.Header()["Cache-Control"] = noStore
	q, err := h.question(r, rest)
	if err != nil {
		return deny(w, Problem{Status: http.StatusForbidden, Code: iam.CodeOf(err), Detail: detailOf(err)})
	}
	a, err := h.enricher.Enrich(r.Context(), q)
	switch {
	case err != nil:
		return h.cannot(w, r, err)
	case !a.Allowed && a.Status == http.StatusUnauthorized:
		// RFC 6750, section 3.1: no error code where no token came.
		challenge := "Bearer"
		if a.HadToken {
			challenge = `Bearer error="invalid_token", error_description="the token is expired, revoked, malformed or not for this service"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		return deny(w, Problem{Status: http.StatusUnauthorized, Instance: decision(a)})
	case !a.Allowed:
		return deny(w, Problem{Status: http.StatusForbidden, Instance: decision(a)})
	}
	out := w.Header()
	for i, name := range h.headers {
		out[name] = a.Values[i : i+1 : i+1] // also when it is empty: a missing header lets the client's own through
	}
	out["Content-Length"] = zero
	w.WriteHeader(http.StatusOK)
	return http.StatusOK
}

var (
	noStore = []string{"no-store"}
	zero    = []string{"0"}
)

// deny answers without any claim, and without a reason that is not the caller's
// business: gateways hand it to the client. The id of the decision leads our own
// people to the reason in the log.
func deny(w http.ResponseWriter, p Problem) int {
	kind := iam.Forbidden
	if p.Status == http.StatusUnauthorized {
		kind = iam.Unauthenticated
	}
	p.Type, p.Title = "/problems/"+string(kind), wire[kind].title
	writeProblem(w, p)
	return p.Status
}

func decision(a enrich.Answer) string {
	if a.DecisionID == "" {
		return ""
	}
	return "/decisions/" + a.DecisionID
}

func detailOf(err error) string {
	if e, ok := errors.AsType[*iam.Error](err); ok {
		return e.Detail
	}
	return ""
}

// cannot answers 503, whether we are broken or something is away: a gateway must
// not take either for a considered no.
func (h *enrichHandler) cannot(w http.ResponseWriter, r *http.Request, err error) int {
	code := iam.CodeOf(err)
	// Also to a caller who has left: one who only stopped sending still listens,
	// and a handler that writes nothing answers 200.
	writeProblem(w, Problem{
		Type: "/problems/" + string(iam.Unavailable), Title: wire[iam.Unavailable].title, Status: http.StatusServiceUnavailable, Code: code,
	})
	if errors.Is(r.Context().Err(), context.Canceled) {
		return statusClientClosed // nothing is wrong with us
	}
	level := slog.LevelWarn
	if iam.KindOf(err) == iam.Internal {
		level = slog.LevelError
	}
	h.log.LogAttrs(r.Context(), level, "enrichment not answerable", slog.String("code", code), slog.Any("err", err))
	return http.StatusServiceUnavailable
}

// statusClientClosed is what nginx calls it; it is only counted: 503 is sent.
const statusClientClosed = 499

func malformed(format string) error {
	return &iam.Error{Kind: iam.Forbidden, Code: "malformed_request", Detail: format}
}

// question reads what the gateway asks. Whatever is ambiguous is malformed.
func (h *enrichHandler) question(r *http.Request, rest string) (enrich.Question, error) {
	var q enrich.Question
	var err error
	if q.Token, err = bearer(r.Header); err != nil {
		return q, err
	}
	if q.TenantHint, err = tenantHint(r.Header); err != nil {
		return q, err
	}
	peer := peerOf(r)
	trusted := h.trusts(peer)
	req := &q.Request
	req.Gateway, req.Method, req.Host = "generic", r.Method, r.Host
	rawPath := rest
	if trusted {
		if q.IdP, err = single(r.Header, "X-Upstream-Idp-Id"); err != nil {
			return q, err
		}
		if rawPath, err = h.forwarded(r, req, rest); err != nil {
			return q, err
		}
		if req.ClientIP, err = h.clientIP(r.Header, peer); err != nil {
			return q, err
		}
	} else {
		req.Host = "" // the gateway's name for us, not the client's for it
		req.ClientIP = peer
	}
	if rawPath != "" {
		req.RawPath = rawPath
		if req.Path, err = normalise(rawPath); err != nil {
			return q, err
		}
	}
	req.Preflight = req.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
	return q, nil
}

// bearer reads the one Authorization header. Another scheme is no token of ours.
func bearer(h http.Header) (string, error) {
	v, err := single(h, "Authorization")
	if err != nil || v == "" {
		return "", err
	}
	scheme, token, ok := strings.Cut(v, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", nil
	}
	token = strings.Trim(token, " ")
	if !ok || token == "" || strings.IndexByte(token, ' ') >= 0 || strings.IndexByte(token, ',') >= 0 || strings.IndexByte(token, '\t') >= 0 {
		return "", malformed("Authorization is not \"Bearer\" and one token")
	}
	return token, nil
}

// tenantHint reads X-Active-Tenant-ID, which comes from the client.
func tenantHint(h http.Header) (string, error) {
	v, err := single(h, "X-Active-Tenant-Id")
	if err != nil || v == "" {
		return "", err
	}
	if !iam.ValidTenantID(v) {
		return "", malformed("X-Active-Tenant-ID is not the id of a tenant")
	}
	return v, nil
}

// single returns the value of a header that may come once.
func single(h http.Header, name string) (string, error) {
	values := h[name]
	if len(values) > 1 {
		return "", malformed(name + " comes more than once")
	}
	if len(values) == 0 {
		return "", nil
	}
	return values[0], nil
}

// forwarded reads what a trusted gateway says of the client's request.
func (h *enrichHandler) forwarded(r *http.Request, req *enrich.Request, rest string) (rawPath string, err error) {
	for _, f := range [...]struct {
		name string
		into *string
	}{{"X-Forwarded-Method", &req.Method}, {"X-Forwarded-Host", &req.Host}, {"X-Forwarded-Proto", &req.Scheme}} {
		v, err := single(r.Header, f.name)
		if err != nil {
			return "", err
		}
		if v != "" {
			if len(v) > 255 || !printable(v) {
				return "", malformed(f.name + " is not valid")
			}
			*f.into = v
		}
	}
	uri, err := single(r.Header, "X-Forwarded-Uri")
	if err != nil || uri == "" {
		return rest, err
	}
	uri, _, _ = strings.Cut(uri, "?")
	if uri == "" || rest != "" && rest != uri {
		// A gateway that appends the path may pass a client's own header on.
		return "", malformed("X-Forwarded-Uri is not the path of the request")
	}
	return uri, nil
}

// clientIP is the last address of X-Forwarded-For that no trusted proxy wrote
// about itself.
func (h *enrichHandler) clientIP(header http.Header, peer netip.Addr) (netip.Addr, error) {
	at := peer
	lines := header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, more := lines[i], true; more && h.trusts(at); {
			var hop string
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, hop = rest[:comma], rest[comma+1:]
			} else {
				hop, more = rest, false
			}
			if hop = strings.TrimSpace(hop); hop == "" {
				return at, nil
			}
			addr, err := netip.ParseAddr(hop)
			if err != nil {
				return at, malformed("X-Forwarded-For holds what is no address")
			}
			at = addr.Unmap()
		}
	}
	return at, nil
}

func (h *enrichHandler) trusts(peer netip.Addr) bool {
	for _, p := range h.trusted {
		if p.Contains(peer) {
			return true
		}
	}
	return false
}

// peerOf is who is at the other end of the connection; the zero Addr where that
// is no IP address.
func peerOf(r *http.Request) netip.Addr {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr) // not one: the zero Addr
	return peer.Addr().Unmap()
}

// normalise returns the path that a backend will see, and refuses one that two
// programs could read differently: a rule about /admin must not be passed by
// //admin, /x/../admin, /%61dmin%2f or /admin;x.
func normalise(raw string) (string, error) {
	ambiguous := malformed("the path can be read in two ways")
	if len(raw) > 4096 || raw[0] != '/' || !printable(raw) || strings.ContainsAny(raw, ";\\#") {
		return "", ambiguous
	}
	p, err := url.PathUnescape(raw)
	if err != nil || !utf8.ValidString(p) || strings.ContainsAny(p, ";\\#?") {
		return "", ambiguous
	}
	for _, c := range p {
		if c < 0x20 || c == 0x7f {
			return "", ambiguous
		}
	}
	if strings.Count(p, "/") != strings.Count(raw, "/") { // an encoded slash
		return "", ambiguous
	}
	if escape.MatchString(p) { // encoded twice
		return "", ambiguous
	}
	clean := path.Clean(p)
	if clean != "/" && strings.HasSuffix(p, "/") {
		clean += "/"
	}
	if clean != p { // dot segments, empty segments
		return "", ambiguous
	}
	return clean, nil
}

var escape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
