package pdp

import (
	"context"
	"sync"
	"time"

	"iam-service/internal/iam"
)

// places bounds what runs at once: so many of one owner, and so many in all, so that no owner takes those of others.
type places struct {
	limit    placeLimit
	patience time.Duration // how long one waits
	what     string        // for the error, such as searches
	all      chan struct{}

	mu     sync.Mutex
	owners map[names]*ownPlaces
}

type placeLimit struct{ each, all int }

// ownPlaces are those of one owner. They exist while someone has or awaits one.
type ownPlaces struct {
	taken chan struct{}
	users int
}

func newPlaces(what string, limit placeLimit, patience time.Duration) *places {
	return &places{limit: limit, patience: patience, what: what, all: make(chan struct{}, limit.all), owners: map[names]*ownPlaces{}}
}

// take waits for a place. The caller must call release, if there is no error.
func (p *places) take(ctx context.Context, owner names) (release func(), err error) {
	own := p.of(owner)
	patience := time.NewTimer(p.patience)
	defer patience.Stop()
	busy := &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "too many " + p.what + " run at once"}
	// The owner's first: who waits for their own place has none of the others'.
	for _, places := range []chan struct{}{own.taken, p.all} {
		select {
		case places <- struct{}{}:
			continue
		case <-patience.C:
		case <-ctx.Done():
			busy.Detail = "the caller has left"
		}
		if places == p.all {
			<-own.taken
		}
		p.leave(owner, own)
		return nil, busy
	}
	return func() {
		<-p.all
		<-own.taken
		p.leave(owner, own)
	}, nil
}

func (p *places) of(owner names) *ownPlaces {
	p.mu.Lock()
	defer p.mu.Unlock()
	own := p.owners[owner]
	if own == nil {
		own = &ownPlaces{taken: make(chan struct{}, p.limit.each)}
		p.owners[owner] = own
	}
	own.users++
	return own
}

func (p *places) leave(owner names, own *ownPlaces) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if own.users--; own.users == 0 {
		delete(p.owners, owner)
	}
}
