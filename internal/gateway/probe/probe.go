// Package probe tests a running gateway from outside, as a penetration tester: it sends forged identity headers in
// every spelling, ambiguous paths, hosts, methods and framing, and compares what reaches a backend with what a clean
// request of the same caller yields there.
//
// It owns the attacks, the clients that send them (HTTP/1.1 by raw sockets, HTTP/2 by raw frames), the echo backend
// that says what arrived, and the judgement. It does not know iam-service, its settings or its policy: what is
// right is what a clean request yields. It therefore cannot find what is wrong with clean requests.
//
// Attacks are harmless to others: a request inside a request goes to the echo alone, which never answers it.
package probe

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Config of a run.
type Config struct {
	Gateway string   // URL of a path behind the gateway that Token is allowed to request
	Headers []string // the identity headers that the gateway sets (GATEWAY_HEADERS)

	Token             string // of a user who is allowed to request Gateway
	TokenWithoutRoles string // of a user without roles; empty: not tried
	Tenant            string // id of a tenant that both users ask for; empty: no hint is sent
	OpenPath          string // a path that is allowed without a token: headers are forged there, too; empty: unknown

	Echo       string // URL at which the echo is reached directly
	ListenEcho string // or: the address at which the gateway finds its backend, for an echo during the run

	Only []string // groups of attacks (Groups), or beginnings of their names such as "alias/_"; none: all

	Connect string // host:port to connect to, instead of the URL's

	TLS         *tls.Config   // for a gateway with https; nil: the system's roots
	Timeout     time.Duration // of one request; 0: 2 s
	Limit       time.Duration // of the run; 0: 55 s
	Concurrency int           // requests at once; 0: 8
}

// principal is a caller, with the path that it requests.
type principal struct {
	name, token, other, path string
}

// way is how a principal requests.
type way struct{ principal, protocol string }

// run is the state of one.
type run struct {
	Config
	gateway     gateway
	principals  []principal
	echo        sight
	id          string
	counter     atomic.Int64
	forged      string
	bodyless    bool
	known       map[way]known
	cleanFaults []Fault // of clean requests
	report      Report
}

// Principals, as a report names them.
const (
	theAllowed   = "allowed"
	theAnonymous = "no token"
	theOpen      = "no token, open path"
)

// Protocols, as a report names them.
const (
	http1 = "HTTP/1.1"
	h2    = "HTTP/2"
)

// Run tests a gateway. An error means that it could not be tested, and why; faults are in the report.
func Run(ctx context.Context, cfg Config) (Report, error) {
	r, err := newRun(cfg)
	if err != nil {
		return Report{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.Limit, fmt.Errorf("the run took longer than %s", r.Limit))
	defer cancel()
	stop, err := r.startEcho(ctx)
	if err != nil {
		return Report{}, err
	}
	defer stop()
	if err := r.calibrate(ctx); err != nil {
		return Report{}, cause(ctx, err)
	}
	trials := r.plan()
	if err := r.send(ctx, trials); err != nil {
		return Report{}, cause(ctx, fmt.Errorf("%w (%d of %d requests sent)", err, r.counter.Load(), len(trials)))
	}
	if err := r.look(ctx, trials); err != nil {
		return Report{}, cause(ctx, err)
	}
	if err := r.recalibrate(ctx); err != nil {
		return Report{}, cause(ctx, err)
	}
	if err := r.judge(ctx, trials); err != nil {
		return Report{}, cause(ctx, err)
	}
	r.report.Requests = int(r.counter.Load())
	r.report.Took = time.Since(r.report.Started).Milliseconds()
	return r.report, nil
}

// cause is why ctx ended, if it did.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

var bearer = regexp.MustCompile(`^[A-Za-z0-9._~+/-]*=*$`)

func newRun(cfg Config) (*run, error) {
	r := &run{Config: cfg, known: map[way]known{}}
	r.Timeout, r.Limit, r.Concurrency = or(r.Timeout, 2*time.Second), or(r.Limit, 55*time.Second), or(r.Concurrency, 8)
	var errs []error
	u, err := url.Parse(cfg.Gateway)
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("gateway: %w", err))
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "":
		errs = append(errs, fmt.Errorf("gateway: %q is no URL of the form http[s]://host[:port]/path", cfg.Gateway))
	case u.RequestURI() == "/" || normal(u.RequestURI()) != strings.SplitN(u.RequestURI(), "?", 2)[0]:
		errs = append(errs, fmt.Errorf("gateway: the path of %q must have a segment, and nothing to normalize: tricks with paths start from it", cfg.Gateway))
	}
	if cfg.Token == "" {
		errs = append(errs, errors.New("token: needed, of a user who is allowed to request the URL: only what reaches the backend shows what it gets"))
	}
	if len(cfg.Headers) == 0 {
		errs = append(errs, errors.New("headers: at least one identity header is needed"))
	}
	for i, h := range cfg.Headers {
		if h == "" || strings.Trim(h, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
			errs = append(errs, fmt.Errorf("headers: %q is no name of letters, digits and hyphens", h))
		}
		if slices.ContainsFunc(cfg.Headers[:i], func(o string) bool { return sameName(o, h) }) {
			errs = append(errs, fmt.Errorf("headers: %q is listed twice", h))
		}
	}
	for _, o := range cfg.Only {
		if !slices.ContainsFunc(attacks(), func(a attack) bool { return a.among([]string{o}) }) {
			errs = append(errs, fmt.Errorf("only: %q is no group of attacks, and no attack's name begins so; groups are %s", o, strings.Join(Groups, ", ")))
		}
	}
	if cfg.Timeout < 0 || cfg.Limit < 0 || cfg.Concurrency < 0 {
		errs = append(errs, errors.New("timeout, limit and concurrency must be positive"))
	}
	if cfg.Echo != "" && cfg.ListenEcho != "" {
		errs = append(errs, errors.New("echo: either a URL, or an address to listen at"))
	}
	for _, v := range []variable{{"token", cfg.Token}, {"token without roles", cfg.TokenWithoutRoles}} {
		if !bearer.MatchString(v.value) {
			errs = append(errs, fmt.Errorf("%s: has characters that no bearer token has (RFC 6750, section 2.1)", v.name))
		}
	}
	if _, _, err := net.SplitHostPort(cfg.Connect); cfg.Connect != "" && err != nil {
		errs = append(errs, fmt.Errorf("connect: %q is not host:port", cfg.Connect))
	}
	if cfg.OpenPath != "" && !strings.HasPrefix(cfg.OpenPath, "/") {
		errs = append(errs, errors.New("open path: must begin with /"))
	}
	for _, v := range []variable{{"tenant", cfg.Tenant}, {"open path", cfg.OpenPath}} {
		if !plainText(v.value) {
			errs = append(errs, fmt.Errorf("%s: must be visible ASCII without spaces", v.name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	r.gateway = gateway{addr: u.Host, authority: u.Host, timeout: r.Timeout}
	if u.Port() == "" {
		r.gateway.addr = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	if cfg.Connect != "" {
		r.gateway.addr = cfg.Connect
	}
	if u.Scheme == "https" {
		r.gateway.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		if cfg.TLS != nil {
			r.gateway.tls = cfg.TLS.Clone()
		}
		if r.gateway.tls.ServerName == "" {
			r.gateway.tls.ServerName = u.Hostname()
		}
	}
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	r.id, r.forged = hex.EncodeToString(b[:8]), "forged-"+hex.EncodeToString(b[8:])
	at := u.RequestURI()
	r.principals = []principal{{name: theAllowed, token: cfg.Token, other: cfg.TokenWithoutRoles, path: at}}
	if cfg.TokenWithoutRoles != "" {
		r.principals = append(r.principals, principal{name: "without roles", token: cfg.TokenWithoutRoles, other: cfg.Token, path: at})
	}
	r.principals = append(r.principals, principal{name: theAnonymous, path: at})
	if cfg.OpenPath != "" {
		r.principals = append(r.principals, principal{name: theOpen, path: cfg.OpenPath})
	}
	r.report = Report{Gateway: cfg.Gateway, Started: time.Now().UTC(), Principals: []PrincipalReport{}, Notes: []string{}}
	if cfg.TokenWithoutRoles == "" {
		r.note("no user without roles was tried: headers that are empty for such a user may be forgeable")
	}
	if len(cfg.Only) > 0 {
		r.note("only these attacks were tried: %s", strings.Join(cfg.Only, ", "))
	}
	if cfg.OpenPath == "" {
		r.note("no path that is open without a token was given: headers may be forgeable there")
	}
	if cfg.Tenant == "" {
		r.note("no tenant was given: whether the gateway forwards the tenant hint was not tried")
	}
	return r, nil
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (r *run) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(r.report.Notes, n) {
		r.report.Notes = append(r.report.Notes, n)
	}
}

// shot is an exchange that is to be made, and what came of it.
type shot struct {
	trial
	who      principal
	protocol string
	forgery  forgery
	show     string // how to reproduce it
}

// plan lists all exchanges.
func (r *run) plan() []*shot {
	identity := slices.DeleteFunc(slices.Clone(r.Headers), func(h string) bool { return sameName(h, hintHeader) })
	all := attacks()
	var shots []*shot
	for _, protocol := range []string{http1, h2} {
		for _, who := range r.principals {
			ref, tested := r.known[way{who.name, protocol}]
			if !tested {
				continue
			}
			for i := range all {
				a := &all[i]
				if len(r.Only) > 0 && !a.among(r.Only) {
					continue
				}
				sets := [][]string{identity}
				if a.each && len(identity) < len(r.Headers) {
					sets = append(sets, []string{hintHeader}) // a hint that is no tenant is rejected: the others would not be seen
				}
				for _, names := range sets {
					s := r.shot(a, who, protocol, names)
					s.ref, s.anonymous = ref, r.known[way{theAnonymous, http1}].reached
					if len(names) > 0 && (protocol == http1 && a.h1 != nil || protocol == h2 && a.h2 != nil) && a.needs.met(s.forgery) {
						shots = append(shots, s)
					}
				}
			}
		}
	}
	return shots
}

func (r *run) shot(a *attack, who principal, protocol string, names []string) *shot {
	return &shot{
		trial: trial{attack: a, headers: r.Headers, forged: r.forged, names: names}, who: who, protocol: protocol,
		forgery: forgery{
			names: names, value: r.forged, path: who.path, host: r.gateway.authority, tenant: r.Tenant, token: who.token, other: who.other,
			open: or(r.OpenPath, "/"), knowsOpen: r.OpenPath != "", bodyless: r.bodyless,
		},
	}
}

// send makes all exchanges.
func (r *run) send(ctx context.Context, shots []*shot) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.Concurrency)
	for _, s := range shots {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := r.fire(ctx, s); err != nil {
				return fmt.Errorf("%s over %s: %w", s.attack.name, s.protocol, err)
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

// tokens are shown by their names.
func (r *run) tokens() []variable {
	tokens := []variable{{"TOKEN", r.Token}}
	if r.TokenWithoutRoles != "" {
		tokens = append(tokens, variable{"TOKEN_WITHOUT_ROLES", r.TokenWithoutRoles})
	}
	return tokens
}

// fire makes one exchange.
func (r *run) fire(ctx context.Context, s *shot) error {
	n := r.counter.Add(1)
	s.forgery.marker, s.forgery.inner = fmt.Sprintf("probe-%s0%07x", r.id, n), fmt.Sprintf("probe-%s1%07x", r.id, n)
	tokens := r.tokens()
	var err error
	if s.protocol == http1 {
		m := r.message(s.forgery)
		if s.attack.carries {
			exact(m, s.forgery)
		}
		s.attack.h1(m, s.forgery)
		s.method, s.target, s.show = m.method, m.target, m.reproduce(r.gateway, tokens)
		s.responses, s.timedOut, err = r.gateway.exchange(ctx, m, s.attack.wait)
		return err
	}
	m := r.message2(s.forgery)
	if s.attack.carries {
		exact2(m, s.forgery)
	}
	s.attack.h2(m, s.forgery)
	s.method, s.target, s.show = m.get(":method"), m.get(":path"), m.reproduce(tokens)
	s.responses, s.timedOut, err = r.gateway.exchange2(ctx, m)
	return err
}

// message is a clean request.
func (r *run) message(f forgery) *message {
	m := &message{method: "GET", target: f.path, version: "HTTP/1.1", eol: "\r\n"}
	m.add("Host: "+f.host, "X-Probe-Id: "+f.marker, "User-Agent: iam-service-probe ("+f.marker+")", "Accept: */*")
	if f.token != "" {
		m.add("Authorization: Bearer " + f.token)
	}
	if f.tenant != "" {
		m.add(hintHeader + ": " + f.tenant)
	}
	return m
}

func (r *run) message2(f forgery) *message2 {
	m := &message2{fields: []field{
		{":method", "GET"}, {":scheme", r.gateway.scheme()}, {":authority", f.host}, {":path", f.path},
		{"x-probe-id", f.marker}, {"user-agent", "iam-service-probe (" + f.marker + ")"}, {"accept", "*/*"},
	}}
	if f.token != "" {
		m.add("authorization", "Bearer "+f.token)
	}
	if f.tenant != "" {
		m.add(hintHeader2, f.tenant)
	}
	return m
}
