// Package feed keeps a directory.Store true: it hears every change of a fact and
// drops what it makes untrue, and it proves that it hears.
//
// It owns the connection's life, the proof of freshness, and the order in which
// things are taken up again after a gap. It does not know SQL (a Source listens and
// beats), nor what is cached.
//
//	        proof                 no proof for 2 s              none for MAX_STALENESS
//	start ────────▶ fresh ──────────────────────────▶ suspect ──────────────────────▶ stale
//	                  ▲                                  │ still serving,               │ every read is
//	                  │                                  │ connecting again             │ an error (503)
//	                  └─── listen, reset the pool, drop all, prove once ◀───────────────┘
//
// Stale withdraws the replica's readiness at once; it is ready again after three seconds of
// confirmed freshness (Ready).
//
// A proof is a beat: a notification that was sent through the pool of queries after
// a durable commit, with the database's clock of before that in it, and heard on the
// listener. Notifications come
// in the order of commits, so whoever hears a beat has heard every change that was
// committed before it was sent, and it shows that pool and listener lead to the
// same primary. Freshness counts from the moment a beat was sent, never from its
// reception: one that waited in a buffer proves nothing about now. A replica beats
// only when it has heard nobody's beat for a second or so; a cluster sends about
// one a second.
//
// What a failure does:
//
//   - The listener's connection breaks: noticed at once, connected again after a
//     jittered pause.
//   - It dies in silence (a swallowed packet, a lost host): no beat is heard,
//     suspect after 2 s, connected again.
//   - The listener lives and the pool is dead: no beat of ours is sent; another
//     replica's proves that we hear. Loads fail by themselves.
//   - Both are dead: suspect, then stale.
//   - They lead to different servers: the Source refuses what is read from another
//     one than it listens to.
//   - The primary is cut off from its synchronous standbys: no beat is committed,
//     suspect, then stale, since a standby may be the primary by now.
//   - Messages are late: facts are as old as the last beat says, suspect, then
//     stale; the connection is kept as long as it is heard.
//   - A pooler that breaks LISTEN: the first beat never arrives, and Start fails.
//   - A new primary: the old connections break; the new listener stands, the pool
//     forgets its connections, everything is dropped, and one beat proves that both
//     lead to the same server. Nothing is dropped before that.
//   - The process or machine sleeps: the clock runs on, so it wakes up suspect or
//     stale.
//   - The database's clock jumps: beats of others seem to come from the future or
//     from long ago and prove nothing; our own, timed by our own clock, does.
package feed

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
)

// Source is the database.
type Source interface {
	// Listen returns a connection of its own on which changes are heard, to a server
	// that is not in recovery.
	Listen(ctx context.Context) (Listener, error)
	// Beat sends a beat through the pool of queries.
	Beat(ctx context.Context, nonce string) error
	// Reset makes the pools forget the connections they have.
	Reset()
}

// Listener is one connection. Next returns messages in the order of commits, and
// an error once the connection is of no more use.
type Listener interface {
	Next(ctx context.Context) (Message, error)
	Close()
}

// Message is one notification: a beat, a change of the policy, of everything, or of one key.
type Message struct {
	Beat   *Beat
	Policy bool
	All    bool
	Kind   directory.Kind
	Key    directory.Key
}

// Beat is a proof of life.
type Beat struct {
	Nonce string
	At    time.Duration // the database's clock when it was sent, since 1970
	Queue float64       // how full the database's queue of notifications was, 0 to 1
}

// Config of a Feed.
type Config struct {
	Source  Source
	Store   *directory.Store
	Log     *slog.Logger
	OnDelay func(time.Duration) // told how long each beat of our own was under way; may be nil

	// OnPolicy is told that another policy may be in force, and whenever that may have been
	// missed. It must not block; may be nil.
	OnPolicy func()

	OnPanic func(error) // called with a panic of the listener, which is connected again, or of a beat; may be nil
}

const (
	quiet        = time.Second            // without anybody's beat before we send one, with jitter
	suspectAfter = 2 * time.Second        // without a proof; and a connection that was heard is given up after as much silence
	beatLimit    = time.Second            // of sending one
	listenLimit  = 10 * time.Second       // of connecting: several hosts may be dead
	tick         = 50 * time.Millisecond  // how often it is looked whether a beat is due
	ahead        = 20 * time.Millisecond  // by how much the database's clock may gain on ours between two beats of our own
	pauseLeast   = 50 * time.Millisecond  // before connecting again
	pauseMost    = 500 * time.Millisecond // so that not all replicas load again at once
	steadyFor    = 3 * time.Second        // how long freshness is confirmed after a staleness before the replica is ready again
)

// State of a feed.
type State string

// The states.
const (
	Fresh   State = "fresh"
	Suspect State = "suspect"
	Stale   State = "stale"
)

// Feed is made by New and works while Run does.
type Feed struct {
	cfg   Config
	name  string // of this replica, in its beats
	count atomic.Int64

	first    sync.Once
	started  chan struct{} // closed at the first proof
	listened atomic.Bool   // a listener stood once
	problem  atomic.Pointer[error]
	queue    atomic.Uint64 // millionths

	sessions, beats, heard atomic.Int64
	recovered              atomic.Int64 // when the confirmation was sent that ended the last staleness; 0: it never was stale
}

// New returns a feed that does nothing yet.
func New(cfg Config) *Feed {
	if cfg.OnDelay == nil {
		cfg.OnDelay = func(time.Duration) {}
	}
	if cfg.OnPolicy == nil {
		cfg.OnPolicy = func() {}
	}
	if cfg.OnPanic == nil {
		cfg.OnPanic = func(error) {}
	}
	return &Feed{cfg: cfg, name: rand.Text()[:12], started: make(chan struct{})}
}

// ErrDeaf says that a listener stands and hears nothing.
var ErrDeaf = errors.New("nothing that is sent is heard: the connection that listens must be direct, not through a transaction pooler, and lead to the same server and schema")

// Started waits for the first proof, until ctx ends.
func (f *Feed) Started(ctx context.Context) error {
	select {
	case <-f.started:
		return nil
	case <-ctx.Done():
	}
	if p := f.problem.Load(); p != nil {
		return *p
	}
	if f.listened.Load() {
		return ErrDeaf
	}
	return errors.New("no connection in time")
}

// State tells of now.
func (f *Feed) State() State {
	age, once := f.cfg.Store.Age()
	switch {
	case !once || age >= f.cfg.Store.MaxStale():
		return Stale
	case age >= suspectAfter:
		return Suspect
	}
	return Fresh
}

// Problem is why the feed is not fresh; nil where it is.
func (f *Feed) Problem() error {
	if f.State() == Fresh {
		return nil
	}
	if p := f.problem.Load(); p != nil {
		return *p
	}
	return ErrDeaf
}

// Ready is nil while this replica can answer. Stale, it answers nothing but 503, so it is not ready at
// once; after that it is ready again once freshness was confirmed for steadyFor without a gap, so that a
// feed that comes and goes does not make the replica come and go.
func (f *Feed) Ready() error {
	if f.State() == Stale {
		return fmt.Errorf("facts are stale, every answer is 503: %w", f.Problem())
	}
	age, _ := f.cfg.Store.Age() // not stale: there was a confirmation
	if at := f.recovered.Load(); at != 0 && f.cfg.Store.Now()-age < time.Duration(at)+steadyFor {
		return fmt.Errorf("facts were stale and are fresh for less than %s", steadyFor)
	}
	return nil
}

// Stats are figures since the start; Queue is of the last beat.
type Stats struct {
	Sessions, Beats, Heard int64
	Queue                  float64
}

// Stats returns the figures of the feed.
func (f *Feed) Stats() Stats {
	return Stats{f.sessions.Load(), f.beats.Load(), f.heard.Load(), float64(f.queue.Load()) / 1e6}
}

func (f *Feed) nonce() string { return f.name + "-" + strconv.FormatInt(f.count.Add(1), 10) }

// Run listens until ctx ends.
func (f *Feed) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := f.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if p := f.problem.Swap(&err); p == nil || (*p).Error() != err.Error() {
			f.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the feed of changes is interrupted", slog.String("state", string(f.State())), slog.Any("err", err))
		}
		select {
		case <-time.After(pauseLeast + mrand.N(pauseMost-pauseLeast)): //nolint:gosec // jitter is no secret
		case <-ctx.Done():
		}
	}
}

// session is the life of one connection. It returns why that ended.
func (f *Feed) session(ctx context.Context) error {
	connecting, cancel := context.WithTimeout(ctx, listenLimit)
	defer cancel()
	l, err := f.cfg.Source.Listen(connecting)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer l.Close()
	// The listener stands, so nothing is missed from here on. What was missed before
	// is not known. The pool goes first: what an old connection reads, to a server
	// that is no longer the primary, must not be taken for new.
	f.cfg.Source.Reset()
	f.cfg.Store.DropAll()
	f.cfg.OnPolicy()
	f.listened.Store(true)
	f.sessions.Add(1)

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var reader sync.WaitGroup
	defer reader.Wait()
	defer stop(nil)
	messages := make(chan Message, 256)
	reader.Go(func() {
		var err error
		panicked := iam.Try(func() { err = pass(ctx, l, messages) })
		if panicked != nil {
			f.cfg.OnPanic(panicked)
		}
		stop(fmt.Errorf("the listener broke: %w", cmp.Or(panicked, err)))
	})
	// The first proof may take longer: a database that is slow must not be asked to
	// begin anew, which would drop everything again.
	s := session{f: f, pending: map[string]time.Duration{}, patience: f.cfg.Store.Now() + max(suspectAfter, f.cfg.Store.MaxStale()/2)}
	ticker := time.NewTicker(tick/2 + mrand.N(tick)) //nolint:gosec // replicas that started together do not look at one moment
	defer ticker.Stop()
	s.send(ctx)
	for {
		select {
		case m := <-messages:
			s.take(ctx, m)
		case <-ticker.C:
			now := f.cfg.Store.Now()
			if now >= s.patience {
				return ErrDeaf
			}
			if now >= s.due {
				s.send(ctx)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pass hands on what l receives, until it breaks or ctx ends.
func pass(ctx context.Context, l Listener, to chan<- Message) error {
	for {
		m, err := l.Next(ctx)
		if err != nil {
			return err
		}
		select {
		case to <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// session is what is known of one connection. Times are by the store's clock.
type session struct {
	f        *Feed
	pending  map[string]time.Duration // beats of our own that were not heard yet: when they were sent
	offset   time.Duration            // our clock less the database's, at most
	known    bool                     // whether offset is
	patience time.Duration            // when silence has lasted too long
	due      time.Duration            // when to send the next beat, if nobody else does
}

// send sends a beat, aside: a pool that is slow must not keep us from hearing.
func (s *session) send(ctx context.Context) {
	nonce := s.f.nonce()
	now := s.f.cfg.Store.Now()
	if len(s.pending) > 64 {
		clear(s.pending) // those are lost
	}
	s.pending[nonce] = now
	s.due = now + quiet/2 // again, if this one is lost
	go func() {
		ctx, cancel := context.WithTimeout(ctx, beatLimit)
		defer cancel()
		var err error
		if panicked := iam.Try(func() { err = s.f.cfg.Source.Beat(ctx, nonce) }); panicked != nil {
			s.f.cfg.OnPanic(panicked)
			return
		}
		if err != nil {
			s.f.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "a beat was not sent", slog.Any("err", err))
			return
		}
		s.f.beats.Add(1)
	}()
}

// take does what a message says.
func (s *session) take(ctx context.Context, m Message) {
	s.f.heard.Add(1)
	switch {
	case m.Beat != nil:
		s.beat(ctx, *m.Beat)
	case m.Policy:
		s.f.cfg.OnPolicy()
	case m.All:
		s.f.cfg.Store.DropAll()
	default:
		s.f.cfg.Store.Drop(m.Kind, m.Key)
	}
}

// beat works out when b was sent, by our own clock. Of our own beats we know. Of
// others' we know the database's clock, whose distance our own last one tells: that
// was sent no later than the database looked at its clock, so what is worked out
// here is never too young, unless its clock has gained on ours since.
func (s *session) beat(ctx context.Context, b Beat) {
	s.f.queue.Store(uint64(b.Queue * 1e6))
	now := s.f.cfg.Store.Now()
	sent, own := s.pending[b.Nonce]
	switch {
	case own:
		delete(s.pending, b.Nonce)
		s.offset, s.known = sent-b.At, true
		s.f.cfg.OnDelay(now - sent)
	case !s.known:
		return
	default:
		sent = b.At + s.offset
		if sent > now+ahead {
			s.known = false
			s.send(ctx)
			return
		}
		sent = min(sent, now)
	}
	if age, once := s.f.cfg.Store.Age(); once {
		gap := s.f.State()
		at := s.f.recovered.Load()
		if gap == Stale || gap == Suspect && at != 0 && now-age < time.Duration(at)+steadyFor {
			s.f.recovered.Store(int64(sent))
		}
	}
	s.f.cfg.Store.Proved(sent)
	s.patience = now + suspectAfter // late is not dead
	if now-sent < quiet/4 {         // later ones may be a clock that was set back: our own beat will tell
		s.due = now + quiet*8/10 + mrand.N(quiet*6/10) //nolint:gosec // jitter is no secret
	}
	s.f.first.Do(func() { close(s.f.started) })
	if s.f.problem.Swap(nil) != nil {
		s.f.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "the feed of changes is fresh")
	}
}
