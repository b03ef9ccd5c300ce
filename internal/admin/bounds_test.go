package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/admin"
	"iam-service/internal/dev/await"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/directory"
	"iam-service/internal/directory/feed"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// cache is a replica's facts.
type cache struct {
	*directory.Store
	o *office
}

func (o *office) cache() cache {
	c := cache{directory.New(o.db, directory.Config{Issuers: pgtest.Issuers, Wait: 10 * time.Second, MaxStale: time.Hour}), o}
	c.MarkFresh(c.Now())
	return c
}

// reads reads what a decision about a member of a tenant depends on.
func (c cache) reads(user, tenant string) *directory.Dependencies {
	c.o.Helper()
	r := c.View(directory.Caller{Issuer: pgtest.Issuer}, time.Now().Add(time.Minute))
	for _, path := range [][]string{{"directory", "users", pgtest.Issuer, user}, {"directory", "tenants", tenant}, {"directory", "clients", pgtest.Issuer, "of-" + tenant}} {
		if _, err := r.Read(ctx, path); err != nil {
			c.o.Fatalf("%v: %v", path, err)
		}
	}
	rec := r.Dependencies()
	return &rec
}

func (c cache) valid(rec *directory.Dependencies) bool {
	return c.Validity(rec, c.Now()) == directory.Valid
}

// listen feeds the cache from the change notifications of the database, and returns a function that waits until
// those of all changes so far have arrived.
func (c cache) listen() (settle func()) {
	c.o.Helper()
	f := feed.New(feed.Config{Source: c.o.db, Store: c.Store, Log: slog.New(slog.DiscardHandler)})
	running, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { f.Run(running) })
	c.o.Cleanup(func() { stop(); done.Wait() })
	starting, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c.o.ok(f.Started(starting))
	return func() {
		c.o.Helper()
		began := c.Now()
		await.True(c.o, "a heartbeat arrives", func() bool {
			now := c.Now()
			if age, once := c.Age(); once && now-age >= began {
				return true
			}
			c.o.ok(c.o.db.SendHeartbeat(ctx, "settle"))
			return false
		})
	}
}

func joining(from, n int) []admin.Row {
	rows := make([]admin.Row, n)
	for i := range rows {
		rows[i] = admin.Row{Issuer: pgtest.Issuer, Subject: fmt.Sprint("m", from+i), Membership: iam.Membership{Status: iam.MembershipActive, Roles: []string{"staff"}}}
	}
	return rows
}

// Whatever one tenant's administrators do, however much at once, invalidates nothing that
// another tenant's decisions depend on: neither on the replica that makes it, nor on those that are notified.
func TestNoActionOfOneTenantInvalidatesAnothersFacts(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.sql(`INSERT INTO tenants (id, slug, name) SELECT x, x, x FROM unnest(ARRAY ['acme', 'globex', 'umbrella']) x`)
	o.sql(`INSERT INTO roles (tenant, name) SELECT id, 'staff' FROM tenants`)
	o.sql(`INSERT INTO users (issuer, subject) SELECT $1, 'of-' || id FROM tenants`, pgtest.Issuer)
	o.sql(`INSERT INTO memberships (user_id, tenant) SELECT u.id, t.id FROM tenants t JOIN users u ON u.subject = 'of-' || t.id`)
	o.sql(`INSERT INTO clients (issuer, client_id, tenant) SELECT $1, 'of-' || id, id FROM tenants`, pgtest.Issuer)
	here, there := o.cache(), o.cache()
	settle := there.listen()
	s := admin.New(admin.Config{DB: o.db, Issuers: pgtest.Issuers, Issuer: pgtest.Issuer, Log: slog.New(slog.DiscardHandler), Invalidate: here.Invalidate})
	do := func(f func(context.Context, *admin.Work) error) func() {
		return func() {
			o.Helper()
			o.ok(s.Do(ctx, operator, admin.Task{Action: "test:change", Tenant: "acme", Writes: true}, f))
		}
	}
	batch := func(rows []admin.Row) func() {
		return do(func(ctx context.Context, w *admin.Work) error {
			_, err := w.PutMembers(ctx, "acme", admin.Batch{Rows: rows})
			return err
		})
	}
	suspended := func(rows []admin.Row) []admin.Row {
		for i := range rows {
			rows[i].Membership.Status = iam.MembershipSuspended
		}
		return rows
	}
	imports := func() {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		o.ok(e.Encode(admin.Line{Tenant: &admin.LineTenant{ID: "acme", Slug: "acme", Name: "acme", Status: iam.TenantActive}}))
		for _, r := range append(joining(0, 1201), joining(2000, 800)...) {
			o.ok(e.Encode(admin.Line{Member: &admin.LineMember{Issuer: r.Issuer, Subject: r.Subject, Status: "active", Roles: []string{"staff"}}}))
		}
		_, err := s.Import(ctx, operator, &b)
		o.ok(err)
	}
	for _, step := range []struct {
		name  string
		do    func()
		about string // a user whose facts it changes
	}{
		{"201 join", batch(joining(0, 201)), "m200"},
		{"1,000 join", batch(joining(201, 1000)), "m1200"},
		{"201 are suspended", batch(suspended(joining(0, 201))), "m200"},
		{"1,000 are suspended", batch(suspended(joining(201, 1000))), "m1200"},
		{"an import", imports, "m1200"},
		{"a mapping", do(func(ctx context.Context, w *admin.Work) error {
			_, err := w.CreateMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: pgtest.Issuer, Claim: "groups", Value: "g", Roles: []string{"staff"}})
			return err
		}), "of-acme"},
		{"a role that 1,000 hold goes", func() {
			o.sql(`UPDATE memberships SET roles = '{}' WHERE tenant = 'acme' AND user_id NOT IN (SELECT user_id FROM memberships WHERE tenant = 'acme' ORDER BY user_id LIMIT 1000)`)
			do(func(ctx context.Context, w *admin.Work) error {
				return w.DeleteRole(ctx, "acme", "staff", admin.RevokeHeld, admin.Condition{})
			})()
		}, "of-acme"},
		{"all its clients are blocked", func() {
			o.sql(`INSERT INTO clients (issuer, client_id, tenant) SELECT $1, 'c' || i, 'acme' FROM generate_series(1, 900) i`, pgtest.Issuer)
			o.sql(`INSERT INTO clients (issuer, client_id, tenant) SELECT $1, 'd' || i, 'acme' FROM generate_series(1, 900) i`, pgtest.Issuer)
			o.sql(`UPDATE clients SET status = 'blocked' WHERE tenant = 'acme'`)
			o.sql(`DELETE FROM clients WHERE client_id LIKE 'c%'`)
			o.sql(`DELETE FROM clients WHERE client_id LIKE 'd%'`)
		}, "of-acme"},
		{"it is suspended", do(func(ctx context.Context, w *admin.Work) error {
			_, err := w.SetTenantStatus(ctx, "acme", iam.TenantSuspended, admin.Condition{})
			return err
		}), "of-acme"},
		{"it is deleted, the default of 2,000", func() {
			o.sql(`UPDATE users SET default_tenant = 'acme' WHERE subject IN (SELECT subject FROM users WHERE subject LIKE 'm%' ORDER BY subject LIMIT 1000)`)
			o.sql(`UPDATE users SET default_tenant = 'acme' WHERE subject IN (SELECT subject FROM users WHERE subject LIKE 'm%' ORDER BY subject DESC LIMIT 1000)`)
			o.sql(`DELETE FROM clients WHERE tenant = 'acme'`)
			do(func(ctx context.Context, w *admin.Work) error { return w.DeleteTenant(ctx, "acme", admin.Condition{}) })()
		}, ""},
	} {
		settle()
		type fact struct {
			where cache
			of    string
			rec   *directory.Dependencies
		}
		var others []fact
		for _, c := range []cache{here, there} {
			others = append(others, fact{c, "globex", c.reads("of-globex", "globex")}, fact{c, "umbrella", c.reads("of-umbrella", "umbrella")})
		}
		step.do()
		settle()
		for _, f := range others {
			if !f.where.valid(f.rec) {
				t.Errorf("%s: it invalidated what decisions of %s depend on", step.name, f.of)
			}
		}
		for _, c := range []cache{here, there} {
			if n := c.Invalidations(directory.Causes["everything"]); c.Store == here.Store && n > 0 || n > 1 { // one: the feed's own start
				t.Fatalf("%s: everything was dropped", step.name)
			}
		}
	}
}

// A change invalidates exactly the keys that depend on it, on the replica that handles it and before it returns, though the
// feed receives nothing: also where the response to the commit is lost, and where a load is under way that has read the
// state before.
func TestAChangeInvalidatesExactlyItsKeysBeforeItReturns(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	proxy := pgtest.NewProxy(t, o.url)
	through := pgtest.OpenURL(t, proxy.URL)
	o.sql(`INSERT INTO tenants (id, slug, name) SELECT x, x, x FROM unnest(ARRAY ['acme', 'globex']) x`)
	o.sql(`INSERT INTO users (issuer, subject) SELECT $1, 'of-' || id FROM tenants`, pgtest.Issuer)
	o.sql(`INSERT INTO memberships (user_id, tenant) SELECT u.id, t.id FROM tenants t JOIN users u ON u.subject = 'of-' || t.id`)
	o.sql(`INSERT INTO clients (issuer, client_id, tenant) SELECT $1, 'of-' || id, id FROM tenants`, pgtest.Issuer)
	c := o.cache() // without a feed
	s := admin.New(admin.Config{DB: through, Issuers: pgtest.Issuers, Issuer: pgtest.Issuer, Log: slog.New(slog.DiscardHandler), Invalidate: c.Invalidate})
	status := func(status string) error {
		return s.Do(ctx, operator, admin.Task{Action: "test:change", Tenant: "acme", Writes: true}, func(ctx context.Context, w *admin.Work) error {
			_, err := w.PutMembers(ctx, "acme", admin.Batch{Rows: []admin.Row{{Issuer: pgtest.Issuer, Subject: "of-acme", Membership: iam.Membership{Status: status}}}})
			return err
		})
	}
	is := func() string {
		v, err := c.View(directory.Caller{Issuer: pgtest.Issuer}, time.Now().Add(time.Minute)).
			Read(ctx, []string{"directory", "users", pgtest.Issuer, "of-acme", "memberships", "acme", "status"})
		o.ok(err)
		return strings.Trim(v.String(), `"`)
	}
	for _, lost := range []bool{false, true} {
		own, other := c.reads("of-acme", "acme"), c.reads("of-globex", "globex")
		loads := c.Stats().Loads
		want := iam.MembershipSuspended
		if lost {
			want = iam.MembershipActive
			proxy.OnCommit(func(phase pgtest.CommitPhase) {
				if phase == pgtest.CommitDone {
					proxy.Cut()
				}
			})
		}
		if err := status(want); lost != (err != nil) {
			t.Fatalf("lost %v: %v", lost, err)
		}
		proxy.OnCommit(nil)
		if c.valid(own) || !c.valid(other) {
			t.Errorf("lost %v: its own facts are valid: %v; another's: %v", lost, c.valid(own), c.valid(other))
		}
		if got := is(); got != want {
			t.Errorf("lost %v: it is %s after the answer", lost, got)
		}
		c.reads("of-globex", "globex")
		if n := c.Stats().Loads - loads; n != 1 {
			t.Errorf("lost %v: %d documents were loaded again", lost, n)
		}
	}
	if n := c.Invalidations(directory.Causes["everything"]); n != 0 {
		t.Errorf("everything was dropped %d times", n)
	}
}

// One tenant takes no more than its share of what all use. Former members are not counted.
func TestATenantHasABoundOfMembers(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.sql(`INSERT INTO tenants (id, slug, name) SELECT x, x, x FROM unnest(ARRAY ['acme', 'globex']) x`)
	o.sql(`INSERT INTO roles (tenant, name) VALUES ('acme', 'staff'), ('globex', 'staff')`)
	s := admin.New(admin.Config{DB: o.db, Issuers: pgtest.Issuers, MaxMembers: 3, Log: slog.New(slog.DiscardHandler)})
	var user string
	join := func(tenant string, from, n int) string {
		err := s.Do(ctx, operator, admin.Task{Tenant: tenant, Writes: true}, func(ctx context.Context, w *admin.Work) error {
			out, err := w.PutMembers(ctx, tenant, admin.Batch{Rows: joining(from, n)})
			if err == nil {
				user = out[0].Member.User
			}
			return err
		})
		return iam.CodeOf(err)
	}
	leave := func() {
		o.ok(s.Do(ctx, operator, admin.Task{Tenant: "acme", Writes: true}, func(ctx context.Context, w *admin.Work) error {
			return w.DeleteMember(ctx, "acme", user, admin.Condition{})
		}))
	}
	for i, step := range []struct{ got, want string }{
		{join("acme", 0, 4), "too_many_members"}, {join("acme", 0, 3), ""}, {join("acme", 0, 3), ""}, {join("acme", 3, 1), "too_many_members"}, {join("globex", 3, 1), ""},
	} {
		if step.got != step.want {
			t.Errorf("step %d: %q, want %q", i, step.got, step.want)
		}
	}
	o.ok(s.Do(ctx, operator, admin.Task{Tenant: "acme"}, func(ctx context.Context, w *admin.Work) error {
		list, err := w.Members(ctx, "acme", postgres.MemberFilter{Limit: 1})
		if err == nil {
			user = list[0].User
		}
		return err
	}))
	leave()
	if got := join("acme", 9, 1); got != "" {
		t.Errorf("after one has left: %q", got)
	}
}

// Bundles of superseded policies do not pile up. What may be needed at once stays, and what was sent
// again is whole again.
func TestBundlesOfSupersededPoliciesAreDeleted(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	s := admin.New(admin.Config{DB: o.db, Issuers: pgtest.Issuers, PoliciesKept: 3, Log: slog.New(slog.DiscardHandler)})
	do := func(f func(context.Context, *admin.Work) error) error {
		return s.Do(ctx, operator, admin.Task{Action: "test:change", Writes: true}, f)
	}
	digest := func(i int) string { return fmt.Sprintf("%064x", i) }
	send := func(i int) {
		o.ok(do(func(ctx context.Context, w *admin.Work) error {
			_, _, err := w.AddPolicyRevision(ctx, iam.PolicyRevision{Digest: digest(i), Source: "test", Verified: iam.VerifiedByKey}, []byte("bundle"))
			return err
		}))
	}
	for i := range 10 {
		send(i)
		if i < 5 {
			o.ok(do(func(ctx context.Context, w *admin.Work) error { return w.TakePolicy(ctx, digest(i)) }))
		}
	}
	o.sql(`UPDATE policy_shadow SET digest = $1, share = 1`, digest(2))
	o.ok(s.Chores(ctx, time.Hour))
	for i := range 10 {
		_, _, err := o.db.PolicyBundle(ctx, digest(i))
		want := "policy_bundle_deleted"
		if i == 2 || i == 3 || i == 4 || i >= 7 { // the shadow, the one before, the active one, the newest
			want = ""
		}
		if got := iam.CodeOf(err); got != want {
			t.Errorf("revision %d: %q %v, want %q", i, got, err, want)
		}
	}
	back := func(ref string) error {
		return do(func(ctx context.Context, w *admin.Work) error {
			_, err := w.RollBackPolicy(ctx, ref, "")
			return err
		})
	}
	if got := iam.CodeOf(back(digest(0))); got != "policy_bundle_deleted" {
		t.Errorf("rolled back to one without a bundle: %q", got)
	}
	o.ok(back("")) // to the one before
	send(0)
	if _, bundle, err := o.db.PolicyBundle(ctx, digest(0)); err != nil || string(bundle) != "bundle" {
		t.Errorf("sent again: %q %v", bundle, err)
	}
	o.ok(back(digest(0)))
}

// Entries of a month without a partition are moved into one, and the chain stays whole.
func TestEntriesOfTheDefaultPartitionAreMoved(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	o.sql(`DO $$ DECLARE p text; BEGIN FOR p IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit'::regclass AND inhrelid <> 'audit_default'::regclass LOOP
		EXECUTE 'ALTER TABLE audit DETACH PARTITION ' || p; EXECUTE 'INSERT INTO audit SELECT * FROM ' || p; EXECUTE 'DROP TABLE ' || p; END LOOP; END $$`)
	o.tenant("globex")
	before, err := o.db.CountUnpartitionedAudit(ctx)
	o.ok(err)
	all := o.rows("audit")

	// While a long read holds the partition, the other chores are done.
	backup, err := pgx.Connect(ctx, o.url)
	o.ok(err)
	defer backup.Close(ctx)
	_, err = backup.Exec(ctx, `BEGIN; LOCK TABLE audit_default IN ACCESS SHARE MODE`)
	o.ok(err)
	soon, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	o.ok(o.s.Chores(soon, time.Hour))
	if n, err := o.db.CountUnpartitionedAudit(ctx); err != nil || n != before {
		t.Errorf("%d of %d entries are in the default partition: %v", n, before, err)
	}
	var unpublished int
	o.ok(backup.QueryRow(ctx, `SELECT count(*) FROM audit_heads WHERE published < seq`).Scan(&unpublished))
	if unpublished > 0 {
		t.Errorf("%d heads are not published", unpublished)
	}
	_, err = backup.Exec(ctx, `COMMIT`)
	o.ok(err)

	o.ok(o.s.Chores(ctx, time.Hour))
	after, err := o.db.CountUnpartitionedAudit(ctx)
	o.ok(err)
	if before == 0 || int(before) != all || after != 0 || o.rows("audit") != all {
		t.Errorf("%d of %d entries were in the default partition; then %d of %d", before, all, after, o.rows("audit"))
	}
	for v := range o.verify(nil) {
		if v.Fault != "" {
			t.Errorf("chain %q: %s", v.Chain, v.Fault)
		}
	}
}

// Events without a relay are deleted after a while; while a replica relays, they wait for the bus.
func TestEventsWithoutARelayAreDeleted(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("old")
	o.sql(`UPDATE outbox SET occurred_at = now() - interval '2 hours'`)
	o.tenant("new")
	old := o.rows("outbox") - 1
	relay, err := o.db.Lead(ctx)
	o.ok(err)
	if n, err := o.db.ExpireEvents(ctx, time.Now().Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("while a replica relays: %d %v", n, err)
	}
	relay.Close()
	deleted := int64(0)
	await.True(t, "the lock goes with its connection, and events expire", func() bool {
		deleted, err = o.db.ExpireEvents(ctx, time.Now().Add(-time.Hour))
		o.ok(err)
		return deleted > 0
	})
	if int(deleted) != old || o.rows("outbox") != 1 {
		t.Errorf("%d deleted, want %d; %d are left", deleted, old, o.rows("outbox"))
	}
}
