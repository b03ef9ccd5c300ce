package natsbus_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"iam-service/internal/events/natsbus"
	"iam-service/internal/postgres"
)

// A stream that was lost is made again, and said to be; a replay fills it.
func TestALostStreamIsReportedAndRefilled(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.up()
	r, stop := l.relay()
	l.write(0, 10, "a")
	l.drained(0)
	if r.Recreated() {
		t.Error("an earlier stream is reported as lost")
	}
	stop()
	l.down()
	l.ok(os.RemoveAll(filepath.Join(l.opts.StoreDir, "jetstream")))
	l.up()
	r, _ = l.relay()
	l.write(10, 1, "a")
	l.drained(0)
	if !r.Recreated() {
		t.Error("it was not reported")
	}
	var n int64
	l.ok(l.db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) (err error) {
		n, err = tx.ReplayEvents(ctx, time.Now().Add(-time.Hour))
		return err
	}))
	for until := time.Now().Add(20 * time.Second); len(l.stream()) < 12 || r.Recreated(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			break
		}
	}
	if got := len(l.stream()); n != 11 || got != 12 { // the last one is there twice, under one id
		t.Errorf("%d replayed, %d in the stream", n, got)
	}
	if r.Recreated() {
		t.Error("a stream that was filled again is still reported as lost")
	}
}

// A stream that was recreated while nothing was sent is reported too, by the next leader
// as well.
func TestARecreatedStreamIsReportedUntilItIsFilled(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.up()
	_, stop := l.relay()
	l.write(0, 3, "a")
	l.drained(0)
	stop()
	nc, err := nats.Connect(l.url())
	l.ok(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	l.ok(err)
	l.ok(js.DeleteStream(ctx, "IAM"))
	for range 2 {
		r, stop := l.relay()
		l.write(3, 1, "b")
		l.drained(0)
		for until := time.Now().Add(10 * time.Second); !r.Recreated() && time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
			continue
		}
		if !r.Recreated() {
			t.Error("it was not reported")
		}
		stop()
		if r.Recreated() {
			t.Error("who does not lead any more still says so")
		}
	}
}

// A stream that would lose events is not used.
func TestAStreamThatDoesNotFitIsNotUsed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]jetstream.StreamConfig{
		"memory":     {Name: "IAM", Subjects: []string{natsbus.Subjects}, Storage: jetstream.MemoryStorage, Duplicates: natsbus.Duplicates},
		"subjects":   {Name: "IAM", Subjects: []string{"iam.acme.>"}, Storage: jetstream.FileStorage, Duplicates: natsbus.Duplicates},
		"duplicates": {Name: "IAM", Subjects: []string{natsbus.Subjects}, Storage: jetstream.FileStorage, Duplicates: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLine(t)
			l.up()
			nc, err := nats.Connect(l.url())
			l.ok(err)
			defer nc.Close()
			js, err := jetstream.New(nc)
			l.ok(err)
			_, err = js.CreateStream(ctx, c)
			l.ok(err)
			bus, err := natsbus.Connect(ctx, natsbus.Config{URL: l.url(), Log: slog.New(slog.DiscardHandler)})
			l.ok(err)
			defer bus.Close()
			if _, err := bus.Ready(ctx); err == nil || !strings.Contains(err.Error(), "must") {
				t.Errorf("got %v", err)
			}
		})
	}
}
