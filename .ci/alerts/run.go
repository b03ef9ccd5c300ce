package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

// Run is what was scraped: some seconds in which all is well, the outage from Start to Return, and what follows.
type Run struct {
	Start, Return float64 // seconds, on the clock of Frames
	Brief         bool    // the outage is not repeated
	Frames        []Frame // in the order of time
}

// Frame is one scrape of all replicas.
type Frame struct {
	At    float64           // seconds
	Texts map[string]string // by instance; absent: the scrape failed
}

// No run lasts as long as the windows of the rules. So the seconds before the outage are repeated until lead has passed, the
// last seconds of the outage until hold has passed, and the last seconds of the run until tail has passed. A repetition adds to
// a counter what the original seconds added, and shows a gauge as it was; a gauge in seconds that grew with the clock, such as
// the age of the oldest pending event, goes on growing. Repeated seconds are sampled every step, real ones as scraped.
const (
	lead = 75 * time.Minute // "offset 1h" and a 5 min rate
	hold = 15 * time.Minute
	tail = 45 * time.Minute
	step = 15 * time.Second

	// repeated is how many of the last seconds of the outage, and of the run, are repeated.
	repeated = 6.0
)

// series is one time series on the timeline.
type series struct {
	labels  labels.Labels
	counter bool
	value   float64
	seen    bool // in an earlier frame
	present bool // in the last frame
}

// raw is a parsed frame.
type raw struct {
	at     float64
	values map[string]sample
}

type sample struct {
	labels  labels.Labels
	counter bool
	value   float64
}

// timeline emits samples. append receives all series of a moment; vanished ones have a stale marker.
type timeline struct {
	now    time.Duration
	series map[string]*series
	append func(at time.Duration, s *series, v float64) error
	commit func(at time.Duration) error
}

func parse(f Frame, wanted func(name string) bool) (raw, error) {
	r := raw{at: f.At, values: map[string]sample{}}
	for instance, text := range f.Texts {
		p := textparse.NewPromParser([]byte(text), labels.NewSymbolTable(), false)
		types := map[string]model.MetricType{}
		for {
			entry, err := p.Next()
			if entry == textparse.EntryInvalid {
				if err.Error() == "EOF" {
					break
				}
				return r, fmt.Errorf("metrics of %s: %w", instance, err)
			}
			switch entry {
			case textparse.EntryType:
				name, t := p.Type()
				types[string(name)] = t
			case textparse.EntrySeries:
				_, _, v := p.Series()
				var l labels.Labels
				p.Labels(&l)
				name := l.Get(labels.MetricName)
				if !wanted(name) {
					continue
				}
				b := labels.NewBuilder(l)
				b.Set("instance", instance)
				l = b.Labels()
				r.values[l.String()] = sample{labels: l, counter: counts(types, name), value: v}
			}
		}
	}
	return r, nil
}

func counts(types map[string]model.MetricType, name string) bool {
	if types[name] == model.MetricTypeCounter {
		return true
	}
	for _, suffix := range []string{"_bucket", "_count", "_sum"} {
		base, ok := strings.CutSuffix(name, suffix)
		if t := types[base]; ok && (t == model.MetricTypeHistogram || t == model.MetricTypeSummary) {
			return true
		}
	}
	return false
}

// advance applies what happened between two frames, without emitting it. aging are the gauges that go on growing.
func (t *timeline) advance(from, to raw, aging map[string]bool) {
	for key, s := range t.series {
		if _, ok := to.values[key]; !ok {
			s.present = false
		}
	}
	for key, v := range to.values {
		s := t.series[key]
		if s == nil {
			s = &series{labels: v.labels, counter: v.counter}
			t.series[key] = s
		}
		before, had := from.values[key]
		switch {
		case !s.seen:
			s.value = v.value
		case s.counter && had && v.value >= before.value, aging[key] && had:
			s.value += v.value - before.value
		case s.counter: // a new process
			s.value += v.value
		default:
			s.value = v.value
		}
		s.seen, s.present = true, true
	}
}

// emit appends a sample of each series at now.
func (t *timeline) emit(stale float64) error {
	for _, key := range slices.Sorted(maps.Keys(t.series)) {
		s := t.series[key]
		v := s.value
		if !s.present {
			v = stale
		}
		if err := t.append(t.now, s, v); err != nil {
			return err
		}
	}
	return t.commit(t.now)
}

// real emits frames as they were scraped.
func (t *timeline) real(frames []raw, stale float64) error {
	for i := 1; i < len(frames); i++ {
		t.now += seconds(frames[i].at - frames[i-1].at)
		t.advance(frames[i-1], frames[i], nil)
		if err := t.emit(stale); err != nil {
			return err
		}
	}
	return nil
}

// repeat emits the transitions between frames again and again, every step, for a time.
func (t *timeline) repeat(frames []raw, during time.Duration, aging map[string]bool, stale float64) error {
	if len(frames) < 2 {
		return fmt.Errorf("%d scrapes are too few to repeat", len(frames))
	}
	end, next := t.now+during, t.now+step
	for i := 1; t.now < end; i = i%(len(frames)-1) + 1 {
		t.now += seconds(frames[i].at - frames[i-1].at)
		t.advance(frames[i-1], frames[i], aging)
		if t.now >= next {
			next += step
			if err := t.emit(stale); err != nil {
				return err
			}
		}
	}
	return nil
}

// aging are the gauges in seconds that grew as fast as the clock.
func aging(frames []raw) map[string]bool {
	first, last := frames[0], frames[len(frames)-1]
	found := map[string]bool{}
	for key, v := range last.values {
		before, ok := first.values[key]
		grown := v.value - before.value
		took := last.at - first.at
		if ok && !v.counter && strings.HasSuffix(v.labels.Get(labels.MetricName), "_seconds") && math.Abs(grown-took) < 0.25*took+0.5 {
			found[key] = true
		}
	}
	return found
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// within returns the frames from one second up to another one, with one before them.
func within(frames []raw, from, to float64) []raw {
	first := max(0, slices.IndexFunc(frames, func(f raw) bool { return f.at >= from })-1)
	last := len(frames)
	if i := slices.IndexFunc(frames, func(f raw) bool { return f.at >= to }); i >= 0 {
		last = i
	}
	return frames[first:max(first, last)]
}
