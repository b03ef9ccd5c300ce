package postgres_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
)

// Two concurrent edits, each valid alone, would form a cycle: one of them fails.
func TestConcurrentEditsCannotFormACycle(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	for _, scope := range []string{"acme", ""} {
		if scope != "" {
			must(t, db.PutTenant(ctx, tenant(scope)))
		}
		for round := range 10 {
			a, b := fmt.Sprintf("a%d%s", round, scope), fmt.Sprintf("b%d%s", round, scope)
			must(t, db.PutRole(ctx, iam.Role{Tenant: scope, Name: a}))
			must(t, db.PutRole(ctx, iam.Role{Tenant: scope, Name: b}))
			var wg sync.WaitGroup
			errs := make([]error, 2)
			wg.Go(func() { errs[0] = db.PutRole(ctx, iam.Role{Tenant: scope, Name: a, Inherits: []string{b}}) })
			wg.Go(func() { errs[1] = db.PutRole(ctx, iam.Role{Tenant: scope, Name: b, Inherits: []string{a}}) })
			wg.Wait()
			if (errs[0] == nil) == (errs[1] == nil) {
				t.Fatalf("exactly one must succeed: %v, %v", errs[0], errs[1])
			}
			wantError(t, errors.Join(errs...), iam.Invalid, "cycle")
		}
	}
}

func TestLimitsAreExact(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url)
	must(t, db.PutTenant(ctx, tenant("acme")))
	id := user(t, db, "busy")
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	exec := func(sql string, args ...any) {
		_, err := conn.Exec(ctx, sql, args...)
		must(t, err)
	}
	exec(`INSERT INTO roles (tenant, name) SELECT 'acme', 'r' || i FROM generate_series(1, 999) i`)
	must(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "the-1000th"}))
	wantError(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "one-more"}), iam.Conflict, "1000 roles")
	must(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "the-1000th", Permissions: []string{"a:b"}})) // a change adds no role

	exec(`INSERT INTO tenants (id, slug, name) SELECT 't' || i, 't' || i, 'T' FROM generate_series(1, 1001) i`)
	exec(`INSERT INTO memberships (user_id, tenant) SELECT $1::uuid, 't' || i FROM generate_series(1, 999) i`, id)
	must(t, db.PutMembership(ctx, iam.Membership{Tenant: "t1000", User: id, Status: "active"}))
	wantError(t, db.PutMembership(ctx, iam.Membership{Tenant: "t1001", User: id, Status: "active"}), iam.Conflict, "any more tenants")
	must(t, db.PutMembership(ctx, iam.Membership{Tenant: "t1000", User: id, Status: "suspended"}))

	exec(`INSERT INTO mappings (tenant, issuer, claim, value, roles) SELECT 'acme', $1, 'groups', 'g' || i, '{r1}' FROM generate_series(1, 1000) i`, issuer)
	wantError(t, db.PutMapping(ctx, iam.Mapping{Tenant: "acme", Issuer: issuer, Claim: "groups", Value: "x", Roles: []string{"r1"}}), iam.Conflict, "1000 mappings")
}
