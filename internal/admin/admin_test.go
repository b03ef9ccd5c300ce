package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"iam-service/internal/admin"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

var (
	ctx      = context.Background()
	operator = admin.Caller{Operator: "test", Via: "command"}
)

// office is a service without a policy: operators only.
type office struct {
	testing.TB
	s   *admin.Service
	db  *postgres.DB
	url string
}

func newOffice(t testing.TB) *office {
	t.Helper()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url)
	return &office{t, admin.New(admin.Config{DB: db, Issuers: pgtest.Issuers, Issuer: pgtest.Issuer, Log: slog.New(slog.DiscardHandler)}), db, url}
}

// do runs one change as the operator.
func (o *office) do(tenant string, do func(context.Context, *admin.Work) error) error {
	return o.s.Do(ctx, operator, admin.Task{Action: "test:change", Tenant: tenant, Writes: true}, do)
}

func (o *office) ok(err error) {
	o.Helper()
	if err != nil {
		o.Fatal(err)
	}
}

func (o *office) sql(statement string, args ...any) {
	o.Helper()
	conn, err := pgx.Connect(ctx, o.url)
	o.ok(err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement, args...)
	o.ok(err)
}

func (o *office) tenant(id string) {
	o.Helper()
	o.ok(o.do(id, func(ctx context.Context, w *admin.Work) error {
		_, _, err := w.PutTenant(ctx, iam.Tenant{ID: id, Slug: id, Name: id}, admin.Condition{Absent: true})
		return err
	}))
}

// model is what the tables must say, in the plainest way.
type model struct {
	roles   map[string]map[string]iam.Role // tenant, "" for global ones → name
	members map[string]map[string][]string // tenant → user → roles
	blocked map[string]bool
	closed  map[string]bool // tenants
	asleep  map[[2]string]bool
}

// sees are the roles of a tenant and the global ones.
func (m *model) sees(tenant string) map[string]iam.Role {
	all := maps.Clone(m.roles[""])
	maps.Copy(all, m.roles[tenant])
	return all
}

// held is reachability, by walking until nothing new is found.
func (m *model) held(tenant, user string) (roles, permissions []string) {
	if m.blocked[user] || m.closed[tenant] || m.asleep[[2]string{tenant, user}] {
		return nil, nil
	}
	sees := m.sees(tenant)
	found, rights := map[string]bool{}, map[string]bool{}
	for _, r := range m.members[tenant][user] {
		found[r] = true
	}
	for again := true; again; {
		again = false
		for name := range found {
			for _, p := range sees[name].Permissions {
				rights[p] = true
			}
			for _, p := range sees[name].Inherits {
				if !found[p] {
					found[p], again = true, true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), slices.Sorted(maps.Keys(rights))
}

// reaches reports whether one gets from a role to another by inheritance.
func (m *model) reaches(tenant, from, to string) bool {
	sees := m.sees(tenant)
	seen := map[string]bool{}
	var walk func(string) bool
	walk = func(at string) bool {
		for _, p := range sees[at].Inherits {
			if p == to || !seen[p] && walk(p) {
				return true
			}
			seen[p] = true
		}
		return false
	}
	return walk(from)
}

// After any sequence of changes, what is effective equals what the model says, and no
// role inherits itself.
func TestWhatIsEffectiveEqualsAPlainModel(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	rapid.Check(t, func(rt *rapid.T) {
		o.sql(`TRUNCATE tenants, users, memberships, mappings, clients, registrations, roles, services, manifests, attribute_schemas, audit, audit_heads, retired_tenants, outbox`)
		tenants, names, users := []string{"acme", "globex"}, []string{"a", "b", "c", "d"}, []string{"u0", "u1", "u2"}
		global := []string{"g", "h"}
		ids := map[string]string{}
		m := &model{map[string]map[string]iam.Role{"": {}, "acme": {}, "globex": {}}, map[string]map[string][]string{"acme": {}, "globex": {}}, map[string]bool{}, map[string]bool{}, map[[2]string]bool{}}
		for _, id := range tenants {
			o.tenant(id)
		}
		for _, u := range users {
			id, err := o.db.PutUser(ctx, iam.User{Issuer: pgtest.Issuer, Subject: u, Status: iam.UserActive})
			o.ok(err)
			ids[u] = id
		}
		some := func(of []string, label string) []string {
			if len(of) == 0 {
				return nil
			}
			return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 0, 3, rapid.ID).Draw(rt, label)
		}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			tenant := rapid.SampledFrom(tenants).Draw(rt, "tenant")
			user := rapid.SampledFrom(users).Draw(rt, "user")
			switch rapid.SampledFrom([]string{"role", "role", "global", "delete", "member", "member", "leave", "sleep", "block", "close"}).Draw(rt, "what") {
			case "role", "global":
				owner, own := tenant, names
				can := slices.Concat(names, global)
				if rapid.Bool().Draw(rt, "global") {
					owner, own, can = "", global, global
				}
				r := iam.Role{
					Tenant: owner, Name: rapid.SampledFrom(own).Draw(rt, "role"), Inherits: some(can, "inherits"),
					Permissions: some([]string{"p:1", "p:2", "p:3"}, "permissions"),
				}
				err := o.do(owner, func(ctx context.Context, w *admin.Work) error {
					c := admin.Condition{Absent: true}
					if _, there := m.roles[owner][r.Name]; there {
						c = admin.Condition{Present: true}
					}
					_, _, err := w.PutRole(ctx, r, c)
					return err
				})
				// It is valid if all it inherits is there, and no cycle comes of it.
				valid := true
				after := *m
				after.roles = map[string]map[string]iam.Role{}
				for k, v := range m.roles {
					after.roles[k] = maps.Clone(v)
				}
				after.roles[owner][r.Name] = r
				for _, p := range r.Inherits {
					_, there := m.sees(owner)[p]
					valid = valid && (there || p == r.Name)
				}
				valid = valid && !after.reaches(owner, r.Name, r.Name)
				if valid != (err == nil) {
					rt.Fatalf("put %+v: %v, valid is %v", r, err, valid)
				}
				if err == nil {
					m.roles = after.roles
				}
			case "delete":
				name := rapid.SampledFrom(names).Draw(rt, "role")
				err := o.do(tenant, func(ctx context.Context, w *admin.Work) error {
					return w.DeleteRole(ctx, tenant, name, true, admin.Condition{})
				})
				if _, there := m.roles[tenant][name]; there != (err == nil) {
					rt.Fatalf("delete %s: %v", name, err)
				}
				delete(m.roles[tenant], name)
				without := func(list []string) []string {
					return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == name })
				}
				for u, held := range m.members[tenant] {
					m.members[tenant][u] = without(held)
				}
				for n, r := range m.roles[tenant] {
					r.Inherits = without(r.Inherits)
					m.roles[tenant][n] = r
				}
			case "member":
				held := some(slices.Sorted(maps.Keys(m.sees(tenant))), "held")
				o.ok(o.do(tenant, func(ctx context.Context, w *admin.Work) error {
					_, err := w.PutMembers(ctx, tenant, []admin.Row{{Issuer: pgtest.Issuer, Subject: user, Membership: iam.Membership{Status: iam.MembershipActive, Roles: held}}}, false)
					return err
				}))
				m.members[tenant][user] = held
				delete(m.asleep, [2]string{tenant, user})
			case "leave":
				err := o.do(tenant, func(ctx context.Context, w *admin.Work) error {
					return w.DeleteMember(ctx, tenant, ids[user], admin.Condition{})
				})
				if _, there := m.members[tenant][user]; there != (err == nil) {
					rt.Fatalf("leave: %v", err)
				}
				delete(m.members[tenant], user)
				delete(m.asleep, [2]string{tenant, user})
			case "sleep":
				_, there := m.members[tenant][user]
				err := o.do(tenant, func(ctx context.Context, w *admin.Work) error {
					_, err := w.EditMember(ctx, tenant, ids[user], admin.Condition{}, memberStatus(iam.MembershipSuspended))
					return err
				})
				if there != (err == nil) {
					rt.Fatalf("suspend: %v", err)
				}
				if there {
					m.asleep[[2]string{tenant, user}] = true
				}
			case "block":
				status := map[bool]string{false: iam.UserBlocked, true: iam.UserActive}[m.blocked[user]]
				o.ok(o.do("", func(ctx context.Context, w *admin.Work) error {
					_, err := w.EditUser(ctx, ids[user], admin.Condition{}, userStatus(status))
					return err
				}))
				m.blocked[user] = !m.blocked[user]
			case "close":
				status := map[bool]string{false: iam.TenantSuspended, true: iam.TenantActive}[m.closed[tenant]]
				o.ok(o.do(tenant, func(ctx context.Context, w *admin.Work) error {
					_, err := w.SetTenantStatus(ctx, tenant, status, admin.Condition{})
					return err
				}))
				m.closed[tenant] = !m.closed[tenant]
			}
		}
		for _, tenant := range tenants {
			for name := range m.sees(tenant) {
				if m.reaches(tenant, name, name) {
					rt.Fatalf("%s inherits itself in %s", name, tenant)
				}
			}
			for _, user := range users {
				var e admin.Effective
				err := o.s.Do(ctx, operator, admin.Task{Tenant: tenant}, func(ctx context.Context, w *admin.Work) (err error) {
					e, err = w.Effective(ctx, ids[user], tenant)
					return err
				})
				if _, member := m.members[tenant][user]; member != (err == nil) {
					rt.Fatalf("%s in %s: %v", user, tenant, err)
				}
				var roles, permissions []string
				for _, r := range e.Roles {
					roles = append(roles, r.Name)
					from := r.Assigned || len(r.Through) > 0
					if !from || r.Assigned != slices.Contains(m.members[tenant][user], r.Name) {
						rt.Fatalf("where %+v comes from", r)
					}
					for _, heir := range r.Through {
						if !slices.Contains(m.sees(tenant)[heir].Inherits, r.Name) {
							rt.Fatalf("%s does not inherit %s", heir, r.Name)
						}
					}
				}
				for _, p := range e.Permissions {
					permissions = append(permissions, p.Name)
				}
				wantRoles, wantPermissions := m.held(tenant, user)
				if !slices.Equal(roles, wantRoles) || !slices.Equal(permissions, wantPermissions) {
					rt.Fatalf("%s in %s: %v and %v, want %v and %v", user, tenant, roles, permissions, wantRoles, wantPermissions)
				}
			}
		}
		for v := range o.verify(nil) {
			if v.Fault != "" {
				rt.Fatalf("the audit: %+v", v)
			}
		}
	})
}

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
		"the last is missing":              {`DELETE FROM audit WHERE seq = 4`, "it ends at entry 3, and its head says 4"},
		"the last and the head":            {`WITH d AS (DELETE FROM audit WHERE seq = 4) UPDATE audit_heads SET seq = 3, hash = (SELECT hash FROM audit WHERE seq = 3)`, "it ends at entry 3, and an anchor says 4"},
		"all of it":                        {`WITH d AS (DELETE FROM audit) DELETE FROM audit_heads`, "an anchor speaks of it, and it is not there"},
		"the head":                         {`DELETE FROM audit_heads`, "it has no head"},
		"two changed places":               {`UPDATE audit SET seq = CASE seq WHEN 2 THEN 3 ELSE 2 END WHERE seq IN (2, 3)`, "does not follow"},
		"the head set back":                {`UPDATE audit_heads SET seq = 3, hash = (SELECT hash FROM audit WHERE seq = 3)`, "its head says entry 3, which is not how it ends"},
		"one more of a number":             {`INSERT INTO audit SELECT chain, seq, at + interval '1 second', actor_kind, 'x', via, address, request_id, decision_id, action, kind, object, before, after, prev, hash FROM audit WHERE seq = 2`, "entry 2 stands there once more"},
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
	e.Actor = "somebody else"
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
		if !strings.Contains(v.Fault, "written anew") {
			t.Errorf("with an anchor: %+v", v)
		}
	}
	// Also where the forged head was told as well: an anchor is not outvoted.
	o.sql(`UPDATE audit_heads SET published = 0`)
	o.ok(o.s.Chores(ctx, time.Hour))
	for v := range o.verify(o.outbox("AuditCheckpoint.v1")) {
		if !strings.Contains(v.Fault, "say different things") {
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
func TestRetentionCutsTheChainsWhereACheckpointWasTold(t *testing.T) {
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

// An export read into another place says the same there, and the same again changes
// nothing.
func TestAnImportSaysWhatTheExportSaid(t *testing.T) {
	t.Parallel()
	from, to := newOffice(t), newOffice(t)
	for _, o := range []*office{from, to} {
		o.ok(o.do("", func(ctx context.Context, w *admin.Work) error {
			_, _, err := w.PutManifest(ctx, iam.Manifest{Service: "s", Attributes: []iam.AttributeSchema{{Key: "n", Type: "integer"}}})
			return err
		}))
	}
	from.tenant("acme")
	from.ok(from.do("acme", func(ctx context.Context, w *admin.Work) error {
		for _, r := range []iam.Role{{Tenant: "acme", Name: "z", Permissions: []string{"a:b"}}, {Tenant: "acme", Name: "a", Inherits: []string{"z"}}} {
			if _, _, err := w.PutRole(ctx, r, admin.Condition{Absent: true}); err != nil {
				return err
			}
		}
		if _, err := w.CreateMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: pgtest.Issuer, Claim: "groups", Value: "g", Roles: []string{"a"}}); err != nil {
			return err
		}
		rows := make([]admin.Row, 700)
		for i := range rows {
			m := iam.Membership{Status: iam.MembershipActive, Roles: []string{"a"}, Attributes: map[string]any{"n": json.Number("9007199254740993")}}
			if i%2 == 0 {
				m.Status, m.ExpiresAt = iam.MembershipSuspended, time.Date(2030, 1, 1, 0, 0, 0, 123456000, time.UTC)
			}
			rows[i] = admin.Row{Issuer: pgtest.Issuer, Subject: fmt.Sprint("u", i), Membership: m}
		}
		if _, err := w.PutMembers(ctx, "acme", rows, true); err != nil {
			return err
		}
		_, err := w.SetTenantStatus(ctx, "acme", iam.TenantSuspended, admin.Condition{})
		return err
	}))
	export := func(o *office) string {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		o.ok(o.s.Export(ctx, operator, "acme", func(l admin.Line) error { return e.Encode(l) }))
		lines := strings.Split(b.String(), "\n")
		slices.Sort(lines) // members come by our ids, which differ
		return strings.Join(lines, "\n")
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	from.ok(from.s.Export(ctx, operator, "acme", func(l admin.Line) error { return e.Encode(l) }))
	sum, err := to.s.Import(ctx, operator, bytes.NewReader(text.Bytes()))
	to.ok(err)
	if sum != (admin.Imported{Tenant: "acme", Added: 704}) {
		t.Errorf("the first time: %+v", sum)
	}
	if a, b := export(from), export(to); a != b {
		t.Errorf("%s\nbecame\n%s", a, b)
	}
	before := to.rows("audit") + to.rows("outbox")
	sum, err = to.s.Import(ctx, operator, bytes.NewReader(text.Bytes()))
	to.ok(err)
	if sum != (admin.Imported{Tenant: "acme", Same: 704}) || to.rows("audit")+to.rows("outbox") != before {
		t.Errorf("the second time: %+v", sum)
	}

	for name, c := range map[string]struct{ text, says string }{
		"no JSON":         {"{", "line 1:"},
		"no tenant":       {`{"member":{"issuer":"x","subject":"y","status":"active"}}`, "line 1: the first line must be the tenant"},
		"an unknown word": {`{"tenat":{}}`, `line 1: json: unknown field "tenat"`},
		"a bad role":      {strings.SplitAfter(text.String(), "\n")[0] + "\n" + `{"role":{"name":"B"}}`, "line 3:"},
		"a bad member":    {strings.SplitAfter(text.String(), "\n")[0] + `{"member":{"issuer":"` + pgtest.Issuer + `","subject":"ok","status":"active"}}` + "\n" + `{"member":{"issuer":"` + pgtest.Issuer + `","subject":"bad","status":"active","roles":["none"]}}`, "line 3: /roles/0"},
		"nothing":         {"", "empty"},
	} {
		if _, err := to.s.Import(ctx, operator, strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	if to.rows("audit")+to.rows("outbox") != before {
		t.Error("a failed import left something")
	}
}

func (o *office) rows(table string) (n int) {
	o.Helper()
	conn, err := pgx.Connect(ctx, o.url)
	o.ok(err)
	defer conn.Close(ctx)
	o.ok(conn.QueryRow(ctx, `SELECT count(*) FROM `+table).Scan(&n))
	return n
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
		_, err := w.PutMembers(ctx, "acme", []admin.Row{{Issuer: pgtest.Issuer, Subject: "u", Membership: iam.Membership{Status: iam.MembershipActive, Roles: []string{"r"}}}}, false)
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

// The first administrator is made while there is none, and only then.
func TestTheFirstAdministratorIsMadeOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for i, c := range []struct {
		subject string
		unless  bool
		done    bool
		is      bool // an administrator, as far as is known
	}{{"first", true, true, true}, {"first", true, false, true}, {"second", true, false, false}, {"second", false, true, true}, {"second", false, false, true}, {"second", true, false, true}} {
		got, err := o.s.GrantPlatformRole(ctx, operator, admin.Grant{Issuer: pgtest.Issuer, Subject: c.subject, Role: iam.PlatformAdmin, OnlyFirst: c.unless})
		o.ok(err)
		if got.Changed != c.done || (got.User != "") != c.is {
			t.Errorf("%d: %+v: got %+v", i, c, got)
		}
	}
	_, err := o.s.GrantPlatformRole(ctx, operator, admin.Grant{Issuer: pgtest.LimitedIssuer, Subject: "x", Role: iam.PlatformAdmin})
	if iam.KindOf(err) != iam.Invalid {
		t.Errorf("of an issuer that is not trusted with it: %v", err)
	}
	_, err = o.s.GrantPlatformRole(ctx, operator, admin.Grant{Issuer: pgtest.Issuer, Subject: "x", Role: "emperor"})
	if iam.KindOf(err) != iam.Invalid {
		t.Errorf("an unknown role: %v", err)
	}
}

// What fails leaves nothing, whatever was written before it failed.
func TestAFailedChangeLeavesNothing(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	before := o.rows("audit") + o.rows("outbox") + o.rows("roles")
	boom := errors.New("boom")
	err := o.do("acme", func(ctx context.Context, w *admin.Work) error {
		if _, _, err := w.PutRole(ctx, iam.Role{Tenant: "acme", Name: "r"}, admin.Condition{Absent: true}); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) || o.rows("audit")+o.rows("outbox")+o.rows("roles") != before {
		t.Errorf("%v, and something is left", err)
	}
}

// As many roles, mappings and members as are allowed come in by one import.
func TestTheLargestTenantIsImported(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	o.ok(e.Encode(admin.Line{Tenant: &admin.LineTenant{ID: "big", Slug: "big", Name: "Big", Status: iam.TenantActive}}))
	for i := range iam.MaxRolesPerTenant {
		o.ok(e.Encode(admin.Line{Role: &admin.LineRole{Name: fmt.Sprint("r", i), Permissions: []string{fmt.Sprint("p:", i)}, Inherits: map[bool][]string{true: {"r0"}}[i > 0]}}))
	}
	for i := range iam.MaxMappingsPerTenant {
		o.ok(e.Encode(admin.Line{Mapping: &admin.LineMapping{Issuer: pgtest.Issuer, Claim: "groups", Value: fmt.Sprint("g", i), Roles: []string{fmt.Sprint("r", i)}}}))
	}
	for i := range 1500 {
		o.ok(e.Encode(admin.Line{Member: &admin.LineMember{Issuer: pgtest.Issuer, Subject: fmt.Sprint("m", i), Status: "active", Roles: []string{fmt.Sprint("r", i%1000)}}}))
	}
	for _, want := range []admin.Imported{{Tenant: "big", Added: 3501}, {Tenant: "big", Same: 3501}} {
		if sum, err := o.s.Import(ctx, operator, bytes.NewReader(b.Bytes())); err != nil || sum != want {
			t.Errorf("%+v %v, want %+v", sum, err, want)
		}
	}
}

// A line says one thing: what is passed over would be lost.
func TestALineOfAnImportSaysOneThing(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	tenant := `{"tenant":{"id":"acme","slug":"acme","name":"A","status":"active"}}` + "\n"
	for text, says := range map[string]string{
		tenant + `{"role":{"name":"a"}} {"role":{"name":"b"}}`:                                          "line 2: holds more than one value",
		tenant + `{"role":{"name":"a"},"mapping":{"issuer":"x","claim":"y","value":"z","roles":["a"]}}`: "line 2: must be one",
		tenant + `{}`: "line 2: must be one",
		tenant + `{"role":{"name":"a"}}` + "\n" + `{"role":{"name":"a"}}`: "line 3: the role \"a\" stands here twice",
	} {
		if _, err := o.s.Import(ctx, operator, strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
}

// A global role can make a tenant's chain longer than is allowed there. That is no reason
// to refuse another edit of the tenant's role.
func TestWhatIsTooLongAlreadyCanStillBeEdited(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	put := func(tenant, name, inherits, description string) error {
		r := iam.Role{Tenant: tenant, Name: name, Description: description}
		if inherits != "" {
			r.Inherits = []string{inherits}
		}
		return o.db.PutRole(ctx, r)
	}
	o.ok(put("", "g0", "", ""))
	o.ok(put("acme", "own", "g0", ""))
	for i := 1; i <= 16; i++ {
		o.ok(put("", fmt.Sprint("g", i), "", ""))
	}
	for i := 15; i >= 0; i-- {
		o.ok(put("", fmt.Sprint("g", i), fmt.Sprint("g", i+1), ""))
	}
	o.ok(put("acme", "own", "g0", "another description"))
	if err := put("acme", "longer", "own", ""); iam.KindOf(err) != iam.Invalid {
		t.Errorf("longer still: %v", err)
	}
}

// Partitions are made whatever tables of that name a session has of its own.
func TestPartitionsAreMadeWhateverASessionHas(t *testing.T) {
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

// Numbers that are short to write and long to store are refused, not a fault of ours.
func TestAttributesThatSwellAreInvalid(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	manifest := iam.Manifest{Service: "s"}
	values := map[string]any{}
	for i := range 60 {
		key := fmt.Sprint("n", i)
		manifest.Attributes = append(manifest.Attributes, iam.AttributeSchema{Key: key, Type: "number"})
		values[key] = json.Number("1e308")
	}
	o.ok(o.do("", func(ctx context.Context, w *admin.Work) error {
		_, _, err := w.PutManifest(ctx, manifest)
		return err
	}))
	err := o.do("", func(ctx context.Context, w *admin.Work) error {
		_, _, err := w.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "A", Attributes: values}, admin.Condition{Absent: true})
		return err
	})
	if iam.KindOf(err) != iam.Invalid {
		t.Errorf("got %v", err)
	}
}

// Whoever changed something has the answer when this replica has forgotten what was.
func TestAnAnswerComesWhenThisReplicaHasForgotten(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	settled := 0
	s := admin.New(admin.Config{DB: o.db, Issuers: pgtest.Issuers, Invalidate: func(c []directory.Change) { settled += len(c) }, Log: slog.New(slog.DiscardHandler)})
	create := func(ctx context.Context, w *admin.Work) error {
		_, _, err := w.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "A"}, admin.Condition{Absent: true})
		return err
	}
	o.ok(s.Do(ctx, operator, admin.Task{Writes: true}, create))
	if settled != 1 {
		t.Errorf("settled %d times after a change", settled)
	}
	if err := s.Do(ctx, operator, admin.Task{Writes: true}, create); err == nil || settled != 1 {
		t.Errorf("settled %d times after a failure: %v", settled, err)
	}
	o.ok(s.Do(ctx, operator, admin.Task{}, func(ctx context.Context, w *admin.Work) error {
		_, err := w.Tenant(ctx, "acme")
		return err
	}))
	if settled != 1 {
		t.Errorf("settled %d times after reading", settled)
	}
}
