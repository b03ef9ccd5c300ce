package enrich

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
)

// A decision is cached for its policy's TTL; one that looks at the time for a second at most.
func TestAPolicySetsTheTTLOfItsDecisions(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const long = 24 * time.Hour
	for name, c := range map[string]struct {
		rego string
		ttl  time.Duration
	}{
		"no ttl":                         {`decision := {"allow": true, "headers": {"X-User-ID": input.token.sub}}`, long},
		"a ttl":                          {`decision := {"allow": true, "ttl": 0.4}`, 400 * time.Millisecond},
		"a ttl of a deny":                {`decision := {"allow": false, "ttl": 60}`, time.Minute},
		"not at all":                     {`decision := {"allow": true, "ttl": 0}`, 0},
		"the clock":                      {`decision := {"allow": input.now > 0}`, time.Second},
		"the clock by a builtin":         {`decision := {"allow": time.now_ns() > 0}`, time.Second},
		"the clock in a deny":            {`decision := {"allow": time.now_ns() < 0}`, time.Second},
		"the clock in every":             {`decision := {"allow": true} if every x in [1] { time.now_ns() > x }`, time.Second},
		"the clock, and a long ttl":      {`decision := {"allow": time.now_ns() > 0, "ttl": 60}`, time.Second},
		"the clock, and a short ttl":     {`decision := {"allow": time.now_ns() > 0, "ttl": 0.25}`, 250 * time.Millisecond},
		"all of the input, and so clock": {`decision := {"allow": count(input) > 0}`, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := f.walk(0, "")
			w.template = f.template(name, &policy.Candidate{
				Roots: []string{"iam"}, Modules: map[string]string{"p.rego": "package iam.claims\n\n" + c.rego},
				Data: map[string]any{"iam": map[string]any{"config": map[string]any{"headers": []any{"X-User-ID"}}}},
			})
			x := w.replicas[0]
			x.service.cfg.Engine = w.engine
			ask := func() string {
				request := RequestFacts{Method: "GET", Scheme: "https", Host: "a.example", Path: "/", RawPath: "/", ClientIP: netip.MustParseAddr("192.0.2.1")}
				a, err := x.service.Enrich(context.Background(), Request{Token: f.tokens[3], Facts: request}) // who is not known: no fact ends it
				f.ok(err)
				return a.DecisionID
			}
			first, began := ask(), w.at
			for _, after := range []time.Duration{0, 249, 250, 399, 400, 999, 1000, 59_999, 60_000, 3_600_000} {
				w.at = began + after*time.Millisecond
				x.confirm(w)
				if got, want := ask() == first, w.at-began < c.ttl; got != want {
					t.Errorf("after %s: cached is %v", w.at-began, got)
				}
			}
		})
	}
}

// A decision with TTL 0 is evaluated once, and not a second time because of it.
func TestADecisionThatIsNotCachedIsEvaluatedOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := f.walk(0, "")
	w.template = f.template("not cached", &policy.Candidate{
		Roots: []string{"iam"}, Modules: map[string]string{"p.rego": "package iam.claims\n\ndecision := {\"allow\": true, \"ttl\": 0}"},
		Data: map[string]any{"iam": map[string]any{"config": map[string]any{"headers": []any{"X-User-ID"}}}},
	})
	x := w.replicas[0]
	x.service.cfg.Engine = w.engine
	for range 5 {
		x.store.InvalidateAll()
		w.busy = func() { w.at += time.Millisecond } // time passes
		before := x.store.Stats().Present.Hits + x.store.Stats().Present.Misses
		_, err := x.service.Enrich(context.Background(), Request{Token: f.tokens[3]}) // a person without a client: one look-up
		f.ok(err)
		if n := x.store.Stats().Present.Hits + x.store.Stats().Present.Misses - before; n != 1 {
			t.Errorf("%d look-ups", n)
		}
	}
}

// A cached decision ends with a membership that it depends on, to the moment.
func TestACachedDecisionEndsWithAMembership(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := f.walk(0, "") // the default policy
	x := w.replicas[0]
	s := &state{users: map[string]iam.UserFacts{"alice": member("acme")}, tenants: map[string]iam.TenantFacts{"acme": open("acme")}}
	s.users["alice"].Memberships[0].ExpiresAt = w.began.Add(w.at + 2*time.Second)
	w.history = []*state{s}
	x.store.InvalidateAll()
	ask := func() Response {
		a, err := x.service.Enrich(context.Background(), Request{Token: f.tokens[0], TenantHint: "acme"})
		f.ok(err)
		return a
	}
	first := ask()
	if !first.Allowed {
		t.Fatalf("%+v", first)
	}
	w.at += 2*time.Second - 1
	x.confirm(w)
	if again := ask(); again.DecisionID != first.DecisionID {
		t.Error("it was evaluated again before the membership ended")
	}
	w.at++
	x.confirm(w)
	if a := ask(); a.Allowed {
		t.Errorf("the membership has ended: %+v", a)
	}
	if lost := x.service.Stats().Lost["time"]; lost != 1 {
		t.Errorf("%d answers were lost by time", lost)
	}
}

// A cached decision ends with a role that it depends on, and when a role starts: without any notification.
func TestACachedDecisionEndsWithARoleAndAtItsStart(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, c := range map[string]struct {
		term          iam.RoleTerm // in seconds after now
		before, after string
	}{
		"the end of a role":   {term: iam.RoleTerm{ExpiresAt: time.Unix(2, 0)}, before: "viewer", after: ""},
		"the start of a role": {term: iam.RoleTerm{StartsAt: time.Unix(2, 0)}, before: "", after: "viewer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := f.walk(0, "") // the default policy
			x := w.replicas[0]
			s := &state{users: map[string]iam.UserFacts{"alice": member("acme")}, tenants: map[string]iam.TenantFacts{"acme": open("acme")}}
			moment := func(t time.Time) time.Time {
				if t.IsZero() {
					return t
				}
				return w.began.Add(w.at + time.Duration(t.Unix())*time.Second)
			}
			s.users["alice"].Memberships[0].Terms = map[string]iam.RoleTerm{"viewer": {StartsAt: moment(c.term.StartsAt), ExpiresAt: moment(c.term.ExpiresAt)}}
			w.history = []*state{s}
			x.store.InvalidateAll()
			ask := func() (id, roles string) {
				a, err := x.service.Enrich(context.Background(), Request{Token: f.tokens[0], TenantHint: "acme"})
				f.ok(err)
				return a.DecisionID, a.Values[slices.Index(w.engine.Headers(), "X-User-Roles")]
			}
			first, roles := ask()
			if roles != c.before {
				t.Fatalf("at first the roles are %q, want %q", roles, c.before)
			}
			w.at += 2*time.Second - 1
			x.confirm(w)
			if again, _ := ask(); again != first {
				t.Error("it was evaluated again before the role changed")
			}
			w.at++
			x.confirm(w)
			if again, roles := ask(); again == first || roles != c.after {
				t.Errorf("then the roles are %q, want %q", roles, c.after)
			}
		})
	}
}

// A gateway may repeat a response until the first of what can end it. No change reaches the gateway, so the freshness
// deadline is among them.
func TestACacheEntryLivesUntilItsEarliestExpiry(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, c := range map[string]struct {
		rego  string
		fresh time.Duration // since freshness was confirmed
		ends  time.Duration // of the membership; 0: it does not
		want  time.Duration
	}{
		"the freshness deadline":            {rego: `decision := {"allow": true}`, want: maxStale},
		"freshness confirmed a while ago":   {rego: `decision := {"allow": true}`, fresh: 3 * time.Second, want: maxStale - 3*time.Second},
		"a ttl":                             {rego: `decision := {"allow": true, "ttl": 2}`, want: 2 * time.Second},
		"a ttl beyond the deadline":         {rego: `decision := {"allow": true, "ttl": 3600}`, want: maxStale},
		"not to be cached":                  {rego: `decision := {"allow": true, "ttl": 0}`},
		"a denial":                          {rego: `decision := {"allow": false}`},
		"a membership that ends":            {rego: `decision := {"allow": count(data.directory.users[input.token.iss][input.token.sub].memberships) > 0}`, ends: 4 * time.Second, want: 4 * time.Second},
		"a membership that ends much later": {rego: `decision := {"allow": count(data.directory.users[input.token.iss][input.token.sub].memberships) > 0}`, ends: time.Hour, want: maxStale},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := f.walk(0, "")
			w.template = f.template(name, &policy.Candidate{
				Roots: []string{"iam"}, Modules: map[string]string{"p.rego": "package iam.claims\n\n" + c.rego},
				Data: map[string]any{"iam": map[string]any{"config": map[string]any{"headers": []any{"X-User-ID"}}}},
			})
			x := w.replicas[0]
			x.service.cfg.Engine = w.engine
			s := &state{users: map[string]iam.UserFacts{"alice": member("acme")}, tenants: map[string]iam.TenantFacts{"acme": open("acme")}}
			if c.ends != 0 {
				s.users["alice"].Memberships[0].ExpiresAt = w.began.Add(w.at + c.fresh + c.ends)
			}
			w.history = []*state{s}
			x.store.InvalidateAll()
			x.confirm(w)
			w.at += c.fresh
			for _, try := range []string{"evaluated", "cached"} {
				a, err := x.service.Enrich(context.Background(), Request{Token: f.tokens[0], TenantHint: "acme"})
				f.ok(err)
				if a.Reusable != c.want {
					t.Errorf("%s: %s, want %s", try, a.Reusable, c.want)
				}
			}
		})
	}
}

// A fact that changes while it is read: the decision is the new one, at once.
func TestAFactThatChangesMeanwhileIsReadAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	user, tenant := directory.KeyOf(directory.User, f.issuer, "alice"), directory.KeyOf(directory.Tenant, "acme", "")
	for name, c := range map[string]struct {
		request Request
		gone    directory.Kind
		key     directory.Key
	}{
		"a user who is read alone":                           {Request{Token: f.tokens[5]}, directory.User, user},
		"a user who is read with their client and tenant":    {Request{Token: f.tokens[0], TenantHint: "acme"}, directory.User, user},
		"a tenant that is read with its member":              {Request{Token: f.tokens[0], TenantHint: "acme"}, directory.Tenant, tenant},
		"a tenant that is read with a person without client": {Request{Token: f.tokens[5], TenantHint: "acme"}, directory.Tenant, tenant},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := f.walk(0, "") // the default policy
			x := w.replicas[0]
			before := state{users: map[string]iam.UserFacts{"alice": member("acme")}, tenants: map[string]iam.TenantFacts{"acme": open("acme")}}
			w.history = []*state{&before}
			x.store.InvalidateAll()
			w.busy = func() {
				after := before
				if after.from = w.at; c.gone == directory.User {
					after.users = nil
				} else {
					after.tenants = nil
				}
				w.history = append(w.history, &after)
				x.store.InvalidateKey(c.gone, c.key)
			}
			a, err := x.service.Enrich(context.Background(), c.request)
			f.ok(err)
			if a.Allowed || w.busy != nil {
				t.Errorf("the decision depends on a fact that is gone: %+v", a)
			}
		})
	}
}

// The facts of a person's first request are one round trip where the request names the tenant, whatever is cached
// already; a made-up tenant is not looked up, and no request reads a tenant that is being read for another.
func TestFactsOfAFirstRequestAreOneRoundTrip(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, c := range map[string]struct {
		request Request
		loads   int64
	}{
		"a tenant is named":             {Request{Token: f.tokens[0], TenantHint: "acme"}, 1},
		"no tenant is named":            {Request{Token: f.tokens[0]}, 2}, // only the user's document names it
		"a tenant of others is named":   {Request{Token: f.tokens[0], TenantHint: "globex"}, 1},
		"a tenant is named, no client":  {Request{Token: f.tokens[5], TenantHint: "acme"}, 1},
		"a tenant that does not exist":  {Request{Token: f.tokens[5], TenantHint: "nowhere"}, 1},
		"neither a tenant nor a client": {Request{Token: f.tokens[5]}, 2},
		"a program":                     {Request{Token: f.tokens[4], TenantHint: "acme"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := f.walk(0, "") // the default policy
			x := w.replicas[0]
			w.history = []*state{{
				users:   map[string]iam.UserFacts{"alice": member("acme")},
				tenants: map[string]iam.TenantFacts{"acme": open("acme"), "globex": open("globex")},
			}}
			x.store.InvalidateAll()
			before := x.store.Stats().Loads
			_, err := x.service.Enrich(context.Background(), c.request)
			f.ok(err)
			if n := x.store.Stats().Loads - before; n != c.loads {
				t.Errorf("%d loads, want %d", n, c.loads)
			}
		})
	}
}

// Superseded revisions are not held in memory by entries that depended on them.
func TestEntriesOfASupersededPolicyAreEvicted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := f.walk(0, "")
	x := w.replicas[0]
	var gone atomic.Int64
	const revisions = 10
	for i := range revisions {
		f.ok(w.engine.Submit(context.Background(), &policy.Candidate{
			Roots: []string{"iam"}, Modules: map[string]string{"p.rego": fmt.Sprintf("package iam.claims\n\ndecision := {\"allow\": input.token.sub != input.request.tenant_hint, \"tenant\": \"\", \"reasons\": [{\"code\": \"%d\"}]}", i)},
			Data: map[string]any{"iam": map[string]any{"config": map[string]any{"headers": []any{"X-User-ID"}}}},
		}))
		runtime.AddCleanup(w.engine.Revision(), func(int) { gone.Add(1) }, 0)
		for _, token := range f.tokens[:5] {
			_, err := x.service.Enrich(context.Background(), Request{Token: token, TenantHint: fmt.Sprint("t", i)})
			f.ok(err)
		}
	}
	for until := time.Now().Add(10 * time.Second); gone.Load() < revisions-1; time.Sleep(10 * time.Millisecond) {
		runtime.GC()
		if time.Now().After(until) {
			t.Fatalf("%d of %d superseded revisions are gone", gone.Load(), revisions-1)
		}
	}
	runtime.KeepAlive(x)
}

// Hints that any client can forge have a capacity of their own.
func TestForgedTenantHintsEvictNoOtherEntry(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := f.walk(0, "") // the default policy
	x := w.replicas[0]
	x.service.cache = newCache(50, 1<<20)
	ask := func(token int, hint string) Response {
		a, err := x.service.Enrich(context.Background(), Request{Token: f.tokens[token], TenantHint: hint})
		f.ok(err)
		return a
	}
	w.history[len(w.history)-1] = f.walk(0, "").history[0]
	s := w.history[len(w.history)-1]
	s.users["alice"] = member("acme")
	s.tenants["acme"] = open("acme")
	for _, r := range w.replicas {
		r.store.InvalidateAll()
	}
	first := ask(0, "acme")
	if !first.Allowed {
		t.Fatalf("%+v", first)
	}
	for i := range 500 {
		if a := ask(i%2, fmt.Sprintf("made-up-%d", i)); a.Allowed {
			t.Fatalf("%+v", a)
		}
	}
	if again := ask(0, "acme"); again.DecisionID != first.DecisionID {
		t.Error("invented hints evicted another entry")
	}
	if st := x.service.Stats(); st.Denied.Entries > 5 || st.Allowed.Entries != 1 {
		t.Errorf("%+v", st)
	}
}

// An evaluation that is cut off has no decision, and none is cached.
func TestAnEvaluationThatIsCutOffIsNotCached(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := f.walk(0, "") // the default policy
	x := w.replicas[0]
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if a, err := x.service.Enrich(gone, Request{Token: f.tokens[3]}); iam.KindOf(err) != iam.Unavailable {
		t.Fatalf("%+v, %v", a, err)
	}
	if st := x.service.Stats(); st.Allowed.Entries+st.Denied.Entries != 0 {
		t.Errorf("it is cached: %+v", st)
	}
	if _, err := x.service.Enrich(context.Background(), Request{Token: f.tokens[3]}); err != nil {
		t.Error(err)
	}
	if st := x.service.Stats(); st.Allowed.Entries+st.Denied.Entries != 1 {
		t.Errorf("it is not cached: %+v", st)
	}
}

// Evaluating another revision for a token leaves what is stored with it for the active one: a shadow costs the next
// request nothing.
func TestAskingAnotherRevisionLeavesTheTokenAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := f.walk(0, "")
	bundle := func(body string) *policy.Candidate {
		return &policy.Candidate{
			Roots: []string{"iam"}, Modules: map[string]string{"p.rego": "package iam.claims\n\ndecision := {" + body + "}"},
			Data: map[string]any{"iam": map[string]any{"config": map[string]any{"headers": []any{"X-User-ID"}}}},
		}
	}
	w.template = f.template("memo", bundle(`"allow": true, "headers": {"X-User-ID": input.token.sub}`))
	x := w.replicas[0]
	x.service.cfg.Engine = w.engine
	x.confirm(w)
	_, err := x.service.Enrich(t.Context(), Request{Token: f.tokens[3]})
	f.ok(err)
	tok, err := x.service.cfg.Verifier.Verify(t.Context(), f.tokens[3], "", time.Now().Add(time.Minute))
	f.ok(err)
	before := tok.Projection()
	candidate, err := w.engine.Prepare(t.Context(), bundle(`"allow": false`))
	f.ok(err)
	deadline := time.Now().Add(time.Minute)
	o, err := x.service.Ask(t.Context(), Question{Revision: candidate, Token: tok, Facts: x.service.View(tok, deadline), Now: time.Now()}, deadline)
	f.ok(err)
	if o.Response.Allowed || before == nil || tok.Projection() != before {
		t.Errorf("%+v; the projection was %v and is %v", o.Response, before, tok.Projection())
	}
}
