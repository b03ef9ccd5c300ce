// Package directory is what Rego reads at data.directory: tenants, users and
// clients, loaded one at a time from the database and cached as prebuilt
// ast.Values in LRUs that are bounded in entries and in bytes.
//
// It owns the documents' shape, the caches, single flight, invalidation, and the
// rejection of enumeration. It does not know SQL (a Loader reads the facts), nor
// how changes are received (package feed calls InvalidateKey, InvalidateAll and
// MarkFresh), nor policies, nor HTTP.
//
// The life of one document:
//
//	absent ──load──▶ valid ──InvalidateKey of a dependency, InvalidateAll──▶ absent
//	                   │
//	                   └──a membership in it expires──────────────────────▶ absent
//
// Facts have no TTL: a document is valid until invalidated. Longer than MaxStale after
// freshness was last confirmed, every read is an error (fails closed), cached or not.
//
// A document depends on keys: its own, a user's also on each tenant that it references,
// a client's on its tenant, a tenant's also on the global roles. Each key has a
// counter, by the first 20 bits of its hash, which InvalidateKey increments. A load
// records the counters before it reads, so that a read from before a change is never
// valid after it: nothing must be evicted in time, and a collision costs a miss. There are
// enough counters (4 MiB) that collisions stay rare even where one tenant changes a
// thousand members at once: they invalidate one in a thousand of the other entries.
// InvalidateAll raises the epoch, on which all depend.
//
// "No such user" is cached like a document, in a small LRU of its own, so that made-up
// ids evict no documents. A failed load is an error for every request that waits for it:
// it is never "absent", never an empty list, and never cached.
//
// Documents contain no facts that their issuer does not reach (iam.Issuers), and tenants
// that the token's issuer does not reach are absent in an evaluation, whatever the
// policy reads.
package directory

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sync/singleflight"

	"iam-service/internal/bounded"
	"iam-service/internal/directory/clock"
	"iam-service/internal/iam"
	"iam-service/internal/telemetry/tracing"
)

// Loader reads facts from their source of truth. The boolean reports whether there are
// any; an error means that this is unknown.
type Loader interface {
	User(ctx context.Context, issuer, subject string) (iam.UserFacts, bool, error)
	Tenant(ctx context.Context, id string) (iam.TenantFacts, bool, error)
	Client(ctx context.Context, issuer, clientID string) (iam.ClientFacts, bool, error)
}

// BatchLoader is a Loader that reads all facts of a person's request in one round trip.
type BatchLoader interface {
	Loader
	Batch(ctx context.Context, q Batch) (BatchFacts, error)
}

// Batch names a user, and what their request needs besides.
type Batch struct {
	Issuer, Subject string
	ClientID        string // of the token; empty: not asked for
	Tenant          string // that the request names; empty: not asked for
}

// BatchFacts are the facts of a Batch; nil where there are none.
type BatchFacts struct {
	User   *iam.UserFacts
	Client *iam.ClientFacts
	Tenant *iam.TenantFacts // nil also where the user has no membership in it
}

// Config of a Store. The zero value of a size or time means its default.
type Config struct {
	Issuers  iam.Issuers
	Entries  int                  // most documents cached; default 10,000
	Bytes    int64                // most bytes they may weigh, estimated; default 64 MiB
	MaxStale time.Duration        // the freshness deadline: how long facts are used after freshness was confirmed; default 10 s
	Wait     time.Duration        // longest wait of one evaluation for loads, in all; default 60 ms
	Clock    func() time.Duration // nil: clock.Now
}

const (
	loadTimeout = 200 * time.Millisecond // of one load, which outlives the evaluation that requested it first; at least Wait
	absentShare = 10                     // absent keys get a tenth of the entries and bytes
	neverFresh  = math.MinInt64
	slotBits    = 20 // of a key, to find its counter
)

// Store loads and caches documents. It is safe for concurrent use.
type Store struct {
	cfg     Config
	loader  Loader
	present *bounded.Cache[Key, *entry]
	absent  *bounded.Cache[Key, *entry]
	flights singleflight.Group
	ahead   sync.Map // ids of the tenants that are being read ahead

	freshAt atomic.Int64                 // by the clock: every change until then has been received
	epoch   atomic.Uint32                // from 1; 0 is no epoch
	members atomic.Uint32                // counts invalidations of members, whose documents cannot be named
	changes [1 << slotBits]atomic.Uint32 // by the first bits of a key

	loads, failures atomic.Int64
	invalidations   [1 << 8]atomic.Int64 // by kind
}

// New returns an empty store, which is stale until MarkFresh is called.
func New(loader Loader, cfg Config) *Store {
	if cfg.Entries <= 0 {
		cfg.Entries = 10_000
	}
	if cfg.Bytes <= 0 {
		cfg.Bytes = 64 << 20
	}
	if cfg.MaxStale <= 0 {
		cfg.MaxStale = 10 * time.Second
	}
	if cfg.Wait <= 0 {
		cfg.Wait = 60 * time.Millisecond
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Now
	}
	weight := func(e *entry) int64 { return e.weight }
	s := &Store{
		cfg: cfg, loader: loader,
		present: bounded.New[Key](cfg.Entries, cfg.Bytes, weight),
		absent:  bounded.New[Key](cfg.Entries/absentShare, cfg.Bytes/absentShare, weight),
	}
	s.epoch.Store(1)
	s.freshAt.Store(neverFresh)
	return s
}

// Kind is the kind of a key. Together with the names it is hashed; the triggers
// of the database do the same.
type Kind byte

// kindNames are those of kinds that have documents.
var kindNames = map[Kind]string{User: "user", Tenant: "tenant", Client: "client"}

// The kinds. The first three have documents.
const (
	User        Kind = 'u' // issuer, subject
	Tenant      Kind = 't' // id
	Client      Kind = 'c' // issuer, client_id
	Members     Kind = 'm' // id of a tenant: its members' and clients' documents
	GlobalRoles Kind = 'g'
	everything  Kind = '*' // only counted
)

// Key is the first half of the SHA-256 of kind and names, NUL between them. No
// name holds a NUL, so two different keys never hash the same bytes.
type Key [16]byte

// KeyOf returns the key of a kind and its names; b is empty where there is one.
func KeyOf(k Kind, a, b string) Key {
	var buf [1024]byte
	h := append(buf[:0], byte(k), 0)
	h = append(h, a...)
	h = append(h, 0)
	h = append(h, b...)
	sum := sha256.Sum256(h)
	return Key(sum[:16])
}

func (k Key) slot() uint32 { return binary.BigEndian.Uint32(k[:]) >> (32 - slotBits) }

var globalRoles = KeyOf(GlobalRoles, "", "").slot()

// InvalidateKey invalidates everything that depends on a key. A cached document of that key is
// evicted at once.
func (s *Store) InvalidateKey(kind Kind, k Key) {
	if kind == Members {
		s.members.Add(1) // before the counter: see fly
	}
	s.changes[k.slot()].Add(1)
	s.invalidations[kind].Add(1)
	s.present.Remove(k)
	s.absent.Remove(k)
}

// Change is what a transaction has changed: one key, or everything.
type Change struct {
	Everything bool
	Kind       Kind
	Key        Key
}

// Invalidate invalidates whatever depends on changes. The replica that made them calls it once they
// are committed, before it responds. The change feed repeats them later.
func (s *Store) Invalidate(changes []Change) {
	for _, c := range changes {
		if c.Everything {
			s.InvalidateAll()
			return
		}
	}
	for _, c := range changes {
		s.InvalidateKey(c.Kind, c.Key)
	}
}

// InvalidateAll invalidates everything.
func (s *Store) InvalidateAll() {
	if s.epoch.Add(1) == 0 {
		s.epoch.Add(1) // after four thousand million times
	}
	s.invalidations[everything].Add(1)
	s.present.Purge()
	s.absent.Purge()
}

// MarkFresh records that every change committed before at, by the store's clock, has
// been received.
func (s *Store) MarkFresh(at time.Duration) {
	for {
		last := s.freshAt.Load()
		if int64(at) <= last || s.freshAt.CompareAndSwap(last, int64(at)) {
			return
		}
	}
}

// Age is the time since freshness was last confirmed; false where it never was.
func (s *Store) Age() (time.Duration, bool) {
	last := s.freshAt.Load()
	return s.cfg.Clock() - time.Duration(last), last != neverFresh
}

// FreshUntil is when the facts become stale by the store's clock, unless freshness is confirmed again.
func (s *Store) FreshUntil() time.Duration {
	return time.Duration(s.freshAt.Load()) + s.cfg.MaxStale
}

// MaxStale is the freshness deadline.
func (s *Store) MaxStale() time.Duration { return s.cfg.MaxStale }

// Now reads the store's clock.
func (s *Store) Now() time.Duration { return s.cfg.Clock() }

// fresh reports whether facts may be used at all.
func (s *Store) fresh(now time.Duration) bool {
	last := s.freshAt.Load()
	return last != neverFresh && now-time.Duration(last) < s.cfg.MaxStale
}

// named is a document by its names in data.directory.
type named struct {
	kind Kind
	a, b string // issuer and subject, issuer and client id, or a tenant's id
}

// entry is one document, or the absence of one. It is immutable.
type entry struct {
	named  // compared on every hit: keys are hashes
	doc    *document
	fact   Fact // for explanations and the decision log
	weight int64
	stamp  stamp
	until  time.Duration // by the clock: when it ends by itself: a membership expires, a role starts or ends; 0: never
}

// stamp is the counters that a document depends on, read before the document.
type stamp struct {
	epoch uint32 // 0: valid only for the evaluations that waited for the load
	parts []part
}

type part struct {
	slot uint32
	n    uint32
}

func (s *Store) part(slot uint32) part { return part{slot, s.changes[slot].Load()} }

// unchanged reports whether no key under st has been dropped since.
func (s *Store) unchanged(st stamp) bool {
	if st.epoch != s.epoch.Load() {
		return false
	}
	for _, p := range st.parts {
		if s.changes[p.slot].Load() != p.n {
			return false
		}
	}
	return true
}

func (e *entry) expired(now time.Duration) bool { return e.until != 0 && now >= e.until }

// cached returns what is known of a key, if it is true.
func (s *Store) cached(k Key, of named, now time.Duration) *entry {
	e, ok := s.present.Get(k)
	if !ok {
		if e, ok = s.absent.Get(k); !ok {
			return nil
		}
	}
	if e.named != of || e.expired(now) || !s.unchanged(e.stamp) {
		return nil
	}
	return e
}

// load runs, or joins, the one flight for k, and waits for it at most that long. The
// flight has a context of its own: the first caller may be canceled without
// failing the others. A change detaches the flight: later callers do not join. A flight
// that is run also reads the companions.
func (s *Store) load(ctx context.Context, k Key, of named, with companions, wait time.Duration) (*entry, error) {
	st := s.stampOf(k, of.kind)
	flight := binary.BigEndian.AppendUint32(append(make([]byte, 0, 32), k[:]...), st.epoch)
	flight = binary.BigEndian.AppendUint32(flight, s.members.Load())
	for _, p := range st.parts {
		flight = binary.BigEndian.AppendUint32(flight, p.n)
	}
	done := s.flights.DoChan(string(flight), func() (any, error) {
		return s.runLoad(tracing.Detached(ctx), k, of, with)
	})
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case r := <-done:
		if r.Err != nil {
			code := "facts_unavailable"
			if c := iam.CodeOf(r.Err); c != "" && c != "database_unavailable" { // such as database_overloaded
				code = c
			}
			return nil, unavailable(code, r.Err)
		}
		e := r.Val.(*entry) //nolint:forcetypeassert // fly returns nothing else
		if e.named != of {
			return nil, unavailable("facts_unavailable", errors.New("two keys share a hash"))
		}
		if e.expired(s.cfg.Clock()) {
			return nil, unavailable("facts_unavailable", errors.New("it ended while it was loaded"))
		}
		return e, nil
	case <-timer.C:
		return nil, unavailable("facts_timeout", fmt.Errorf("no response within %s", s.cfg.Wait))
	case <-ctx.Done():
		return nil, unavailable("facts_timeout", context.Cause(ctx))
	}
}

func unavailable(code string, cause error) error {
	return &iam.Error{Kind: iam.Unavailable, Code: code, Detail: "the facts cannot be read now", Cause: cause}
}

// stampOf notes the counters that are known before a document is.
func (s *Store) stampOf(k Key, kd Kind) stamp {
	st := stamp{epoch: s.epoch.Load(), parts: []part{s.part(k.slot())}}
	if kd == Tenant {
		st.parts = append(st.parts, s.part(globalRoles))
	}
	return st
}

// runLoad loads one document, and at the first try its companions in the same round trip.
func (s *Store) runLoad(ctx context.Context, k Key, of named, with companions) (_ *entry, err error) {
	ctx, span := tracing.Start(ctx, "load facts", attribute.String("iam.facts", kindNames[of.kind]))
	defer func() { tracing.End(span, iam.CodeOf(err), err) }()
	defer iam.Recovered(&err) // in a goroutine of its own
	ctx, cancel := context.WithTimeout(ctx, max(loadTimeout, s.cfg.Wait))
	defer cancel()
	for try := 0; ; try++ {
		b := s.begin()
		e := b.entry(k, of)
		s.loads.Add(1)
		var err error
		if batch, can := s.loader.(BatchLoader); can && try == 0 && !with.none() {
			err = b.fillWith(ctx, batch, e, with)
		} else {
			err = b.fill(ctx, e)
		}
		if err != nil {
			s.failures.Add(1)
			return nil, err
		}
		if e.expired(s.cfg.Clock()) && try < 2 {
			continue // a membership expired while it was read
		}
		if !b.settle(e) {
			if try < 2 {
				continue
			}
			e.stamp.epoch = 0
		}
		s.add(k, e)
		return e, nil
	}
}

// reading is one round trip that reads facts.
type reading struct {
	store   *Store
	at      time.Duration // before the read: a document never ends later than it should
	members uint32
}

func (s *Store) begin() reading { return reading{s, s.cfg.Clock(), s.members.Load()} }

// entry is one document that b will read: its counters are those of before.
func (b *reading) entry(k Key, of named) *entry {
	return &entry{named: of, stamp: b.store.stampOf(k, of.kind)}
}

// fill reads the facts of e and builds its document, or leaves it nil.
func (b *reading) fill(ctx context.Context, e *entry) error {
	doc, lives, err := build(ctx, b.store.loader, b.store.cfg.Issuers, e.named)
	if err != nil {
		return err
	}
	b.set(e, doc, lives)
	return nil
}

// set sets the document of e, or that there is none.
func (b *reading) set(e *entry, doc *document, lives time.Duration) {
	if lives > 0 {
		e.until = b.at + lives
	}
	if e.doc = doc; doc != nil {
		e.weight = weigh(doc.value)
	}
	e.fact = factOf(e)
}

// settle reports whether e can be cached. Which tenants a user's or a client's document references is
// known only after it was read. Their counters are noted now; that no member was dropped since the
// reading began makes it as good as before.
func (b *reading) settle(e *entry) bool {
	if e.doc == nil || len(e.doc.tenants) == 0 {
		return true
	}
	for _, tenant := range e.doc.tenants {
		e.stamp.parts = append(e.stamp.parts, b.store.part(KeyOf(Members, tenant, "").slot()))
	}
	return b.store.members.Load() == b.members
}

// add caches e, unless a change has invalidated it already.
func (s *Store) add(k Key, e *entry) {
	e.weight += int64(2*(len(e.a)+len(e.b))+8*len(e.stamp.parts)) + 400
	if !s.unchanged(e.stamp) {
		return
	}
	if e.doc == nil {
		s.present.Remove(k)
		s.absent.Add(k, e)
		return
	}
	s.absent.Remove(k)
	s.present.Add(k, e)
}

// build reads the facts of one key and builds their document; nil where there is
// none. The second result is its lifetime; 0: until it is invalidated.
func build(ctx context.Context, loader Loader, issuers iam.Issuers, of named) (*document, time.Duration, error) {
	switch of.kind {
	case User:
		facts, found, err := loader.User(ctx, of.a, of.b)
		if err != nil || !found {
			return nil, 0, err
		}
		doc, lives := userDocument(facts, issuers)
		return doc, lives, nil
	case Tenant:
		facts, found, err := loader.Tenant(ctx, of.a)
		if err != nil || !found {
			return nil, 0, err
		}
		return tenantDocument(facts, issuers), 0, nil
	case Client:
		facts, found, err := loader.Client(ctx, of.a, of.b)
		if err != nil || !found {
			return nil, 0, err
		}
		return clientDocument(facts, issuers), 0, nil
	default:
		return nil, 0, fmt.Errorf("no document is of kind %q", of.kind)
	}
}
