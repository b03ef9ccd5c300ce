package gameday

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/freeport"
)

// front is what callers reach: a gateway that asks a replica that is ready, with an application behind it, and a balancer of
// the admin API.
type front struct {
	public, admin string // URLs
	kind          string // HAProxy and its version, or what stands in for it
}

// application answers every request that the gateway lets through, with the roles that it was sent.
func application(t testing.TB) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Seen-Roles", r.Header.Get("X-User-Roles"))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// startFront starts HAProxy with the configuration that the program generates. In the short form, where HAProxy is not
// installed, a gateway in this process stands in for it.
func startFront(t testing.TB, program string, replicas []*replica) front {
	t.Helper()
	binary, err := exec.LookPath("haproxy")
	switch {
	case err == nil:
		return startHAProxy(t, binary, program, replicas)
	case long:
		t.Fatal("HAProxy is missing: .ci/gateways installs it")
	}
	t.Log("HAProxy is not installed: a gateway in the test's process stands in for it")
	return startStandIn(t, replicas)
}

func startHAProxy(t testing.TB, binary, program string, replicas []*replica) front {
	t.Helper()
	dir := t.TempDir()
	addrs, err := freeport.Addrs(3)
	ok(t, err)
	const one = "127.0.0.1:1" // replaced by the replicas
	cmd := exec.Command(program, "gateway", "config", "haproxy", "--dir", dir, "--iam", "http://"+one, "--backend", application(t), "--listen", addrs[0], "--loopback", addrs[1])
	cmd.Env = []string{"GATEWAY_PROFILE=haproxy"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gateway config: %v: %s", err, out)
	}
	file := filepath.Join(dir, "haproxy.cfg")
	text, err := os.ReadFile(file)
	ok(t, err)
	servers := func(addr func(*replica) string) string {
		// As Kubernetes would, and a little faster: its probe has a period of two seconds.
		lines := "    option httpchk GET /readyz\n    default-server check inter 1s fall 1 rise 1\n"
		for _, r := range replicas {
			_, port, _ := strings.Cut(r.ops, ":")
			lines += fmt.Sprintf("    server %s %s port %s\n", r.name, addr(r), port)
		}
		return lines
	}
	generated := "    server iam " + one + "\n"
	if strings.Count(string(text), generated) != 2 {
		t.Fatalf("the generated configuration names the service otherwise than expected:\n%s", text)
	}
	// As wide as the budgets of the replicas (see game.settings).
	for name, wider := range map[string][2]string{"haproxy.cfg": {"timeout server 500ms", "timeout server 4s"}, "iam.lua": {"timeout = 700 ", "timeout = 5000 "}} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		ok(t, err)
		if !strings.Contains(string(text), wider[0]) {
			t.Fatalf("the generated %s has no %q", name, wider[0])
		}
		ok(t, os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(string(text), wider[0], wider[1])), 0o600))
	}
	text, err = os.ReadFile(file)
	ok(t, err)
	config := strings.ReplaceAll(string(text), generated, servers(func(r *replica) string { return r.gateway }))
	config += "\nlisten iam_admin\n    bind " + addrs[2] + "\n    option redispatch\n    retries 1\n" + servers(func(r *replica) string { return r.admin })
	ok(t, os.WriteFile(file, []byte(config), 0o600))
	ctx, stop := context.WithCancel(context.Background())
	haproxy := exec.CommandContext(ctx, binary, "-f", file, "-db")
	log, err := os.Create(filepath.Join(dir, "log"))
	ok(t, err)
	haproxy.Stdout, haproxy.Stderr = log, log
	ok(t, haproxy.Start())
	done := make(chan struct{})
	go func() { _ = haproxy.Wait(); close(done) }() // stopped
	t.Cleanup(func() { stop(); <-done; _ = log.Close() })
	f := front{public: "http://" + addrs[0], admin: "http://" + addrs[2], kind: "HAProxy"}
	if out, err := exec.Command(binary, "-v").Output(); err == nil {
		f.kind = strings.Join(strings.Fields(string(out))[:3], " ")
	}
	await.True(t, "HAProxy knows the replicas", func() bool {
		select {
		case <-done:
			text, _ := os.ReadFile(log.Name()) // for the message
			t.Fatalf("HAProxy ended: %s", text)
		default:
		}
		resp, err := http.Get(f.public + "/") //nolint:noctx // a test
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusUnauthorized
	})
	return f
}

// standIn is a small gateway and balancer: it asks the ready replicas in turn.
type standIn struct {
	replicas []*replica
	ready    []atomic.Bool
	turn     atomic.Int64
	app      *httputil.ReverseProxy
	client   *http.Client
}

func (s *standIn) next() *replica {
	n := int(s.turn.Add(1))
	for i := range s.replicas {
		if at := (n + i) % len(s.replicas); s.ready[at].Load() {
			return s.replicas[at]
		}
	}
	return nil
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	unavailable := func() {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "unavailable", http.StatusServiceUnavailable)
	}
	// A replica that is gone is not asked again: the next one is, once.
	for range 2 {
		to := s.next()
		if to == nil {
			break
		}
		ctx, cancel := context.WithTimeout(r.Context(), 700*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to.gateway+"/system/forward-auth", nil)
		if err != nil {
			break
		}
		for _, name := range []string{"Authorization", "X-Active-Tenant-Id"} {
			if v := r.Header.Values(name); len(v) > 0 {
				req.Header[name] = v
			}
		}
		for name, v := range map[string]string{"Method": r.Method, "Uri": r.URL.RequestURI(), "Host": r.Host, "Proto": "http", "For": "127.0.0.1"} {
			req.Header.Set("X-Forwarded-"+name, v)
		}
		resp, err := s.client.Do(req)
		if err != nil {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close() // read to its end
		if err != nil {
			continue
		}
		if resp.StatusCode != http.StatusOK {
			for _, name := range []string{"Content-Type", "Retry-After"} {
				w.Header()[name] = resp.Header[name]
			}
			w.WriteHeader(resp.StatusCode)
			_, _ = w.Write(body) // the caller may be gone
			return
		}
		r.Header.Set("X-User-Roles", resp.Header.Get("X-User-Roles"))
		s.app.ServeHTTP(w, r)
		return
	}
	unavailable()
}

func startStandIn(t testing.TB, replicas []*replica) front {
	t.Helper()
	app, err := url.Parse(application(t))
	ok(t, err)
	s := &standIn{
		replicas: replicas, ready: make([]atomic.Bool, len(replicas)), app: httputil.NewSingleHostReverseProxy(app),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}},
	}
	ctx, stop := context.WithCancel(context.Background())
	var probes sync.WaitGroup
	for i, r := range replicas {
		probes.Go(func() {
			for ctx.Err() == nil {
				s.ready[i].Store(r.ready())
				select {
				case <-time.After(300 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	public := httptest.NewServer(s)
	admin := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "127.0.0.1:1" // nothing listens there
			if to := s.next(); to != nil {
				r.Out.URL.Host = to.admin
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusServiceUnavailable) },
	})
	t.Cleanup(func() { public.Close(); admin.Close(); stop(); probes.Wait() })
	await.True(t, "the stand-in knows the replicas", func() bool { return s.next() != nil })
	return front{public: public.URL, admin: admin.URL, kind: "a stand-in for HAProxy"}
}
