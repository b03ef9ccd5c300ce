// Package feed keeps a directory.Store consistent with the database: it receives change
// notifications, invalidates what depends on them, and confirms freshness by heartbeats.
//
// It owns the connection's life, the confirmation of freshness, and the order of recovery
// after a gap. It does not know SQL (a Source listens and sends heartbeats), nor what is
// cached.
//
//	      heartbeat            no heartbeat for 2 s         none for MAX_STALENESS
//	start ────────▶ fresh ──────────────────────────▶ suspect ──────────────────────▶ stale
//	                  ▲                                  │ still serving,               │ every read is
//	                  │                                  │ reconnecting                 │ an error (503)
//	                  └─ listen, reset pool, invalidate all, one heartbeat ◀────────────┘
//
// Stale withdraws the replica's readiness at once; it is ready again after three seconds of
// confirmed freshness (Ready).
//
// A heartbeat is a notification that is sent through the query pool after a durable
// commit, with the database's clock of before that, and received on the listener.
// Notifications arrive in the order of commits, so a replica that receives a heartbeat
// has received every change committed before it was sent, and pool and listener reach
// the same primary. Freshness counts from the moment a heartbeat was sent, never from
// its reception: it may have waited in a buffer. A replica sends a heartbeat only when it
// has received none for about a second; a cluster sends about one a second.
//
// What a failure does:
//
//   - The listener's connection breaks: detected at once, reconnected after a jittered
//     pause.
//   - It fails silently (a lost packet, a lost host): no heartbeat is received, suspect
//     after 2 s, reconnected.
//   - The listener works and the pool does not: our heartbeats are not sent, those of other
//     replicas confirm freshness. Loads fail by themselves.
//   - Both fail: suspect, then stale.
//   - They reach different servers: the Source rejects reads from a server that it does
//     not listen to.
//   - The primary loses its synchronous standbys: no heartbeat is committed, suspect, then
//     stale, since a standby may have been promoted.
//   - Messages are late: suspect, then stale, by the last heartbeat's time; the connection
//     stays open while messages arrive.
//   - A pooler that breaks LISTEN: the first heartbeat never arrives, and the start fails.
//   - A new primary: the old connections break; the listener reconnects, the pool drops its
//     connections, everything is invalidated, and one heartbeat confirms that both reach
//     the same server. Nothing is invalidated before that.
//   - The process or machine sleeps: the clock continues, so it resumes suspect or stale.
//   - The database's clock jumps: heartbeats of others seem to come from the future or the
//     past and confirm nothing; our own, timed by our own clock, do.
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
	// Listen returns a dedicated connection that receives changes, to a server that is
	// not in recovery.
	Listen(ctx context.Context) (Listener, error)
	// SendHeartbeat sends a heartbeat through the query pool.
	SendHeartbeat(ctx context.Context, nonce string) error
	// Reset makes the pools replace their connections.
	Reset()
}

// Listener is one connection. Next returns messages in the order of commits, and
// an error once the connection is unusable.
type Listener interface {
	Next(ctx context.Context) (Message, error)
	Close()
}

// Message is one notification: a heartbeat, a change of the policy, of the keys that sign assertions, of
// everything, or of one key of a fact.
type Message struct {
	Heartbeat     *Heartbeat
	Policy        bool
	AssertionKeys bool
	All           bool
	Kind          directory.Kind
	Key           directory.Key
}

// Heartbeat confirms freshness.
type Heartbeat struct {
	Nonce string
	At    time.Duration // the database's clock when it was sent, since 1970
	Queue float64       // how full the database's queue of notifications was, 0 to 1
}

// Config of a Feed.
type Config struct {
	Source  Source
	Store   *directory.Store
	Log     *slog.Logger
	OnDelay func(time.Duration) // called with the delay of each of our own heartbeats; may be nil

	// OnPolicy is called when another policy may be active, and when such a notification may
	// have been missed. It must not block; may be nil.
	OnPolicy func()

	OnAssertionKeys func() // as OnPolicy, for the keys that sign assertions

	OnPanic func(error) // called with a panic of the listener, which is connected again, or of a heartbeat; may be nil
}

const (
	heartbeatAfter   = time.Second            // without a heartbeat of any replica before this one sends one, with jitter
	suspectAfter     = 2 * time.Second        // without a heartbeat: suspect; a connection is closed after as much silence
	heartbeatTimeout = time.Second            // of sending one
	connectTimeout   = 10 * time.Second       // of connecting: several hosts may be dead
	checkInterval    = 50 * time.Millisecond  // how often the times are checked
	maxClockGain     = 20 * time.Millisecond  // by how much the database's clock may gain on ours between two own heartbeats
	minPause         = 50 * time.Millisecond  // before connecting again
	maxPause         = 500 * time.Millisecond // so that not all replicas load again at once
	stableFor        = 3 * time.Second        // how long freshness is confirmed after a staleness before the replica is ready again
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
	name  string // of this replica, in its heartbeats
	count atomic.Int64

	first    sync.Once
	started  chan struct{} // closed when freshness is first confirmed
	listened atomic.Bool   // a listener was connected once
	problem  atomic.Pointer[error]
	queue    atomic.Uint64 // millionths

	recent recent

	sessions, heartbeats, received atomic.Int64
	recovered                      atomic.Int64 // when the confirmation was sent that ended the last staleness; 0: it never was stale
}

// New returns a feed that does nothing yet.
func New(cfg Config) *Feed {
	if cfg.OnDelay == nil {
		cfg.OnDelay = func(time.Duration) {}
	}
	if cfg.OnPolicy == nil {
		cfg.OnPolicy = func() {}
	}
	if cfg.OnAssertionKeys == nil {
		cfg.OnAssertionKeys = func() {}
	}
	if cfg.OnPanic == nil {
		cfg.OnPanic = func(error) {}
	}
	return &Feed{cfg: cfg, name: rand.Text()[:12], started: make(chan struct{})}
}

// ErrNothingReceived means that a listener is connected and receives nothing.
var ErrNothingReceived = errors.New("no notification arrives: the listener's connection must be direct, not through a transaction pooler, and lead to the same server and schema")

// Started waits until freshness is confirmed for the first time, or ctx ends.
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
		return ErrNothingReceived
	}
	return errors.New("no connection in time")
}

// State returns the current state.
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
	return ErrNothingReceived
}

// Ready is nil while this replica can decide. While facts are stale every response is 503, so it is not ready at
// once. It is ready again once freshness was confirmed for stableFor without a gap, so that an
// unstable feed does not make readiness flap.
func (f *Feed) Ready() error {
	if f.State() == Stale {
		return fmt.Errorf("facts are stale, every response is 503: %w", f.Problem())
	}
	age, _ := f.cfg.Store.Age() // not stale: there was a confirmation
	if at := f.recovered.Load(); at != 0 && f.cfg.Store.Now()-age < time.Duration(at)+stableFor {
		return fmt.Errorf("facts were stale and are fresh for less than %s", stableFor)
	}
	return nil
}

// Stats are figures since the start; Queue is of the last heartbeat.
type Stats struct {
	Sessions, Heartbeats, Received int64
	Queue                          float64
}

// Stats returns the figures of the feed.
func (f *Feed) Stats() Stats {
	return Stats{f.sessions.Load(), f.heartbeats.Load(), f.received.Load(), float64(f.queue.Load()) / 1e6}
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
			f.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "change feed interrupted", slog.String("state", string(f.State())), slog.Any("err", err))
		}
		select {
		case <-time.After(minPause + mrand.N(maxPause-minPause)): //nolint:gosec // jitter is no secret
		case <-ctx.Done():
		}
	}
}

// session is the life of one connection. It returns why that ended.
func (f *Feed) session(ctx context.Context) error {
	connecting, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	l, err := f.cfg.Source.Listen(connecting)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer l.Close()
	// From here on no change is missed; earlier ones may be. The pool is reset first: reads
	// through an old connection, to a former primary, must not be cached.
	f.cfg.Source.Reset()
	f.cfg.Store.InvalidateAll()
	f.cfg.OnPolicy()
	f.cfg.OnAssertionKeys()
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
		panicked := iam.Try(func() { err = forward(ctx, l, messages) })
		if panicked != nil {
			f.cfg.OnPanic(panicked)
		}
		stop(fmt.Errorf("the listener broke: %w", cmp.Or(panicked, err)))
	})
	// The first heartbeat may take longer: reconnecting to a slow database would invalidate
	// everything again.
	s := session{f: f, pending: map[string]time.Duration{}, giveUp: f.cfg.Store.Now() + max(suspectAfter, f.cfg.Store.MaxStale()/2)}
	ticker := time.NewTicker(checkInterval/2 + mrand.N(checkInterval)) //nolint:gosec // replicas that started together do not look at one moment
	defer ticker.Stop()
	s.sendHeartbeat(ctx)
	for {
		select {
		case m := <-messages:
			s.handle(ctx, m)
		case <-ticker.C:
			now := f.cfg.Store.Now()
			if now >= s.giveUp {
				return ErrNothingReceived
			}
			if now >= s.due {
				s.sendHeartbeat(ctx)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// forward hands on what l receives, until it breaks or ctx ends.
func forward(ctx context.Context, l Listener, to chan<- Message) error {
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

// session is the state of one connection. Times are by the store's clock.
type session struct {
	f       *Feed
	pending map[string]time.Duration // own heartbeats that were not received yet: when they were sent
	offset  time.Duration            // our clock less the database's, at most
	known   bool                     // whether offset is
	giveUp  time.Duration            // when to close a silent connection
	due     time.Duration            // when to send the next heartbeat, if no other replica does
}

// sendHeartbeat sends a heartbeat in the background: a slow pool must not block the listener.
func (s *session) sendHeartbeat(ctx context.Context) {
	nonce := s.f.nonce()
	now := s.f.cfg.Store.Now()
	if len(s.pending) > 64 {
		clear(s.pending) // those are lost
	}
	s.pending[nonce] = now
	s.due = now + heartbeatAfter/2 // again, if this one is lost
	go func() {
		ctx, cancel := context.WithTimeout(ctx, heartbeatTimeout)
		defer cancel()
		var err error
		if panicked := iam.Try(func() { err = s.f.cfg.Source.SendHeartbeat(ctx, nonce) }); panicked != nil {
			s.f.cfg.OnPanic(panicked)
			return
		}
		if err != nil {
			s.f.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "heartbeat not sent", slog.Any("err", err))
			return
		}
		s.f.heartbeats.Add(1)
	}()
}

// handle applies a message.
func (s *session) handle(ctx context.Context, m Message) {
	s.f.received.Add(1)
	switch {
	case m.Heartbeat != nil:
		s.heartbeat(ctx, *m.Heartbeat)
	case m.Policy:
		s.f.cfg.OnPolicy()
	case m.AssertionKeys:
		s.f.cfg.OnAssertionKeys()
	case m.All:
		s.f.recent.changed(s.f.cfg.Store.Now())
		s.f.cfg.Store.InvalidateAll()
	default:
		s.f.recent.changed(s.f.cfg.Store.Now())
		s.f.cfg.Store.InvalidateKey(m.Kind, m.Key)
	}
}

// heartbeat computes when b was sent, by our own clock. For our own heartbeats it is known. For
// those of other replicas the database's clock is known, and our own last heartbeat has its offset: that
// one was sent before the database read its clock, so the computed time
// is never too late, unless its clock has gained on ours since.
func (s *session) heartbeat(ctx context.Context, b Heartbeat) {
	s.f.queue.Store(uint64(b.Queue * 1e6))
	now := s.f.cfg.Store.Now()
	sent, own := s.pending[b.Nonce]
	switch {
	case own:
		delete(s.pending, b.Nonce)
		s.offset, s.known = sent-b.At, true
		s.f.cfg.OnDelay(now - sent)
		s.f.recent.delayed(now, now-sent)
	case !s.known:
		return
	default:
		sent = b.At + s.offset
		if sent > now+maxClockGain {
			s.known = false
			s.sendHeartbeat(ctx)
			return
		}
		sent = min(sent, now)
	}
	if age, once := s.f.cfg.Store.Age(); once {
		gap := s.f.State()
		at := s.f.recovered.Load()
		if gap == Stale || gap == Suspect && at != 0 && now-age < time.Duration(at)+stableFor {
			s.f.recovered.Store(int64(sent))
		}
	}
	s.f.cfg.Store.MarkFresh(sent)
	s.giveUp = now + suspectAfter    // a late heartbeat proves that the connection works
	if now-sent < heartbeatAfter/4 { // a later one may come from a clock that was set back: our own heartbeat corrects that
		s.due = now + heartbeatAfter*8/10 + mrand.N(heartbeatAfter*6/10) //nolint:gosec // jitter is no secret
	}
	s.f.first.Do(func() { close(s.f.started) })
	if s.f.problem.Swap(nil) != nil {
		s.f.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "change feed fresh")
	}
}
