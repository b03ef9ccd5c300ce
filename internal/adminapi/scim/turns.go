package scim

import (
	"context"
	"sync"
	"time"

	"iam-service/internal/iam"
)

const (
	turnsAtOnce = 4  // requests of one client in progress
	turnsQueued = 32 // more that wait
	turnsWait   = 20 * time.Second
)

// turns bounds the requests of each client that are in progress at this replica. Changes of a tenant are serialized by its lock
// anyway: more of them would only take connections from other tenants.
type turns struct {
	atOnce int // of one client

	mu sync.Mutex
	of map[string]*turn
}

type turn struct {
	slots chan struct{}
	users int // in progress or waiting
}

// wait waits for a turn of a client, which done ends.
func (t *turns) wait(ctx context.Context, client string) (done func(), err error) {
	t.mu.Lock()
	if t.of == nil {
		t.of = map[string]*turn{}
	}
	q := t.of[client]
	if q == nil {
		q = &turn{slots: make(chan struct{}, t.atOnce)}
		t.of[client] = q
	}
	full := q.users >= t.atOnce+turnsQueued
	if !full {
		q.users++
	}
	t.mu.Unlock()
	if full {
		return nil, errBusy
	}
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if q.users--; q.users == 0 {
			delete(t.of, client)
		}
	}
	timeout := time.NewTimer(turnsWait)
	defer timeout.Stop()
	select {
	case q.slots <- struct{}{}:
		return func() { <-q.slots; leave() }, nil
	case <-timeout.C:
		err = errBusy
	case <-ctx.Done():
		err = &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "the request has ended", Cause: ctx.Err()}
	}
	leave()
	return nil, err
}

var errBusy = &iam.Error{Kind: iam.TooManyRequests, Code: "busy", Detail: "too many requests of this client are in progress at this replica"}
