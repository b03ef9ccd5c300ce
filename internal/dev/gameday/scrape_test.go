package gameday

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// scrapes are what Prometheus would have scraped, every second.
type scrapes struct {
	testing.TB
	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	frames []frame
}

// frame is one scrape of all replicas, as .ci/alerts reads it.
type frame struct {
	At    float64           // seconds, on the clock of the callers
	Texts map[string]string // by replica; absent: the scrape failed
}

func startScrapes(t testing.TB, c *callers, replicas []*replica) *scrapes {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	s := &scrapes{TB: t, stop: stop, done: make(chan struct{})}
	t.Cleanup(s.end)
	go func() {
		defer close(s.done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			f := frame{At: c.now().Seconds(), Texts: map[string]string{}}
			var mu sync.Mutex
			var all sync.WaitGroup
			for _, r := range replicas {
				all.Go(func() {
					if text, err := r.get("/metrics"); err == nil {
						mu.Lock()
						defer mu.Unlock()
						f.Texts[r.name] = string(text)
					}
				})
			}
			all.Wait()
			s.mu.Lock()
			s.frames = append(s.frames, f)
			s.mu.Unlock()
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return s
}

func (s *scrapes) end() {
	s.stop()
	<-s.done
}

// alert is one that fired, as .ci/alerts reports it.
type alert struct {
	Name     string
	Before   bool
	After    float64
	Resolved float64
	Remains  bool
}

// alerts evaluates deploy/prometheus/rules.yaml over the scrapes, and returns what fired, and the names of all alerts.
func (s *scrapes) alerts(start, back time.Duration, brief bool) (fired []alert, all []string) {
	s.Helper()
	s.mu.Lock()
	in, err := json.Marshal(map[string]any{"Start": start.Seconds(), "Return": back.Seconds(), "Brief": brief, "Frames": s.frames})
	s.mu.Unlock()
	ok(s, err)
	cmd := exec.Command(filepath.Join(binaries(s.TB), "alerts"), root+"/deploy/prometheus/rules.yaml")
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.Fatalf("evaluate the alerts: %v: %s", err, &stderr)
	}
	var result struct {
		Alerts []alert
		Rules  []string
	}
	ok(s, json.Unmarshal(out, &result))
	return result.Alerts, result.Rules
}
