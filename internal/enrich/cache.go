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

// decisionCache holds decisions that cannot differ from a new evaluation.
//
// The key is all that the active revision can see of a request (package policy). An entry is valid
// while that revision is active, everything it read from the directory is unchanged, no membership
// in it has expired, and the policy's TTL for it has not passed. A change of a fact evicts nothing:
// the validity of an entry is checked when it is found. Denials, which any client can cause by making
// hints up, have a tenth of the capacity to themselves, so that they evict no other entry.
type decisionCache struct {
	allowed, denied *bounded.Cache[[sha256.Size]byte, *entry]
	lost            [causes]atomic.Int64
}

// entry is one decision. It is immutable, but for its hits.
type entry struct {
	response  Response
	outcome   string // for metrics
	code      string
	revision  uint64 // Revision.Number; not the revision, which may have been superseded long ago
	facts     directory.Dependencies
	notBefore time.Time     // tokens issued earlier are revoked
	until     time.Duration // by the directory's clock; 0: no TTL
	bytes     int           // of an allow: of all headers together
	weight    int64
	hits      atomic.Int64
}

// cause is why an entry that was found is not valid.
type cause int

const (
	revised   cause = iota // another revision is active
	changed                // a fact was changed
	forgotten              // all facts were invalidated
	ended                  // a membership expired, or the policy's TTL passed
	untrusted              // the facts are stale
	revoked                // the token was issued before tokens_not_before
	causes
)

var causeNames = [causes]string{"revision", "fact", "everything", "time", "stale", "token"}

func newCache(entries int, bytes int64) *decisionCache {
	weigh := func(e *entry) int64 { return e.weight }
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
	if why := k.invalid(r, t, facts, now); why < causes {
		c.lost[why].Add(1)
		c.allowed.Miss()
		return nil
	}
	c.allowed.Hit()
	return k
}

// invalid returns why the entry is not valid; causes if it is.
func (e *entry) invalid(r *policy.Revision, t *token.Token, facts *directory.Store, now time.Duration) cause {
	switch {
	case e.revision != r.Number():
		return revised
	case e.until != 0 && now >= e.until:
		return ended
	case t.RevokedBy(e.notBefore):
		return revoked
	}
	switch facts.Validity(&e.facts, now) {
	case directory.Changed:
		return changed
	case directory.Cleared:
		return forgotten
	case directory.Expired:
		return ended
	case directory.Stale:
		return untrusted
	case directory.Valid:
	}
	return causes
}

func (c *decisionCache) add(key [sha256.Size]byte, k *entry) {
	k.weight = 600 + k.facts.Weight() + int64(16*len(k.response.Values)+len(k.response.Tenant))
	for _, v := range k.response.Values {
		k.weight += int64(len(v))
	}
	if k.response.Allowed {
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
	Lost            map[string]int64 // entries that were found and not valid, by cause
}

// Stats returns the figures of the decision cache. Hits and misses are those of
// both halves, under Allowed.
func (s *Service) Stats() Stats {
	st := Stats{Allowed: s.cache.allowed.Stats(), Denied: s.cache.denied.Stats(), Lost: map[string]int64{}}
	for i, name := range causeNames {
		st.Lost[name] = s.cache.lost[i].Load()
	}
	return st
}
