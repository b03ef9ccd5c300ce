package feed_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iam-service/internal/directory"
	"iam-service/internal/directory/feed"
	"iam-service/internal/iam"
)

type sent struct {
	due time.Time
	m   feed.Message
}

type replica struct {
	*testing.T
	bus   *bus
	store *directory.Store
	feed  *feed.Feed
	stop  func()
	slept atomic.Int64 // of the machine, which the clock counts

	panics atomic.Int64 // that were reported
}

// start starts a replica on b, which ends with the test.
func start(t *testing.T, b *bus) *replica {
	t.Helper()
	return startOn(t, b, b)
}

// startOn is start with a way of its own to the bus.
func startOn(t *testing.T, b *bus, source feed.Source) *replica {
	t.Helper()
	r := &replica{T: t, bus: b}
	began := time.Now()
	r.store = directory.New(b, directory.Config{
		Issuers: iam.Issuers{{URL: "i", Tenants: []string{"*"}}}, Wait: time.Second, MaxStale: 10 * time.Second,
		Clock: func() time.Duration { return time.Since(began) + time.Hour + time.Duration(r.slept.Load()) },
	})
	r.feed = feed.New(feed.Config{Source: source, Store: r.store, Log: slog.New(slog.DiscardHandler), OnPanic: func(error) { r.panics.Add(1) }})
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	t.Cleanup(func() { stop(); synctest.Wait() })
	go r.feed.Run(ctx)
	return r
}

// read returns "cached", "loaded" or the code of the error.
func (r *replica) read() string {
	r.bus.mu.Lock()
	before := r.bus.loadCount
	r.bus.mu.Unlock()
	_, err := r.store.View(directory.Caller{Issuer: "i"}, time.Now().Add(time.Minute)).Read(context.Background(), []string{"directory", "tenants", "acme"})
	r.bus.mu.Lock()
	defer r.bus.mu.Unlock()
	switch {
	case err != nil:
		return iam.CodeOf(err)
	case r.bus.loadCount != before:
		return "loaded"
	}
	return "cached"
}

func (r *replica) want(what string, state feed.State, read string) {
	r.Helper()
	synctest.Wait()
	if s := r.feed.State(); s != state {
		r.Errorf("%s: it is %s, want %s", what, s, state)
	}
	if got := r.read(); got != read {
		r.Errorf("%s: a read is %s, want %s", what, got, read)
	}
}

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}

func TestAReceivedChangeInvalidatesItsKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &bus{}
		r := start(t, b)
		r.want("at first", feed.Fresh, "loaded")
		r.want("then", feed.Fresh, "cached")
		b.send(feed.Message{Kind: directory.Tenant, Key: directory.KeyOf(directory.Tenant, "globex", "")})
		r.want("another's change", feed.Fresh, "cached")
		b.send(feed.Message{Kind: directory.Tenant, Key: directory.KeyOf(directory.Tenant, "acme", "")})
		r.want("its own change", feed.Fresh, "loaded")
		b.send(feed.Message{All: true})
		r.want("a change of everything", feed.Fresh, "loaded")
		r.want("and then", feed.Fresh, "cached")
	})
}

func TestAClusterBeatsAboutOnceASecond(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &bus{under: 2 * time.Millisecond}
		var all []*replica
		for range 20 {
			all = append(all, start(t, b))
		}
		time.Sleep(5 * time.Second)
		b.set(func() { b.beats = 0 })
		for range 100 {
			time.Sleep(time.Second)
			for _, r := range all {
				if r.feed.State() != feed.Fresh {
					t.Fatal("a replica is", r.feed.State())
				}
			}
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.beats < 70 || b.beats > 250 {
			t.Errorf("20 replicas sent %d heartbeats in 100 s", b.beats)
		}
	})
}

// The order of taking up again: nothing is dropped before the new listener stands,
// then the pool, then everything.
func TestABrokenConnectionResumesInOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &bus{}
		r := start(t, b)
		r.want("at first", feed.Fresh, "loaded")
		b.set(func() { b.refuse = errors.New("no route to host") })
		b.cut()
		time.Sleep(1900 * time.Millisecond)
		r.want("cut off for 1.9 s", feed.Fresh, "cached")
		time.Sleep(200 * time.Millisecond)
		r.want("cut off for 2.1 s", feed.Suspect, "cached")
		if err := r.feed.Problem(); err == nil || !strings.Contains(err.Error(), "no route to host") {
			t.Errorf("the problem is %v", err)
		}
		time.Sleep(7800 * time.Millisecond)
		r.want("cut off for 9.9 s", feed.Suspect, "cached")
		b.set(func() { b.refuse, b.happened = nil, nil })
		time.Sleep(500 * time.Millisecond)
		r.want("connected again", feed.Fresh, "loaded")
		b.mu.Lock()
		defer b.mu.Unlock()
		if !slices.Equal(b.happened, []string{"listen", "reset"}) {
			t.Errorf("it did %q", b.happened)
		}
	})
}

func TestAListenerThatDiesInSilenceIsFoundOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &bus{}
		r := start(t, b)
		r.want("at first", feed.Fresh, "loaded")
		b.set(func() { b.deaf = true })
		time.Sleep(3100 * time.Millisecond)
		if s := r.feed.State(); s != feed.Suspect {
			t.Errorf("after 3.1 s of silence it is %s", s)
		}
		for at := 3100 * time.Millisecond; at < 20*time.Second; at += 100 * time.Millisecond {
			time.Sleep(100 * time.Millisecond)
			if got := r.read(); at > 10*time.Second && got != "facts_stale" {
				t.Fatalf("after %s of silence a read is %s", at, got)
			}
		}
		b.set(func() { b.deaf = false })
		time.Sleep(4 * time.Second)
		r.want("when it receives again", feed.Fresh, "loaded")
	})
}

func TestAStaleReplicaIsNotReadyUntilFreshnessWasConfirmedForAWhile(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &bus{}
		r := start(t, b)
		ready := func(what, why string) {
			t.Helper()
			synctest.Wait()
			switch err := r.feed.Ready(); {
			case why == "" && err != nil:
				t.Errorf("%s: not ready: %v", what, err)
			case why != "" && (err == nil || !strings.Contains(err.Error(), why)):
				t.Errorf("%s: %v, want %q", what, err, why)
			}
		}
		ready("a start waits for nothing", "")
		down := func(why string) {
			b.set(func() { b.refuse = errors.New(why) })
			b.cut()
		}
		up := func() { b.set(func() { b.refuse = nil }) }
		down("no route to host")
		time.Sleep(9 * time.Second)
		ready("suspect", "")
		time.Sleep(2 * time.Second)
		ready("stale", "facts are stale, every response is 503: listen: no route to host")
		up()
		time.Sleep(time.Second)
		r.want("connected again", feed.Fresh, "loaded")
		ready("fresh for a moment", "fresh for less than 3s")
		down("gone again")
		time.Sleep(4 * time.Second)
		ready("suspect after that", "fresh for less than 3s")
		up()
		time.Sleep(2 * time.Second)
		ready("a gap begins the wait anew", "fresh for less than 3s")
		time.Sleep(3 * time.Second)
		ready("confirmed for 3 s", "")
		down("once more")
		time.Sleep(5 * time.Second)
		ready("a gap that makes nothing stale", "")
	})
}

// A heartbeat that waited in a buffer does not confirm that facts are fresh now.
func TestFreshnessCountsFromTheSending(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &bus{}
		r := start(t, b)
		r.want("at first", feed.Fresh, "loaded")
		b.set(func() { b.under = 1500 * time.Millisecond })
		time.Sleep(3500 * time.Millisecond)
		if age, _ := r.store.Age(); age < 1500*time.Millisecond {
			t.Errorf("with heartbeats that take 1.5 s the facts are %s old", age)
		}
		b.set(func() { b.under = 12 * time.Second })
		for range 200 {
			time.Sleep(100 * time.Millisecond)
		}
		r.want("with heartbeats that take 12 s", feed.Stale, "facts_stale")
	})
}

// A database that is slow is not asked to begin anew: that would drop everything,
// again and again, while it is slow.
func TestLateIsNotDead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &bus{}
		r := start(t, b)
		time.Sleep(time.Second)
		b.set(func() { b.under = 3 * time.Second; b.happened = nil })
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			if got := r.read(); strings.HasPrefix(got, "facts_") {
				t.Fatalf("with messages that take 3 s a read is %s", got)
			}
		}
		b.mu.Lock()
		again := len(b.happened) / 2 // listen and reset
		b.mu.Unlock()
		if s := r.feed.State(); s != feed.Suspect || again > 2 {
			t.Errorf("it is %s, and began anew %d times in a minute", s, again)
		}
	})
}

func TestABeatOfAnotherReplicaIsAProof(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &bus{skew: -400 * time.Hour} // the database's clock is its own
		r := start(t, b)
		r.want("at first", feed.Fresh, "loaded")
		quiet := &silent{bus: b}
		other := startOn(t, b, quiet)
		time.Sleep(time.Second)
		quiet.loud.Store(true)
		b.set(func() { b.mute = errors.New("no connection in the pool") })
		for range 300 {
			time.Sleep(100 * time.Millisecond)
			if s := r.feed.State(); s != feed.Fresh {
				t.Fatalf("another sends heartbeats and it is %s", s)
			}
		}
		other.stop()
		time.Sleep(3 * time.Second)
		if s := r.feed.State(); s == feed.Fresh {
			t.Error("it is fresh without a heartbeat")
		}
	})
}

// silent is a bus on which one replica can send heartbeats and the others cannot.
type silent struct {
	*bus
	loud atomic.Bool
}

func (s *silent) SendHeartbeat(ctx context.Context, nonce string) error {
	if s.loud.Load() {
		s.send(feed.Message{Heartbeat: &feed.Heartbeat{Nonce: nonce, At: time.Duration(time.Now().UnixNano()) + s.skew}})
		return nil
	}
	return s.bus.SendHeartbeat(ctx, nonce)
}

// A clock that is set forward or back makes nothing younger than it is.
func TestADatabaseWhoseClockJumpsProvesNothingByIt(t *testing.T) {
	for name, jump := range map[string]time.Duration{"forward": time.Hour, "back": -time.Hour, "forward a little": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := &bus{}
				r, other := start(t, b), start(t, b)
				r.want("at first", feed.Fresh, "loaded")
				time.Sleep(10 * time.Second)
				b.set(func() { b.skew += jump })
				for range 100 {
					time.Sleep(100 * time.Millisecond)
					for _, x := range []*replica{r, other} {
						if s := x.feed.State(); s != feed.Fresh {
							t.Fatalf("it is %s", s)
						}
					}
				}
				// Under way for 0.7 s, and by the old offset an hour young: whatever is
				// taken as confirmation now is no younger than that.
				b.set(func() { b.skew += jump; b.under = 700 * time.Millisecond })
				last := map[*replica]time.Duration{}
				for range 100 {
					for _, x := range []*replica{r, other} {
						age, _ := x.store.Age()
						if age < last[x] && age < 690*time.Millisecond {
							t.Fatalf("heartbeats take 0.7 s and the facts are said to be %s old", age)
						}
						last[x] = age
					}
					time.Sleep(50 * time.Millisecond)
				}
			})
		})
	}
}

func TestAMachineThatSleptTrustsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &bus{}
		r := start(t, b)
		r.want("at first", feed.Fresh, "loaded")
		r.slept.Add(int64(time.Minute))
		if got := r.read(); got != "facts_stale" {
			t.Errorf("the first read after a sleep is %s", got)
		}
		time.Sleep(time.Second)
		r.want("a second later", feed.Fresh, "loaded")
	})
}

func TestAPoolerThatBreaksListenStopsTheStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &bus{deaf: true}
		r := start(t, b)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := r.feed.Started(ctx); !errors.Is(err, feed.ErrNothingReceived) {
			t.Errorf("got %v", err)
		}
		if got := r.read(); got != "facts_stale" {
			t.Errorf("a read is %s", got)
		}
		b.set(func() { b.deaf = false })
		if err := r.feed.Started(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// shaky is a way to the bus on which one thing panics, once.
type shaky struct {
	*bus
	beat, next atomic.Bool // the next one panics
}

func (s *shaky) SendHeartbeat(ctx context.Context, nonce string) error {
	if s.beat.CompareAndSwap(true, false) {
		panic("a bad heartbeat")
	}
	return s.bus.SendHeartbeat(ctx, nonce)
}

func (s *shaky) Listen(ctx context.Context) (feed.Listener, error) {
	l, err := s.bus.Listen(ctx)
	return shakyListener{l, s}, err
}

type shakyListener struct {
	feed.Listener
	s *shaky
}

func (l shakyListener) Next(ctx context.Context) (feed.Message, error) {
	m, err := l.Listener.Next(ctx)
	if l.s.next.CompareAndSwap(true, false) {
		panic("a bad message")
	}
	return m, err
}

// A panic over one heartbeat or one message is reported; the feed is fresh again, and nothing that changed meanwhile is served.
func TestThePanicOfAGoroutineEndsNothingElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &bus{}
		s := &shaky{bus: b}
		r := startOn(t, b, s)
		r.want("at first", feed.Fresh, "loaded")
		s.beat.Store(true)
		time.Sleep(4 * time.Second)
		r.want("after a heartbeat that panicked", feed.Fresh, "cached")
		if n := r.panics.Load(); n != 1 {
			t.Errorf("%d panics are reported, want 1", n)
		}
		s.next.Store(true)
		time.Sleep(4 * time.Second)
		r.want("after a message that panicked", feed.Fresh, "loaded")
		if n := r.panics.Load(); n != 2 {
			t.Errorf("%d panics are reported, want 2", n)
		}
	})
}
