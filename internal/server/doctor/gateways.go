package doctor

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"iam-service/internal/server"
)

// Ops returns the URL of the operators' listener on this host.
func Ops(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "" // validated with the settings
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// get requests from the operators' listener.
func get(ctx context.Context, url, bearer string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	return http.DefaultClient.Do(req)
}

// listeners checks that each address is free, or that this service serves there.
func (d *doctor) listeners(ctx context.Context) {
	for _, l := range []struct {
		variable, addr string
		ours           func(context.Context) (what string, is bool)
	}{
		{"OPS_ADDR", d.cfg.OpsAddr, d.oursOps},
		{"GATEWAY_ADDR", d.cfg.GatewayAddr, func(ctx context.Context) (string, bool) {
			return d.oursHTTP(ctx, d.cfg.GatewayAddr, "GATEWAY_CERT_FILE")
		}},
		{"ADMIN_ADDR", d.cfg.AdminAddr, func(ctx context.Context) (string, bool) { return d.oursHTTP(ctx, d.cfg.AdminAddr, "") }},
		{"EXT_AUTHZ_ADDR", d.cfg.ExtAuthzAddr, d.oursExtAuthz},
	} {
		if l.addr == "" {
			continue // it is off
		}
		d.check(ctx, "listener "+l.variable, func(ctx context.Context) finding {
			open, err := net.Listen("tcp", l.addr)
			if err == nil {
				_ = open.Close() // it was only to see
				return ok("%s is free", l.addr)
			}
			if !strings.Contains(err.Error(), "address already in use") {
				return failed(err, l.variable+" must be an address of this host, with a port that the process may open")
			}
			if what, ours := l.ours(ctx); ours {
				return ok("%s is served by %s", l.addr, what)
			}
			return finding{Fail, l.addr + " is in use by another program", "end the other program, or set " + l.variable + " to another address"}
		})
	}
}

func (d *doctor) oursOps(ctx context.Context) (string, bool) {
	resp, err := get(ctx, Ops(d.cfg.OpsAddr)+"/version", d.cfg.OpsBearer())
	if err != nil {
		return "", false
	}
	defer resp.Body.Close()
	var build struct{ Version, Go string }
	if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(&build) != nil || build.Go == "" {
		return "", false
	}
	return "iam-service " + build.Version, true
}

// oursHTTP reports whether a path that does not exist gets the response of this service, or by its certificate.
func (d *doctor) oursHTTP(ctx context.Context, addr, certificate string) (string, bool) {
	for _, c := range d.cfg.Certificates() {
		if c.Variable == certificate {
			return d.oursTLS(ctx, addr, c)
		}
	}
	resp, err := get(ctx, Ops(addr)+"/doctor", "")
	if err != nil {
		return "", false
	}
	defer resp.Body.Close()
	is := resp.StatusCode == http.StatusNotFound && resp.Header.Get("Content-Type") == "application/problem+json" && resp.Header.Get("X-Request-Id") != ""
	return "iam-service", is
}

func (d *doctor) oursTLS(ctx context.Context, addr string, c server.Certificate) (string, bool) {
	seen := false
	dialer := tls.Dialer{Config: &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // the certificate is compared with that of the file
		VerifyConnection: func(s tls.ConnectionState) error {
			seen = len(s.PeerCertificates) > 0 && bytes.Equal(s.PeerCertificates[0].Raw, c.Raw)
			return nil
		},
	}}
	conn, err := dialer.DialContext(ctx, "tcp", strings.TrimPrefix(Ops(addr), "http://"))
	if err == nil {
		_ = conn.Close() // nothing was sent
	}
	return "the certificate of " + c.Variable, seen
}

func (d *doctor) oursExtAuthz(ctx context.Context) (string, bool) {
	for _, c := range d.cfg.Certificates() {
		if c.Variable == "EXT_AUTHZ_CERT_FILE" {
			return d.oursTLS(ctx, d.cfg.ExtAuthzAddr, c)
		}
	}
	// gRPC answers any HTTP/2 request; that it is ours follows from the other listener.
	what, is := d.oursOps(ctx)
	return what, is
}

func (d *doctor) policy(ctx context.Context) {
	d.check(ctx, "policy", func(ctx context.Context) finding {
		revision, err := d.cfg.CheckPolicy(ctx)
		switch {
		case err != nil:
			return failed(err, "run \"iam-service policy check\" and \"iam-service policy test\" on it; a signature needs the key of POLICY_KEY_FILE (docs/policy.md)")
		case revision == "":
			return skipped("OPA fetches it (OPA_CONFIG): /policy/status of a running replica has its state")
		case d.cfg.PolicyAllowUnsigned:
			return finding{
				Warn, "revision " + revision + " compiles and passes its cases; POLICY_ALLOW_UNSIGNED accepts policies of any writer of the bundle",
				"sign bundles (make bundle KEY=…), set POLICY_KEY_FILE, and unset POLICY_ALLOW_UNSIGNED",
			}
		}
		return ok("revision %s compiles and passes its cases", revision)
	})
}

// gateways checks the settings of gateways together.
func (d *doctor) gateways() {
	add := func(check string, f finding) {
		d.add(Result{Check: check, State: f.state, Detail: f.detail, Next: f.next})
	}
	add("trusted proxies", d.proxies())
	switch {
	case d.cfg.SendsSecret() || d.cfg.GatewayClientCA != "":
		add("gateway authentication", ok("only gateways that prove who they are get a decision"))
	default:
		add("gateway authentication", finding{
			Warn, "every program that reaches GATEWAY_ADDR gets decisions about any token",
			"set GATEWAY_SECRET or GATEWAY_CLIENT_CA_FILE, or be sure that the network policy lets gateways alone pass",
		})
	}
	if d.cfg.AdminAudience == "" {
		add("admin API", finding{Warn, "ADMIN_AUDIENCE is not set: the admin API is off", "set ADMIN_AUDIENCE, unless another deployment serves it"})
	}
}

func (d *doctor) proxies() finding {
	var wide []string
	for _, p := range d.cfg.TrustedProxies {
		switch {
		case p.Bits() == 0:
			return finding{
				Fail, "TRUSTED_PROXIES has " + p.String() + ": method, path and address are trusted from any peer",
				"name the networks of the gateways alone, such as 10.42.0.0/16",
			}
		case !p.Addr().IsPrivate() && !p.Addr().IsLoopback() && (p.Addr().Is4() && p.Bits() < 24 || p.Addr().Is6() && p.Bits() < 48):
			wide = append(wide, p.String())
		}
	}
	switch {
	case len(wide) > 0:
		return finding{Warn, "TRUSTED_PROXIES has large public networks: " + strings.Join(wide, ", "), "name the networks of the gateways alone"}
	case d.cfg.TrustsNoGateway():
		return finding{
			Warn, "no gateway is trusted: method, path, host and address of requests are not known, and a policy that reads one denies (request_facts_missing)",
			"set TRUSTED_PROXIES to the networks of the gateways, or GATEWAY_CLIENT_CA_FILE",
		}
	}
	names := make([]string, len(d.cfg.Profiles))
	for i, p := range d.cfg.Profiles {
		names[i] = p.Name
	}
	return ok("gateways are trusted as %s", strings.Join(names, ", "))
}

// expiresSoon is how long before its end a certificate is reported.
const expiresSoon = 14 * 24 * time.Hour

func (d *doctor) certificates() {
	all := d.cfg.Certificates()
	if len(all) == 0 {
		d.skip("no setting names one", "certificates")
	}
	now := time.Now()
	for _, c := range all {
		f := ok("%s until %s", c.File, c.NotAfter.UTC().Format(time.DateOnly))
		switch left := c.NotAfter.Sub(now); {
		case c.Err != nil:
			f = failed(fmt.Errorf("%s: %w", c.File, c.Err), "put a certificate in PEM there, readable for the user of the process")
		case left <= 0:
			f = finding{Fail, c.File + " expired at " + c.NotAfter.UTC().Format(time.RFC3339), "renew it: the file is read again, without a restart"}
		case now.Before(c.NotBefore):
			f = finding{Fail, c.File + " is not valid before " + c.NotBefore.UTC().Format(time.RFC3339), "check this host's clock, or renew it"}
		case left < expiresSoon:
			f = finding{Warn, fmt.Sprintf("%s expires in %d days", c.File, int(left.Hours()/24)), "renew it: the file is read again, without a restart"}
		}
		d.add(Result{Check: c.Variable, State: f.state, Detail: f.detail, Next: f.next})
	}
}
