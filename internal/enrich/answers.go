package enrich

import (
	"crypto/sha256"
	"sync/atomic"
	"time"

	"iam-service/internal/bounded"
	"iam-service/internal/directory"
	"iam-service/internal/policy"
	"iam-service/internal/token"
)

// decisionCache keeps decisions for as long as they cannot differ from a new one.
//
// A decision is found by all that the revision in force can see of a question, and
// used while that revision is in force, everything it read from the directory is
// unchanged, no membership in it has expired, and the policy's own time for it is
// not over. Nothing is evicted when a fact changes: whether an answer is still
// true is looked up when it is found. Denials, which anybody can cause by making
// hints up, have a tenth of the room to themselves and drive no answer out.
type decisionCache struct {
	allowed, denied *bounded.Cache[[sha256.Size]byte, *entry]
	lost            [causes]atomic.Int64
}

// entry is one decision, ready to be sent again. It is immutable, but for its hits.
type entry struct {
	answer    Response
	outcome   string // for metrics
	code      string
	revision  uint64 // Revision.Number; not the revision, which may have been superseded long ago
	facts     directory.Record
	notBefore time.Time     // tokens issued earlier are refused
	until     time.Duration // by the directory's clock; 0: for ever
	weight    int64
	hits      atomic.Int64 // how often it was used again
}

// cause is why an answer that was kept was not used.
type cause int

const (
	revised   cause = iota // another revision is in force
	changed                // a fact was changed
	forgotten              // all facts were dropped
	ended                  // a membership expired, or the policy's time is over
	untrusted              // there was no proof of freshness for too long
	revoked                // the token is older than the answer's
	causes
)

var causeNames = [causes]string{"revision", "fact", "everything", "time", "stale", "token"}

func newAnswers(entries int, bytes int64) *decisionCache {
	weigh := func(k *entry) int64 { return k.weight }
	return &decisionCache{
		allowed: bounded.New[[sha256.Size]byte](entries, bytes, weigh),
		denied:  bounded.New[[sha256.Size]byte](entries/10, bytes/10, weigh),
	}
}

// get returns the decision under key if a new one, for the token t (nil: none), could not differ.
func (c *decisionCache) get(key [sha256.Size]byte, r *policy.Revision, t *token.Token, facts *directory.Store, now time.Duration) *entry {
	k, ok := c.allowed.Get(key)
	if !ok {
		if k, ok = c.denied.Get(key); !ok {
			c.allowed.Miss()
			return nil
		}
	}
	if why := k.untrue(r, t, facts, now); why < causes {
		c.lost[why].Add(1)
		c.allowed.Miss()
		return nil
	}
	c.allowed.Hit()
	return k
}

// untrue says why k cannot be used; causes if it can.
func (k *entry) untrue(r *policy.Revision, t *token.Token, facts *directory.Store, now time.Duration) cause {
	switch {
	case k.revision != r.Number():
		return revised
	case k.until != 0 && now >= k.until:
		return ended
	case t.RevokedBy(k.notBefore):
		return revoked
	}
	switch facts.Truth(&k.facts, now) {
	case directory.Changed:
		return changed
	case directory.Forgotten:
		return forgotten
	case directory.Ended:
		return ended
	case directory.NotTrusted:
		return untrusted
	case directory.StillTrue:
	}
	return causes
}

func (c *decisionCache) add(key [sha256.Size]byte, k *entry) {
	k.weight = 600 + k.facts.Weight() + int64(16*len(k.answer.Values)+len(k.answer.Tenant))
	for _, v := range k.answer.Values {
		k.weight += int64(len(v))
	}
	if k.answer.Allowed {
		c.denied.Remove(key)
		c.allowed.Add(key, k)
		return
	}
	c.allowed.Remove(key)
	c.denied.Add(key, k)
}

// Stats are the figures of the decision cache.
type Stats struct {
	Allowed, Denied bounded.Stats
	Lost            map[string]int64 // answers that could not be used again, by cause
}

// Stats returns the figures of the decision cache. Hits and misses are those of
// both halves, under Allowed.
func (s *Service) Stats() Stats {
	st := Stats{Allowed: s.answers.allowed.Stats(), Denied: s.answers.denied.Stats(), Lost: map[string]int64{}}
	for i, name := range causeNames {
		st.Lost[name] = s.answers.lost[i].Load()
	}
	return st
}
