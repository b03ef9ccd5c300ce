package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sample is what one replica uses at a moment, by metric, and what the database has of all.
type sample struct {
	at      time.Time
	replica int
	values  map[string]float64
}

// soakLimit says how much more of something the end may have than the reference. The minima of both phases are compared: a
// burst raises a maximum, a leak raises the minimum.
type soakLimit struct {
	metric, name string
	unit         float64 // divides what is printed
	factor, more float64 // end ≤ factor × reference + more
}

// soakLimits leave room for what varies by itself. A leak of one goroutine, descriptor or connection for each connection that
// is ended is above, as is one byte of a hundred for each request.
var soakLimits = []soakLimit{
	{metric: "go_memstats_heap_alloc_bytes", name: "heap after a collection, MB", unit: 1 << 20, factor: 1.15, more: 4 << 20},
	{metric: "process_resident_memory_bytes", name: "resident memory, MB", unit: 1 << 20, factor: 1.25, more: 16 << 20},
	{metric: "go_goroutines", name: "goroutines", unit: 1, factor: 1, more: 12},
	{metric: "process_open_fds", name: "open file descriptors", unit: 1, factor: 1, more: 12},
}

const connectionsOfReplicas = "connections"

// What one replica may have of connections (two pools of ten, and the feed), and all together besides: the loops, and what
// the server has not noticed yet as ended. docs/runbook.md has the formula.
const (
	soakConnections     = 21
	soakConnectionsMore = 4
)

// Limits of latency and failures.
const (
	soakSlower     = 2.0 // p99 at the end ≤ this × p99 of the reference + soakSlowerMore
	soakSlowerMore = 10 * time.Millisecond
	soakFailures   = 0.001 // share of enrichments, for a machine that is busy at times
	soakDisrupted  = 2     // for each connection that was ended and each activation: the look-ups that were under way
)

// sample reads the metrics of each replica, and counts connections.
func (s *soaking) sample(ctx context.Context) error {
	var connections float64
	if err := s.conn.QueryRow(ctx, `SELECT count(*)::float8 FROM pg_stat_activity WHERE application_name LIKE 'iam-service%'`).Scan(&connections); err != nil {
		return err
	}
	for i, r := range s.replicas {
		if err := s.call(ctx, http.MethodGet, "http://"+r.ops+"/debug/pprof/heap?gc=1", "", ""); err != nil { // collects first
			return err
		}
		values, err := r.metrics(ctx)
		if err != nil {
			return err
		}
		values[connectionsOfReplicas] = connections
		s.mu.Lock()
		s.seen = append(s.seen, sample{time.Now(), i, values})
		s.mu.Unlock()
	}
	return nil
}

// metrics are the series of a replica that have no labels.
func (r *replica) metrics(ctx context.Context) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.ops+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	values := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			values[name] = v
		}
	}
	return values, lines.Err()
}

// judge prints what the reference and the end have, and returns what exceeds its limit.
func (s *soaking) judge(out io.Writer) error {
	fmt.Fprintf(out, "%s, %d replicas\n\n", s.length, len(s.replicas))
	for _, what := range slices.Sorted(maps.Keys(s.done)) {
		fmt.Fprintf(out, "%9d %s\n", s.done[what], what)
	}
	failures := 0
	for _, what := range slices.Sorted(maps.Keys(s.failed)) {
		fmt.Fprintf(out, "%9d failed: %s\n", s.failed[what], what)
		if strings.HasPrefix(what, "enrichments: ") {
			failures += s.failed[what]
		}
	}
	fmt.Fprintf(out, "\n%-52s %10s %10s %10s\n", "at least, at any time of", "reference", "end", "limit")
	var errs []error
	for _, l := range soakLimits {
		for i := range s.replicas {
			errs = append(errs, l.judge(out, fmt.Sprintf("%s, replica %d", l.name, i), s.lowest(l.metric, i, "reference"), s.lowest(l.metric, i, "end")))
		}
	}
	connections, limit := 0.0, float64(soakConnections*len(s.replicas)+soakConnectionsMore)
	for _, x := range s.seen {
		connections = max(connections, x.values[connectionsOfReplicas])
	}
	fmt.Fprintf(out, "%-52s %10s %10.0f %10.0f\n", "connections of all replicas to PostgreSQL, at most", "", connections, limit)
	if connections == 0 || connections > limit {
		errs = append(errs, fmt.Errorf("%.0f connections to PostgreSQL; the limit is %.0f", connections, limit))
	}
	errs = append(errs, s.judgeLatency(out))
	if limit = float64(s.done["enrichments"])*soakFailures + soakDisrupted*float64(s.done[sampled]+s.done[activated]); float64(failures) > limit {
		errs = append(errs, fmt.Errorf("%d enrichments failed; the limit is %.0f", failures, limit))
	}
	return errors.Join(errs...)
}

func (l soakLimit) judge(out io.Writer, name string, reference, end float64) error {
	limit := reference*l.factor + l.more
	fmt.Fprintf(out, "%-52s %10.0f %10.0f %10.0f\n", name, reference/l.unit, end/l.unit, limit/l.unit)
	switch {
	case reference <= 0 || end <= 0:
		return fmt.Errorf("%s: not measured in both phases", name)
	case end > limit:
		return fmt.Errorf("%s: %.0f at the end, the limit is %.0f", name, end/l.unit, limit/l.unit)
	}
	return nil
}

func (s *soaking) lowest(metric string, replica int, phase string) (lowest float64) {
	for _, x := range s.seen {
		if v := x.values[metric]; x.replica == replica && s.phase(x.at) == phase && (lowest == 0 || v < lowest) {
			lowest = v
		}
	}
	return lowest
}

// judgeLatency compares a quantile of the phases: the median of that of their windows, which one busy minute does not move.
func (s *soaking) judgeLatency(out io.Writer) error {
	p := func(phase string, share float64) time.Duration {
		var windows []time.Duration
		for _, took := range s.took[phase] {
			slices.Sort(took)
			windows = append(windows, took[int(float64(len(took)-1)*share)])
		}
		if len(windows) == 0 {
			return 0
		}
		slices.Sort(windows)
		return windows[len(windows)/2]
	}
	fmt.Fprintf(out, "%-52s %10s %10s\n", "enrichment, p50", p("reference", .5).Round(10*time.Microsecond), p("end", .5).Round(10*time.Microsecond))
	reference, end := p("reference", .99), p("end", .99)
	limit := time.Duration(float64(reference)*soakSlower) + soakSlowerMore
	fmt.Fprintf(out, "%-52s %10s %10s %10s\n", "enrichment, p99", reference.Round(10*time.Microsecond), end.Round(10*time.Microsecond), limit.Round(10*time.Microsecond))
	switch {
	case reference == 0 || end == 0:
		return errors.New("no enrichment was measured in both phases")
	case end > limit:
		return fmt.Errorf("p99 of enrichments: %s at the end, the limit is %s", end, limit)
	}
	return nil
}
