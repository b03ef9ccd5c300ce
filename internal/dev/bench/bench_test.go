//go:build linux

// Package bench measures what an enrichment costs, compared with a plain net/http response
// and with OPA's own server, in one run and in turn, over real connections.
//
// What is measured is CPU for each request, server and client together: that is
// what bounds the requests a machine answers, and wall-clock times on shared
// machines say little. Each server is a process of its own; the client is the same
// for all of them.
package bench

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iam-service/internal/gateway/assertion"
)

const (
	rounds      = 10
	connections = 16
	perTurn     = 3200  // requests to one server in one round,
	perTurnFast = 16000 // and to one that takes microseconds for each: a turn must last
)

// goal is one row of the table of figures to reach.
type goal struct {
	what  string
	of    string // whose requests for each second
	than  string // times whose
	least float64
}

var goals = []goal{
	{"decision cached", "decision", "bare", .90},
	{"decision cached", "decision", "bare-six", .90},
	{"gRPC check, decision cached", "check", "bare-check", 1 / 1.3},
	{"decision cached", "decision", "opa", 8},
	{"token cached, policy evaluated", "token", "opa-raised", 3},
	{"nothing cached but facts", "nothing", "opa", 2.2},
}

// BenchmarkPeers prints CPU for each request of each server, in turn within each
// round, and how the ratios stand to the figures to reach.
func BenchmarkPeers(b *testing.B) {
	if os.Getenv("OPA") == "" {
		b.Fatal("OPA must name OPA's program: use \"make bench\"")
	}
	targets := map[string]*target{}
	for _, name := range []string{"bare", "bare-six", "bare-check", "check", "decision", "token", "nothing"} {
		targets[name], _ = child(b, name)
	}
	_, shared := child(b, "facts")
	targets["opa"], targets["opa-raised"] = opa(b, "opa", shared, 0), opa(b, "opa-raised", shared, 16_384)
	order := slices.Sorted(maps.Keys(targets))
	for b.Loop() {
		for _, t := range targets {
			t.us, t.server = nil, nil
			t.ask(b, perTurn, false) // fills the caches
		}
		for range rounds {
			for _, name := range order {
				n := perTurn
				if name == "decision" || name == "check" || strings.HasPrefix(name, "bare") {
					n = perTurnFast
				}
				targets[name].ask(b, n, true)
			}
		}
	}
	fmt.Printf("\n%-12s %16s %12s\n", "", "µs, with client", "server alone")
	for _, name := range order {
		fmt.Printf("%-12s %16.1f %12.1f\n", name, median(targets[name].us), median(targets[name].server))
	}
	fmt.Printf("\n%-32s %-14s %9s %15s %8s\n", "", "against", "ratio", "middle half", "wanted")
	for _, g := range goals {
		m, low, high := targets[g.of].ratio(targets[g.than])
		verdict := "reached"
		if high < g.least {
			verdict = "MISSED" // the interval lies wholly below
		}
		fmt.Printf("%-32s %-14s %8.2f× %15s %7.2f× %s\n", g.what, g.than, m, fmt.Sprintf("%.2f–%.2f", low, high), g.least, verdict)
	}
}

// BenchmarkProfile writes where the time of each of our servers goes under load to
// the folder PROFILES, for "go tool pprof".
func BenchmarkProfile(b *testing.B) {
	for _, name := range []string{"bare", "decision", "token", "nothing"} {
		t, _ := child(b, name)
		t.ask(b, perTurn, false)
		done := make(chan error)
		go func() {
			resp, err := http.Get("http://" + t.addr + "/profile?seconds=5")
			if err != nil {
				done <- err
				return
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err == nil {
				err = os.WriteFile(filepath.Join(os.Getenv("PROFILES"), name+".prof"), text, 0o600)
			}
			done <- err
		}()
		for began := time.Now(); time.Since(began) < 6*time.Second; {
			t.ask(b, perTurn/4, false)
		}
		check(b, <-done)
	}
}

// BenchmarkFixedRate asks at 1,000 requests a second, all on one core, and prints
// how long answers take.
func BenchmarkFixedRate(b *testing.B) {
	var plain, ours *target
	onOneCore(b, func() {
		plain, _ = child(b, "bare")
		ours, _ = child(b, "decision")
	})
	measure := func(t *target) (p50, p99 time.Duration) {
		all := t.atRate(b)
		return all[len(all)/2], all[len(all)*99/100]
	}
	for b.Loop() {
		var ratios, bareP99, oursP99, bareP50, oursP50 []float64
		measure(plain)
		measure(ours)
		for range 5 {
			b50, b99 := measure(plain)
			o50, o99 := measure(ours)
			ratios = append(ratios, float64(o99)/float64(b99))
			us := func(d time.Duration) float64 { return float64(d.Microseconds()) }
			bareP50, bareP99, oursP50, oursP99 = append(bareP50, us(b50)), append(bareP99, us(b99)), append(oursP50, us(o50)), append(oursP99, us(o99))
		}
		fmt.Printf("\n1,000 requests/s on one core: bare net/http p50 %.0f µs, p99 %.0f µs; decision cached p50 %.0f µs, p99 %.0f µs; p99 %.2f× (wanted: at most 2×)\n",
			median(bareP50), median(bareP99), median(oursP50), median(oursP99), median(ratios))
	}
}

// BenchmarkDecisionLog asks at 1,000 requests a second and prints what writing decisions down
// costs: CPU of the server for each request, with the log and without it, in turn.
func BenchmarkDecisionLog(b *testing.B) {
	targets := map[string]*target{}
	for _, name := range []string{"decision", "decision-unlogged", "token", "token-unlogged"} {
		targets[name], _ = child(b, name)
	}
	spent := func(t *target) float64 {
		before := t.cpu(b)
		n := len(t.atRate(b))
		return float64((t.cpu(b) - before).Nanoseconds()) / 1000 / float64(n)
	}
	for b.Loop() {
		for _, kind := range []struct{ name, says string }{
			{"decision", "cached decisions, 1 % of them logged"},
			{"token", "every request evaluated, and every evaluation logged"},
		} {
			logged, unlogged := targets[kind.name], targets[kind.name+"-unlogged"]
			spent(logged)
			spent(unlogged)
			var with, without, more []float64
			for range rounds {
				w, wo := spent(logged), spent(unlogged)
				with, without, more = append(with, w), append(without, wo), append(more, 100*(w/wo-1))
			}
			slices.Sort(more)
			fmt.Printf("\n1,000 requests/s, %s: %.0f µs of CPU for each with the log, %.0f without, %+.0f %% (middle half %+.0f to %+.0f; wanted: at most +10)\n",
				kind.says, median(with), median(without), median(more), more[len(more)/4], more[len(more)*3/4])
		}
	}
}

// BenchmarkTracing prints what tracing costs: CPU of the server for each cached decision, with 1 % of the requests
// traced and exported, and without tracing, in turn.
func BenchmarkTracing(b *testing.B) {
	var batches atomic.Int64
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		batches.Add(1)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	defer collector.Close()
	b.Setenv("IAM_BENCH_COLLECTOR", collector.URL+"/v1/traces")
	off, _ := child(b, "decision")
	on, _ := child(b, "decision-traced")
	for b.Loop() {
		off.us, off.server, on.us, on.server = nil, nil, nil, nil
		var more []float64
		for round := range rounds + 1 {
			for _, t := range []*target{off, on} {
				t.ask(b, perTurnFast, round > 0) // the first one fills the caches
			}
			if round > 0 {
				more = append(more, 100*(on.server[round-1]/off.server[round-1]-1))
			}
		}
		slices.Sort(more)
		if batches.Load() == 0 {
			b.Fatal("no span was exported")
		}
		fmt.Printf("\nanswers from the cache, 1 %% of them traced: %.1f µs of the server's CPU for each, %.1f without tracing, %+.0f %% (middle half %+.0f to %+.0f; wanted: at most +10)\n",
			median(on.server), median(off.server), median(more), more[len(more)/4], more[len(more)*3/4])
	}
}

// onOneCore starts processes that may use one core only: a child has what the thread
// has that starts it.
func onOneCore(tb testing.TB, start func()) {
	tb.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	check(tb, unix.SchedGetaffinity(0, &all))
	for cpu := range 1024 {
		if all.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	check(tb, unix.SchedSetaffinity(0, &one))
	start()
	check(tb, unix.SchedSetaffinity(0, &all))
}

type conversation struct {
	conn net.Conn
	r    *bufio.Reader
}

// one is the handler alone, without a network: bytes and allocations are exact.
func one(b *testing.B, o options) {
	b.Helper()
	s := newService(b, o)
	tokens := s.mint(b, 100)
	requests := make([]*http.Request, len(tokens))
	for i, t := range tokens {
		requests[i] = httptest.NewRequest(http.MethodGet, "/system/enrich-token", nil)
		requests[i].Header.Set("Authorization", "Bearer "+t)
	}
	answer := &discard{header: http.Header{}}
	for _, r := range requests { // fills the caches
		s.handler.ServeHTTP(answer, r)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		clear(answer.header)
		s.handler.ServeHTTP(answer, requests[n%len(requests)])
		if n++; answer.status != http.StatusOK {
			b.Fatalf("status %d", answer.status)
		}
	}
}

func BenchmarkAllocationsDecisionCached(b *testing.B) {
	one(b, options{tokens: 10_000, decisions: 10_000})
}

func BenchmarkAllocationsDecisionCachedSigned(b *testing.B) {
	one(b, options{tokens: 10_000, decisions: 10_000, signed: true})
}

func BenchmarkAllocationsDecisionCachedTraced(b *testing.B) {
	one(b, options{tokens: 10_000, decisions: 10_000, traced: true})
}

func BenchmarkAllocationsPolicyEvaluated(b *testing.B) {
	one(b, options{tokens: 10_000, decisions: -1})
}

func BenchmarkAllocationsNothingCached(b *testing.B) { one(b, options{tokens: 1, decisions: -1}) }

// The path that all gateways take all the time makes next to no garbage. This is a
// count, not a time, so it is a test.
func TestACacheHitAllocatesNextToNothing(t *testing.T) {
	for name, c := range map[string]struct{ signed, traceparent bool }{
		"without an assertion":                  {},
		"with one":                              {signed: true},
		"of a gateway that traces, tracing off": {traceparent: true},
	} {
		t.Run(name, func(t *testing.T) {
			signed := c.signed
			s := newService(t, options{tokens: 10_000, decisions: 10_000, signed: signed, unlogged: true}) // a sample that is logged would count
			r := httptest.NewRequest(http.MethodGet, "/system/enrich-token", nil)
			r.Header.Set("Authorization", "Bearer "+s.mint(t, 1)[0])
			if c.traceparent {
				r.Header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
			}
			answer := &discard{header: http.Header{}}
			s.handler.ServeHTTP(answer, r)
			if got := answer.header[assertion.Header]; signed != (len(got) == 1 && got[0] != "") {
				t.Fatalf("the assertion is %q", got)
			}
			if n := testing.AllocsPerRun(500, func() {
				clear(answer.header)
				s.handler.ServeHTTP(answer, r)
			}); n > 1.5 {
				t.Errorf("%v allocations, one is allowed", n)
			} else {
				t.Logf("%v allocations", n)
			}
		})
	}
}

type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header { return d.header }

func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

func (d *discard) WriteHeader(status int) { d.status = status }
