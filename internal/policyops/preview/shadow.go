package preview

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"iam-service/internal/enrich"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
)

// Shadow evaluates a candidate for a share of live requests, in the background: from
// a queue that drops what does not fit, so that no caller waits. It counts differences and
// stores samples of them.
//
// Both revisions are evaluated over the same documents: a fact that has changed since the
// response makes no difference.
type Shadow struct {
	both  comparer
	now   func() (candidate *policy.Revision, share float64) // nil: none
	queue chan *enrich.Evaluated

	dropped atomic.Int64

	// OnPanic is called with a panic in an evaluation, which has no other effect. Set it before Run; may be nil.
	OnPanic func(error)

	mu       sync.Mutex
	revision *policy.Revision // that the counts are of
	share    float64          // as above
	ended    bool             // no shadow is set; the counts are of the last one
	since    time.Time
	asked    int64
	failed   int64
	counts   map[string]int64
	samples  []Change // a ring
	next     int

	total, differences atomic.Int64
}

const (
	shadowQueue   = 1024
	shadowSamples = 100
	shadowLook    = time.Second // for a shadow that another replica has set
)

// NewShadow returns a shadow that evaluates while Run runs. The result of now can change at any
// time.
func NewShadow(e *enrich.Service, headers []string, now func() (*policy.Revision, float64)) *Shadow {
	return &Shadow{both: newComparer(e, headers), now: now, queue: make(chan *enrich.Evaluated, shadowQueue), counts: map[string]int64{}}
}

// Share is the share of decisions that the caller passes to Take.
func (s *Shadow) Share() float64 {
	_, share := s.now()
	return share
}

// Take queues one decision. It does not block.
func (s *Shadow) Take(e *enrich.Evaluated) {
	select {
	case s.queue <- e:
	default:
		s.dropped.Add(1)
	}
}

// Run evaluates queued decisions until ctx ends.
func (s *Shadow) Run(ctx context.Context) {
	tick := time.NewTicker(shadowLook)
	defer tick.Stop()
	for {
		select {
		case e := <-s.queue:
			if err := s.tryEvaluate(ctx, e); err != nil && s.OnPanic != nil {
				s.OnPanic(err)
			}
		case <-tick.C:
			s.Look()
		case <-ctx.Done():
			return
		}
	}
}

// Look returns the current candidate, and resets the counts where another shadow was set, or the same one
// again. The counts of a shadow that has ended can be read until then.
func (s *Shadow) Look() *policy.Revision {
	s.mu.Lock()
	defer s.mu.Unlock()
	candidate, share := s.now()
	switch {
	case candidate == nil:
		s.ended = true
	case s.ended || s.revision != candidate || s.share != share:
		s.revision, s.share, s.ended, s.since = candidate, share, false, time.Now().UTC()
		s.asked, s.failed, s.counts, s.samples, s.next = 0, 0, map[string]int64{}, nil, 0
	}
	return candidate
}

// tryEvaluate returns a panic as an error: it must not end the loop.
func (s *Shadow) tryEvaluate(ctx context.Context, e *enrich.Evaluated) (err error) {
	defer iam.Recovered(&err)
	s.evaluate(ctx, e)
	return nil
}

func (s *Shadow) evaluate(ctx context.Context, e *enrich.Evaluated) {
	candidate := s.Look()
	if candidate == nil || candidate.Digest == e.Revision.Digest {
		return
	}
	c, _, err := s.both.compare(ctx, comparison{
		base:      e.Revision,
		candidate: candidate,
		token:     e.Token,
		request:   enrich.Request{TenantHint: e.Hint, Facts: e.Request},
		now:       e.At,
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.revision != candidate {
		return // another shadow was set meanwhile
	}
	if err != nil {
		s.failed++
		return
	}
	s.asked++
	s.total.Add(1)
	if c.Kind == "" {
		return
	}
	s.counts[c.Kind]++
	if c.Kind != Reasons {
		s.differences.Add(1)
	}
	if e.Token != nil {
		c.Issuer, c.Subject, c.ClientID = e.Token.Issuer, e.Token.Subject, e.Token.ClientID
	}
	c.Tenant, c.Decision = e.Hint, e.Response.DecisionID
	for i := range c.Headers {
		c.Headers[i].Before, c.Headers[i].After = "", "" // the values are for the backend alone
	}
	if len(s.samples) < shadowSamples {
		s.samples = append(s.samples, c)
		return
	}
	s.samples[s.next] = c
	s.next = (s.next + 1) % shadowSamples
}

// ShadowState is the counts of a shadow on this replica.
type ShadowState struct {
	Revision string           `json:"revision,omitempty" doc:"absent: none was set yet"`
	Since    time.Time        `json:"since"`
	Asked    int64            `json:"asked"`
	Failed   int64            `json:"failed" doc:"evaluations whose facts could not be read"`
	Dropped  int64            `json:"dropped" doc:"live requests that were not evaluated since the start of the replica: the queue was full"`
	Counts   map[string]int64 `json:"counts" doc:"differences by kind"`
	Samples  []Change         `json:"samples" doc:"some of the differences"`
}

// State returns the counts.
func (s *Shadow) State() ShadowState {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := ShadowState{Since: s.since, Asked: s.asked, Failed: s.failed, Dropped: s.dropped.Load(), Counts: maps.Clone(s.counts), Samples: []Change{}}
	st.Samples = append(st.Samples, s.samples...)
	if s.revision != nil {
		st.Revision = s.revision.ID
	}
	return st
}

// Figures are the counts since the start of the process, for metrics.
func (s *Shadow) Figures() (asked, differences, dropped int64) {
	return s.total.Load(), s.differences.Load(), s.dropped.Load()
}
