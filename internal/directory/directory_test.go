package directory_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"pgregory.net/rapid"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
)

const issuer = "https://rauth.test"

var issuers = iam.Issuers{
	{URL: issuer, Tenants: []string{"*"}, Platform: true},
	{URL: "https://limited.test", Tenants: []string{"globex"}},
}

func TestAPathLeadsIntoADocument(t *testing.T) {
	t.Parallel()
	s := newStore(newLoader(), directory.Config{Issuers: issuers, Wait: 10 * time.Second})
	for path, want := range map[string]string{
		"directory|users|https://rauth.test|alice|memberships|acme|roles":   `["editor", "viewer"]`,
		"directory|users|https://rauth.test|alice|memberships|acme|roles|1": `"viewer"`,
		"directory|users|https://rauth.test|alice|default_tenant":           `"acme"`,
		"directory|tenants|acme|roles|editor|closure":                       `["editor", "viewer"]`,
		"directory|tenants|acme|mappings":                                   `{"https://rauth.test": {"groups": {"g": ["viewer"]}}}`,
		"directory|clients|https://rauth.test|c1|status":                    `"blocked"`,
		"directory|clients|https://rauth.test|ops":                          `{"client_id": "ops", "roles": [], "scopes": [], "status": "active"}`,
		"directory|users|https://rauth.test|nobody":                         "absent",
		"directory|users|https://rauth.test|alice|memberships|acme|roles|x": "absent",
		"directory|users|https://rauth.test|alice|nothing|below":            "absent",
		"directory|tenants|nowhere|roles":                                   "absent",
		"directory|other|x":                                                 "absent",
		"directory|tenants|Not A Tenant":                                    "absent",
		"directory|users|https://rauth.test|a\x00b":                         "absent",
		"directory|users|https://rauth.test|" + strings.Repeat("a", 300):    "absent",
		"elsewhere|tenants|acme":                                            "absent",
	} {
		got := "absent"
		v, err := read(s, path)
		switch {
		case err == nil:
			got = v.String()
		case !storage.IsNotFound(err):
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

func TestACollectionIsNotEnumerated(t *testing.T) {
	t.Parallel()
	l := newLoader()
	s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
	for _, path := range []string{"directory", "directory|users", "directory|users|" + issuer, "directory|tenants", "directory|clients", "directory|clients|" + issuer} {
		_, err := read(s, path)
		e, ok := errors.AsType[*directory.EnumerationError](err)
		if want := strings.ReplaceAll(strings.TrimSuffix(path, "|"+issuer), "|", "/"); !ok || e.Path != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	if n := l.loads.Load(); n != 0 {
		t.Errorf("%d loads", n)
	}
}

func TestWhatAnIssuerDoesNotReachIsNotThere(t *testing.T) {
	t.Parallel()
	l := newLoader()
	limited := directory.Caller{Issuer: "https://limited.test"}
	s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
	user, err := readAs(s, limited, "directory|users|https://limited.test|alice")
	if err != nil {
		t.Fatal(err)
	}
	if got := user.String(); strings.Contains(got, "acme") || strings.Contains(got, "auditor") || !strings.Contains(got, "globex") {
		t.Errorf("the user of a limited issuer is %s", got)
	}
	for path, a := range map[string]directory.Caller{
		"directory|tenants|acme":                     limited, // its own tenants only
		"directory|tenants|globex":                   {},      // no user's: none
		"directory|clients|https://limited.test|c1":  limited, // a client in a tenant it does not reach
		"directory|clients|https://limited.test|ops": limited, // a program of the platform
		"directory|clients|https://unknown.test|ops": {Issuer: "https://unknown.test"},
	} {
		if v, err := readAs(s, a, path); !storage.IsNotFound(err) {
			t.Errorf("%s for %q: %v, %v", path, a.Issuer, v, err)
		}
	}
	if _, err := readAs(s, limited, "directory|tenants|globex"); err != nil {
		t.Error(err)
	}
}

func TestOneLoadServesAllConcurrentCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoader()
		l.set(nil, 10*time.Millisecond)
		s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := read(s, "directory|tenants|acme"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := l.loads.Load(); n != 1 {
			t.Errorf("%d loads", n)
		}
	})
}

// The first who asks may leave: the others still get their answer.
func TestALoadOutlivesItsFirstCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoader()
		l.set(nil, 20*time.Millisecond)
		s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			r := s.View(directory.Caller{Issuer: issuer}, time.Now().Add(time.Minute))
			if _, err := r.Read(ctx, storage.Path{"directory", "tenants", "acme"}); code(err) != "facts_timeout" {
				t.Errorf("the one who left: %v", err)
			}
		}()
		synctest.Wait()
		cancel()
		if _, err := read(s, "directory|tenants|acme"); err != nil {
			t.Error(err)
		}
		if n := l.loads.Load(); n != 1 {
			t.Errorf("%d loads", n)
		}
	})
}

func TestAFailedLoadIsAnErrorForAllAndIsNotCached(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoader()
		l.set(errors.New("connection reset"), time.Millisecond)
		s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
		var wg sync.WaitGroup
		for _, path := range []string{"directory|users|https://rauth.test|alice", "directory|users|https://rauth.test|nobody", "directory|tenants|acme", "directory|clients|https://rauth.test|c1"} {
			for range 5 {
				wg.Go(func() {
					v, err := read(s, path)
					if code(err) != "facts_unavailable" || storage.IsNotFound(err) || !strings.Contains(err.Error(), "connection reset") {
						t.Errorf("%s: %v, %v", path, v, err)
					}
				})
			}
		}
		wg.Wait()
		l.set(nil, 0)
		if _, err := read(s, "directory|tenants|acme"); err != nil {
			t.Errorf("after it came back: %v", err)
		}
	})
}

// A document ends when a membership in it does: no policy needs a clock.
func TestADocumentEndsWithItsNextMembership(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoader()
		l.mu.Lock()
		u := iam.UserFacts{User: iam.User{ID: "u2", Status: "active"}}
		u.Memberships = []iam.Membership{
			{Tenant: "acme", Status: "active", ExpiresAt: time.Now().Add(5 * time.Second)},
			{Tenant: "globex", Status: "active", ExpiresAt: time.Now().Add(-time.Second)},
			{Tenant: "held", Status: "suspended", ExpiresAt: time.Now().Add(-time.Second)},
		}
		l.users["erin"] = u
		l.mu.Unlock()
		s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
		status := func(tenant string) string {
			v, err := read(s, "directory|users|https://rauth.test|erin|memberships|"+tenant+"|status")
			if err != nil {
				return err.Error()
			}
			return v.String()
		}
		if a, g, h := status("acme"), status("globex"), status("held"); a != `"active"` || g != `"expired"` || h != `"suspended"` {
			t.Errorf("acme %s, globex %s, held %s", a, g, h)
		}
		time.Sleep(4900 * time.Millisecond)
		if got := status("acme"); got != `"active"` {
			t.Errorf("just before: %s", got)
		}
		time.Sleep(101 * time.Millisecond)
		if got := status("acme"); got != `"expired"` {
			t.Errorf("just after: %s", got)
		}
		l.set(errors.New("away"), 0)
		if got := status("acme"); got != `"expired"` {
			t.Errorf("while the database is away: %s", got)
		}
	})
}

// A document has the roles in force, and ends when the next one starts or ends.
func TestADocumentEndsWhenARoleStartsOrEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoader()
		l.mu.Lock()
		began := time.Now()
		u := iam.UserFacts{User: iam.User{ID: "u2", Status: "active"}}
		u.Memberships = []iam.Membership{{
			Tenant: "acme", Status: "active", Roles: []string{"always", "comes", "ends", "ended"}, ExpiresAt: began.Add(time.Hour),
			Terms: map[string]iam.RoleTerm{
				"comes": {StartsAt: began.Add(5 * time.Second), ExpiresAt: began.Add(9 * time.Second)},
				"ends":  {ExpiresAt: began.Add(7 * time.Second), Reason: "audit"},
				"ended": {ExpiresAt: began.Add(-time.Second)},
			},
		}}
		l.users["erin"] = u
		l.mu.Unlock()
		s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
		for _, c := range []struct {
			after time.Duration
			roles string
		}{
			{after: 0, roles: `["always", "ends"]`},
			{after: 5*time.Second - 1, roles: `["always", "ends"]`},
			{after: 5 * time.Second, roles: `["always", "comes", "ends"]`},
			{after: 7*time.Second - 1, roles: `["always", "comes", "ends"]`},
			{after: 7 * time.Second, roles: `["always", "comes"]`},
			{after: 9 * time.Second, roles: `["always"]`},
		} {
			time.Sleep(c.after - time.Since(began))
			v, err := read(s, "directory|users|https://rauth.test|erin|memberships|acme|roles")
			if err != nil || v.String() != c.roles {
				t.Errorf("after %s: %v, %v, want %s", c.after, v, err, c.roles)
			}
		}
	})
}

func TestAnExpiredMembershipIsNotServedWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoader()
		u := l.users["alice"]
		u.Memberships[0].ExpiresAt = time.Now().Add(time.Second)
		l.users["alice"] = u
		s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
		const path = "directory|users|https://rauth.test|alice"
		if _, err := read(s, path); err != nil {
			t.Fatal(err)
		}
		l.set(errors.New("away"), 0)
		time.Sleep(time.Second)
		if v, err := read(s, path); code(err) != "facts_unavailable" {
			t.Errorf("served %v, %v", v, err)
		}
	})
}

func TestOneEvaluationSeesOneMoment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoader()
		s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
		r := s.View(directory.Caller{Issuer: issuer}, time.Now().Add(time.Minute))
		path := storage.Path{"directory", "tenants", "acme", "status"}
		before, err := r.Read(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		l.mu.Lock()
		l.tenants["acme"] = iam.TenantFacts{Tenant: iam.Tenant{ID: "acme", Status: "suspended"}}
		l.mu.Unlock()
		s.InvalidateKey(directory.Tenant, directory.KeyOf(directory.Tenant, "acme", ""))
		if again, _ := r.Read(t.Context(), path); again.Compare(before) != 0 {
			t.Errorf("%v became %v within one evaluation", before, again)
		}
		if other, _ := read(s, "directory|tenants|acme|status"); other.String() != `"suspended"` {
			t.Errorf("the next evaluation sees %v", other)
		}
	})
}

func TestAPinnedDocumentIsNeitherLoadedNorCached(t *testing.T) {
	t.Parallel()
	l := newLoader()
	s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
	mine := iam.UserFacts{User: iam.User{ID: "u9", Issuer: issuer, Subject: "alice", Status: "blocked"}}
	r := s.View(directory.Caller{Issuer: issuer}, time.Now().Add(time.Minute))
	r.Pin(directory.Prepared{}) // none
	r.Pin(directory.PrepareUser(mine, issuers))
	status := func(r *directory.View) string {
		v, err := r.Read(t.Context(), []string{"directory", "users", issuer, "alice", "status"})
		if err != nil {
			t.Fatal(err)
		}
		return v.String()
	}
	if got := status(r); got != `"blocked"` || l.loads.Load() != 0 {
		t.Errorf("the view reads %s after %d loads", got, l.loads.Load())
	}
	if facts := r.Facts(); len(facts) != 1 || facts[0].Path != "users/https:~1~1rauth.test/alice" || facts[0].Hash == "" {
		t.Errorf("the view has read %+v", facts)
	}
	if d := r.Dependencies(); s.Validity(&d, s.Now()) == directory.Valid {
		t.Error("what depends on a pinned document can be cached")
	}
	if got := status(s.View(directory.Caller{Issuer: issuer}, time.Now().Add(time.Minute))); got != `"active"` || l.loads.Load() != 1 {
		t.Errorf("another view reads %s after %d loads", got, l.loads.Load())
	}
}

// A document heavier than the cache is for is used, but drives nothing out.
func TestAHeavyDocumentDrivesNothingOut(t *testing.T) {
	t.Parallel()
	l := newLoader()
	heavy := iam.TenantFacts{Tenant: iam.Tenant{ID: "heavy", Status: "active", Name: strings.Repeat("n", 30_000)}}
	l.tenants["heavy"] = heavy
	s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second, Bytes: 50_000})
	for _, id := range []string{"acme", "globex", "heavy", "heavy", "acme", "globex"} {
		if _, err := read(s, "directory|tenants|"+id); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.loads.Load(); n != 4 {
		t.Errorf("%d loads, want one for each small tenant and two for the heavy one", n)
	}
}

func TestMemoryFollowsTheBounds(t *testing.T) {
	t.Parallel()
	l := newLoader()
	for i := range 500 {
		id := fmt.Sprintf("t%d", i)
		x := iam.TenantFacts{Tenant: iam.Tenant{ID: id, Status: "active", Name: strings.Repeat("n", 1000)}}
		l.tenants[id] = x
	}
	s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second, Entries: 100, Bytes: 50_000})
	for id := range maps.Keys(l.tenants) {
		if _, err := read(s, "directory|tenants|"+id); err != nil {
			t.Fatal(err)
		}
		if got := s.Stats().Present; got.Bytes > 50_000 || got.Bytes < 0 || got.Entries > 100 {
			t.Fatalf("%+v", got)
		}
	}
	if got := s.Stats().Present; got.Entries < 10 || got.Evictions == 0 {
		t.Errorf("%+v", got)
	}
}

// Keys that look alike when they are put together are different keys.
func TestNoTwoKeysAreOne(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := newLoader()
		part := rapid.StringMatching(`[ab|/:.]{1,4}`)
		l.users = map[string]iam.UserFacts{}
		s := newStore(&tellingLoader{l}, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
		for range 20 {
			iss, sub := part.Draw(t, "issuer"), part.Draw(t, "subject")
			r := s.View(directory.Caller{Issuer: issuer}, time.Now().Add(time.Minute))
			v, err := r.Read(context.Background(), storage.Path{"directory", "users", iss, sub, "id"})
			if err != nil {
				t.Fatal(err)
			}
			if want := ast.String(iss + " " + sub); v != want {
				t.Fatalf("asked for %s, got %s", want, v)
			}
		}
	})
}

// tellingLoader knows every user, by an id that names them.
type tellingLoader struct{ *loader }

func (*tellingLoader) User(_ context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	return iam.UserFacts{User: iam.User{ID: issuer + " " + subject, Status: "active", Issuer: issuer, Subject: subject}}, true, nil
}
