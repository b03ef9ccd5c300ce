package enrich

import (
	"time"

	"iam-service/internal/token"
)

// Asserter adds a signed identity to an allowed response.
type Asserter interface {
	// Assert returns the values of the response with the assertion among them. It is called for each
	// request, also where the decision is cached. It fails with an iam.Error.
	Assert(a Allowed) ([]string, error)
}

// Allowed is an allowed response, and the request that it is for.
type Allowed struct {
	Token         *token.Token // verified; nil: the response is anonymous
	Gateway, Host string       // of the request, as far as they are known
	DecisionID    string
	Tenant        string
	Values        []string      // parallel to Engine.Headers; not to be changed
	HeaderBytes   int           // of all headers together, without the assertion
	Remaining     time.Duration // until the decision ends by itself; 0: it does not
}

// uncached is how long an assertion lasts whose decision is not cached, at most: until the request has reached
// its backend.
const uncached = 10 * time.Second

// assert returns the response of a decision for one request. The cached one is not changed.
func (s *Service) assert(e *evaluation, decided *entry) (Response, error) {
	response := decided.response
	if s.cfg.Assert == nil || !response.Allowed {
		return response, nil
	}
	a := Allowed{
		Token:       e.token,
		Gateway:     e.request.Facts.Gateway,
		Host:        e.request.Facts.Host,
		DecisionID:  response.DecisionID,
		Tenant:      response.Tenant,
		Values:      response.Values,
		HeaderBytes: decided.bytes,
		Remaining:   decided.remaining(e.began),
	}
	var err error
	response.Values, err = s.cfg.Assert.Assert(a)
	return response, err
}

// reusable is how long a cache may repeat the response for this request. A change of a fact does not reach that
// cache, so it ends with the freshness deadline of the facts: no response is older than MAX_STALENESS promises.
func (s *Service) reusable(e *evaluation, decided *entry, now time.Duration) time.Duration {
	if !decided.response.Allowed {
		return 0
	}
	left := s.cfg.Directory.FreshUntil() - now
	if e.token != nil {
		left = min(left, time.Until(e.token.Expires))
	}
	if ends := decided.remaining(now); ends != 0 {
		left = min(left, ends)
	}
	return max(left, 0)
}

// remaining is the time until the decision ends by itself: by the policy's TTL, or with a fact such as a
// membership that expires. 0: it does not.
func (e *entry) remaining(now time.Duration) time.Duration {
	var left time.Duration
	for _, end := range [...]time.Duration{e.until, e.facts.Until()} {
		if end != 0 && (left == 0 || end-now < left) {
			left = max(end-now, 1)
		}
	}
	return left
}
