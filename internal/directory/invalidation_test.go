package directory_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-policy-agent/opa/v1/storage"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
)

// While the database is unavailable, cached facts are valid until MAX_STALENESS after freshness was last confirmed;
// then nothing is served, cached or not, until it is confirmed again.
func TestFactsAreServedForABoundedTimeAfterFreshnessWasConfirmed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoader()
		s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second, MaxStale: 10 * time.Second})
		const alice, unknown, tenant = "directory|users|https://rauth.test|alice", "directory|users|https://rauth.test|nobody", "directory|tenants|globex"
		if _, err := read(s, alice); err != nil {
			t.Fatal(err)
		}
		if _, err := read(s, unknown); !storage.IsNotFound(err) {
			t.Fatal(err)
		}
		r := s.View(directory.Caller{Issuer: issuer}, time.Now().Add(time.Hour))
		if _, err := r.Read(t.Context(), strings.Split(alice, "|")); err != nil {
			t.Fatal(err)
		}
		rec := r.Dependencies()
		l.set(errors.New("away"), 0)
		for at := time.Duration(0); at < 9900*time.Millisecond; at += 100 * time.Millisecond {
			if _, err := read(s, alice); err != nil {
				t.Fatalf("after %s: %v", at, err)
			}
			if _, err := read(s, unknown); !storage.IsNotFound(err) {
				t.Fatalf("the absent one after %s: %v", at, err)
			}
			if _, err := read(s, tenant); code(err) != "facts_unavailable" {
				t.Fatalf("what was never read, after %s: %v", at, err)
			}
			if got := s.Validity(&rec, s.Now()); got != directory.Valid {
				t.Fatalf("the dependencies of a decision, after %s: %d", at, got)
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(200 * time.Millisecond)
		l.set(nil, 0)
		for _, path := range []string{alice, unknown, tenant} {
			if _, err := read(s, path); code(err) != "facts_stale" {
				t.Errorf("after MAX_STALENESS, %s: %v", path, err)
			}
		}
		if got := s.Validity(&rec, s.Now()); got != directory.Stale {
			t.Errorf("the dependencies of a decision, after MAX_STALENESS: %d", got)
		}
		s.MarkFresh(s.Now() - 11*time.Second) // a late heartbeat confirms nothing
		if _, err := read(s, alice); code(err) != "facts_stale" {
			t.Errorf("after a heartbeat that was under way for too long: %v", err)
		}
		s.MarkFresh(s.Now())
		for _, path := range []string{alice, tenant} {
			if _, err := read(s, path); err != nil {
				t.Errorf("after freshness was confirmed, %s: %v", path, err)
			}
		}
	})
}

func TestNothingIsServedBeforeFreshnessIsConfirmed(t *testing.T) {
	t.Parallel()
	s := directory.New(newLoader(), directory.Config{Issuers: issuers, Wait: 10 * time.Second})
	if _, err := read(s, "directory|tenants|acme"); code(err) != "facts_stale" {
		t.Error(err)
	}
}

// A change invalidates exactly what depends on it.
func TestAChangeInvalidatesWhatDependsOnIt(t *testing.T) {
	t.Parallel()
	const user, other, absent = "directory|users|https://rauth.test|alice", "directory|users|https://rauth.test|bob", "directory|users|https://rauth.test|nobody"
	const acme, globex, client = "directory|tenants|acme", "directory|tenants|globex", "directory|clients|https://rauth.test|c1"
	all := []string{user, other, absent, acme, globex, client}
	key := func(k directory.Kind, a, b string) func(*directory.Store) {
		return func(s *directory.Store) { s.InvalidateKey(k, directory.KeyOf(k, a, b)) }
	}
	for name, c := range map[string]struct {
		drop func(*directory.Store)
		gone []string
	}{
		"a user":                    {key(directory.User, issuer, "alice"), []string{user}},
		"a user who is not there":   {key(directory.User, issuer, "nobody"), []string{absent}},
		"a user never loaded":       {key(directory.User, issuer, "carol"), nil},
		"another issuer's":          {key(directory.User, "https://limited.test", "alice"), nil},
		"a client":                  {key(directory.Client, issuer, "c1"), []string{client}},
		"a tenant":                  {key(directory.Tenant, "acme", ""), []string{acme}},
		"a tenant's state":          {key(directory.Members, "acme", ""), []string{user, client}},
		"the state of a default":    {key(directory.Members, "umbrella", ""), []string{other}},
		"the state of one with two": {key(directory.Members, "globex", ""), []string{user, other}},
		"a tenant without members":  {key(directory.Members, "initech", ""), nil},
		"a global role":             {key(directory.GlobalRoles, "", ""), []string{acme, globex}},
		"everything":                {func(s *directory.Store) { s.InvalidateAll() }, all},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLoader()
			l.users["bob"] = iam.UserFacts{User: iam.User{ID: "u3", Status: "active", DefaultTenant: "umbrella"}, Memberships: []iam.Membership{{Tenant: "globex", Status: "active"}}}
			s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
			recs := map[string]directory.Dependencies{}
			for _, path := range all {
				r := s.View(directory.Caller{Issuer: issuer}, time.Now().Add(time.Minute))
				if _, err := r.Read(t.Context(), strings.Split(path, "|")); err != nil && !storage.IsNotFound(err) {
					t.Fatal(err)
				}
				recs[path] = r.Dependencies()
			}
			c.drop(s)
			for _, path := range all {
				before := l.loads.Load()
				if _, err := read(s, path); err != nil && !storage.IsNotFound(err) {
					t.Fatal(err)
				}
				rec := recs[path]
				gone, invalid := l.loads.Load() != before, s.Validity(&rec, s.Now()) != directory.Valid
				if want := slices.Contains(c.gone, path); gone != want || invalid != want {
					t.Errorf("%s: loaded again is %v, invalid is %v, want %v", path, gone, invalid, want)
				}
			}
		})
	}
}

// The race of the stale put: a load reads, a change is committed and notified, and only
// then does the load put what it read.
func TestAFactReadBeforeAChangeIsNotCachedAfterIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path string
		kind directory.Kind
		a, b string
	}{
		"a user":           {"directory|users|https://rauth.test|alice", directory.User, issuer, "alice"},
		"a tenant's state": {"directory|users|https://rauth.test|alice", directory.Members, "acme", ""},
		"an absent user":   {"directory|users|https://rauth.test|nobody", directory.User, issuer, "nobody"},
		"a tenant":         {"directory|tenants|acme", directory.Tenant, "acme", ""},
		"the global roles": {"directory|tenants|acme", directory.GlobalRoles, "", ""},
		"everything":       {"directory|tenants|acme", 0, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLoader()
				s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
				l.set(nil, 100*time.Millisecond)
				done := make(chan directory.Dependencies)
				go func() {
					r := s.View(directory.Caller{Issuer: issuer}, time.Now().Add(time.Minute))
					if _, err := r.Read(context.Background(), strings.Split(c.path, "|")); err != nil && !storage.IsNotFound(err) {
						t.Error(err)
					}
					done <- r.Dependencies()
				}()
				time.Sleep(50 * time.Millisecond)
				if c.kind == 0 {
					s.InvalidateAll()
				} else {
					s.InvalidateKey(c.kind, directory.KeyOf(c.kind, c.a, c.b))
				}
				// Who asks after the change does not join the flight from before it.
				before := l.loads.Load()
				if _, err := read(s, c.path); err != nil && !storage.IsNotFound(err) {
					t.Error(err)
				}
				if l.loads.Load() == before {
					t.Error("who asked after the change was given what was read before it")
				}
				if rec := <-done; s.Validity(&rec, s.Now()) == directory.Valid && c.kind != directory.Members {
					t.Error("what was read before the change counts as true after it")
				}
			})
		})
	}
}

// A user's document speaks of tenants that are known only once it was read: one that
// changes while it is read must not be taken for what it was before.
func TestAMembersDocumentIsNotReadAcrossAChangeOfItsTenant(t *testing.T) {
	t.Parallel()
	for name, askMeanwhile := range map[string]bool{"another load follows the change": true, "no load follows": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := &slowReader{}
				l.status.Store("active")
				s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
				open := func() string {
					v, err := read(s, "directory|users|https://rauth.test|alice|memberships|acme|tenant_status")
					if err != nil {
						return err.Error()
					}
					return v.String()
				}
				go open()
				time.Sleep(30 * time.Millisecond) // it has read "active" and is on its way
				l.status.Store("suspended")
				s.InvalidateKey(directory.Members, directory.KeyOf(directory.Members, "acme", ""))
				if askMeanwhile {
					if got := open(); got != `"suspended"` {
						t.Errorf("who asked after the change was given %s", got)
					}
				}
				time.Sleep(time.Second)
				if got := open(); got != `"suspended"` {
					t.Errorf("later it is %s", got)
				}
			})
		})
	}
}

// slowReader reads at once and takes 50 ms to bring what it read.
type slowReader struct {
	countingLoader
	status atomic.Value
}

func (l *slowReader) User(_ context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	u := iam.UserFacts{User: iam.User{ID: "u", Issuer: issuer, Subject: subject, Status: "active"}, AsOf: time.Now()}
	u.Memberships = []iam.Membership{{Tenant: "acme", Status: "active", TenantStatus: l.status.Load().(string)}}
	time.Sleep(50 * time.Millisecond)
	return u, true, nil
}

func TestALateHeartbeatDoesNotAgeFacts(t *testing.T) {
	t.Parallel()
	s := newStore(newLoader(), directory.Config{})
	s.MarkFresh(s.Now() - time.Minute)
	if age, once := s.Age(); !once || age > 10*time.Second {
		t.Errorf("after a heartbeat of now and one of a minute ago the age is %s", age)
	}
}

// Many loads, many changes: what is read after a change was notified is never older.
func TestNoChangeIsEverLost(t *testing.T) {
	t.Parallel()
	l := &countingLoader{}
	s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
	var notified atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				least := notified.Load()
				v, err := read(s, "directory|tenants|acme|name")
				if err != nil {
					t.Error(err)
					return
				}
				var got int64
				if _, err := fmt.Sscanf(v.String(), "\"n%d\"", &got); err != nil || got < least {
					t.Errorf("read %v after change %d was notified", v, least)
					return
				}
			}
		})
	}
	for range 5000 {
		n := l.version.Add(1)
		s.InvalidateKey(directory.Tenant, directory.KeyOf(directory.Tenant, "acme", ""))
		notified.Store(n)
	}
	close(stop)
	wg.Wait()
}

// countingLoader has one tenant, whose name is how often it was changed.
type countingLoader struct{ version atomic.Int64 }

func (*countingLoader) User(context.Context, string, string) (iam.UserFacts, bool, error) {
	return iam.UserFacts{}, false, nil
}

func (*countingLoader) Client(context.Context, string, string) (iam.ClientFacts, bool, error) {
	return iam.ClientFacts{}, false, nil
}

func (l *countingLoader) Tenant(_ context.Context, id string) (iam.TenantFacts, bool, error) {
	t := iam.TenantFacts{Tenant: iam.Tenant{ID: id, Slug: id, Name: fmt.Sprintf("n%d", l.version.Load()), Status: "active"}}
	runtime.Gosched()
	return t, true, nil
}
