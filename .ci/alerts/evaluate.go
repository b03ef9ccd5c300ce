package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// Alert is one that fired.
type Alert struct {
	Name     string
	Before   bool    // it fired before the outage already
	After    float64 // seconds from the outage to the first time that it fires
	Resolved float64 // seconds from the end of the outage to the last time that it fires; 0: it ended before
	Remains  bool    // it fires at the end of the run
}

// Result is what was evaluated.
type Result struct {
	Alerts []Alert  // that fired, by name
	Rules  []string // all alerting rules
	Took   float64  // seconds of rule time
}

// judge evaluates rules on a timeline and records what fires.
type judge struct {
	db     *tsdb.DB
	groups []*rules.Group
	epoch  time.Time
	ctx    context.Context //nolint:containedctx // of one evaluation

	app   storage.Appender
	began time.Duration // of the outage; 0: not yet
	ended time.Duration
	last  time.Duration // evaluated
	found map[string]*Alert
}

// Rules are evaluated every step, from a while before the outage.
const before = 10 * time.Minute

func evaluate(file string, in Run) (Result, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Result{}, err
	}
	var frames []raw
	for _, f := range in.Frames {
		r, err := parse(f, func(name string) bool { return strings.Contains(string(text), name) })
		if err != nil {
			return Result{}, err
		}
		frames = append(frames, r)
	}
	dir, err := os.MkdirTemp("", "alerts-")
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a leftover in the temporary folder does no harm
	options := tsdb.DefaultOptions()
	options.MinBlockDuration = int64(24 * time.Hour / time.Millisecond) // all is in memory
	options.MaxBlockDuration = options.MinBlockDuration
	db, err := tsdb.Open(dir, promslog.NewNopLogger(), nil, options, nil)
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = db.Close() }() // nothing of it is used again
	j, err := newJudge(file, db)
	if err != nil {
		return Result{}, err
	}
	return j.run(in, frames)
}

func newJudge(file string, db *tsdb.DB) (*judge, error) {
	p := parser.NewParser(parser.Options{})
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 50_000_000, Timeout: time.Minute, Parser: p})
	j := &judge{db: db, epoch: time.Unix(1_700_000_000, 0), ctx: context.Background(), found: map[string]*Alert{}}
	m := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(engine, db), AppendableV2: db, Queryable: db, Context: j.ctx,
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {}, Logger: promslog.NewNopLogger(), Parser: p,
	})
	groups, errs := m.LoadGroups(step, labels.EmptyLabels(), "", nil, false, file)
	if len(errs) > 0 {
		return nil, fmt.Errorf("load %s: %w", file, errs[0])
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		j.groups = append(j.groups, groups[name])
	}
	// Recording rules come before the alerts that use them.
	slices.SortStableFunc(j.groups, func(a, b *rules.Group) int { return recording(b) - recording(a) })
	return j, nil
}

func recording(g *rules.Group) (n int) {
	for _, r := range g.Rules() {
		if _, ok := r.(*rules.RecordingRule); ok {
			n++
		}
	}
	return n
}

func (j *judge) run(in Run, frames []raw) (Result, error) {
	stale := math.Float64frombits(value.StaleNaN)
	t := &timeline{series: map[string]*series{}, append: j.append, commit: j.commit}
	well, outage := within(frames, 0, in.Start), within(frames, in.Start, in.Return)
	rest := within(frames, in.Return, math.Inf(1))
	if len(well) < 2 || len(outage) < 2 || len(rest) < 2 {
		return Result{}, fmt.Errorf("too few scrapes: %d before the outage, %d during it, %d after it", len(well), len(outage), len(rest))
	}
	end := rest[len(rest)-1].at
	steps := []func() error{
		func() error { return t.repeat(well, lead, nil, stale) },
		func() error { j.began = t.now; return t.real(outage, stale) },
		func() error {
			if in.Brief {
				return nil
			}
			last := within(frames, in.Return-repeated, in.Return)
			return t.repeat(last, hold, aging(last), stale)
		},
		func() error { j.ended = t.now; return t.real(rest, stale) },
		func() error { return t.repeat(within(frames, end-repeated, math.Inf(1)), tail, nil, stale) },
	}
	for _, do := range steps {
		if err := do(); err != nil {
			return Result{}, err
		}
	}
	out := Result{Took: t.now.Seconds()}
	for _, g := range j.groups {
		for _, r := range g.AlertingRules() {
			out.Rules = append(out.Rules, r.Name())
			if r.State() == rules.StateFiring {
				j.found[r.Name()].Remains = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(j.found)) {
		out.Alerts = append(out.Alerts, *j.found[name])
	}
	return out, nil
}

func (j *judge) at(d time.Duration) time.Time { return j.epoch.Add(d) }

func (j *judge) append(at time.Duration, s *series, v float64) error {
	if j.app == nil {
		j.app = j.db.Appender(j.ctx)
	}
	_, err := j.app.Append(0, s.labels, j.at(at).UnixMilli(), v)
	return err
}

// commit makes the samples of a moment visible and evaluates the rules, every step.
func (j *judge) commit(at time.Duration) error {
	if err := j.app.Commit(); err != nil {
		return err
	}
	j.app = nil
	if at < lead-before || at-j.last < step {
		return nil
	}
	j.last = at
	for _, g := range j.groups {
		g.Eval(j.ctx, j.at(at))
		for _, r := range g.Rules() {
			if err := r.LastError(); err != nil {
				return fmt.Errorf("rule %s: %w", r.Name(), err)
			}
		}
		for _, r := range g.AlertingRules() {
			if r.State() == rules.StateFiring {
				j.record(r.Name(), at)
			}
		}
	}
	return nil
}

func (j *judge) record(name string, at time.Duration) {
	a := j.found[name]
	if a == nil {
		a = &Alert{Name: name, Before: j.began == 0, After: (at - j.began).Seconds()}
		j.found[name] = a
	}
	if j.ended > 0 {
		a.Resolved = (at - j.ended).Seconds()
	}
}
