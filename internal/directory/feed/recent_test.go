package feed_test

import (
	"testing"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/directory/feed"
)

// What a replica reports of propagation is of the last five minutes alone.
func TestTheFeedRemembersRecentDelaysAndChanges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &bus{under: 3 * time.Millisecond}
		r := start(t, b)
		time.Sleep(time.Minute)
		for range 7 {
			b.send(feed.Message{Kind: directory.Tenant, Key: directory.KeyOf(directory.Tenant, "acme", "")})
		}
		b.send(feed.Message{All: true})
		b.send(feed.Message{Policy: true}) // no fact
		time.Sleep(time.Second)
		got := r.feed.Recent()
		if got.P99 != 3*time.Millisecond || got.Probes < 40 || got.Probes > 130 || got.Changes != 8 || got.Window != 5*time.Minute {
			t.Errorf("got %+v", got)
		}
		b.set(func() { b.under = 50 * time.Millisecond })
		time.Sleep(20 * time.Second)
		if got := r.feed.Recent(); got.P99 != 50*time.Millisecond || got.Changes != 8 {
			t.Errorf("slower for 20 s: got %+v", got)
		}
		b.set(func() { b.under = 3 * time.Millisecond })
		time.Sleep(5*time.Minute + 11*time.Second)
		if got := r.feed.Recent(); got.P99 != 3*time.Millisecond || got.Changes != 0 || got.Probes < 200 {
			t.Errorf("five minutes later: got %+v", got)
		}
		b.set(func() { b.deaf = true })
		time.Sleep(6 * time.Minute)
		if got := r.feed.Recent(); got.P99 != 0 || got.Probes != 0 {
			t.Errorf("nothing arrives: got %+v", got)
		}
	})
}
