package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/directory"
	"iam-service/internal/directory/feed"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// replica is a store of facts on a real database, invalidated by a real feed.
type replica struct {
	db    *postgres.DB
	store *directory.Store
	feed  *feed.Feed
	stop  func()
}

func startReplica(t *testing.T, url, listen string, maxStale time.Duration) *replica {
	t.Helper()
	db, err := postgres.Open(ctx, postgres.Config{URL: url, Listen: listen, Issuers: pgtest.Issuers, Conns: 4, FactsAcquire: time.Second, FactsLimit: 2 * time.Second}, slog.New(slog.DiscardHandler), nil)
	must(t, err)
	r := &replica{db: db, store: directory.New(db, directory.Config{Issuers: pgtest.Issuers, Wait: 3 * time.Second, MaxStale: maxStale})}
	r.feed = feed.New(feed.Config{Source: db, Store: r.store, Log: slog.New(slog.DiscardHandler)})
	running, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { r.feed.Run(running) })
	r.stop = sync.OnceFunc(func() { stop(); done.Wait(); db.Close() })
	t.Cleanup(r.stop)
	return r
}

func (r *replica) started(t *testing.T) *replica {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	must(t, r.feed.Started(ctx))
	return r
}

// name returns the name of the tenant acme that the replica reads, or the code of an error.
func (r *replica) name(t *testing.T) string {
	t.Helper()
	v, err := r.store.View(directory.Caller{Issuer: issuer}, time.Now().Add(10*time.Second)).Read(ctx, storage.Path{"directory", "tenants", "acme", "name"})
	if err != nil {
		if c := iam.CodeOf(err); c != "" {
			return c
		}
		return err.Error()
	}
	return strings.Trim(v.String(), `"`)
}

func rename(t *testing.T, db *postgres.DB, name string) {
	t.Helper()
	must(t, db.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: name, Status: iam.TenantActive}))
}

func TestAChangeReachesAllReplicas(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url)
	rename(t, db, "n0")
	var replicas []*replica
	for range 3 {
		replicas = append(replicas, startReplica(t, url, "", time.Minute).started(t))
	}
	for i := range 50 {
		want := fmt.Sprintf("n%d", i)
		rename(t, db, want)
		for _, r := range replicas {
			await.Within(t, 5*time.Second, want, func() bool { return r.name(t) == want })
		}
	}
	for _, r := range replicas {
		if n := r.store.Invalidations(directory.Tenant); n < 49 && r.feed.Stats().Sessions == 1 {
			t.Errorf("%d changes were received", n)
		}
	}
}

// checkStaleness breaks the feed of a replica while a fact changes. It checks that the replica returns
// the old fact until MAX_STALENESS after that at most, then an error, and after restore the new fact.
func checkStaleness(t *testing.T, r *replica, direct *postgres.DB, maxStale time.Duration, interrupt, restore func()) {
	t.Helper()
	rename(t, direct, "old")
	await.Within(t, 5*time.Second, "the old fact", func() bool { return r.name(t) == "old" })
	interrupt()
	cut := time.Now()
	rename(t, direct, "new")
	await.Within(t, maxStale+2*time.Second, "an error of a stale feed past MAX_STALENESS", func() bool {
		sent := time.Now()
		got := r.name(t)
		past := sent.Sub(cut) > maxStale
		if got == "old" && past {
			t.Fatalf("a stale fact %s after the interruption", sent.Sub(cut))
		}
		return past && strings.HasPrefix(got, "facts_") && r.feed.State() == feed.Stale
	})
	restore()
	await.Within(t, 15*time.Second, "the new fact", func() bool {
		got := r.name(t)
		if got == "old" {
			t.Fatal("a stale fact after the feed was restored")
		}
		return got == "new"
	})
}

// Packets are lost without an error, on the listener alone or on all connections.
func TestASilentlyDeadListenerIsDetected(t *testing.T) {
	t.Parallel()
	for name, both := range map[string]bool{"the listener": false, "all connections": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.URL(t)
			direct, proxy := pgtest.OpenURL(t, url), pgtest.NewProxy(t, url)
			main := url
			if both {
				main = proxy.URL
			}
			rename(t, direct, "old")
			r := startReplica(t, main, proxy.URL, 4*time.Second).started(t)
			checkStaleness(t, r, direct, 4*time.Second, func() { proxy.Blackhole(true) }, func() { proxy.Blackhole(false); proxy.Cut() })
		})
	}
}

// A notification is lost together with its connection: reconnecting clears all facts.
func TestAChangeDuringAGapIsNotMissed(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	direct, proxy := pgtest.OpenURL(t, url), pgtest.NewProxy(t, url)
	rename(t, direct, "n0")
	r := startReplica(t, url, proxy.URL, time.Minute).started(t)
	for i := range 5 {
		await.Within(t, 5*time.Second, "before the gap", func() bool { return r.name(t) == fmt.Sprintf("n%d", i) })
		proxy.Blackhole(true)
		lost := proxy.Lost()
		rename(t, direct, fmt.Sprintf("n%d", i+1))
		await.Within(t, 5*time.Second, "the notification is lost", func() bool { return proxy.Lost() > lost })
		proxy.Blackhole(false)
		proxy.Cut()
	}
	await.Within(t, 5*time.Second, "after the gap", func() bool { return r.name(t) == "n5" })
}

// A pooler that breaks LISTEN fails the start, and later makes facts stale.
func TestAPoolerThatBreaksListenIsDetected(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	direct, proxy := pgtest.OpenURL(t, url), pgtest.NewProxy(t, url)
	rename(t, direct, "old")
	proxy.DropNotifications(true)
	deaf := startReplica(t, url, proxy.URL, 4*time.Second)
	within, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	if err := deaf.feed.Started(within); !errors.Is(err, feed.ErrNothingReceived) {
		t.Errorf("the start: %v", err)
	}
	if got := deaf.name(t); got != "facts_stale" {
		t.Errorf("before the first heartbeat: %q", got)
	}
	proxy.DropNotifications(false)
	deaf.started(t)
	checkStaleness(t, deaf, direct, 4*time.Second, func() { proxy.DropNotifications(true) }, func() { proxy.DropNotifications(false) })
}
