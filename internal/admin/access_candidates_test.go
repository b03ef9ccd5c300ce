package admin_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"iam-service/internal/admin"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Of users that changed, a tenant's list looks at its own members alone, a bounded number at once; and a busy member does not
// hide the entries of others.
func TestAListOfChangesLooksAtTheTenantsOwnMembers(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	o.tenant("globex")
	from := time.Now().Add(-time.Hour)
	own := []string{}
	for i := range 6 {
		tenant := []string{"acme", "globex"}[i%2]
		o.ok(o.do(tenant, func(ctx context.Context, w *admin.Work) error {
			u, err := w.CreateUser(ctx, iam.User{Issuer: pgtest.Issuer, Subject: fmt.Sprint("u", i)})
			if err != nil {
				return err
			}
			if tenant == "acme" {
				own = append(own, u.ID)
			}
			_, err = w.PutMembers(ctx, tenant, admin.Batch{Rows: []admin.Row{{Issuer: pgtest.Issuer, Subject: u.Subject, Membership: iam.Membership{Status: iam.MembershipActive}}}})
			return err
		}))
	}
	slices.Sort(own)
	for _, status := range []string{iam.MembershipSuspended, iam.MembershipActive, iam.MembershipSuspended} { // the busy one
		o.ok(o.do("acme", func(ctx context.Context, w *admin.Work) error {
			_, err := w.EditMember(ctx, "acme", own[0], admin.Condition{}, memberStatus(status))
			return err
		}))
	}
	o.ok(o.db.View(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		all, err := tx.ChangedMembers(ctx, "acme", from, time.Now().Add(time.Hour), "", 100)
		o.ok(err)
		if !slices.Equal(all.Users, own) || all.Looked != 3 || all.Through != own[2] {
			t.Errorf("changed: %+v, want %q", all, own)
		}
		part, err := tx.ChangedMembers(ctx, "acme", from, time.Now().Add(time.Hour), own[0], 1)
		o.ok(err)
		if !slices.Equal(part.Users, own[1:2]) || part.Looked != 1 || part.Through != own[1] {
			t.Errorf("a part: %+v, want %q", part, own[1])
		}
		early, err := tx.ChangedMembers(ctx, "acme", from, from, "", 100)
		o.ok(err)
		if len(early.Users) != 0 || early.Looked != 3 {
			t.Errorf("in a period without entries: %+v", early)
		}
		entries, err := tx.Entries(ctx, postgres.EntryFilter{Chain: "acme", Kind: iam.KindMember, Objects: own, From: from, To: time.Now().Add(time.Hour), Limit: 2})
		o.ok(err)
		count := map[string]int{}
		for _, e := range entries {
			count[e.Object]++
		}
		if count[own[0]] != 2 || count[own[1]] != 1 || count[own[2]] != 1 {
			t.Errorf("entries of each: %v", count)
		}
		return nil
	}))
}
