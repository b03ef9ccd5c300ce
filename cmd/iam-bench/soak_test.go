package main

import (
	"io"
	"strings"
	"testing"
	"time"
)

// A soak of an hour in which everything stays as it is, but for what a row changes.
func TestASoakFailsOnWhatGrows(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(s *soaking, minute int, x sample)
		after  func(s *soaking)
		want   string // part of the error; empty: none
	}{
		{name: "nothing grows"},
		{name: "a burst ends", change: func(_ *soaking, minute int, x sample) {
			if minute == 55 {
				x.values["go_goroutines"], x.values["process_open_fds"] = 500, 500
			}
		}},
		{name: "a goroutine a minute", want: "goroutines, replica 1", change: func(_ *soaking, minute int, x sample) {
			if x.replica == 1 {
				x.values["go_goroutines"] += float64(minute)
			}
		}},
		{name: "a descriptor a minute", want: "open file descriptors", change: func(_ *soaking, minute int, x sample) {
			x.values["process_open_fds"] += float64(minute)
		}},
		{name: "100 bytes a request", want: "heap after a collection", change: func(_ *soaking, minute int, x sample) {
			x.values["go_memstats_heap_alloc_bytes"] += float64(minute) * 60 * 75 * 100
		}},
		{name: "connections beyond the pools", want: "connections to PostgreSQL", change: func(_ *soaking, minute int, x sample) {
			x.values[connectionsOfReplicas] = float64(minute)
		}},
		{name: "no samples", want: "not measured", after: func(s *soaking) { s.seen = nil }},
		{name: "slower at the end", want: "p99 of enrichments", after: func(s *soaking) {
			s.took["end"] = [][]time.Duration{{time.Second}, {time.Second}}
		}},
		{name: "one slow minute", after: func(s *soaking) { s.took["end"][0] = []time.Duration{time.Second} }},
		{name: "failures", want: "enrichments failed", after: func(s *soaking) { s.failed["enrichments: 503 facts_timeout"] = 800 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			steady := [][]time.Duration{{time.Millisecond, 2 * time.Millisecond}, {time.Millisecond, 2 * time.Millisecond}, {time.Millisecond}}
			s := &soaking{
				length: time.Hour, began: time.Now(), replicas: []*replica{{}, {}}, failed: map[string]int{},
				done: map[string]int{"enrichments": 540_000, sampled: 60, activated: 20},
				took: map[string][][]time.Duration{"reference": steady, "end": append([][]time.Duration{}, steady...)},
			}
			for minute := range 60 {
				for i := range s.replicas {
					x := sample{s.began.Add(time.Duration(minute) * time.Minute), i, map[string]float64{
						"go_memstats_heap_alloc_bytes": 40 << 20, "process_resident_memory_bytes": 120 << 20, "go_goroutines": 50, "process_open_fds": 40, connectionsOfReplicas: 20,
					}}
					if c.change != nil {
						c.change(s, minute, x)
					}
					s.seen = append(s.seen, x)
				}
			}
			if c.after != nil {
				c.after(s)
			}
			err := s.judge(io.Discard)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("judged %v, want %q", err, c.want)
			}
		})
	}
}
