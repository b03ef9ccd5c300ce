package server

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A loop that panics begins again; the others run on.
func TestALoopThatPanicsBeginsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		registry := prometheus.NewRegistry()
		b := newLoops(ctx, slog.New(slog.DiscardHandler), registry)
		begun := 0
		b.run("test", func() {
			if begun++; begun < 3 {
				panic("a bad row")
			}
			<-ctx.Done()
		})
		time.Sleep(10 * loopPause)
		stop()
		b.running.Wait()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != "iam_panics_total" {
				continue
			}
			for _, m := range f.GetMetric() {
				if m.GetLabel()[0].GetValue() == "test" && m.GetCounter().GetValue() != 2 {
					t.Errorf("%v panics are counted, want 2", m.GetCounter().GetValue())
				}
			}
			if len(f.GetMetric()) != 4 {
				t.Errorf("%d series, want the three that are there from the start and this one", len(f.GetMetric()))
			}
		}
		if begun != 3 {
			t.Errorf("it began %d times, want 3", begun)
		}
	})
}
