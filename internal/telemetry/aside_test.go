package telemetry_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"iam-service/internal/telemetry"
)

// slowReader blocks who writes to it until it is let go.
type slowReader struct {
	bytes.Buffer
	began, let chan struct{}
}

func (s *slowReader) Write(p []byte) (int, error) {
	select {
	case s.began <- struct{}{}:
	default:
	}
	<-s.let
	return s.Buffer.Write(p)
}

func TestASlowReaderOfTheLogDelaysNobody(t *testing.T) {
	t.Parallel()
	out := &slowReader{began: make(chan struct{}, 1), let: make(chan struct{})}
	aside := telemetry.NewAside(10)
	log := aside.Logger(slog.New(slog.NewJSONHandler(out, nil))).With(slog.String("from", "test")).WithGroup("g")
	log.Info("first")
	<-out.began // it is being written
	for i := range 30 {
		log.Info(fmt.Sprint("line ", i), slog.Int("n", i)) // none of these waits
	}
	if n := aside.Dropped(); n != 20 {
		t.Errorf("%d were dropped, want 20 of 30 with room for 10", n)
	}
	close(out.let)
	aside.Close()
	aside.Close()
	log.Info("late")
	if n := strings.Count(out.String(), "\n"); n != 11 || !strings.Contains(out.String(), `"from":"test","g":{"n":9}`) {
		t.Errorf("%d lines were written: %s", n, out.String())
	}
	if n := aside.Dropped(); n != 21 {
		t.Errorf("%d were dropped in the end", n)
	}
	if log.Enabled(context.Background(), slog.LevelDebug) {
		t.Error("it logs what the logger behind it does not")
	}
}
