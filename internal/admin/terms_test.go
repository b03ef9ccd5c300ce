package admin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"iam-service/internal/admin"
	"iam-service/internal/dev/pgtest"
	"iam-service/internal/iam"
)

// strings is the column of text that a query returns.
func (o *office) strings(query string, args ...any) []string {
	o.Helper()
	conn, err := pgx.Connect(ctx, o.url)
	o.ok(err)
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, query, args...)
	o.ok(err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	o.ok(err)
	return list
}

// termed makes a member whose roles a and b are there, with the term of b.
func (o *office) termed(tenant, subject string, term iam.RoleTerm) (user string) {
	o.Helper()
	for _, r := range []string{"a", "b"} {
		o.ok(o.db.PutRole(ctx, iam.Role{Tenant: tenant, Name: r}))
	}
	user, err := o.db.PutUser(ctx, iam.User{Issuer: pgtest.Issuer, Subject: subject, Status: iam.UserActive})
	o.ok(err)
	o.ok(o.db.PutMembership(ctx, iam.Membership{
		Tenant: tenant, User: user, Status: iam.MembershipActive, Roles: []string{"a", "b"}, Terms: map[string]iam.RoleTerm{"b": term},
	}))
	return user
}

const events = `SELECT type || ' ' || (data ->> 'tenant') || coalesce(' ' || (data -> 'ends' -> 0 ->> 'role'), '') FROM outbox WHERE type LIKE 'UserRoles%' ORDER BY seq`

// A role that has ended is removed once: with a version, an entry of the audit and its events, whichever replicas
// find it.
func TestARoleThatHasEndedIsRemovedOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	ended := time.Now().Add(-time.Second)
	ann := o.termed("acme", "ann", iam.RoleTerm{ExpiresAt: ended, Reason: "audit"})
	o.termed("acme", "ben", iam.RoleTerm{ExpiresAt: time.Now().Add(time.Hour)})
	var mu sync.Mutex
	var replicas sync.WaitGroup
	removed := 0
	for range 4 {
		replicas.Go(func() {
			n, err := o.s.EndRoles(ctx)
			mu.Lock()
			defer mu.Unlock()
			removed += n
			if err != nil {
				t.Error(err)
			}
		})
	}
	replicas.Wait()
	if removed != 1 {
		t.Errorf("%d roles were removed, want 1", removed)
	}
	if got := o.strings(events); !slices.Equal(got, []string{"UserRolesExpired.v1 acme b", "UserRolesAssigned.v1 acme"}) {
		t.Errorf("events: %v", got)
	}
	audit := o.strings(`SELECT actor_kind || ' ' || actor || ' ' || action || ' ' || object || ' ' || (after -> 'roles')::text || ' ' || (before -> 'role_terms' -> 'b' ->> 'reason')
		FROM audit WHERE kind = 'member' AND action = 'member:expire-roles'`)
	if want := []string{"service iam-service member:expire-roles " + ann + ` ["a"] audit`}; !slices.Equal(audit, want) {
		t.Errorf("audit: %v, want %v", audit, want)
	}
	if left := o.strings(`SELECT roles::text || role_terms::text FROM memberships ORDER BY cardinality(roles) DESC`); left[0][:5] != "{a,b}" || left[1] != "{a}{}" {
		t.Errorf("what is left: %v", left)
	}
}

// What fails leaves nothing, is done by the next round, and delays no other tenant.
func TestARemovalThatFailsIsDoneByTheNextRound(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for _, id := range []string{"acme", "globex"} {
		o.tenant(id)
		o.termed(id, "ann", iam.RoleTerm{ExpiresAt: time.Now().Add(-time.Second)})
	}
	o.sql(`CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'away'; END $$;
		CREATE TRIGGER fail BEFORE INSERT ON outbox FOR EACH ROW WHEN (NEW.tenant = 'acme') EXECUTE FUNCTION fail()`)
	if n, err := o.s.EndRoles(ctx); n != 1 || err == nil {
		t.Errorf("%d roles were removed, error %v", n, err)
	}
	if got := o.strings(events); !slices.Equal(got, []string{"UserRolesExpired.v1 globex b", "UserRolesAssigned.v1 globex"}) {
		t.Errorf("while one tenant fails: %v", got)
	}
	if n, err := o.db.OverdueRoles(ctx, 0); n != 1 || err != nil {
		t.Errorf("%d are overdue, %v", n, err)
	}
	o.sql(`DROP TRIGGER fail ON outbox`)
	for _, want := range []int{1, 0} {
		if n, err := o.s.EndRoles(ctx); n != want || err != nil {
			t.Errorf("%d roles were removed, want %d, error %v", n, want, err)
		}
	}
	if got := o.strings(events); len(got) != 4 {
		t.Errorf("events: %v", got)
	}
}

// The end of a role is announced once, and again where it is moved. The membership's version stays.
func TestTheEndOfARoleIsAnnouncedOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	const notice = 24 * time.Hour
	soon := iam.RoleTerm{ExpiresAt: time.Now().Add(time.Hour)}
	o.termed("acme", "ann", soon)
	o.termed("acme", "late", iam.RoleTerm{ExpiresAt: time.Now().Add(notice + time.Hour)})
	o.termed("acme", "ended", iam.RoleTerm{ExpiresAt: time.Now().Add(-time.Hour)})
	version := o.strings(`SELECT sum(version)::text FROM memberships`)
	announce := func(want int) {
		t.Helper()
		var mu sync.Mutex
		var replicas sync.WaitGroup
		sum := 0
		for range 3 {
			replicas.Go(func() {
				n, err := o.s.AnnounceEnds(ctx, notice)
				mu.Lock()
				defer mu.Unlock()
				sum += n
				if err != nil {
					t.Error(err)
				}
			})
		}
		replicas.Wait()
		if sum != want {
			t.Errorf("%d ends were announced, want %d", sum, want)
		}
	}
	announce(1)
	announce(0)
	if got := o.strings(events); !slices.Equal(got, []string{"UserRolesExpiring.v1 acme b"}) {
		t.Errorf("events: %v", got)
	}
	if after := o.strings(`SELECT sum(version)::text FROM memberships`); !slices.Equal(version, after) {
		t.Errorf("versions moved from %v to %v", version, after)
	}
	soon.ExpiresAt = soon.ExpiresAt.Add(time.Minute)
	o.termed("acme", "ann", soon)
	announce(1)
	var data struct {
		Ends []iam.RoleEnd `json:"ends"`
	}
	o.ok(json.Unmarshal([]byte(o.strings(`SELECT data::text FROM outbox ORDER BY seq DESC LIMIT 1`)[0]), &data))
	if want := fmt.Sprint([]iam.RoleEnd{{Role: "b", ExpiresAt: soon.ExpiresAt.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano)}}); fmt.Sprint(data.Ends) != want {
		t.Errorf("announced %v, want %s", data.Ends, want)
	}
	o.sql(`UPDATE role_end_notices SET expires_at = now() - interval '1 s'`)
	announce(1) // as if the end had been another
	if n := o.rows("role_end_notices"); n != 1 {
		t.Errorf("%d notices are stored", n)
	}
}

// The loop runs both until its context ends.
func TestTheLoopOfTermsRunsUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.tenant("acme")
	o.termed("acme", "ann", iam.RoleTerm{ExpiresAt: time.Now().Add(-time.Second)})
	o.termed("acme", "ben", iam.RoleTerm{ExpiresAt: time.Now().Add(time.Hour)})
	running, stop := context.WithCancel(ctx)
	var sum admin.TermsRound
	o.s.KeepTerms(running, 24*time.Hour, func(r admin.TermsRound) {
		sum.Removed, sum.Announced = sum.Removed+r.Removed, sum.Announced+r.Announced
		if sum.Removed > 0 && sum.Announced > 0 {
			stop()
		}
	})
	if sum != (admin.TermsRound{Removed: 1, Announced: 1}) {
		t.Errorf("%+v", sum)
	}
}
