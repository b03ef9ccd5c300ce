package preview

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"iam-service/internal/directory"
	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/explain"
)

// SearchFacts are a snapshot of the directory, as a search of one tenant reads it.
type SearchFacts interface {
	directory.Loader
	AsOf(ctx context.Context) (time.Time, error)
	UsersIn(ctx context.Context, tenant, after string, limit int) ([]iam.UserFacts, error)
	ClientsIn(ctx context.Context, tenant, issuer, clientID string, limit int) ([]iam.Client, error)
}

// SearchMoment is a snapshot of the facts, until it is closed.
type SearchMoment interface {
	SearchFacts
	Close()
}

// Search asks one question of each member and client of a tenant, under one revision: whom does the policy let in?
// It is exact over the facts of the snapshot, and as asked for the request and the token's claims, which are the same for
// all. Users who are no members are not asked.
type Search struct {
	Engine    *policy.Engine
	Issuers   iam.Issuers
	HeaderMax int
	Revision  *policy.Revision
	Facts     SearchFacts
	Tenant    string
	Question  Question // its title is not used
	After     string   // id of a user: those after it, and no clients before all users are asked; empty: all
	Limit     int      // most subjects that are found
	Workers   int      // 0: 1

	Evaluations chan struct{} // a place for each evaluation that may run at once, of all searches that share it; nil: as many as workers
}

// Found is a subject that the policy lets in, or whose evaluation failed.
type Found struct {
	Failed   string // code of the error, as policy_timeout: whether the subject is let in is not known; empty: it is
	Kind     string // user or client
	User     string // id
	Issuer   string
	Subject  string
	ClientID string
	Codes    []string // of the decision's reasons
}

// Searched is how far a search came.
type Searched struct {
	Asked    int64
	Found    int
	Failed   int    // evaluations that failed; the first maxFailed of them are reported
	Complete bool   // all were evaluated, and no evaluation failed
	Next     string // After of the next search, where it ended at its limit among the users
}

// maxFailed is how many evaluations that failed are reported each.
const maxFailed = 100

// failed counts an evaluation that failed, and reports it.
func (s *Searched) failed(f Found, found func(Found) error) error {
	if s.Failed++; s.Failed > maxFailed {
		return nil
	}
	return found(f)
}

// Begin describes a search before it runs.
type Begin struct {
	AsOf     time.Time
	Revision string
	Lacks    string // request facts that the policy reads and the question does not have: it denies where it reads them; empty: none
}

// searching is a search that runs.
type searching struct {
	Search
	ask     comparer
	request enrich.RequestFacts
	now     time.Time
	asked   atomic.Int64
}

// Run calls begin once, and then found with each subject that is let in, and with the first ones whose evaluation failed: users by id, then clients. Neither is called concurrently.
func (s Search) Run(ctx context.Context, begin func(Begin) error, found func(Found) error) (Searched, error) {
	request, err := s.Question.request()
	if err != nil {
		return Searched{}, err
	}
	r := &searching{
		Search: s, request: request, now: s.Question.Now,
		ask: newComparer(explain.Over(s.Facts, s.Engine, s.Issuers, s.HeaderMax).Enricher, s.Engine.Headers()),
	}
	b := Begin{Revision: s.Revision.ID}
	if b.AsOf, err = s.Facts.AsOf(ctx); err != nil {
		return Searched{}, err
	}
	if r.now.IsZero() {
		r.now = b.AsOf
	}
	if lacks := request.Lacks(s.Revision); lacks != 0 {
		b.Lacks = lacks.String()
	}
	if err := begin(b); err != nil {
		return Searched{}, err
	}
	var sum Searched
	if s.Question.of("users") {
		if err := r.users(ctx, found, &sum); err != nil || sum.Next != "" {
			sum.Asked = r.asked.Load()
			return sum, err
		}
	}
	sum.Complete = true
	if s.Question.of("clients") {
		err = r.clients(ctx, found, &sum)
	}
	sum.Complete = sum.Complete && sum.Failed == 0
	sum.Asked = r.asked.Load()
	return sum, err
}

func (r *searching) users(ctx context.Context, found func(Found) error, sum *Searched) error {
	for after := r.After; ; {
		page, err := r.Facts.UsersIn(ctx, r.Tenant, after, pageSize)
		if err != nil {
			return err
		}
		who := make([]principal, len(page))
		for i, u := range page {
			who[i] = userOf(u)
			who[i].document = directory.PrepareUser(u, r.Issuers)
		}
		outcomes, err := r.outcomes(ctx, who)
		if err != nil {
			return err
		}
		for i, u := range page {
			if code := outcomes[i].Error; code != "" {
				if err := sum.failed(Found{Failed: code, Kind: "user", User: u.ID, Issuer: u.Issuer, Subject: u.Subject}, found); err != nil {
					return err
				}
			}
			if !outcomes[i].Allow {
				continue
			}
			if sum.Found == r.Limit {
				sum.Next = after
				return nil
			}
			if err := found(Found{Kind: "user", User: u.ID, Issuer: u.Issuer, Subject: u.Subject, Codes: outcomes[i].Codes}); err != nil {
				return err
			}
			sum.Found++
			after = u.ID
		}
		if len(page) < pageSize {
			return nil
		}
		after = page[len(page)-1].ID
	}
}

func (r *searching) clients(ctx context.Context, found func(Found) error, sum *Searched) error {
	for issuer, clientID := "", ""; ; {
		page, err := r.Facts.ClientsIn(ctx, r.Tenant, issuer, clientID, pageSize)
		if err != nil {
			return err
		}
		who := make([]principal, len(page))
		for i, c := range page {
			who[i], issuer, clientID = clientOf(c), c.Issuer, c.ClientID
		}
		outcomes, err := r.outcomes(ctx, who)
		if err != nil {
			return err
		}
		for i, c := range page {
			if code := outcomes[i].Error; code != "" {
				if err := sum.failed(Found{Failed: code, Kind: "client", Issuer: c.Issuer, ClientID: c.ClientID}, found); err != nil {
					return err
				}
			}
			if !outcomes[i].Allow {
				continue
			}
			if sum.Found == r.Limit {
				sum.Complete = false
				return nil
			}
			if err := found(Found{Kind: "client", Issuer: c.Issuer, ClientID: c.ClientID, Codes: outcomes[i].Codes}); err != nil {
				return err
			}
			sum.Found++
		}
		if len(page) < pageSize {
			return nil
		}
	}
}

// outcomes decides for each of some principals, in their order.
func (r *searching) outcomes(ctx context.Context, who []principal) ([]Outcome, error) {
	out := make([]Outcome, len(who))
	group, ctx := errgroup.WithContext(ctx)
	workers := max(1, r.Workers)
	for w := range workers {
		group.Go(func() error {
			return recoverPanic(ctx, func(ctx context.Context) error {
				for i := w; i < len(who); i += workers {
					if err := ctx.Err(); err != nil {
						return err
					}
					if err := r.evaluate(ctx, &out[i], who[i]); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	return out, group.Wait()
}

// evaluate decides for one principal, once there is a place for the evaluation.
func (r *searching) evaluate(ctx context.Context, out *Outcome, who principal) (err error) {
	if r.Evaluations != nil {
		select {
		case r.Evaluations <- struct{}{}:
			defer func() { <-r.Evaluations }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	*out, err = r.outcome(ctx, who)
	return err
}

func (r *searching) outcome(ctx context.Context, who principal) (Outcome, error) {
	t, err := explain.Of(who.issuer, who.subject, who.clientID, r.Question.Token, r.now)
	if err != nil {
		return Outcome{}, err
	}
	deadline := time.Now().Add(evalLimit)
	q := enrich.Question{
		Revision: r.Revision, Token: t, Claims: r.Revision.Token(t.Issuer, t.Subject, t.ClientID, t.Claims), Now: r.now,
		Request: enrich.Request{Facts: r.request, TenantHint: r.Tenant}, Facts: r.ask.enricher.View(t, deadline),
	}
	q.Facts.Pin(who.document)
	r.asked.Add(1)
	return r.ask.outcome(ctx, q, deadline)
}
