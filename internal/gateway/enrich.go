package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/problem"
)

// EnrichPath is how metrics call every form of the endpoint.
const EnrichPath = "/system/enrich-token"

// Enricher answers gateways.
type Enricher interface {
	Enrich(ctx context.Context, q enrich.Request) (enrich.Response, error)
}

// enrichHandler serves /system/enrich-token and everything below it: gateways
// append the client's path and send the client's method.
type enrichHandler struct {
	enricher Enricher
	headers  []string // canonical, parallel to Answer.Values
	trusted  problem.Proxies
	log      *slog.Logger
	lacking  *perMinute // peers whose requests lacked facts that the policy reads
	observe  func(gateway, method string, status int, took time.Duration)

	denyAmbiguous bool // also where the policy does not read the path

	unanswerable problem.PerSecond // lines about requests that could not be answered
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
		p := problem.Of(iam.Forbidden)
		p.Code, p.Detail = iam.CodeOf(err), problem.DetailOf(err)
		problem.Write(w, p)
		return p.Status
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
		return deny(w, iam.Unauthenticated, "", decision(a))
	case !a.Allowed:
		code := ""
		if a.Fault != nil { // of the request, and no business of the policy's: whoever sent it may know
			code = a.Fault.Code
			h.tellFault(r, a)
		}
		return deny(w, iam.Forbidden, code, decision(a))
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
func deny(w http.ResponseWriter, kind iam.Kind, code, instance string) int {
	p := problem.Of(kind)
	p.Code, p.Instance = code, instance
	problem.Write(w, p)
	return p.Status
}

func decision(a enrich.Response) string {
	if a.DecisionID == "" {
		return ""
	}
	return "/decisions/" + a.DecisionID
}

// cannot answers 503, whether we are broken or something is away: a gateway must
// not take either for a considered no.
func (h *enrichHandler) cannot(w http.ResponseWriter, r *http.Request, err error) int {
	code, id := iam.CodeOf(err), problem.NewRequestID(r)
	// Also to a caller who has left: one who only stopped sending still listens,
	// and a handler that writes nothing answers 200.
	p := problem.Of(iam.Unavailable)
	p.Code, p.Instance = code, "/requests/"+id
	problem.Write(w, p)
	if errors.Is(r.Context().Err(), context.Canceled) {
		return statusClientClosed // nothing is wrong with us
	}
	level := slog.LevelWarn
	if iam.KindOf(err) == iam.Internal {
		level = slog.LevelError
	}
	h.unanswerable.Log(code, func(count int64) {
		h.log.LogAttrs(r.Context(), level, "enrichment not answerable", slog.String("code", code), slog.Int64("count", count), slog.String("request_id", id), slog.Any("err", err))
	})
	return http.StatusServiceUnavailable
}

// tellFault logs that a gateway does not send what the policy reads: once a minute for each
// peer, since all of its requests are refused.
func (h *enrichHandler) tellFault(r *http.Request, a enrich.Response) {
	if peer := problem.Peer(r); a.Fault.Code == policy.CodeFactsMissing && h.lacking.first(peer, time.Now()) {
		h.log.LogAttrs(r.Context(), slog.LevelWarn, "request facts missing", slog.String("peer", peer.String()), slog.Bool("believed", h.trusted.Trusts(peer)),
			slog.String("code", a.Fault.Code), slog.String("err", a.Fault.Detail), slog.String("decision_id", a.DecisionID))
	}
}

// maxPeers is how many peers a line a minute is remembered of.
const maxPeers = 10_000

// perMinute is the peers that something was said of within a minute, those seen last.
type perMinute struct {
	mu   sync.Mutex
	last *simplelru.LRU[netip.Addr, time.Time]
}

func newPerMinute() *perMinute {
	lru, err := simplelru.NewLRU[netip.Addr, time.Time](maxPeers, nil)
	if err != nil {
		panic(err) // the size is a constant
	}
	return &perMinute{last: lru}
}

// first reports whether it was not asked about the peer within the last minute.
func (p *perMinute) first(peer netip.Addr, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last, ok := p.last.Peek(peer); ok && now.Sub(last) < time.Minute {
		return false
	}
	p.last.Add(peer, now)
	return true
}

// statusClientClosed is what nginx calls it; it is only counted: 503 is sent.
const statusClientClosed = 499

// question reads what the gateway asks. Whatever is ambiguous is malformed.
func (h *enrichHandler) question(r *http.Request, rest string) (enrich.Request, error) {
	var q enrich.Request
	var err error
	if q.Token, err = problem.Bearer(r.Header); err != nil {
		return q, err
	}
	if q.TenantHint, err = tenantHint(r.Header); err != nil {
		return q, err
	}
	if h.trusted.Trusts(problem.Peer(r)) {
		if q.IdP, err = problem.Single(r.Header, "X-Upstream-Idp-Id"); err != nil {
			return q, err
		}
	}
	q.Facts.Gateway = "generic"
	return q, h.facts(r, rest, &q.Facts)
}

// facts reads what is known of the client's request. What comes here is the gateway's own
// request: its method, host and address say nothing of the client's. A fact is known where a
// believed peer has said it in its header, and the method, the path and (of a believed peer)
// the host where the gateway has appended the client's path to ours. Two sources of one fact
// must agree: one of them may be the client's.
func (h *enrichHandler) facts(r *http.Request, rest string, req *enrich.RequestFacts) (err error) {
	peer := problem.Peer(r)
	believed := h.trusted.Trusts(peer)
	if rest == "/" && !believed {
		// An address that was configured with a trailing slash sends this for every request.
		rest = ""
	}
	rawPath := rest
	if rest != "" {
		if !policy.ValidMethod(r.Method) {
			return problem.Malformed("the method is not an upper-case token")
		}
		req.Method = r.Method
		if believed && r.Host != "" {
			if err := agree(&req.Host, "Host", r.Host, policy.NormalHost); err != nil {
				return err
			}
		}
	}
	if believed {
		if rawPath, err = forwarded(r.Header, req, rest); err != nil {
			return err
		}
		if req.ClientIP, err = h.trusted.ClientIP(r.Header, peer); err != nil {
			return err
		}
	}
	if rawPath != "" {
		req.SetPath(rawPath)
		if req.Ambiguous && h.denyAmbiguous {
			return problem.Malformed(enrich.AmbiguousPath)
		}
	}
	req.Preflight = req.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
	return nil
}

// tenantHint reads X-Active-Tenant-ID, which comes from the client.
func tenantHint(h http.Header) (string, error) {
	v, err := problem.Single(h, "X-Active-Tenant-Id")
	if err != nil || v == "" {
		return "", err
	}
	if !iam.ValidTenantID(v) {
		return "", problem.Malformed("X-Active-Tenant-ID is not the id of a tenant")
	}
	return v, nil
}

// forwarded reads what a believed gateway says of the client's request, and returns the
// path as it was received. X-Original-… is no source, since a client can send it through
// gateways that set X-Forwarded-…; where it says something else, it is not known who is right.
func forwarded(header http.Header, req *enrich.RequestFacts, rest string) (rawPath string, err error) {
	read := func(fact *string, name string, normal func(string) (string, bool)) {
		var v string
		if err == nil {
			v, err = problem.Single(header, name)
		}
		if err == nil && v != "" {
			err = agree(fact, name, v, normal)
		}
	}
	rawPath = rest
	read(&req.Method, "X-Forwarded-Method", normalMethod)
	read(&req.Scheme, "X-Forwarded-Proto", policy.NormalScheme)
	read(&req.Host, "X-Forwarded-Host", policy.NormalHost)
	read(&rawPath, "X-Forwarded-Uri", withoutQuery)
	compare := func(fact, name string, normal func(string) (string, bool)) {
		if fact != "" {
			read(&fact, name, normal)
		}
	}
	compare(req.Method, "X-Original-Method", normalMethod)
	compare(req.Host, "X-Original-Host", policy.NormalHost)
	compare(rawPath, "X-Original-Uri", withoutQuery)
	if err != nil {
		return "", err
	}
	original, err := problem.Single(header, "X-Original-Url")
	if err != nil || original == "" {
		return rawPath, err
	}
	scheme, host, uri := "", "", original
	if original[0] != '/' {
		var ok bool
		if scheme, host, ok = strings.Cut(original, "://"); !ok {
			return "", problem.Malformed("X-Original-Url is not valid")
		}
		uri = "/"
		if at := strings.IndexAny(host, "/?"); at >= 0 {
			host, uri = host[:at], host[at:]
		}
	}
	for _, part := range [...]struct {
		fact, said string
		normal     func(string) (string, bool)
	}{{req.Scheme, scheme, policy.NormalScheme}, {req.Host, host, policy.NormalHost}, {rawPath, uri, withoutQuery}} {
		if part.fact != "" && part.said != "" {
			if err := agree(&part.fact, "X-Original-Url", part.said, part.normal); err != nil {
				return "", err
			}
		}
	}
	return rawPath, nil
}

// agree takes what a header says of a fact, which must be what is known of it already.
func agree(fact *string, name, said string, normal func(string) (string, bool)) error {
	v, ok := normal(said)
	switch {
	case !ok:
		return problem.Malformed(name + " is not valid")
	case *fact != "" && *fact != v:
		return problem.Malformed(name + " is not what another source says of the request")
	}
	*fact = v
	return nil
}

func normalMethod(s string) (string, bool) { return s, policy.ValidMethod(s) }

func withoutQuery(uri string) (string, bool) {
	path, _, _ := strings.Cut(uri, "?")
	return path, path != ""
}
