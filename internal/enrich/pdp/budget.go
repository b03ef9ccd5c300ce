package pdp

import (
	"sync"
	"time"

	"iam-service/internal/bounded"
	"iam-service/internal/directory"
)

// Look-ups of absent documents that one client may cause: it is authenticated and asks about others, strangers among
// them, so it has more than a token of a gateway's request has. Absent documents are cached, too.
const (
	lookupsBurst  = 200
	lookupsPerSec = 50
	maxBudgets    = 1000 // clients; further ones begin anew
)

// budget is a client's account of look-ups in vain. It takes back what found something.
type budget struct {
	mu   sync.Mutex
	used float64
	at   time.Time
	now  func() time.Time
}

var _ directory.LookupBudget = (*budget)(nil)

// Take takes one look-up, if one is left.
func (b *budget) Take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.used = max(0, b.used-max(0, now.Sub(b.at).Seconds())*lookupsPerSec)
	b.at = now
	if b.used+1 > lookupsBurst {
		return false
	}
	b.used++
	return true
}

// Return gives one back.
func (b *budget) Return() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = max(0, b.used-1)
}

// budgets are those of the clients that have asked lately.
type budgets struct {
	mu   sync.Mutex
	all  *bounded.Cache[names, *budget]
	when func() time.Time
}

func newBudgets() *budgets {
	return &budgets{all: bounded.New[names](maxBudgets, 1<<20, func(*budget) int64 { return 200 }), when: time.Now}
}

func (b *budgets) of(client names) *budget {
	b.mu.Lock()
	defer b.mu.Unlock()
	if known, ok := b.all.Get(client); ok {
		return known
	}
	fresh := &budget{now: b.when}
	b.all.Add(client, fresh)
	return fresh
}
