package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// The pages of the holders of some roles are all members that have one of them, once and by id: whichever roles many or
// few have, and however often more of one must be read.
func TestTheHoldersOfRolesAreMergedInPages(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	db := pgtest.Open(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(db.PutTenant(ctx, iam.Tenant{ID: "acme", Slug: "acme", Name: "Acme", Status: iam.TenantActive}))
	must(db.PutTenant(ctx, iam.Tenant{ID: "other", Slug: "other", Name: "Other", Status: iam.TenantActive}))
	const kinds, members = 7, 60
	for i := range kinds {
		must(db.PutRole(ctx, iam.Role{Name: fmt.Sprint("r", i)}))
	}
	held := map[string][]string{}
	for n := range members {
		id, err := db.PutUser(ctx, iam.User{Issuer: pgtest.Issuer, Subject: fmt.Sprint("u", n), Status: iam.UserActive})
		must(err)
		var roles []string
		for i := range kinds { // r0: all, r1: every third, r2: every ninth, and so on; the last: none
			every := 1
			for range i {
				every *= 3
			}
			if n%every == 0 && i < kinds-1 {
				roles = append(roles, fmt.Sprint("r", i))
			}
		}
		held[id] = roles
		must(db.PutMembership(ctx, iam.Membership{Tenant: "acme", User: id, Status: iam.MembershipActive, Roles: roles}))
		must(db.PutMembership(ctx, iam.Membership{Tenant: "other", User: id, Status: iam.MembershipActive, Roles: []string{"r6"}}))
	}
	rapid.Check(t, func(rt *rapid.T) {
		roles := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"r0", "r1", "r2", "r3", "r4", "r5", "r6"}), 1, kinds, rapid.ID).Draw(rt, "roles")
		limit := rapid.IntRange(1, 40).Draw(rt, "limit")
		var want, got []string
		for id, has := range held {
			if slices.ContainsFunc(has, func(r string) bool { return slices.Contains(roles, r) }) {
				want = append(want, id)
			}
		}
		slices.Sort(want)
		must(db.View(ctx, func(ctx context.Context, tx *postgres.Tx) error {
			for after := ""; ; {
				page, err := tx.RoleHolders(ctx, "acme", roles, after, limit)
				if err != nil {
					return err
				}
				got = append(got, page...)
				if len(page) < limit {
					return nil
				}
				after = page[len(page)-1]
			}
		}))
		if !slices.Equal(got, want) {
			rt.Fatalf("%d holders of %v in pages of %d, want %d", len(got), roles, limit, len(want))
		}
	})
}
