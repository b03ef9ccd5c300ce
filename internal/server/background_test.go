package server

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"iam-service/internal/telemetry"
)

// A loop that panics begins again; the others run on.
func TestALoopThatPanicsBeginsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		metrics := telemetry.NewMetrics(telemetry.Build{}, nil)
		b := &background{ctx: ctx, panicked: func(where string, err error) {
			panicked(ctx, slog.New(slog.DiscardHandler), metrics, where, err)
		}}
		begun := 0
		b.loop("test", func() {
			if begun++; begun < 3 {
				panic("a bad row")
			}
			<-ctx.Done()
		})
		time.Sleep(10 * loopPause)
		stop()
		b.running.Wait()
		families, err := metrics.Registry.Gather()
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
