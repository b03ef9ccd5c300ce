package main

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"iam-service/internal/dev/devstack"
)

// load sends enrichments for many users at a steady rate, until stop.
type load struct {
	sent, failed atomic.Int64

	cancel context.CancelFunc
	done   chan struct{}
}

func startLoad(ctx context.Context, stack *devstack.Stack, replicas []*replica, rate int) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.run(ctx, stack, replicas, rate)
	}()
	return l
}

// stop ends the load and waits for requests in flight. It may be called again.
func (l *load) stop() {
	l.cancel()
	<-l.done
}

func (l *load) run(ctx context.Context, stack *devstack.Stack, replicas []*replica, rate int) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	var inFlight sync.WaitGroup
	defer inFlight.Wait()
	steadily(ctx, rate, func(i int) {
		inFlight.Go(func() {
			token, err := userToken(stack, 5000+i%2000)
			if err == nil {
				_, err = replicas[i%len(replicas)].enrich(client, token)
			}
			l.sent.Add(1)
			if err != nil {
				l.failed.Add(1)
			}
		})
	})
}

// steadily calls do with 0, 1, 2, … at a rate a second, one call after the other, until ctx ends.
func steadily(ctx context.Context, rate int, do func(i int)) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
			do(i)
		case <-ctx.Done():
			return
		}
	}
}
