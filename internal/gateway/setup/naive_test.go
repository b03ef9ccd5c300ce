package setup_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/freeport"
	"iam-service/internal/gateway/probe"
	"iam-service/internal/policy"
)

// four are the headers that examples copy.
var four = []string{"X-User-ID", "X-Tenant-ID", "X-Active-Tenant-ID", "X-User-Roles"}

// The probe cannot go blind: what is known to be wrong with the real gateways must be found.
func TestTheProbeFindsTheFaultsOfAGatewayWithANaiveConfiguration(t *testing.T) {
	t.Parallel()
	for _, p := range programs {
		t.Run(p.kind, func(t *testing.T) {
			t.Parallel()
			if p.naive == nil {
				t.Skipf("there is no naive configuration of %s", p.kind)
			}
			report := probed(t, p, options{naive: true})
			for _, kind := range p.faults {
				if report.Kinds[kind] == 0 {
					t.Errorf("no fault %s of %v", kind, report.Kinds)
				}
			}
			t.Logf("faults: %v", report.Kinds)
		})
	}
}

func TestTheNaiveConfigurationsHaveAtLeastFiveKindsOfFault(t *testing.T) {
	t.Parallel()
	var kinds []probe.Kind
	for _, p := range programs {
		if debian := slices.Contains([]string{"nginx", "haproxy", "caddy"}, p.kind); debian { // which run in each build
			kinds = append(kinds, p.faults...)
		}
	}
	slices.Sort(kinds)
	if kinds = slices.Compact(kinds); len(kinds) < 5 {
		t.Errorf("only %v", kinds)
	}
}

func TestTheProbeFindsNoFaultInAGatewayWithItsGeneratedConfiguration(t *testing.T) {
	t.Parallel()
	for _, p := range programs {
		t.Run(p.kind, func(t *testing.T) {
			t.Parallel()
			report := probed(t, p, options{})
			var text bytes.Buffer
			report.Text(&text)
			if len(report.Faults) > 0 || report.Requests < 1000 {
				t.Errorf("%d faults in %d requests:\n%s", len(report.Faults), report.Requests, &text)
			}
			t.Logf("%d requests in %d ms; notes: %q", report.Requests, report.Took, report.Notes)
		})
	}
}

// probed runs a gateway in front of the echo, and probes it.
func probed(t *testing.T, p program, o options) probe.Report {
	t.Helper()
	addrs, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	o.backend = "http://" + addrs[0]
	s := start(t, p, o)
	report, err := probe.Run(context.Background(), probe.Config{
		Gateway: "http://" + s.addr + "/orders", Headers: policy.DefaultHeaders,
		Token: s.world.Mint("alice", nil), TokenWithoutRoles: s.world.Mint("frank", map[string]any{"groups": nil}),
		Tenant: "acme", OpenPath: "/public", ListenEcho: addrs[0], Limit: 5 * time.Minute,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, s.log)
	}
	return report
}

// fill replaces the addresses in a configuration.
func fill(text string, a addresses) string {
	plain := func(url string) string { return strings.TrimPrefix(url, "http://") }
	return strings.NewReplacer("IAM_HOST", plain(a.iam), "IAM", a.iam, "PATH", a.path, "BACKEND_HOST", plain(a.backend), "BACKEND", a.backend,
		"LISTEN", a.listen, "LOOPBACK", a.loopback, "DIR", a.dir).Replace(text)
}

// naiveNginx copies four headers.
func naiveNginx(a addresses) map[string]string {
	var set strings.Builder
	for _, h := range four {
		v := strings.ToLower(strings.ReplaceAll(h, "-", "_"))
		set.WriteString("auth_request_set $iam_" + v + " $upstream_http_" + v + "; proxy_set_header " + h + " $iam_" + v + ";\n")
	}
	return map[string]string{"nginx.conf": fill(`
server {
    listen LISTEN;
    location = /_iam {
        internal;
        proxy_pass IAMPATH;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_set_header X-Original-Method $request_method;
        proxy_set_header X-Original-URL $scheme://$host$request_uri;
    }
    location / {
        auth_request /_iam;
        `+set.String()+`
        proxy_pass BACKEND;
    }
}
`, a)}
}

// naiveHAProxy asks by Lua, with the token alone, and leaves Connection and names as they are.
func naiveHAProxy(a addresses) map[string]string {
	return map[string]string{"haproxy.cfg": fill(`
global
    lua-load-per-thread DIR/iam.lua
defaults
    mode http
    timeout connect 2s
    timeout client 10s
    timeout server 10s
frontend public
    bind LISTEN
    http-request lua.iam
    default_backend app
backend app
    server app BACKEND_HOST
`, a), "iam.lua": fill(`
core.register_action("iam", { "http-req" }, function(txn)
    local headers = { ["x-forwarded-method"] = { txn.sf:method() }, ["x-forwarded-uri"] = { txn.sf:pathq() } }
    if txn.sf:req_hdr("authorization") ~= "" then headers["authorization"] = { txn.sf:req_hdr("authorization") } end
    local answer = core.httpclient():get({ url = "IAMPATH", headers = headers })
    if answer.status ~= 200 then
        local reply = txn:reply()
        reply:set_status(answer.status)
        txn:done(reply)
        return
    end
    for name, lines in pairs(answer.headers) do
        if name:sub(1, 2) == "x-" then txn.http:req_set_header(name, lines[0]) end
    end
end, 0)
`, a)}
}

// naiveCaddy is forward_auth as its manual has it.
func naiveCaddy(a addresses) map[string]string {
	_, port, _ := strings.Cut(a.listen, ":")
	return map[string]string{"Caddyfile": fill(`
{
	admin off
}
http://:`+port+` {
	forward_auth IAM {
		uri PATH
		copy_headers `+strings.Join(policy.DefaultHeaders, " ")+`
	}
	reverse_proxy BACKEND
}
`, a)}
}

// naiveTraefik copies four headers.
func naiveTraefik(a addresses) map[string]string {
	return map[string]string{"traefik.yml": fill(`
entryPoints: {public: {address: "LISTEN"}}
providers: {file: {filename: DIR/iam.yml}}
`, a), "iam.yml": fill(`
http:
  routers: {app: {rule: "PathPrefix(`+"`/`"+`)", middlewares: [iam], service: app}}
  services: {app: {loadBalancer: {servers: [{url: "BACKEND"}]}}}
  middlewares: {iam: {forwardAuth: {address: "IAMPATH", authResponseHeaders: [`+strings.Join(four, ", ")+`]}}}
`, a)}
}
