package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"iam-service/internal/dev/freeport"
)

// backend is one replica as a balancer knows it.
type backend struct {
	gateway, ops string
	ready        atomic.Bool // as the balancer believes
	cmd          *exec.Cmd
	dead         chan error

	mu    sync.Mutex
	probe int // that ready is of; under mu
}

// probed stores the result of a probe, unless that of a later one has arrived before.
func (b *backend) probed(probe int, ready bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe > b.probe {
		b.probe = probe
		b.ready.Store(ready)
	}
}

// balancer sends requests to replicas that are ready, as of its last probes. It
// repeats no request.
func balancer(t *testing.T, heardAfter time.Duration, backends ...*backend) string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var looking sync.WaitGroup
	for _, b := range backends {
		looking.Go(func() {
			probes := 0
			for ctx.Err() == nil {
				asking, cancel := context.WithTimeout(ctx, 5*time.Second)
				req, err := http.NewRequestWithContext(asking, http.MethodGet, "http://"+b.ops+"/readyz", nil)
				ready := false
				if err == nil {
					if resp, err := http.DefaultClient.Do(req); err == nil {
						ready = resp.StatusCode == http.StatusOK
						_ = resp.Body.Close() // the status says it
					}
				}
				cancel()
				probes++
				probe := probes
				time.AfterFunc(heardAfter, func() { b.probed(probe, ready) })
				select {
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	var turn atomic.Int64
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			n := int(turn.Add(1))
			for i := range backends {
				if b := backends[(n+i)%len(backends)]; b.ready.Load() {
					r.Out.URL.Scheme, r.Out.URL.Host = "http", b.gateway
					return
				}
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	srv := httptest.NewServer(proxy)
	t.Cleanup(func() { srv.Close(); stop(); looking.Wait() })
	return srv.URL
}

// A rolling restart costs no request: what stops is served on while balancers still send, closes connections with
// an answer and not under a request, and what starts is ready once it can answer.
func TestARollingRestartFailsNoRequest(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.kill()
	addrs, err := freeport.Addrs(4)
	p.ok(err)
	backends := []*backend{{gateway: addrs[0], ops: addrs[1]}, {gateway: addrs[2], ops: addrs[3]}}
	start := func(b *backend) {
		b.cmd = p.command("GATEWAY_ADDR="+b.gateway, "OPS_ADDR="+b.ops, "SHUTDOWN_DELAY=3s", "ENRICH_DEADLINE=10s", "START_TIMEOUT=1m", "RAUTH_ADMIN_URL=", "NATS_URL=", "LOG_LEVEL=error", "DECISION_LOG_CONSOLE=false")
		p.ok(b.cmd.Start())
		b.dead = make(chan error, 1)
		cmd, dead := b.cmd, b.dead
		go func() { dead <- cmd.Wait() }()
		t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
	}
	for _, b := range backends {
		start(b)
	}
	url := balancer(t, 300*time.Millisecond, backends...)
	ready := func(b *backend) { p.until("a replica is ready", b.ready.Load) }
	for _, b := range backends {
		ready(b)
	}
	token, err := p.rauth.Mint("ES256", map[string]any{"sub": "root", "client_id": "web"})
	p.ok(err)
	var asked atomic.Int64
	var mu sync.Mutex
	bad := map[string]int{}
	ask := func() {
		asked.Add(1)
		status, text := 0, ""
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/system/enrich-token", nil) // no client repeats a POST
		if err == nil {
			req.Header.Set("Authorization", "Bearer "+token)
			var resp *http.Response
			if resp, err = http.DefaultClient.Do(req); err == nil {
				body, _ := io.ReadAll(resp.Body) // for a message only
				_ = resp.Body.Close()
				status, text = resp.StatusCode, string(body)
			}
		}
		if err != nil || status != http.StatusForbidden { // of a user without a tenant: a response
			mu.Lock()
			defer mu.Unlock()
			bad[fmt.Sprint(status, " ", strings.TrimSpace(text), " ", err)]++
		}
	}
	stop := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond) // 200 a second
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				asking.Go(ask)
			case <-stop:
				return
			}
		}
	})
	for _, b := range backends {
		p.ok(b.cmd.Process.Signal(syscall.SIGTERM))
		if err := <-b.dead; err != nil {
			t.Errorf("it stops with %v", err)
		}
		p.until("the balancer knows", func() bool { return !b.ready.Load() })
		start(b)
		ready(b)
	}
	close(stop)
	asking.Wait()
	if len(bad) > 0 || asked.Load() < 100 {
		t.Errorf("of %d requests these failed: %v", asked.Load(), bad)
	}
}
