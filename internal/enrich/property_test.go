package enrich

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
)

var steps = flag.Int("steps", 1200, "steps of the property test, enough for the planted bugs; make nightly takes 100,000")

const (
	promise  = time.Second      // how late a change may be received
	maxStale = 10 * time.Second // on a replica that receives nothing
	perWalk  = 100              // steps under one policy, from empty caches
)

// The property: whatever is requested, changed, received late or not at all, in whatever
// order, on whichever replica, an answer from the cache is one that OPA itself, over
// the whole input and all facts, would give now or within the promise. Each fact
// counts for itself (ruling 21): two facts of one answer may be that far apart.
func TestACachedDecisionEqualsAnEvaluation(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	hits := int64(0)
	for walk := range max(1, *steps/perWalk) {
		w := f.walk(uint64(walk), "")
		if err := w.run(perWalk); err != nil {
			t.Fatalf("walk %d under %q: %v\n%s", walk, w.name, err, strings.Join(w.trace[max(0, len(w.trace)-25):], "\n"))
		}
		for _, r := range w.replicas {
			hits += r.service.Stats().Allowed.Hits
		}
	}
	if hits < int64(*steps)/10 {
		t.Errorf("only %d decisions came from the cache: too few to test the property", hits)
	}
}

// Each of these is a bug that such caches have had. The property finds them all.
const (
	mutantKey     = "the tenant that is asked for is left out of the key"
	mutantFacts   = "a decision does not record the facts that it depends on"
	mutantCap     = "decisions of policies that look at the time are cached for long"
	mutantMembers = "a tenant's change does not invalidate its members' documents"
	mutantGap     = "after a gap nothing is dropped"
	mutantLost    = "a change that is notified while a fact is loaded is lost"
)

func TestThePropertyFindsPlantedBugs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const first = 8 // from here it takes the fewest walks
	for _, mutant := range []string{mutantKey, mutantFacts, mutantCap, mutantMembers, mutantGap, mutantLost} {
		found := false
		for walk := first; walk < 60 && !found; walk++ {
			found = f.walk(uint64(walk), mutant).run(perWalk) != nil
		}
		if !found {
			t.Errorf("not found: %s", mutant)
		}
	}
}

// state is the database at one moment.
type state struct {
	from    time.Duration // by the walk's clock
	users   map[string]iam.UserFacts
	tenants map[string]iam.TenantFacts
	clients map[string]iam.ClientFacts
}

// walk is one life of a few replicas.
type walk struct {
	*fixture
	*template
	rand     *rand.Rand
	mutant   string
	began    time.Time
	at       time.Duration // the clock: since began
	history  []*state
	replicas []*replica
	trace    []string
	past     struct { // reads the facts of another moment
		at    *loader
		store *directory.Store
	}
	busy func() // called once, while a fact is loaded: something happens meanwhile
}

// replica is one instance, with the changes that are on their way to it.
type replica struct {
	store     *directory.Store
	service   *Service
	coming    []change
	cutAt     time.Duration // when its listener was disconnected; 0: it is connected
	confirmed time.Duration
}

type change struct {
	at   time.Duration
	kind directory.Kind
	key  directory.Key
}

func (f *fixture) walk(seed uint64, mutant string) *walk {
	r := rand.New(rand.NewPCG(seed, 1))
	w := &walk{fixture: f, template: f.templates[int(seed)%len(f.templates)], rand: r, mutant: mutant, began: time.Now(), at: time.Hour}
	w.history = []*state{{from: 0, users: map[string]iam.UserFacts{}, tenants: map[string]iam.TenantFacts{}, clients: map[string]iam.ClientFacts{}}}
	issuers := iam.Issuers{{URL: f.issuer, Tenants: []string{"*"}, Platform: true}}
	w.past.at = &loader{w, 0}
	w.past.store = directory.New(w.past.at, directory.Config{
		Issuers: issuers, Wait: time.Minute, MaxStale: 1000 * time.Hour, Entries: 10, Clock: func() time.Duration { return w.past.at.moment },
	})
	w.past.store.MarkFresh(0)
	verifier := f.verifier()
	for range 3 {
		x := &replica{store: directory.New(&loader{w, -1}, directory.Config{
			Issuers: issuers, Wait: time.Minute, MaxStale: maxStale, Clock: func() time.Duration { return w.at },
		})}
		x.service = New(Config{
			Verifier: verifier, Directory: x.store, Engine: w.engine, Issuers: issuers, Deadline: time.Minute, HeaderMax: 100_000, Log: slog.New(slog.DiscardHandler),
		})
		x.service.now = func() time.Time { return w.began.Add(w.at) }
		x.confirm(w)
		w.replicas = append(w.replicas, x)
	}
	for range 12 {
		w.change()
	}
	w.at += 5 * time.Second
	return w
}

func (r *replica) confirm(w *walk) {
	r.confirmed = w.at
	r.store.MarkFresh(w.at)
}

// loader reads the database, as it was at a moment, or (-1) is.
type loader struct {
	w      *walk
	moment time.Duration
}

func (l *loader) state() (*state, time.Time) {
	s := l.w.history[len(l.w.history)-1]
	now := l.w.at
	if l.moment >= 0 {
		s, now = l.w.stateAt(l.moment), l.moment
	} else if busy := l.w.busy; busy != nil {
		l.w.busy = nil
		busy()
	}
	return s, l.w.began.Add(now)
}

func (l *loader) User(_ context.Context, issuer, subject string) (iam.UserFacts, bool, error) {
	s, now := l.state()
	_, ok := s.users[subject]
	return s.user(issuer, subject, now), ok, nil
}

func (s *state) user(issuer, subject string, now time.Time) iam.UserFacts {
	u := s.users[subject]
	u.Issuer, u.Subject, u.AsOf = issuer, subject, now
	u.Memberships = slices.Clone(u.Memberships)
	for i := range u.Memberships {
		u.Memberships[i].TenantStatus = s.tenants[u.Memberships[i].Tenant].Status
	}
	return u
}

func (l *loader) Tenant(_ context.Context, id string) (iam.TenantFacts, bool, error) {
	s, _ := l.state()
	t, ok := s.tenants[id]
	return t, ok, nil
}

// Batch reads all of one state, as a transaction does.
func (l *loader) Batch(_ context.Context, q directory.Batch) (facts directory.BatchFacts, err error) {
	s, now := l.state()
	if _, known := s.users[q.Subject]; known {
		u := s.user(q.Issuer, q.Subject, now)
		facts.User = &u
		if t, known := s.tenants[q.Tenant]; known && slices.ContainsFunc(u.Memberships, func(m iam.Membership) bool { return m.Tenant == q.Tenant }) {
			facts.Tenant = &t
		}
	}
	if c, known := s.clients[q.ClientID]; known {
		c.Issuer = q.Issuer
		facts.Client = &c
	}
	return facts, nil
}

func (l *loader) Client(_ context.Context, issuer, id string) (iam.ClientFacts, bool, error) {
	s, _ := l.state()
	c, ok := s.clients[id]
	c.Issuer = issuer
	return c, ok, nil
}

func (w *walk) stateAt(at time.Duration) *state {
	i := len(w.history) - 1
	for i > 0 && w.history[i].from > at {
		i--
	}
	return w.history[i]
}

func (w *walk) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%8s ", w.at-time.Hour)+fmt.Sprintf(format, args...))
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

var (
	names     = []string{"alice", "bob"}
	tenantIDs = []string{"acme", "globex"}
	roleNames = []string{"viewer", "editor"}
)

// change changes one fact, and tells of it as the triggers do.
func (w *walk) change() {
	last := w.history[len(w.history)-1]
	s := &state{from: w.at, users: maps.Clone(last.users), tenants: maps.Clone(last.tenants), clients: maps.Clone(last.clients)}
	r := w.rand
	tell := func(k directory.Kind, a, b string) {
		for _, x := range w.replicas {
			if x.cutAt != 0 || k == directory.Members && w.mutant == mutantMembers {
				continue
			}
			at := w.at + time.Duration(r.Int64N(int64(promise*9/10)))
			if n := len(x.coming); n > 0 {
				at = max(at, x.coming[n-1].at) // in the order of commits
			}
			x.coming = append(x.coming, change{at, k, directory.KeyOf(k, a, b)})
		}
	}
	someRoles := func() []string {
		return slices.DeleteFunc(slices.Clone(roleNames), func(string) bool { return r.IntN(2) == 0 })
	}
	switch r.IntN(8) {
	case 0, 1, 2:
		name := pick(r, names...)
		u := iam.UserFacts{User: iam.User{ID: "id-" + name, Status: pick(r, "active", "active", "active", "blocked"), DefaultTenant: pick(r, tenantIDs...)}}
		u.Attributes = map[string]any{"level": json.Number(fmt.Sprint(r.IntN(4))), "until": json.Number(fmt.Sprint(w.began.Add(w.at).Unix() + r.Int64N(5)))}
		if r.IntN(12) == 0 {
			u.TokensNotBefore = time.Now().Add(time.Hour)
		}
		for _, id := range tenantIDs {
			if r.IntN(4) == 0 {
				continue
			}
			m := iam.Membership{Tenant: id, Status: pick(r, "active", "active", "suspended"), Roles: someRoles()}
			if r.IntN(3) == 0 {
				m.ExpiresAt = w.began.Add(w.at + time.Duration(r.Int64N(int64(4*time.Second))))
			}
			soon := func() (t time.Time) {
				if r.IntN(2) == 0 {
					t = w.began.Add(w.at + time.Duration(r.Int64N(int64(4*time.Second))))
				}
				return t
			}
			if len(m.Roles) > 0 && r.IntN(8) == 0 {
				m.Terms = map[string]iam.RoleTerm{pick(r, m.Roles...): {StartsAt: soon(), ExpiresAt: soon()}}
			}
			u.Memberships = append(u.Memberships, m)
		}
		if r.IntN(8) == 0 {
			delete(s.users, name)
		} else {
			s.users[name] = u
		}
		tell(directory.User, w.issuer, name)
		w.note("change user %s: %s %v %+v", name, u.Status, u.Attributes, u.Memberships)
	case 3, 4, 5, 6:
		id := pick(r, tenantIDs...)
		t := iam.TenantFacts{Tenant: iam.Tenant{ID: id, Slug: id, Name: id, Status: pick(r, "active", "suspended")}}
		t.Attributes = map[string]any{"least": json.Number(fmt.Sprint(r.IntN(4)))}
		for _, n := range roleNames {
			role := iam.Role{Tenant: id, Name: n, Permissions: []string{n + ":x"}}
			if n == "editor" && r.IntN(2) == 0 {
				role.Inherits = []string{"viewer"}
			}
			t.Roles = append(t.Roles, role)
		}
		if r.IntN(2) == 0 {
			t.Mappings = []iam.Mapping{{Tenant: id, Issuer: w.issuer, Claim: "groups", Value: "g1", Roles: []string{pick(r, roleNames...)}}}
		}
		s.tenants[id] = t
		tell(directory.Tenant, id, "")
		if last.tenants[id].Status != t.Status {
			tell(directory.Members, id, "")
		}
		w.note("change tenant %s: %s %v", id, t.Status, t.Mappings)
	case 7:
		id := pick(r, "web", "prog")
		c := iam.ClientFacts{Client: iam.Client{ClientID: id, Tenant: pick(r, "", "", "acme", "globex"), Status: pick(r, "active", "active", "active", "blocked"), Roles: someRoles(), Scopes: []string{"read"}}}
		s.clients[id] = c
		tell(directory.Client, w.issuer, id)
		w.note("change client %s: %s %v", id, c.Status, c.Roles)
	}
	w.history = append(w.history, s)
}

// deliver delivers the notifications that have arrived by now.
func (w *walk) deliver() {
	for _, x := range w.replicas {
		for len(x.coming) > 0 && x.coming[0].at <= w.at {
			x.store.InvalidateKey(x.coming[0].kind, x.coming[0].key)
			x.coming = x.coming[1:]
		}
		if x.cutAt == 0 {
			x.confirm(w)
		}
	}
}

// run takes steps and returns the first wrong decision.
func (w *walk) run(steps int) error {
	for range steps {
		w.at += time.Duration(w.rand.Int64N(int64(pick(w.rand, 5*time.Millisecond, 100*time.Millisecond, 700*time.Millisecond))))
		w.deliver()
		x := pick(w.rand, w.replicas...)
		switch w.rand.IntN(20) {
		case 0, 1, 2, 3:
			w.change()
		case 4:
			switch {
			case x.cutAt == 0 && w.rand.IntN(2) == 0:
				x.cutAt, x.coming = w.at, nil
				w.note("replica %d is disconnected", slices.Index(w.replicas, x))
			case x.cutAt != 0:
				x.cutAt = 0
				if w.mutant != mutantGap {
					x.store.InvalidateAll()
				}
				x.confirm(w)
				w.note("replica %d is connected again", slices.Index(w.replicas, x))
			}
		default:
			if err := w.ask(x); err != nil {
				return err
			}
		}
	}
	return nil
}

// answered is an answer in a form that can be compared.
type answered struct {
	Status  int
	Headers map[string]string
}

// ask asks replica x something, and the oracle about every moment that the answer
// may speak of.
func (w *walk) ask(x *replica) error {
	n := w.rand.IntN(len(w.tokens))
	q := Request{
		Token: w.tokens[n], TenantHint: pick(w.rand, "", "acme", "globex", "initech"),
		Facts: RequestFacts{
			Gateway: "traefik", Method: pick(w.rand, "GET", "POST"), Scheme: "https", Host: "api.example.com",
			ClientIP: netip.MustParseAddr(pick(w.rand, "192.0.2.1", "192.0.2.2")),
		},
	}
	q.Facts.SetPath(pick(w.rand, "/public/a", "/private"))
	switch w.rand.IntN(20) { // what no gateway has said
	case 0:
		q.Facts.SetPath("/public//a")
	case 1:
		q.Facts.Path, q.Facts.RawPath = "", ""
	case 2:
		q.Facts.Method = ""
	case 3:
		q.Facts.ClientIP = netip.Addr{}
	}
	if w.rand.IntN(8) == 0 {
		w.busy = func() { // during the evaluation
			w.note("meanwhile:")
			w.change()
			w.at += promise * 95 / 100
			if w.mutant != mutantLost {
				w.deliver()
			} else {
				for _, r := range w.replicas {
					r.coming = nil
				}
			}
		}
	}
	confirmed := x.confirmed
	got, err := w.answer(x, q)
	w.busy = nil
	w.note("replica %d, token %d, hint %q, %s %s: %v %v %v", slices.Index(w.replicas, x), n, q.TenantHint, q.Facts.Method, q.Facts.Path, got, err, x.service.Stats().Allowed.Hits)
	w.plant(x, q)
	if err != nil {
		if iam.CodeOf(err) == "facts_stale" && w.at-confirmed >= maxStale {
			return nil
		}
		return fmt.Errorf("an error: %w", err)
	}
	since := w.at - promise
	if x.cutAt != 0 {
		since = min(since, confirmed-promise)
		if w.at-confirmed >= maxStale+promise && !w.touchesNothing(q) {
			return fmt.Errorf("answered %v, %s after freshness was last confirmed", got, w.at-confirmed)
		}
	}
	return w.compare(got, q, n, since)
}

// touchesNothing: a stale replica may give a decision that depends on no facts.
func (w *walk) touchesNothing(q Request) bool { return q.Token == "" || w.lacks(&q.Facts) }

// lacks reports whether the policy reads what is not known of a request.
func (w *walk) lacks(r *RequestFacts) bool {
	clientIP := ""
	if r.ClientIP.IsValid() {
		clientIP = r.ClientIP.String()
	}
	for name, v := range map[string]string{"method": r.Method, "scheme": r.Scheme, "host": r.Host, "path": r.Path, "raw_path": r.RawPath, "client_ip": clientIP} {
		if v == "" && slices.Contains(w.engine.Revision().CacheKey, "input.request."+name) {
			return true
		}
	}
	return false
}

func (w *walk) answer(x *replica, q Request) (answered, error) {
	a, err := x.service.Enrich(context.Background(), q)
	switch {
	case iam.CodeOf(err) == "policy_error": // undefined for this question
		return answered{Status: 503}, nil
	case err != nil:
		return answered{}, err
	}
	if !a.Allowed {
		return answered{Status: a.Status}, nil
	}
	out := answered{Status: 200, Headers: map[string]string{}}
	for i, name := range w.engine.Headers() {
		if v := a.Values[i]; v != "" && name != "X-Decision-Id" && name != "X-Policy-Revision" {
			out.Headers[name] = v
		}
	}
	return out, nil
}

// plant puts a bug into what the cache holds about q.
func (w *walk) plant(x *replica, q Request) {
	t, err := x.service.cfg.Verifier.Verify(context.Background(), q.Token, "", time.Now().Add(time.Minute))
	if err != nil {
		return
	}
	r := w.engine.Revision()
	e := evaluation{request: q, token: t, revision: r}
	x.service.setInput(&e)
	asked := e.input
	k, ok := x.service.cache.allowed.Get(r.Key(&asked))
	if !ok {
		return
	}
	switch w.mutant {
	case mutantKey:
		for _, hint := range []string{"", "acme", "globex"} {
			other := asked
			other.Fields[policy.TenantHint] = hint
			x.service.cache.add(r.Key(&other), k)
		}
	case mutantFacts:
		k.facts = x.store.View(directory.Caller{}, time.Now()).Dependencies()
	case mutantCap:
		k.until = 0
	}
}
