package feed_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"iam-service/internal/directory/feed"
	"iam-service/internal/iam"
)

// bus is a database's notifications, in the time of a synctest bubble.
type bus struct {
	mu        sync.Mutex
	ears      []*ear
	refuse    error         // of Listen
	deaf      bool          // swallow what is sent
	mute      error         // of Beat
	under     time.Duration // how long a message is under way
	skew      time.Duration // of the database's clock
	beats     int
	happened  []string
	loadCount int
}

// ear is one connection. What is sent arrives in the order of sending.
type ear struct {
	b       *bus
	coming  chan sent
	ch      chan feed.Message
	cut     chan struct{}
	cutOnce sync.Once
}

func (e *ear) deliver() {
	for {
		select {
		case s := <-e.coming:
			select {
			case <-time.After(time.Until(s.due)):
				e.ch <- s.m
			case <-e.cut:
				return
			}
		case <-e.cut:
			return
		}
	}
}

func (e *ear) hangUp() { e.cutOnce.Do(func() { close(e.cut) }) }

func (b *bus) Listen(context.Context) (feed.Listener, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		return nil, b.refuse
	}
	b.happened = append(b.happened, "listen")
	e := &ear{b: b, coming: make(chan sent, 1000), ch: make(chan feed.Message, 1000), cut: make(chan struct{})}
	go e.deliver()
	b.ears = append(b.ears, e)
	return e, nil
}

func (b *bus) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.happened = append(b.happened, "reset")
}

func (b *bus) SendHeartbeat(_ context.Context, nonce string) error {
	b.mu.Lock()
	if b.mute != nil {
		defer b.mu.Unlock()
		return b.mute
	}
	b.beats++
	m := feed.Message{Heartbeat: &feed.Heartbeat{Nonce: nonce, At: time.Duration(time.Now().UnixNano()) + b.skew}}
	b.mu.Unlock()
	b.send(m)
	return nil
}

func (b *bus) send(m feed.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.deaf {
		return
	}
	for _, e := range b.ears {
		e.coming <- sent{time.Now().Add(b.under), m}
	}
}

// cut breaks all connections.
func (b *bus) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.ears {
		e.hangUp()
	}
	b.ears = nil
}

func (b *bus) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

func (e *ear) Next(ctx context.Context) (feed.Message, error) {
	select {
	case m := <-e.ch:
		return m, nil
	case <-e.cut:
		return feed.Message{}, errors.New("connection reset by peer")
	case <-ctx.Done():
		return feed.Message{}, ctx.Err()
	}
}

func (e *ear) Close() {
	e.hangUp()
	e.b.mu.Lock()
	defer e.b.mu.Unlock()
	e.b.ears = slices.DeleteFunc(e.b.ears, func(x *ear) bool { return x == e })
}

// The facts: one tenant, and how often it was asked for.
func (b *bus) Tenant(_ context.Context, id string) (iam.TenantFacts, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.loadCount++
	return iam.TenantFacts{Tenant: iam.Tenant{ID: id, Status: "active"}}, true, nil
}

func (*bus) User(context.Context, string, string) (iam.UserFacts, bool, error) {
	return iam.UserFacts{}, false, nil
}

func (*bus) Client(context.Context, string, string) (iam.ClientFacts, bool, error) {
	return iam.ClientFacts{}, false, nil
}
