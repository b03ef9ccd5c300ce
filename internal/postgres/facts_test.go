package postgres_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

func TestFactsComeBackAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	must(t, db.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "Acme", Status: iam.TenantActive, Attributes: map[string]any{"limit": 12345678901234567}}))
	must(t, db.PutTenant(ctx, tenant("globex")))
	must(t, db.PutRole(ctx, iam.Role{Name: "viewer", Permissions: []string{"doc:read"}}))
	must(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "editor", Permissions: []string{"doc:write"}, Inherits: []string{"viewer"}}))
	must(t, db.PutRole(ctx, iam.Role{Tenant: "globex", Name: "other"}))
	must(t, db.PutMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: issuer, Claim: "groups", Value: "Ünïcode", Roles: []string{"editor"}}))
	expires := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	id, err := db.PutUser(ctx, iam.User{
		Issuer: issuer, Subject: "alice", Status: iam.UserActive, PlatformRoles: []string{"auditor"}, DefaultTenant: "acme",
		TokensNotBefore: expires, Attributes: map[string]any{"a": "b"},
	})
	must(t, err)
	must(t, db.PutMembership(ctx, iam.Membership{Tenant: "acme", User: id, Status: iam.MembershipActive, Roles: []string{"editor", "viewer"}, ExpiresAt: expires}))
	must(t, db.PutClient(ctx, iam.Client{Issuer: issuer, ClientID: "c1", Tenant: "acme", Status: iam.ClientActive, Roles: []string{"editor"}, Scopes: []string{"s"}}))

	u, found, err := db.User(ctx, issuer, "alice")
	must(t, err)
	if !found || u.ID != id || u.DefaultTenant != "acme" || !u.TokensNotBefore.Equal(expires) || u.AsOf.IsZero() || u.Attributes["a"] != "b" {
		t.Errorf("user: %+v", u)
	}
	if len(u.Memberships) != 1 || !u.Memberships[0].ExpiresAt.Equal(expires) || !cmp.Equal(u.Memberships[0].Roles, []string{"editor", "viewer"}) {
		t.Errorf("memberships: %+v", u.Memberships)
	}
	te, found, err := db.Tenant(ctx, "acme")
	must(t, err)
	if !found || fmt.Sprint(te.Attributes["limit"]) != "12345678901234567" {
		t.Errorf("a number lost digits: %v", te.Attributes)
	}
	if len(te.Roles) != 4 /* the two reserved ones too */ || len(te.Mappings) != 1 || te.Mappings[0].Value != "Ünïcode" {
		t.Errorf("tenant: %+v", te)
	}
	c, found, err := db.Client(ctx, issuer, "c1")
	must(t, err)
	if !found || c.Tenant != "acme" || !cmp.Equal(c.Scopes, []string{"s"}) {
		t.Errorf("client: %+v", c)
	}
	for what, absent := range map[string]func() (bool, error){
		"user":   func() (bool, error) { _, found, err := db.User(ctx, issuer, "nobody"); return found, err },
		"tenant": func() (bool, error) { _, found, err := db.Tenant(ctx, "nowhere"); return found, err },
		"client": func() (bool, error) { _, found, err := db.Client(ctx, issuer, "none"); return found, err },
	} {
		t.Run("absent "+what, func(t *testing.T) {
			if found, err := absent(); found || err != nil {
				t.Errorf("%v, %v", found, err)
			}
		})
	}
}

// What is read in one round trip is what three look-ups read, but a tenant only for its members.
func TestABatchReadsWhatLookUpsRead(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	must(t, db.PutTenant(ctx, tenant("acme")))
	must(t, db.PutTenant(ctx, tenant("globex")))
	must(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "editor", Permissions: []string{"doc:write"}}))
	must(t, db.PutMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: issuer, Claim: "groups", Value: "g", Roles: []string{"editor"}}))
	id, err := db.PutUser(ctx, iam.User{Issuer: issuer, Subject: "alice", Status: iam.UserActive, DefaultTenant: "acme"})
	must(t, err)
	must(t, db.PutMembership(ctx, iam.Membership{Tenant: "acme", User: id, Status: iam.MembershipActive, Roles: []string{"editor"}}))
	must(t, db.PutClient(ctx, iam.Client{Issuer: issuer, ClientID: "c1", Tenant: "acme", Status: iam.ClientActive, TokensNotBefore: time.Now()}))
	for _, subject := range []string{"alice", "unknown"} {
		for _, client := range []string{"c1", "unknown", ""} {
			for _, tenant := range []string{"acme", "globex", "unknown", ""} {
				t.Run(fmt.Sprintf("%s/%s/%s", subject, client, tenant), func(t *testing.T) {
					got, err := db.Batch(ctx, directory.Batch{Issuer: issuer, Subject: subject, ClientID: client, Tenant: tenant})
					must(t, err)
					var want directory.BatchFacts
					if u, found, err := db.User(ctx, issuer, subject); found {
						must(t, err)
						want.User = &u
						u.AsOf = got.User.AsOf
					}
					if c, found, err := db.Client(ctx, issuer, client); found {
						must(t, err)
						want.Client = &c
					}
					if te, found, err := db.Tenant(ctx, tenant); found && tenant == "acme" && subject == "alice" {
						must(t, err)
						want.Tenant = &te
					}
					if d := cmp.Diff(want, got); d != "" {
						t.Error(d)
					}
				})
			}
		}
	}
}

func TestIdentifiersAreComparedByteByByte(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	first := user(t, db, "admin")
	for _, other := range []string{"Admin", "ADMIN", "admin.", "admi"} {
		if _, found, err := db.User(ctx, issuer, other); found || err != nil {
			t.Errorf("%q finds %q (%v)", other, "admin", err)
		}
		if id := user(t, db, other); id == first {
			t.Errorf("%q and %q are one user", other, "admin")
		}
	}
	for _, bad := range []string{"admin ", "cafe\u0301", "caf\u00e9"} { // NFD and NFC: both are rejected
		_, err := db.PutUser(ctx, iam.User{Issuer: issuer, Subject: bad, Status: iam.UserActive})
		wantError(t, err, iam.Invalid, "/subject")
	}
}

func TestInvalidWritesNameTheField(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	must(t, db.PutTenant(ctx, tenant("acme")))
	must(t, db.PutTenant(ctx, tenant("globex")))
	must(t, db.PutRole(ctx, iam.Role{Name: "viewer"}))
	must(t, db.PutRole(ctx, iam.Role{Tenant: "globex", Name: "theirs"}))
	alice := user(t, db, "alice")
	limited, err := db.PutUser(ctx, iam.User{Issuer: pgtest.LimitedIssuer, Subject: "alice", Status: iam.UserActive})
	must(t, err)

	taken := tenant("other")
	taken.Slug = "acme"
	wantError(t, db.PutTenant(ctx, taken), iam.Conflict, `slug "acme"`)
	wantError(t, db.PutRole(ctx, iam.Role{Tenant: "nowhere", Name: "r"}), iam.NotFound, `no tenant "nowhere"`)
	wantError(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "viewer"}), iam.Conflict, "global role")
	wantError(t, db.PutRole(ctx, iam.Role{Name: "theirs"}), iam.Conflict, "a tenant already has")
	wantError(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "r", Inherits: []string{"theirs"}}), iam.Invalid, `no role named "theirs"`)
	wantError(t, db.PutMembership(ctx, iam.Membership{Tenant: "acme", User: alice, Status: "active", Roles: []string{"viewer", "theirs"}}), iam.Invalid, "/roles/1")
	wantError(t, db.PutMembership(ctx, iam.Membership{Tenant: "acme", User: "nobody", Status: "active"}), iam.NotFound, `no user "nobody"`)
	wantError(t, db.PutMembership(ctx, iam.Membership{Tenant: "none", User: alice, Status: "active"}), iam.NotFound, `no tenant "none"`)
	wantError(t, db.PutMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: issuer, Claim: "groups", Value: "g", Roles: []string{"theirs"}}), iam.Invalid, "/roles/0")

	// An issuer is trusted with its tenants only, and with platform roles only by its settings.
	wantError(t, db.PutMembership(ctx, iam.Membership{Tenant: "acme", User: limited, Status: "active"}), iam.Invalid, "is not trusted with this tenant")
	must(t, db.PutMembership(ctx, iam.Membership{Tenant: "globex", User: limited, Status: "active"}))
	wantError(t, db.PutMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: pgtest.LimitedIssuer, Claim: "groups", Value: "g", Roles: []string{"viewer"}}), iam.Invalid, "is not trusted with this tenant")
	wantError(t, db.PutClient(ctx, iam.Client{Issuer: pgtest.LimitedIssuer, ClientID: "c", Tenant: "acme", Status: "active"}), iam.Invalid, "is not trusted with this tenant")
	wantError(t, db.PutClient(ctx, iam.Client{Issuer: pgtest.LimitedIssuer, ClientID: "c", Status: "active"}), iam.Invalid, "need a tenant")
	_, err = db.PutUser(ctx, iam.User{Issuer: pgtest.LimitedIssuer, Subject: "x", Status: "active", PlatformRoles: []string{"auditor"}, DefaultTenant: "acme"})
	wantError(t, err, iam.Invalid, "/platform_roles")
	wantError(t, err, iam.Invalid, "/default_tenant")
	_, err = db.PutUser(ctx, iam.User{Issuer: "https://nobody.test", Subject: "x", Status: "active"})
	wantError(t, err, iam.Invalid, "not a trusted issuer")
	_, err = db.PutUser(ctx, iam.User{Issuer: issuer, Subject: "x", Status: "active", DefaultTenant: "nowhere"})
	wantError(t, err, iam.Invalid, `no tenant "nowhere"`)
}

func TestTenantsOfListsActiveOnes(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url)
	for _, id := range []string{"acme", "globex", "gone", "past", "held"} {
		x := tenant(id)
		if id == "gone" {
			x.Status = iam.TenantSuspended
		}
		must(t, db.PutTenant(ctx, x))
	}
	id, err := db.PutUser(ctx, iam.User{Issuer: issuer, Subject: "alice", Status: iam.UserActive, DefaultTenant: "globex"})
	must(t, err)
	for tenant, m := range map[string]iam.Membership{
		"acme": {}, "globex": {}, "gone": {}, "past": {ExpiresAt: time.Now().Add(-time.Second)}, "held": {Status: iam.MembershipSuspended},
	} {
		m.Tenant, m.User = tenant, id
		if m.Status == "" {
			m.Status = iam.MembershipActive
		}
		must(t, db.PutMembership(ctx, m))
	}
	list, err := db.TenantsOf(ctx, issuer, "alice")
	must(t, err)
	want := []iam.TenantMembership{{ID: "acme", Slug: "acme", Name: "ACME"}, {ID: "globex", Slug: "globex", Name: "GLOBEX", Default: true}}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Error(diff)
	}
	// The issuer has since lost its trust for the other tenants.
	narrow, err := postgres.Open(ctx, postgres.Config{
		URL: url, Issuers: iam.Issuers{{URL: issuer, Tenants: []string{"globex"}}}, FactsAcquire: 10 * time.Second, FactsLimit: 10 * time.Second,
	}, slog.New(slog.DiscardHandler), nil)
	must(t, err)
	defer narrow.Close()
	if list, err := narrow.TenantsOf(ctx, issuer, "alice"); err != nil || len(list) != 1 || list[0].ID != "globex" {
		t.Errorf("tenants with which the issuer is not trusted: %v, %v", list, err)
	}
	_, err = db.PutUser(ctx, iam.User{Issuer: issuer, Subject: "alice", Status: iam.UserBlocked})
	must(t, err)
	if list, err := db.TenantsOf(ctx, issuer, "alice"); err != nil || len(list) != 0 {
		t.Errorf("a blocked user has tenants: %v, %v", list, err)
	}
}

// The changes of a transaction are a list of keys, or "all" beyond a limit.
func TestChangesOfATransactionAreBounded(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(ctx, pgtest.URL(t))
	must(t, err)
	defer conn.Close(ctx)
	for statements, all := range map[int]bool{3000: false, 4000: true} {
		tx, err := conn.Begin(ctx)
		must(t, err)
		_, err = tx.Exec(ctx, fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP INSERT INTO users (issuer, subject) VALUES ('i', 's' || i); END LOOP; END $$`, statements))
		must(t, err)
		var changed string
		must(t, tx.QueryRow(ctx, `SELECT current_setting('iam.changed')`).Scan(&changed))
		if keys := strings.Count(changed, ",") + 1; (changed == "all") != all || !all && keys != statements {
			t.Errorf("%d statements: %d keys, %d bytes", statements, keys, len(changed))
		}
		must(t, tx.Rollback(ctx))
	}
}
