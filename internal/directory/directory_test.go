package directory_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// loader is a database of maps.
type loader struct {
	mu      sync.Mutex
	users   map[string]iam.UserFacts // by subject
	tenants map[string]iam.TenantFacts
	clients map[string]iam.ClientFacts
	err     error
	delay   time.Duration
	loads   atomic.Int64
}

func (l *loader) wait(ctx context.Context) error {
	l.loads.Add(1)
	l.mu.Lock()
	delay, err := l.delay, l.err
	l.mu.Unlock()
	select {
	case <-time.After(delay):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *loader) User(ctx context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	if err := l.wait(ctx); err != nil {
		return iam.UserFacts{}, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	u, ok := l.users[subject]
	u.Issuer, u.Subject, u.AsOf = issuer, subject, time.Now()
	return u, ok, nil
}

func (l *loader) Tenant(ctx context.Context, id string) (iam.TenantFacts, bool, error) {
	if err := l.wait(ctx); err != nil {
		return iam.TenantFacts{}, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := l.tenants[id]
	return t, ok, nil
}

func (l *loader) Client(ctx context.Context, issuer, id string) (iam.ClientFacts, bool, error) {
	if err := l.wait(ctx); err != nil {
		return iam.ClientFacts{}, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.clients[id]
	c.Issuer = issuer
	return c, ok, nil
}

func (l *loader) set(err error, delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err, l.delay = err, delay
}

func newLoader() *loader {
	acme := iam.TenantFacts{Tenant: iam.Tenant{ID: "acme", Slug: "acme", Name: "Acme", Status: "active"}}
	acme.Roles = []iam.Role{{Name: "viewer", Permissions: []string{"doc:read"}}, {Tenant: "acme", Name: "editor", Inherits: []string{"viewer"}}}
	acme.Mappings = []iam.Mapping{
		{Tenant: "acme", Issuer: issuer, Claim: "groups", Value: "g", Roles: []string{"viewer"}},
		{Tenant: "acme", Issuer: "https://limited.test", Claim: "groups", Value: "g", Roles: []string{"editor"}},
	}
	alice := iam.UserFacts{User: iam.User{ID: "u1", Status: "active", DefaultTenant: "acme", PlatformRoles: []string{"auditor"}}}
	alice.Memberships = []iam.Membership{
		{Tenant: "acme", Status: "active", Roles: []string{"viewer", "editor"}}, {Tenant: "globex", Status: "active"},
	}
	return &loader{
		users:   map[string]iam.UserFacts{"alice": alice},
		tenants: map[string]iam.TenantFacts{"acme": acme, "globex": {Tenant: iam.Tenant{ID: "globex", Status: "active"}}},
		clients: map[string]iam.ClientFacts{"c1": {Client: iam.Client{ClientID: "c1", Tenant: "acme", Status: "blocked"}}, "ops": {Client: iam.Client{ClientID: "ops", Status: "active"}}},
	}
}

// newStore returns a store that has been proved true now, by the clock of the test.
func newStore(l directory.Loader, cfg directory.Config) *directory.Store {
	began := time.Now()
	cfg.Clock = func() time.Duration { return time.Since(began) + time.Hour }
	if cfg.MaxStale == 0 {
		cfg.MaxStale = 24 * time.Hour
	}
	s := directory.New(l, cfg)
	s.MarkFresh(s.Now())
	return s
}

func read(s *directory.Store, path string) (ast.Value, error) {
	return readAs(s, directory.Caller{Issuer: issuer}, path)
}

func readAs(s *directory.Store, a directory.Caller, path string) (ast.Value, error) {
	r := s.View(a, time.Now().Add(time.Minute))
	return r.Read(context.Background(), strings.Split(path, "|"))
}

func code(err error) string { return iam.CodeOf(err) }

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
		"directory|tenants|globex":                   {},      // nobody's: none
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

func TestOneLoadServesAllWhoAskMeanwhile(t *testing.T) {
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
func TestALoadOutlivesTheOneWhoAskedFirst(t *testing.T) {
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

func TestAFailedLoadIsAnErrorForAllAndIsNotKept(t *testing.T) {
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

// While the database is away, what is known is true until MAX_STALENESS after the
// last proof; then nothing is answered, cached or not, until the next.
func TestFactsAreTrustedForABoundedTimeAfterTheLastProof(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoader()
		s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second, MaxStale: 10 * time.Second})
		const alice, nobody, tenant = "directory|users|https://rauth.test|alice", "directory|users|https://rauth.test|nobody", "directory|tenants|globex"
		if _, err := read(s, alice); err != nil {
			t.Fatal(err)
		}
		if _, err := read(s, nobody); !storage.IsNotFound(err) {
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
			if _, err := read(s, nobody); !storage.IsNotFound(err) {
				t.Fatalf("the absent one after %s: %v", at, err)
			}
			if _, err := read(s, tenant); code(err) != "facts_unavailable" {
				t.Fatalf("what was never read, after %s: %v", at, err)
			}
			if got := s.Validity(&rec, s.Now()); got != directory.Valid {
				t.Fatalf("what an answer rests on, after %s: %d", at, got)
			}
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(200 * time.Millisecond)
		l.set(nil, 0)
		for _, path := range []string{alice, nobody, tenant} {
			if _, err := read(s, path); code(err) != "facts_stale" {
				t.Errorf("after MAX_STALENESS, %s: %v", path, err)
			}
		}
		if got := s.Validity(&rec, s.Now()); got != directory.Stale {
			t.Errorf("what an answer rests on, after MAX_STALENESS: %d", got)
		}
		s.MarkFresh(s.Now() - 11*time.Second) // late news are no news
		if _, err := read(s, alice); code(err) != "facts_stale" {
			t.Errorf("after a beat that was under way for too long: %v", err)
		}
		s.MarkFresh(s.Now())
		for _, path := range []string{alice, tenant} {
			if _, err := read(s, path); err != nil {
				t.Errorf("after a proof, %s: %v", path, err)
			}
		}
	})
}

func TestNothingIsAnsweredBeforeTheFirstProof(t *testing.T) {
	t.Parallel()
	s := directory.New(newLoader(), directory.Config{Issuers: issuers, Wait: 10 * time.Second})
	if _, err := read(s, "directory|tenants|acme"); code(err) != "facts_stale" {
		t.Error(err)
	}
}

// What a change makes untrue is exactly what rests on it.
func TestAChangeDropsWhatRestsOnIt(t *testing.T) {
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
		"a user":                     {key(directory.User, issuer, "alice"), []string{user}},
		"a user who is not there":    {key(directory.User, issuer, "nobody"), []string{absent}},
		"a user nobody asked for":    {key(directory.User, issuer, "carol"), nil},
		"another issuer's":           {key(directory.User, "https://limited.test", "alice"), nil},
		"a client":                   {key(directory.Client, issuer, "c1"), []string{client}},
		"a tenant":                   {key(directory.Tenant, "acme", ""), []string{acme}},
		"a tenant's state":           {key(directory.Members, "acme", ""), []string{user, client}},
		"the state of a default":     {key(directory.Members, "umbrella", ""), []string{other}},
		"the state of one with two":  {key(directory.Members, "globex", ""), []string{user, other}},
		"a tenant that nobody is in": {key(directory.Members, "initech", ""), nil},
		"a global role":              {key(directory.GlobalRoles, "", ""), []string{acme, globex}},
		"everything":                 {func(s *directory.Store) { s.InvalidateAll() }, all},
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
				gone, untrue := l.loads.Load() != before, s.Validity(&rec, s.Now()) != directory.Valid
				if want := slices.Contains(c.gone, path); gone != want || untrue != want {
					t.Errorf("%s: loaded again is %v, untrue is %v, want %v", path, gone, untrue, want)
				}
			}
		})
	}
}

// The race of the stale put: a load reads, a change is committed and told, and only
// then does the load put what it read.
func TestWhatWasReadBeforeAChangeIsNotKeptAfterIt(t *testing.T) {
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
	for name, askMeanwhile := range map[string]bool{"somebody asks after the change": true, "nobody asks": false} {
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

func TestAnOldProofMakesNothingOlder(t *testing.T) {
	t.Parallel()
	s := newStore(newLoader(), directory.Config{})
	s.MarkFresh(s.Now() - time.Minute)
	if age, once := s.Age(); !once || age > 10*time.Second {
		t.Errorf("after a proof of now and one of a minute ago the age is %s", age)
	}
}

// Many loads, many changes: what is read after a change was told is never older.
func TestNoChangeIsEverLost(t *testing.T) {
	t.Parallel()
	l := &countingLoader{}
	s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
	var told atomic.Int64
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
				least := told.Load()
				v, err := read(s, "directory|tenants|acme|name")
				if err != nil {
					t.Error(err)
					return
				}
				var got int64
				if _, err := fmt.Sscanf(v.String(), "\"n%d\"", &got); err != nil || got < least {
					t.Errorf("read %v after change %d was told", v, least)
					return
				}
			}
		})
	}
	for range 5000 {
		n := l.version.Add(1)
		s.InvalidateKey(directory.Tenant, directory.KeyOf(directory.Tenant, "acme", ""))
		told.Store(n)
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

func TestWaitingEndsWithTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoader()
		l.set(nil, 45*time.Millisecond)
		s := newStore(l, directory.Config{Issuers: issuers, Wait: 60 * time.Millisecond})
		began := time.Now()
		r := s.View(directory.Caller{Issuer: issuer}, began.Add(time.Second))
		if _, err := r.Read(t.Context(), storage.Path{"directory", "tenants", "acme"}); err != nil {
			t.Fatal(err)
		}
		_, err := r.Read(t.Context(), storage.Path{"directory", "tenants", "globex"})
		if code(err) != "facts_timeout" || time.Since(began) != 60*time.Millisecond || r.Waited() != 60*time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		time.Sleep(time.Second) // the load went on for the next who asks
		if _, err := read(s, "directory|tenants|globex"); err != nil {
			t.Error(err)
		}
		if n := l.loads.Load(); n != 2 && n != 3 {
			t.Errorf("%d loads", n)
		}
	})
}

// One valid token with made-up ids neither evicts what is good nor asks for ever.
func TestMissesAreNoWeapon(t *testing.T) {
	t.Parallel()
	l := newLoader()
	s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second, Entries: 20})
	if _, err := read(s, "directory|tenants|acme"); err != nil {
		t.Fatal(err)
	}
	left := account(5)
	a := directory.Caller{Issuer: issuer, Subject: "nobody", Lookups: &left}
	refused := 0
	for i := range 100 {
		switch _, err := readAs(s, a, fmt.Sprintf("directory|tenants|made-up-%d", i)); {
		case code(err) == "too_many_misses":
			refused++
		case !storage.IsNotFound(err):
			t.Fatal(err)
		}
	}
	for range 10 {
		if _, err := readAs(s, a, "directory|users|https://rauth.test|nobody"); !storage.IsNotFound(err) {
			t.Fatalf("looking for oneself: %v", err)
		}
	}
	if refused != 95 {
		t.Errorf("%d of 100 were refused, want all but 5", refused)
	}
	before := l.loads.Load()
	if _, err := readAs(s, a, "directory|tenants|acme"); err != nil {
		t.Errorf("what is good and known: %v", err)
	}
	if l.loads.Load() != before {
		t.Error("what was good had been evicted")
	}
	if got := s.Stats(); got.Absent.Entries > 2 {
		t.Errorf("%d absent keys are kept, of 20 entries in all", got.Absent)
	}
}

// What fails is not the asker's fault: it uses up nothing of what a token may look
// for in vain.
func TestAnOutageUsesUpNobodysMisses(t *testing.T) {
	t.Parallel()
	l := newLoader()
	l.set(errors.New("away"), 0)
	s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
	few := account(3)
	for range 20 {
		if _, err := readAs(s, directory.Caller{Issuer: issuer, Lookups: &few}, "directory|tenants|acme"); code(err) != "facts_unavailable" {
			t.Fatal(err)
		}
	}
	if few != 3 {
		t.Errorf("%d of 3 are left", few)
	}
}

type account int

func (a *account) Take() bool {
	if *a <= 0 {
		return false
	}
	*a--
	return true
}

func (a *account) Return() { *a++ }

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

// tellingLoader knows everybody, by an id that says who they are.
type tellingLoader struct{ *loader }

func (*tellingLoader) User(_ context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	return iam.UserFacts{User: iam.User{ID: issuer + " " + subject, Status: "active", Issuer: issuer, Subject: subject}}, true, nil
}
