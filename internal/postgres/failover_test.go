package postgres_test

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/devpg"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/directory/feed"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// A standby is promoted: facts of the old primary are discarded, and changes on the new one are received.
func TestFailoverToAStandby(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t)
	_, err := postgres.Migrate(ctx, primary.URL, postgres.Up)
	must(t, err)
	standby := standbyOf(t, &primary)
	both := strings.Replace(primary.URL, "/iam?", ","+hostOf(t, standby.URL)+"/iam?", 1) + "&target_session_attrs=read-write"
	db := pgtest.OpenURL(t, primary.URL)
	rename(t, db, "old")
	r := startReplica(t, both, "", 8*time.Second).started(t)
	await.Within(t, 5*time.Second, "the old fact", func() bool { return r.name(t) == "old" })
	caughtUp(t, primary.URL, standby.URL)
	lagging := pgtest.OpenURL(t, standby.URL)
	if _, _, err := lagging.Tenant(ctx, "acme"); err == nil || !strings.Contains(err.Error(), "the server is read-only") {
		t.Errorf("look-up on a standby: %v", err)
	}
	if l, err := lagging.Listen(ctx); err == nil {
		l.Close()
		t.Error("Listen accepts a standby")
	}

	primary.Kill()
	gone := time.Now()
	conn, err := pgx.Connect(ctx, standby.URL)
	must(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `SELECT pg_promote(true, 20)`)
	must(t, err)
	promoted := pgtest.OpenURL(t, standby.URL)
	await.Within(t, 10*time.Second, "a write on the new primary", func() bool {
		return promoted.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "new", Status: iam.TenantActive}) == nil
	})
	await.Within(t, 20*time.Second, "the new fact", func() bool {
		sent := time.Now()
		got := r.name(t)
		if got == "old" && sent.Sub(gone) > 8*time.Second {
			t.Fatalf("a stale fact %s after the primary was killed", sent.Sub(gone))
		}
		return got == "new"
	})
	rename(t, promoted, "newer")
	await.Within(t, 5*time.Second, "a change on the new primary", func() bool { return r.name(t) == "newer" })
}

func hostOf(t *testing.T, databaseURL string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(databaseURL)
	must(t, err)
	return fmt.Sprintf("%s:%d", cfg.Host, cfg.Port)
}

// standbyOf copies a server and starts the copy as its standby.
func standbyOf(t *testing.T, primary **devpg.Server) *devpg.Server {
	t.Helper()
	(*primary).Stop()
	dir, err := os.MkdirTemp("", "iam-pg-standby-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a leftover in the temporary folder does no harm
	out, err := exec.Command("cp", "-a", (*primary).Dir+"/.", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("copy the server: %v: %s", err, out)
	}
	again, err := (*primary).Restart(ctx)
	must(t, err)
	*primary = again
	t.Cleanup(again.Stop)
	signal := filepath.Join(dir, "cluster", "standby.signal")
	must(t, os.WriteFile(signal, nil, 0o600))
	if out, err := exec.Command("chown", "--reference="+filepath.Join(dir, "cluster"), signal).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cfg, err := pgx.ParseConfig(again.URL)
	must(t, err)
	standby, err := devpg.Start(ctx, devpg.Options{Dir: dir, Settings: []string{
		fmt.Sprintf("primary_conninfo=host=%s port=%d user=%s password=%s", cfg.Host, cfg.Port, cfg.User, cfg.Password), "hot_standby=on",
		"max_connections=200", // at least as many as on the primary
	}})
	must(t, err)
	t.Cleanup(standby.Stop)
	return standby
}

// caughtUp waits until the standby has replayed all WAL of the primary.
func caughtUp(t *testing.T, primary, standby string) {
	t.Helper()
	p, err := pgx.Connect(ctx, primary)
	must(t, err)
	defer p.Close(ctx)
	s, err := pgx.Connect(ctx, standby)
	must(t, err)
	defer s.Close(ctx)
	var at string
	must(t, p.QueryRow(ctx, `SELECT pg_current_wal_lsn()::text`).Scan(&at))
	await.Within(t, 20*time.Second, "the standby", func() bool {
		var replayed bool
		must(t, s.QueryRow(ctx, `SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn`, at).Scan(&replayed))
		return replayed
	})
}

// A primary that is cut off from its synchronous standby may have been replaced by it. It commits no
// heartbeat, although it still responds and notifies and the wait for the standby is cancelled.
func TestAPrimaryWithoutItsSynchronousStandbySendsNoHeartbeat(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t)
	_, err := postgres.Migrate(ctx, server.URL, postgres.Up)
	must(t, err)
	rename(t, pgtest.OpenURL(t, server.URL), "acme")
	one, two := startReplica(t, server.URL, "", 3*time.Second).started(t), startReplica(t, server.URL, "", 3*time.Second).started(t)
	conn, err := pgx.Connect(ctx, server.URL)
	must(t, err)
	defer conn.Close(ctx)
	standbys := func(names string) {
		t.Helper()
		_, err := conn.Exec(ctx, `ALTER SYSTEM SET synchronous_standby_names = '`+names+`'`)
		must(t, err)
		_, err = conn.Exec(ctx, `SELECT pg_reload_conf()`)
		must(t, err)
	}
	standbys("gone")
	await.Within(t, 30*time.Second, "both are stale", func() bool { return one.feed.State() == feed.Stale && two.feed.State() == feed.Stale })
	for _, r := range []*replica{one, two} {
		if got := r.name(t); got != "facts_stale" {
			t.Errorf("got %s", got)
		}
	}
	standbys("")
	await.Within(t, 30*time.Second, "both are fresh", func() bool { return one.feed.State() == feed.Fresh && two.feed.State() == feed.Fresh })
	if got := one.name(t); got != "acme" {
		t.Errorf("got %s", got)
	}
}

// Facts of another server than the listener's are an error: their changes would not be notified.
func TestFactsOfAnotherServerAreRejected(t *testing.T) {
	t.Parallel()
	a, b := pgtest.Server(t), pgtest.Server(t)
	for _, s := range []*devpg.Server{a, b} {
		_, err := postgres.Migrate(ctx, s.URL, postgres.Up)
		must(t, err)
	}
	rename(t, pgtest.OpenURL(t, a.URL), "of a")
	rename(t, pgtest.OpenURL(t, b.URL), "of b")
	split, err := postgres.Open(ctx, postgres.Config{URL: b.URL, Listen: a.URL, Issuers: pgtest.Issuers, FactsAcquire: 10 * time.Second, FactsLimit: 10 * time.Second}, slog.New(slog.DiscardHandler), nil)
	must(t, err)
	defer split.Close()
	if _, _, err := split.Tenant(ctx, "acme"); err != nil {
		t.Errorf("without a listener: %v", err)
	}
	l, err := split.Listen(ctx)
	must(t, err)
	defer l.Close()
	for _, id := range []string{"acme", "nobody"} {
		if got, found, err := split.Tenant(ctx, id); iam.KindOf(err) != iam.Unavailable || found {
			t.Errorf("%s: %+v, %v, %v", id, got, found, err)
		}
	}
	if _, _, err := split.Client(ctx, issuer, "nobody"); iam.KindOf(err) != iam.Unavailable {
		t.Errorf("an absent client: %v", err)
	}
}
