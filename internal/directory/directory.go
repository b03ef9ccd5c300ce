// Package directory is what Rego reads at data.directory: tenants, users and
// clients, loaded one at a time from the database and kept as prebuilt
// ast.Values in LRUs that are bounded in entries and in bytes.
//
// It owns the documents' shape, the caches, single flight, and the refusal to
// enumerate. It does not know SQL (a Loader brings the facts), nor policies,
// nor HTTP.
//
// The life of one document:
//
//	absent ──load──▶ fresh ──FreshFor passes──▶ old ──load──▶ fresh
//	                   │                         │ the load fails
//	                   │                         ▼
//	                   │                     served on until MaxStale has passed since
//	                   │                     it was loaded, then every read is an error
//	                   └──a membership in it expires──▶ absent
//
// "No such user" is a document like any other, kept in a small LRU of its own so
// that made-up ids evict nothing good. A failed load is an error for everyone
// who waited for it; it is never "absent", never an empty list, never kept.
//
// Facts an issuer does not reach (iam.Issuers) are not in the documents, and
// tenants that the issuer of the token in question does not reach are absent for
// that evaluation, whatever the policy asks.
package directory

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"iam-service/internal/iam"
)

// Loader brings facts from where they are the truth. The boolean says whether
// there are any; an error says that this is not known, and one of kind
// iam.Unavailable that nothing can be asked at the moment.
type Loader interface {
	User(ctx context.Context, issuer, subject string) (iam.UserFacts, bool, error)
	Tenant(ctx context.Context, id string) (iam.TenantFacts, bool, error)
	Client(ctx context.Context, issuer, clientID string) (iam.ClientFacts, bool, error)
}

// Config of a Store. The zero value of a size or time means its default.
type Config struct {
	Issuers  iam.Issuers
	Entries  int           // most documents kept; default 10,000
	Bytes    int64         // most bytes they may weigh, estimated; default 64 MiB
	FreshFor time.Duration // how long a document is used without asking again; default 2 s
	MaxStale time.Duration // how old a document may get while the database cannot be asked; default 10 s
	Wait     time.Duration // longest wait of one evaluation for loads, in all; default 60 ms
}

const (
	loadLimit   = 200 * time.Millisecond // of one load, which outlives the evaluation that asked first; at least Wait
	retryAfter  = 250 * time.Millisecond // how long old documents are served without trying again after a failed load
	absentShare = 10                     // absent keys get a tenth of the entries
)

// Store loads documents and keeps them. It is safe for concurrent use.
type Store struct {
	cfg     Config
	loader  Loader
	present *lru.Cache[key, *entry]
	absent  *lru.Cache[key, *entry]
	bytes   atomic.Int64
	flights singleflight.Group
	downTil atomic.Int64 // since start: until when old documents are served without trying
	start   time.Time
	stats   stats
}

type stats struct{ hits, misses, stale, loads, failures, evictions atomic.Int64 }

// New returns an empty store.
func New(loader Loader, cfg Config) *Store {
	if cfg.Entries <= 0 {
		cfg.Entries = 10_000
	}
	if cfg.Bytes <= 0 {
		cfg.Bytes = 64 << 20
	}
	if cfg.FreshFor <= 0 {
		cfg.FreshFor = 2 * time.Second
	}
	if cfg.MaxStale <= 0 {
		cfg.MaxStale = 10 * time.Second
	}
	if cfg.Wait <= 0 {
		cfg.Wait = 60 * time.Millisecond
	}
	s := &Store{cfg: cfg, loader: loader, start: time.Now()}
	s.present, _ = lru.NewWithEvict(cfg.Entries, func(_ key, e *entry) { // fails only for a size below 1
		s.bytes.Add(-e.weight)
	})
	s.absent, _ = lru.New[key, *entry](max(1, cfg.Entries/absentShare)) // as above
	return s
}

// kind of a document.
type kind byte

const (
	userKind   kind = 'u'
	tenantKind kind = 't'
	clientKind kind = 'c'
)

// key is the first half of the SHA-256 of kind and names. No name holds a NUL,
// so two different keys never hash the same bytes.
type key [16]byte

func keyOf(k kind, a, b string) key {
	var buf [1024]byte
	h := append(buf[:0], byte(k), 0)
	h = append(h, a...)
	h = append(h, 0)
	h = append(h, b...)
	sum := sha256.Sum256(h)
	return key(sum[:16])
}

// entry is one document, or the knowledge that there is none. It is immutable.
type entry struct {
	kind     kind
	a, b     string // the names under key, compared on every hit
	doc      *document
	weight   int64
	loadedAt time.Time
	until    time.Time // when a membership in it expires; zero: never
}

func (e *entry) is(k kind, a, b string) bool { return e.kind == k && e.a == a && e.b == b }

// age says whether e may be used without asking again, and whether it may be
// used at all.
func (s *Store) age(e *entry, now time.Time) (fresh, usable bool) {
	if !e.until.IsZero() && !now.Before(e.until) {
		return false, false
	}
	old := now.Sub(e.loadedAt)
	return old < s.cfg.FreshFor, old < s.cfg.MaxStale
}

func (s *Store) cached(k key, kd kind, a, b string) *entry {
	e, ok := s.present.Get(k)
	if !ok {
		if e, ok = s.absent.Get(k); !ok {
			return nil
		}
	}
	if !e.is(kd, a, b) {
		return nil
	}
	return e
}

// get returns the document, from the caches or by a load that everyone who asks
// for the same key meanwhile shares. It waits until deadline at most.
func (s *Store) get(ctx context.Context, kd kind, a, b string, deadline time.Time) (*entry, bool, error) {
	k := keyOf(kd, a, b)
	now := time.Now()
	e := s.cached(k, kd, a, b)
	var usable bool
	if e != nil {
		var fresh bool
		if fresh, usable = s.age(e, now); fresh {
			s.stats.hits.Add(1)
			return e, false, nil
		}
		if usable && now.Sub(s.start) < time.Duration(s.downTil.Load()) {
			s.stats.stale.Add(1)
			return e, false, nil
		}
	}
	s.stats.misses.Add(1)
	loaded, err := s.load(ctx, k, kd, a, b, now, deadline)
	if err == nil {
		return loaded, true, nil
	}
	if usable {
		if _, still := s.age(e, time.Now()); still {
			s.stats.stale.Add(1)
			return e, true, nil
		}
	}
	return nil, true, err
}

// load runs, or joins, the one flight for k. The flight has a context of its
// own: the caller who asked first may leave without failing the others.
func (s *Store) load(ctx context.Context, k key, kd kind, a, b string, now, deadline time.Time) (*entry, error) {
	done := s.flights.DoChan(string(k[:]), func() (any, error) {
		return s.fly(k, kd, a, b)
	})
	wait := time.NewTimer(deadline.Sub(now))
	defer wait.Stop()
	select {
	case r := <-done:
		if r.Err != nil {
			return nil, unavailable("facts_unavailable", r.Err)
		}
		e := r.Val.(*entry) //nolint:forcetypeassert // fly returns nothing else
		if !e.is(kd, a, b) {
			return nil, unavailable("facts_unavailable", errors.New("two keys share a hash"))
		}
		if _, usable := s.age(e, time.Now()); !usable {
			return nil, unavailable("facts_unavailable", errors.New("it ended while it was loaded"))
		}
		return e, nil
	case <-wait.C:
		return nil, unavailable("facts_timeout", fmt.Errorf("no answer within %s", s.cfg.Wait))
	case <-ctx.Done():
		return nil, unavailable("facts_timeout", context.Cause(ctx))
	}
}

func unavailable(code string, cause error) error {
	return &iam.Error{Kind: iam.Unavailable, Code: code, Detail: "the facts cannot be read now", Cause: cause}
}

func (s *Store) fly(k key, kd kind, a, b string) (*entry, error) {
	ctx, cancel := context.WithTimeout(context.Background(), max(loadLimit, s.cfg.Wait))
	defer cancel()
	e := &entry{kind: kd, a: a, b: b, loadedAt: time.Now()} // before the read: a document is never younger than it says
	s.stats.loads.Add(1)
	if err := s.fill(ctx, e); err != nil {
		s.stats.failures.Add(1)
		if iam.KindOf(err) == iam.Unavailable { // not of this one document
			s.downTil.Store(int64(time.Since(s.start) + retryAfter))
		}
		return nil, err
	}
	s.downTil.Store(0)
	if e.doc == nil {
		s.present.Remove(k)
		s.absent.Add(k, e)
		return e, nil
	}
	s.absent.Remove(k)
	s.present.Remove(k) // so that the weight of what is replaced is taken off
	if e.weight > s.cfg.Bytes/2 {
		return e, nil // it is used, but not kept: one document does not drive all others out
	}
	s.bytes.Add(e.weight)
	if s.present.Add(k, e) {
		s.stats.evictions.Add(1)
	}
	for s.bytes.Load() > s.cfg.Bytes {
		if _, _, some := s.present.RemoveOldest(); !some {
			break
		}
		s.stats.evictions.Add(1)
	}
	return e, nil
}

// fill reads the facts of e and builds its document, or leaves it nil.
func (s *Store) fill(ctx context.Context, e *entry) error {
	switch e.kind {
	case userKind:
		facts, found, err := s.loader.User(ctx, e.a, e.b)
		if err != nil || !found {
			return err
		}
		var lives time.Duration
		e.doc, lives = userDocument(facts, s.cfg.Issuers)
		if lives > 0 {
			e.until = e.loadedAt.Add(lives)
		}
	case tenantKind:
		facts, found, err := s.loader.Tenant(ctx, e.a)
		if err != nil || !found {
			return err
		}
		e.doc = tenantDocument(facts, s.cfg.Issuers)
	case clientKind:
		facts, found, err := s.loader.Client(ctx, e.a, e.b)
		if err != nil || !found {
			return err
		}
		e.doc = clientDocument(facts, s.cfg.Issuers)
	}
	if e.doc != nil {
		e.weight = weigh(e.doc.value) + int64(len(e.a)+len(e.b)) + 256
	}
	return nil
}

// Stats are figures since the start; Entries, Absent and Bytes are of now.
type Stats struct {
	Hits, Misses, Stale, Loads, Failures, Evictions int64
	Entries, Absent                                 int
	Bytes                                           int64
}

// Stats returns the figures of the store.
func (s *Store) Stats() Stats {
	return Stats{
		Hits: s.stats.hits.Load(), Misses: s.stats.misses.Load(), Stale: s.stats.stale.Load(),
		Loads: s.stats.loads.Load(), Failures: s.stats.failures.Load(), Evictions: s.stats.evictions.Load(),
		Entries: s.present.Len(), Absent: s.absent.Len(), Bytes: s.bytes.Load(),
	}
}
