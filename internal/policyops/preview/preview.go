// Package preview reports what would change under another policy before it is active: who
// would gain and lose what.
//
// It owns which questions are evaluated, how two decisions are compared, and that memory does not
// grow with the platform: users are read in pages from one snapshot, each document of a user is built once and
// dropped with its questions (it must not evict tenants from the cache), and differences are grouped and counted
// while they are found. Each question is evaluated under two revisions over the
// same facts, by the code that responds to gateways. It does not know SQL, HTTP or Rego's
// syntax.
//
//	snapshot ─▶ user × tenant × question ─▶ base, candidate ─▶ equal? ─no─▶ group, export
//	snapshot ─▶ tenant × outsider × question ─▶ the same
//	recorded decisions ──────────────────────▶ the same over the facts of the snapshot
package preview

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
)

// Facts are a snapshot of the whole directory.
type Facts interface {
	directory.Loader
	Count(ctx context.Context) (principals, tenants int64, err error)
	Tenants(ctx context.Context, after string, limit int) ([]string, error)
	Users(ctx context.Context, after string, limit int) ([]iam.UserFacts, error)
	Clients(ctx context.Context, issuer, clientID string, limit int) ([]iam.Client, error)
}

// Bounds of the work and of the report.
const (
	pageSize   = 500
	sampleSize = 10
	groupsMost = 500
	evalLimit  = 5 * time.Second // of one comparison
	replayMost = 100_000         // recorded decisions that are evaluated again

	strangersMost   = 100 // users who are evaluated in other tenants, and as many clients
	strangersOfPage = 10  // from each page, as a sample: ids are random
)

// Config of a preview.
type Config struct {
	Engine          *policy.Engine // with the settings of serve
	Issuers         iam.Issuers
	HeaderMax       int
	Limit           time.Duration // of one evaluation where it is served: slower ones are counted; 0: 50 ms
	Base, Candidate *policy.Revision
	Questions       []Question // none: DefaultQuestions
	Facts           Facts
	Replay          func(ctx context.Context, each func(iam.RecordedDecision) error) error // recorded decisions; nil: none
	Workers         int                                                                    // 0: 1
	OnProgress      func(done, total int64)                                                // may be nil
	OnChange        func(Change) error                                                     // called with each change, never concurrently; may be nil
}

// run is a running preview.
type run struct {
	Config
	both     comparer
	requests []enrich.RequestFacts // of the questions
	now      time.Time
	done     atomic.Int64
	total    int64

	mu       sync.Mutex
	sections [3]section

	strangers []principal // a sample of users and clients, who are outsiders in most tenants
}

// Run evaluates all questions under both revisions.
func Run(ctx context.Context, c Config) (Report, error) {
	began := time.Now()
	if len(c.Questions) == 0 {
		c.Questions = DefaultQuestions()
	}
	c.Limit = cmp.Or(c.Limit, 50*time.Millisecond)
	r := &run{Config: c, now: began}
	r.both = newComparer(explain.Over(c.Facts, c.Engine, c.Issuers, c.HeaderMax).Enricher, c.Engine.Headers())
	for i := range r.sections {
		r.sections[i] = newSection()
	}
	report := Report{Candidate: c.Candidate.ID, Name: c.Candidate.Name, Against: c.Base.ID, At: began.UTC(), Questions: []string{}}
	for _, q := range c.Questions {
		report.Questions = append(report.Questions, q.Title)
		request, err := q.request()
		if err != nil {
			return report, err
		}
		r.requests = append(r.requests, request)
		if lacks := request.Lacks(c.Base) | request.Lacks(c.Candidate); lacks != 0 {
			report.Lacking = append(report.Lacking, fmt.Sprintf("%s: %s", q.Title, lacks))
		}
	}
	principals, tenants, err := c.Facts.Count(ctx)
	if err != nil {
		return report, err
	}
	r.total = (principals + tenants + 1) * int64(len(c.Questions))
	if err := r.parallel(ctx, r.directory); err != nil {
		return report, err
	}
	report.Directory = r.sections[ofDirectory].sorted()
	if err := r.parallel(ctx, r.outsiders); err != nil {
		return report, err
	}
	report.Outsiders = r.sections[ofOutsiders].sorted()
	if c.Replay != nil {
		if err := r.replay(ctx); err != nil {
			return report, err
		}
		replayed := r.sections[ofRecords].sorted()
		report.Replayed = &replayed
	}
	report.Took = time.Since(began).Round(time.Millisecond).String()
	return report, nil
}

// recoverPanic returns a panic of a job as an error.
func recoverPanic(ctx context.Context, job func(context.Context) error) (err error) {
	defer iam.Recovered(&err)
	return job(ctx)
}

// submit hands a job to the workers.
type submit func(job func(context.Context) error) error

// parallel runs the jobs that produce submits, on all workers.
func (r *run) parallel(ctx context.Context, produce func(context.Context, submit) error) error {
	group, ctx := errgroup.WithContext(ctx)
	jobs := make(chan func(context.Context) error, pageSize)
	for range max(1, r.Workers) {
		group.Go(func() error {
			for job := range jobs {
				if err := recoverPanic(ctx, job); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() (err error) {
		defer iam.Recovered(&err)
		defer close(jobs)
		return produce(ctx, func(job func(context.Context) error) error {
			select {
			case jobs <- job:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	return group.Wait()
}

// directory evaluates each user in each of their tenants, and each client.
func (r *run) directory(ctx context.Context, submit submit) error {
	for after := ""; ; {
		page, err := r.Facts.Users(ctx, after, pageSize)
		if err != nil {
			return err
		}
		taken := 0
		for _, u := range page {
			// A blocked user is denied by any policy.
			if taken < strangersOfPage && len(r.strangers) < strangersMost && u.Status == iam.UserActive {
				taken++
				r.strangers = append(r.strangers, userOf(u))
			}
			err := submit(func(ctx context.Context) error {
				who := userOf(u)
				who.document = directory.PrepareUser(u, r.Issuers)
				return r.questions(ctx, who)
			})
			if err != nil {
				return err
			}
			after = u.ID
		}
		if len(page) < pageSize {
			break
		}
	}
	for issuer, clientID := "", ""; ; {
		page, err := r.Facts.Clients(ctx, issuer, clientID, pageSize)
		if err != nil {
			return err
		}
		for i, c := range page {
			if i < strangersOfPage && len(r.strangers) < 2*strangersMost {
				r.strangers = append(r.strangers, clientOf(c))
			}
			if err := submit(func(ctx context.Context) error { return r.questions(ctx, clientOf(c)) }); err != nil {
				return err
			}
			issuer, clientID = c.Issuer, c.ClientID
		}
		if len(page) < pageSize {
			return nil
		}
	}
}

// Indexes of sections.
const (
	ofDirectory = iota
	ofRecords
	ofOutsiders
)

// Unknown is the subject of an unknown user.
const Unknown = "unknown-user"

// principal is the caller of a question.
type principal struct {
	of                        string // users, clients; empty: an anonymous caller
	issuer, subject, clientID string
	tenants                   []string           // their own, and "": a request without a tenant
	document                  directory.Prepared // of a user whose facts were read with the page
}

func userOf(u iam.UserFacts) principal {
	who := principal{of: "users", issuer: u.Issuer, subject: u.Subject, tenants: []string{""}}
	for _, m := range u.Memberships {
		who.tenants = append(who.tenants, m.Tenant)
	}
	return who
}

func clientOf(c iam.Client) principal {
	who := principal{of: "clients", issuer: c.Issuer, subject: c.ClientID, clientID: c.ClientID, tenants: []string{""}}
	if c.Tenant != "" {
		who.tenants = append(who.tenants, c.Tenant)
	}
	return who
}

func (r *run) questions(ctx context.Context, who principal) error {
	for i, q := range r.Questions {
		if q.of(who.of) {
			t, err := r.trialOf(i, who)
			if err != nil {
				return err
			}
			for _, tenant := range who.tenants {
				if err := r.evaluate(ctx, ofDirectory, t, tenant); err != nil {
					return err
				}
			}
		}
		r.progress(len(who.tenants))
	}
	return nil
}

func (r *run) progress(n int) {
	if done := r.done.Add(int64(n)); r.OnProgress != nil {
		r.OnProgress(done, r.total)
	}
}

// trial is one question for one principal, in any tenant.
type trial struct {
	comparison
	title string
	who   principal
}

func (r *run) trialOf(question int, who principal) (trial, error) {
	q := r.Questions[question]
	a := trial{title: q.Title, who: who, comparison: comparison{
		base: r.Base, candidate: r.Candidate, user: who.document, request: enrich.Request{Facts: r.requests[question]}, now: r.now,
	}}
	if !q.Now.IsZero() {
		a.now = q.Now
	}
	if who.of == "" {
		return a, nil
	}
	t, err := explain.Of(who.issuer, who.subject, who.clientID, q.Token, a.now)
	if err != nil {
		return a, err
	}
	a.token = t
	for i, r := range []*policy.Revision{r.Base, r.Candidate} {
		a.claims[i] = r.Token(t.Issuer, t.Subject, t.ClientID, t.Claims)
	}
	return a, nil
}

// evaluate evaluates a question in one tenant, and counts the outcome in a section.
func (r *run) evaluate(ctx context.Context, place int, a trial, tenant string) error {
	a.request.TenantHint = tenant
	c, _, err := r.both.compare(ctx, a.comparison)
	if err != nil {
		return err
	}
	c.Question, c.Issuer, c.Subject, c.ClientID, c.Tenant, c.Outsider = a.title, a.who.issuer, a.who.subject, a.who.clientID, tenant, place == ofOutsiders
	return r.count(place, c)
}

// outsiders evaluates callers who do not belong to a tenant, in each tenant: an anonymous one, an unknown
// user, and some of the strangers. A policy that authorizes them may change nothing for members.
func (r *run) outsiders(ctx context.Context, submit submit) error {
	start := 0
	in := func(tenant string) error {
		callers := []principal{{}}
		for _, issuer := range r.Issuers {
			callers = append(callers, principal{of: "users", issuer: issuer.URL, subject: Unknown})
		}
		if tenant != "" {
			found := map[string]bool{}
			for i := 0; i < len(r.strangers) && len(found) < 2; i++ {
				s := r.strangers[(start+i)%len(r.strangers)]
				if !found[s.of] && !slices.Contains(s.tenants, tenant) {
					found[s.of] = true
					callers = append(callers, s)
				}
			}
			start++
		}
		return submit(func(ctx context.Context) error { return r.outsidersIn(ctx, tenant, callers) })
	}
	if err := in(""); err != nil {
		return err
	}
	for after := ""; ; {
		page, err := r.Facts.Tenants(ctx, after, pageSize)
		if err != nil {
			return err
		}
		for _, tenant := range page {
			if err := in(tenant); err != nil {
				return err
			}
			after = tenant
		}
		if len(page) < pageSize {
			return nil
		}
	}
}

func (r *run) outsidersIn(ctx context.Context, tenant string, callers []principal) error {
	for i, q := range r.Questions {
		for _, who := range callers {
			if who.of != "" && !q.of(who.of) {
				continue
			}
			t, err := r.trialOf(i, who)
			if err != nil {
				return err
			}
			if err := r.evaluate(ctx, ofOutsiders, t, tenant); err != nil {
				return err
			}
		}
		r.progress(1)
	}
	return nil
}

// count records the outcome of one comparison.
func (r *run) count(place int, c Change) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.sections[place]
	s.Asked++
	if c.After.took > r.Limit {
		s.Slow++
	}
	if len(c.Facts) > 0 {
		s.FactsChanged++
	}
	if c.Kind == "" {
		return nil
	}
	s.add(c)
	if r.OnChange != nil {
		return r.OnChange(c)
	}
	return nil
}
