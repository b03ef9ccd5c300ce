package telemetry_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-service/internal/telemetry"
)

// reader is one end of a pipe: it blocks who writes to it until it is let go.
type reader struct {
	began chan struct{} // a write is under way
	let   chan struct{}
	fails bool

	mu   sync.Mutex
	text bytes.Buffer
}

func newReader() *reader { return &reader{began: make(chan struct{}, 1), let: make(chan struct{})} }

func (r *reader) Write(p []byte) (int, error) {
	select {
	case r.began <- struct{}{}:
	default:
	}
	<-r.let
	if r.fails {
		return 0, errors.New("broken pipe")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *reader) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func TestAReaderOfTheLogThatStopsReadingBlocksNoCaller(t *testing.T) {
	t.Parallel()
	out := newReader()
	log := telemetry.NewLog(out, slog.LevelInfo)
	t.Cleanup(log.Close)
	log.Info("first")
	<-out.began // it is being written
	line := strings.Repeat("x", 1<<20)
	for range 10 {
		log.Info(line) // none of these waits
	}
	log.Flush() // nor this one, for long
	if n := log.Dropped(); n != 7 {
		t.Errorf("%d lines were dropped, want 7 of 10, 1 MB each, with room for 4 MB", n)
	}
	close(out.let)
	log.Flush() // what was pending, and the line about those that were dropped
	log.Flush()
	text := out.String()
	if n := strings.Count(text, "\n"); n != 5 || !strings.Contains(text, `"msg":"log lines were dropped","lines":7}`) {
		t.Errorf("%d lines were written, want 1, 3, and one that says how many are missing: %.300s", n, text[strings.LastIndex(text, `{"time"`):])
	}
	log.Debug("not at this level")
	log.With(slog.String("from", "test")).WithGroup("g").Warn("last", slog.Int("n", 7))
	log.Flush()
	if text := out.String(); !strings.Contains(text, `"msg":"last","from":"test","g":{"n":7}`) || strings.Contains(text, "not at this level") {
		t.Error("what is logged later is not written as it should be")
	}
}

func TestManyLogLinesOfOneKindDoNotSuppressOthers(t *testing.T) {
	t.Parallel()
	out := newReader()
	log := telemetry.NewLog(out, slog.LevelInfo)
	t.Cleanup(log.Close)
	log.Info("first")
	<-out.began
	many := log.Blocking()
	written := make(chan struct{})
	go func() {
		defer close(written)
		line := strings.Repeat("x", 100<<10)
		for i := range 100 {
			many.Info("many", slog.Int("n", i), slog.String("line", line))
		}
	}()
	select {
	case <-written:
		t.Error("10 MB found room in 2")
	case <-time.After(100 * time.Millisecond): // it waits, or has not come to that yet
	}
	for i := range 10 {
		log.Error(fmt.Sprint("important ", i), slog.String("line", strings.Repeat("y", 100<<10)))
	}
	close(out.let)
	<-written
	log.Flush()
	text := out.String()
	if log.Dropped() != 0 || strings.Count(text, `"msg":"important`) != 10 || strings.Count(text, `"msg":"many"`) != 100 {
		t.Errorf("dropped %d", log.Dropped())
	}
}

func TestALogThatCannotBeWrittenIsCounted(t *testing.T) {
	t.Parallel()
	out := newReader()
	out.fails = true
	close(out.let)
	log := telemetry.NewLog(out, slog.LevelInfo)
	t.Cleanup(log.Close)
	log.Info("one")
	log.Info("two")
	log.Flush()
	if n := log.Dropped(); n != 2 {
		t.Errorf("%d lines are counted as dropped, want 2", n)
	}
}

func TestDurationsInTheLogHaveAUnit(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	telemetry.NewLogger(&out, slog.LevelInfo).Info("x", slog.Duration("took", 1234567*time.Nanosecond), slog.Group("g", slog.Duration("pause", time.Minute)))
	if !strings.Contains(out.String(), `"took_ms":1.234,"g":{"pause_ms":60000}`) {
		t.Error(out.String())
	}
}
