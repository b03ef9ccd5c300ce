package postgres_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

func TestTermsOfRolesComeBackAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	must(t, db.PutTenant(ctx, tenant("acme")))
	for _, r := range []string{"a", "b", "c"} {
		must(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: r}))
	}
	id := user(t, db, "ann")
	at := time.Date(2030, 1, 1, 12, 0, 0, 123456789, time.FixedZone("", 3600))
	m := iam.Membership{
		Tenant: "acme", User: id, Status: iam.MembershipActive, Roles: []string{"a", "b", "c"},
		Terms: map[string]iam.RoleTerm{"a": {StartsAt: at, ExpiresAt: at.Add(time.Hour), Reason: "a \"visit\" — later"}, "b": {}},
	}
	must(t, db.PutMembership(ctx, m))
	want := map[string]iam.RoleTerm{"a": {StartsAt: at.UTC().Truncate(time.Microsecond), ExpiresAt: at.UTC().Truncate(time.Microsecond).Add(time.Hour), Reason: "a \"visit\" — later"}}
	same := func(got map[string]iam.RoleTerm) bool {
		a, b := got["a"], want["a"]
		return len(got) == 1 && a.StartsAt.Equal(b.StartsAt) && a.ExpiresAt.Equal(b.ExpiresAt) && a.Reason == b.Reason
	}
	u, _, err := db.User(ctx, pgtest.Issuer, "ann")
	must(t, err)
	if got := u.Memberships[0].Terms; !same(got) {
		t.Errorf("a user's facts: %v, want %v", got, want)
	}
	must(t, db.View(ctx, func(ctx context.Context, tx *postgres.Tx) error {
		list, err := tx.Members(ctx, "acme", postgres.MemberFilter{Limit: 10})
		if err == nil && (len(list) != 1 || !same(list[0].Terms) || list[0].AsOf.IsZero()) {
			t.Errorf("a list of members: %+v, want %v", list, want)
		}
		return err
	}))
	m.Terms = nil
	must(t, db.PutMembership(ctx, m))
	if u, _, err = db.User(ctx, pgtest.Issuer, "ann"); err != nil || u.Memberships[0].Terms != nil {
		t.Errorf("after they were removed: %v, %v", u.Memberships, err)
	}
}

// The release before this one writes roles alone: the term of a role that it removes goes with it, and nothing else.
func TestAWriterThatKnowsNoTermsRemovesThoseOfItsRoles(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	db := pgtest.OpenURL(t, url)
	must(t, db.PutTenant(ctx, tenant("acme")))
	must(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "a"}))
	must(t, db.PutRole(ctx, iam.Role{Tenant: "acme", Name: "b"}))
	id := user(t, db, "ann")
	end := time.Now().Add(time.Hour)
	must(t, db.PutMembership(ctx, iam.Membership{
		Tenant: "acme", User: id, Status: iam.MembershipActive, Roles: []string{"a", "b"},
		Terms: map[string]iam.RoleTerm{"a": {ExpiresAt: end}, "b": {ExpiresAt: end}},
	}))
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `UPDATE memberships SET roles = '{b}'`)
	must(t, err)
	u, _, err := db.User(ctx, pgtest.Issuer, "ann")
	must(t, err)
	if got := u.Memberships[0]; len(got.Terms) != 1 || got.Terms["b"].ExpiresAt.IsZero() {
		t.Errorf("the terms are %v", got.Terms)
	}
	for _, broken := range []string{`[]`, `"x"`} {
		if _, err := conn.Exec(ctx, `UPDATE memberships SET role_terms = $1::text::jsonb`, broken); err == nil {
			t.Errorf("%s was stored", broken)
		}
	}
}

// SQL and Go agree about which roles are in force.
func TestRolesInForceAreTheSameInSQLAndInGo(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	conn, err := pgx.Connect(ctx, url)
	must(t, err)
	defer conn.Close(ctx)
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	moments := []time.Time{{}, at.Add(-time.Microsecond), at, at.Add(time.Microsecond)}
	for _, start := range moments {
		for _, end := range moments {
			m := iam.Membership{Roles: []string{"x", "y"}, Terms: map[string]iam.RoleTerm{"x": {StartsAt: start, ExpiresAt: end}}}.Tidy()
			if m.Terms == nil {
				m.Terms = map[string]iam.RoleTerm{}
			}
			var got []string
			must(t, conn.QueryRow(ctx, `SELECT iam_roles_at($1, $2, $3)`, m.Roles, m.Terms, at).Scan(&got))
			if want := m.RolesAt(at); !slices.Equal(got, want) {
				t.Errorf("from %s to %s: SQL has %v, Go %v", start, end, got, want)
			}
		}
	}
}
