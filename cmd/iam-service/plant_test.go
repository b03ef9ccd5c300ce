package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/devrauth"
	"iam-service/internal/dev/devstack"
	"iam-service/internal/dev/freeport"
	"iam-service/internal/dev/pgtest"
)

// plant is the program as a process of its own, between a provider, a database and a bus
// that can end it, or cut it off, at any step of what it does with them.
type plant struct {
	testing.TB
	ctx     context.Context
	rauth   *devrauth.Server
	issuer  string
	proxy   *pgtest.Proxy
	pool    *pgxpool.Pool
	bus     *natsServer
	natsURL string

	program  string                           // its file
	settings []string                         // further ones of the program
	root     func() (token string, err error) // of the administrator, for the admin API

	mu    sync.Mutex
	cmd   *exec.Cmd
	dead  chan struct{} // closed when it has ended
	admin string
	ops   string
	log   bytes.Buffer

	step    atomic.Pointer[func(where string) (cut bool)] // called at each step
	reached func() bool                                   // the step that goes wrong
}

// newPlant starts one. Before is called before the program starts.
func newPlant(t testing.TB, before ...func(*plant)) *plant {
	t.Helper()
	return newPlantAt(t, pgtest.URL(t), before...)
}

// newPlantAt is newPlant over a database that is migrated.
func newPlantAt(t testing.TB, database string, before ...func(*plant)) *plant {
	t.Helper()
	p := &plant{TB: t, ctx: t.Context(), program: os.Args[0]}
	var handler http.Handler
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/admin/") {
			handler.ServeHTTP(w, r)
			return
		}
		if p.pass("before " + r.Method + " in R-Auth") {
			panic(http.ErrAbortHandler)
		}
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, r)
		if p.pass("after " + r.Method + " in R-Auth") {
			panic(http.ErrAbortHandler)
		}
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes()) // the caller may be dead
	}))
	t.Cleanup(srv.Close)
	var err error
	p.rauth, err = devrauth.NewShared(srv.URL, devstack.Audience, "plant")
	p.ok(err)
	handler, p.issuer = p.rauth.Handler(), srv.URL
	p.root = func() (string, error) {
		return p.rauth.Mint("ES256", map[string]any{"sub": "root", "client_id": "web", "aud": devstack.AdminAudience})
	}

	p.proxy = pgtest.NewProxy(t, database)
	p.pool, err = pgxpool.New(p.ctx, database)
	p.ok(err)
	t.Cleanup(p.pool.Close)
	p.bus = &natsServer{dir: filepath.Join(t.TempDir(), "nats")}
	bus, err := freeport.Addrs(1)
	p.ok(err)
	p.ok(p.bus.start(bus[0]))
	p.natsURL = p.bus.ns.ClientURL()
	t.Cleanup(p.bus.stop)
	for _, do := range before {
		do(p)
	}
	p.start()
	t.Cleanup(p.kill)
	return p
}

func (p *plant) ok(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// pass is a step; it reports whether the connection is to be cut there.
func (p *plant) pass(where string) (cut bool) {
	do := p.step.Load()
	return do != nil && (*do)(where)
}

// enrich asks the gateway listener at addr who a token's caller is. Status and headers are all there is.
func (p *plant) enrich(addr, token string) (int, http.Header) {
	p.Helper()
	req, err := http.NewRequestWithContext(p.ctx, http.MethodGet, "http://"+addr+"/system/enrich-token", nil)
	p.ok(err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	p.ok(err)
	_ = resp.Body.Close()
	return resp.StatusCode, resp.Header
}

// command is the program, with settings after those that all have.
func (p *plant) command(settings ...string) *exec.Cmd {
	cmd := exec.Command(p.program, "serve")
	cmd.Args[0] = programName
	cmd.Env = append([]string{
		"DATABASE_URL=" + p.proxy.URL, "RAUTH_URL=" + p.issuer, "RAUTH_AUDIENCES=" + devstack.Audience, "ADMIN_AUDIENCE=" + devstack.AdminAudience,
		"RAUTH_ADMIN_URL=" + p.issuer, "NATS_URL=" + p.natsURL, "BOOTSTRAP_ADMIN=root", "LOG_LEVEL=debug",
		"GATEWAY_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "SHUTDOWN_DELAY=0s", "ENRICH_DEADLINE=10s", // the machine may be slow, and what is asked once is to be answered
	}, append(p.settings, settings...)...)
	return cmd
}

// start runs the program until it is ready.
func (p *plant) start() {
	p.Helper()
	cmd := p.command()
	out, err := cmd.StderrPipe()
	p.ok(err)
	p.ok(cmd.Start())
	ready, dead := make(chan [2]string, 1), make(chan struct{})
	go func() {
		defer close(dead)
		defer close(ready)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			p.mu.Lock()
			p.log.Write(append(lines.Bytes(), '\n'))
			p.mu.Unlock()
			var line struct{ Msg, Admin, Ops string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "ready" {
				ready <- [2]string{line.Admin, line.Ops}
			}
		}
		_ = cmd.Wait() // killed
	}()
	select {
	case addrs, ok := <-ready:
		if !ok {
			p.Fatalf("it does not start: %s", p.logged())
		}
		p.mu.Lock()
		p.cmd, p.dead, p.admin, p.ops = cmd, dead, "http://"+addrs[0], "http://"+addrs[1]
		p.mu.Unlock()
	case <-time.After(await.Limit):
		_ = cmd.Process.Kill()
		p.Fatalf("it does not start: %s", p.logged())
	}
}

// until looks at what another process does, until it is so.
func (p *plant) until(what string, is func() bool) {
	p.Helper()
	if !await.Until(await.Limit, 20*time.Millisecond, is) {
		p.Fatalf("not in time: %s; %s", what, p.logged())
	}
}

// quiet waits until what a start brings with it is over.
func (p *plant) quiet() {
	p.Helper()
	p.until("it comes to rest", func() bool {
		log := p.logged()
		return strings.Contains(log, "clients compared") && strings.Contains(log, "audit checkpoint") && p.count(`SELECT count(*) FROM outbox WHERE sent_at IS NULL`) == 0
	})
}

func (p *plant) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// kill ends it as a power failure would, and returns when it is dead.
func (p *plant) kill() {
	p.mu.Lock()
	cmd, dead := p.cmd, p.dead
	p.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Kill() // it may be dead already
		<-dead
	}
}

// disturb lets the n-th step of a kind from now on go wrong; reached says whether it came
// to that, and waits for what is done then.
func (p *plant) disturb(step string, n int64, how func() (cut bool)) (stop func()) {
	var mu sync.Mutex
	var seen int64
	do := func(where string) bool {
		mu.Lock()
		defer mu.Unlock()
		if where == step {
			seen++
		}
		return where == step && seen == n && how()
	}
	p.step.Store(&do)
	p.proxy.OnCommit(func(phase pgtest.CommitPhase) {
		where := "before a commit"
		if phase == pgtest.CommitDone {
			where = "after a commit"
		}
		if p.pass(where) {
			p.proxy.Cut()
		}
	})
	p.reached = func() bool {
		mu.Lock()
		defer mu.Unlock()
		return seen >= n
	}
	return func() { p.step.Store(nil); p.proxy.OnCommit(nil) }
}

type said struct {
	status int
	body   map[string]any
}

func (s said) text(name string) string {
	v, _ := s.body[name].(string) // none: ""
	return v
}

// call asks the admin API; status 0: there was no answer.
func (p *plant) call(method, path string, body any, headers ...string) said {
	p.Helper()
	b, err := json.Marshal(body)
	p.ok(err)
	if body == nil {
		b = nil
	}
	p.mu.Lock()
	url := p.admin + path
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(b))
	p.ok(err)
	token, err := p.root()
	p.ok(err)
	req.Header.Set("Authorization", "Bearer "+token)
	if b != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return said{}
	}
	defer resp.Body.Close()
	s := said{status: resp.StatusCode}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return said{}
	}
	_ = json.Unmarshal(text, &s.body) // no JSON: nothing is said
	return s
}

// again sends a request until it has one of the statuses.
func (p *plant) again(method, path string, body any, headers []string, statuses ...int) said {
	p.Helper()
	var got said
	p.until(fmt.Sprintf("%s %s is %v", method, path, statuses), func() bool {
		p.hurry()
		got = p.call(method, path, body, headers...)
		return slices.Contains(statuses, got.status)
	})
	return got
}
