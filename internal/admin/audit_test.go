package admin_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/admin"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// verify yields the verdicts.
func (o *office) verify(anchors []admin.Anchor) map[admin.Verdict]bool {
	o.Helper()
	all := map[admin.Verdict]bool{}
	o.ok(o.s.Verify(ctx, anchors, func(v admin.Verdict) { all[v] = true }))
	return all
}

// Whatever is done to the audit behind our back is found; a chain that was written anew
// only by an anchor from outside.
func TestTamperingWithTheAuditIsFound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ sql, fault string }{
		"nothing":                          {`SELECT 1`, ""},
		"another object":                   {`UPDATE audit SET object = 'x' WHERE seq = 2`, "entry 2 was changed"},
		"another actor":                    {`UPDATE audit SET actor = 'x' WHERE seq = 2`, "entry 2 was changed"},
		"another time":                     {`UPDATE audit SET at = at + interval '1 microsecond' WHERE seq = 2`, "entry 2 was changed"},
		"another before":                   {`UPDATE audit SET before = '{"status": "other"}' WHERE seq = 2`, "entry 2 was changed"},
		"no after":                         {`UPDATE audit SET after = NULL WHERE seq = 2`, "entry 2 was changed"},
		"another address":                  {`UPDATE audit SET address = '::1' WHERE seq = 2`, "entry 2 was changed"},
		"one is missing":                   {`DELETE FROM audit WHERE seq = 2`, "entry 2 is missing"},
		"the first is missing":             {`DELETE FROM audit WHERE seq = 1`, "entry 1 is missing"},
		"the last is missing":              {`DELETE FROM audit WHERE seq = 4`, "it ends at entry 3, and its head is 4"},
		"the last and the head":            {`WITH d AS (DELETE FROM audit WHERE seq = 4) UPDATE audit_heads SET seq = 3, hash = (SELECT hash FROM audit WHERE seq = 3)`, "it ends at entry 3, and an anchor is of entry 4"},
		"all of it":                        {`WITH d AS (DELETE FROM audit) DELETE FROM audit_heads`, "an anchor names it, and it does not exist"},
		"the head":                         {`DELETE FROM audit_heads`, "it has no head"},
		"two changed places":               {`UPDATE audit SET seq = CASE seq WHEN 2 THEN 3 ELSE 2 END WHERE seq IN (2, 3)`, "does not follow"},
		"the head set back":                {`UPDATE audit_heads SET seq = 3, hash = (SELECT hash FROM audit WHERE seq = 3)`, "its head is entry 3, which is not its last entry"},
		"one more of a number":             {`INSERT INTO audit SELECT chain, seq, at + interval '1 second', actor_kind, 'x', via, address, request_id, decision_id, action, kind, object, before, after, prev, hash FROM audit WHERE seq = 2`, "entry 2 is a duplicate"},
		"a false cut":                      {`WITH d AS (DELETE FROM audit), h AS (UPDATE audit_heads SET seq = 9, hash = sha256('')) INSERT INTO audit_cuts SELECT chain, 9, sha256('') FROM audit_heads`, "the newest anchor is of entry 4"},
		"a false cut, as old as an anchor": {`WITH d AS (DELETE FROM audit), h AS (UPDATE audit_heads SET hash = sha256('')) INSERT INTO audit_cuts SELECT chain, 4, sha256('') FROM audit_heads`, "which is not the one that was anchored"},
		"another hash":                     {`UPDATE audit SET hash = sha256(hash) WHERE seq = 2`, "entry 2 was changed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			o.tenant("acme")
			for _, status := range []string{iam.TenantSuspended, iam.TenantActive, iam.TenantArchived} {
				o.ok(o.do("acme", func(ctx context.Context, w *admin.Work) error {
					_, err := w.SetTenantStatus(ctx, "acme", status, admin.Condition{})
					return err
				}))
			}
			o.ok(o.s.Chores(ctx, time.Hour))
			anchors := o.outbox("AuditCheckpoint.v1")
			o.sql(c.sql)
			got := o.verify(anchors)
			if len(got) != 1 {
				t.Fatalf("verdicts: %v", got)
			}
			for v := range got {
				if c.fault == "" && (v.Fault != "" || v.Anchored != 4 || v.Entries != 4) || !strings.Contains(v.Fault, c.fault) {
					t.Errorf("got %+v, want %q", v, c.fault)
				}
			}
		})
	}
}

// Who writes a chain anew, hashes and head included, is found by an anchor and by nothing
// else.
func TestAChainThatWasWrittenAnewIsFoundByAnAnchor(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	o.ok(o.s.Chores(ctx, time.Hour))
	anchors := o.outbox("AuditCheckpoint.v1")
	var e iam.AuditEntry
	o.ok(o.db.View(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		list, err := tx.Chain(ctx, "acme", nil, 10)
		e = list[0]
		return err
	}))
	e.Actor = "another actor"
	sum, err := e.Sum()
	o.ok(err)
	o.sql(`UPDATE audit SET actor = $1, hash = $2`, e.Actor, sum)
	o.sql(`UPDATE audit_heads SET hash = $1`, sum)
	for v := range o.verify(nil) {
		if v.Fault != "" {
			t.Errorf("without an anchor: %+v", v)
		}
	}
	for v := range o.verify(anchors) {
		if !strings.Contains(v.Fault, "rewritten") {
			t.Errorf("with an anchor: %+v", v)
		}
	}
	// Also where the forged head was published as well: an anchor is not outvoted.
	o.sql(`UPDATE audit_heads SET published = 0`)
	o.ok(o.s.Chores(ctx, time.Hour))
	for v := range o.verify(o.outbox("AuditCheckpoint.v1")) {
		if !strings.Contains(v.Fault, "contradict each other") {
			t.Errorf("with two anchors: %+v", v)
		}
	}
}

// outbox is the data of events of a type.
func (o *office) outbox(kind string) []admin.Anchor {
	o.Helper()
	conn, err := pgx.Connect(ctx, o.url)
	o.ok(err)
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `SELECT data FROM outbox WHERE type = $1 ORDER BY seq`, kind)
	o.ok(err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	o.ok(err)
	anchors, err := admin.ReadAnchors(lines)
	o.ok(err)
	return anchors
}

// Retention drops whole months, and what is left can still be verified.
func TestRetentionCutsTheChainsAtAPublishedCheckpoint(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	o.ok(o.do("acme", func(ctx context.Context, w *admin.Work) error {
		_, err := w.SetTenantStatus(ctx, "acme", iam.TenantSuspended, admin.Condition{})
		return err
	}))
	// The first entry is of a month long ago, in a partition of its own.
	old := time.Date(2024, 3, 5, 0, 0, 0, 0, time.UTC)
	var first, second iam.AuditEntry
	o.ok(o.db.View(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		list, err := tx.Chain(ctx, "acme", nil, 10)
		first, second = list[0], list[1]
		return err
	}))
	o.sql(`CREATE TABLE audit_2024_03 PARTITION OF audit FOR VALUES FROM ('2024-03-01 00:00:00+00') TO ('2024-04-01 00:00:00+00')`)
	var err error
	first.At = old
	first.Hash, err = first.Sum()
	o.ok(err)
	second.Prev = first.Hash
	second.Hash, err = second.Sum()
	o.ok(err)
	o.sql(`UPDATE audit SET at = $1, hash = $2 WHERE seq = 1`, first.At, first.Hash)
	o.sql(`UPDATE audit SET prev = $1, hash = $2 WHERE seq = 2`, second.Prev, second.Hash)
	o.sql(`UPDATE audit_heads SET hash = $1`, second.Hash)

	prune := func() (dropped []string, err error) {
		err = o.db.Change(ctx, func(ctx context.Context, tx *postgres.Tx) (err error) {
			dropped, err = tx.PruneAudit(ctx, time.Now().AddDate(0, -2, 0))
			return err
		})
		return dropped, err
	}
	if _, err := prune(); err == nil || !strings.Contains(err.Error(), "no checkpoint covers yet") {
		t.Fatalf("without a checkpoint: %v", err)
	}
	o.ok(o.s.Chores(ctx, time.Hour))
	dropped, err := prune()
	o.ok(err)
	if !slices.Equal(dropped, []string{"audit_2024_03"}) {
		t.Fatalf("dropped %v", dropped)
	}
	for v := range o.verify(o.outbox("AuditCheckpoint.v1")) {
		if v.Fault != "" || v.Entries != 1 || v.Anchored != 2 {
			t.Errorf("after it: %+v", v)
		}
	}
}

// The service's own role runs everything and can neither change tables nor the audit.
func TestTheServicesRoleCannotTouchTheAudit(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	role := "r_" + strings.ReplaceAll(fmt.Sprint(time.Now().UnixNano()), "-", "")
	o.sql(`CREATE ROLE ` + role + ` LOGIN PASSWORD 'secret'`)
	t.Cleanup(func() { o.sql(`DROP OWNED BY ` + role); o.sql(`DROP ROLE ` + role) })
	o.ok(postgres.Grant(ctx, o.url, role))
	u, err := url.Parse(o.url)
	o.ok(err)
	u.User = url.UserPassword(role, "secret")
	as := u.String()
	mine := &office{t, nil, pgtest.OpenURL(t, as), as}
	o.ok(mine.db.CheckSchema(ctx))
	mine.s = admin.New(admin.Config{DB: mine.db, Issuers: pgtest.Issuers, Log: slog.New(slog.DiscardHandler)})
	mine.tenant("acme")
	o.ok(mine.do("acme", func(ctx context.Context, w *admin.Work) error {
		if _, _, err := w.PutRole(ctx, iam.Role{Tenant: "acme", Name: "r"}, admin.Condition{Absent: true}); err != nil {
			return err
		}
		if _, err := w.CreateMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: pgtest.Issuer, Claim: "groups", Value: "g", Roles: []string{"r"}}); err != nil {
			return err
		}
		_, err := w.PutMembers(ctx, "acme", admin.Batch{Rows: []admin.Row{{Issuer: pgtest.Issuer, Subject: "u", Membership: iam.Membership{Status: iam.MembershipActive, Roles: []string{"r"}}}}})
		return err
	}))
	o.ok(mine.do("", func(ctx context.Context, w *admin.Work) error {
		_, _, err := w.PutManifest(ctx, iam.Manifest{Service: "s", Roles: []iam.Role{{Name: "t"}}, Attributes: []iam.AttributeSchema{{Key: "n", Type: "integer"}}})
		return err
	}))
	o.ok(mine.s.Chores(ctx, time.Hour))
	o.ok(mine.do("acme", func(ctx context.Context, w *admin.Work) error {
		if _, err := w.SetTenantStatus(ctx, "acme", iam.TenantArchived, admin.Condition{}); err != nil {
			return err
		}
		return w.DeleteTenant(ctx, "acme", admin.Condition{})
	}))
	o.ok(mine.s.Verify(ctx, nil, func(v admin.Verdict) {
		if v.Fault != "" {
			t.Errorf("%+v", v)
		}
	}))
	if _, _, err := mine.db.User(ctx, pgtest.Issuer, "u"); err != nil {
		t.Errorf("facts: %v", err)
	}

	conn, err := pgx.Connect(ctx, as)
	o.ok(err)
	defer conn.Close(ctx)
	for _, no := range []string{
		`DELETE FROM audit`, `UPDATE audit SET actor = 'x'`, `TRUNCATE audit`, `DROP TABLE audit`, `ALTER TABLE audit ADD COLUMN x int`,
		`DELETE FROM audit_heads`, `DELETE FROM audit_default`, `INSERT INTO audit_cuts (chain, seq, hash) VALUES ('', 1, '')`,
		`INSERT INTO audit (chain, seq, at, actor_kind, actor, via, address, request_id, decision_id, action, kind, object, prev, hash) VALUES ('', 0, now(), '', '', '', '', '', '', '', '', '', '', '')`,
		`DELETE FROM manifests`, `DELETE FROM retired_tenants`, `ALTER TABLE users DROP COLUMN status`, `DROP TABLE tenants`, `CREATE TABLE mine (x int)`,
		`ALTER TABLE memberships DISABLE TRIGGER ALL`, `UPDATE goose_db_version SET version_id = 0`, `DROP FUNCTION iam_announce(text[])`, `UPDATE instance SET id = id`,
	} {
		if _, err := conn.Exec(ctx, no); err == nil {
			t.Errorf("it may %s", no)
		}
	}
}

// Partitions are made whatever tables of that name a session has of its own.
func TestPartitionsAreCreatedDespiteTemporaryTables(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	name := time.Now().UTC().Format("audit_2006_01")
	conn, err := pgx.Connect(ctx, o.url)
	o.ok(err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `DROP TABLE `+name)
	o.ok(err)
	_, err = conn.Exec(ctx, `CREATE TEMP TABLE `+name+` (x int)`)
	o.ok(err)
	var made int
	o.ok(conn.QueryRow(ctx, `SELECT iam_audit_partitions()`).Scan(&made))
	if made != 1 {
		t.Errorf("made %d", made)
	}
}
