package adminapi

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"iam-service/internal/iam"
)

// limit holds what one caller writes to a rate, on this replica.
func (a *server) limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		c := callerOf(r.Context())
		left, wait := a.rates.take(c.Token.Issuer+"\x00"+c.Token.Subject+"\x00"+c.Token.ClientID, time.Now())
		h := w.Header()
		h.Set("RateLimit-Policy", fmt.Sprintf(`"writes";q=%d;w=60`, a.Writes))
		h.Set("RateLimit", fmt.Sprintf(`"writes";r=%d;t=%d`, left, int(math.Ceil(a.rates.full(left).Seconds()))))
		if wait > 0 {
			h.Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
			a.failures.Write(w, r, &iam.Error{Kind: iam.TooManyRequests, Code: "rate_limited", Detail: fmt.Sprintf("more than %d writes a minute, as this replica counts them", a.Writes)})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// rates are the buckets of callers, those seen last.
type rates struct {
	mu     sync.Mutex
	writes int
	byName *simplelru.LRU[string, *rate.Limiter]
}

func newRates(writes int) *rates {
	lru, err := simplelru.NewLRU[string, *rate.Limiter](maxLimiters, nil)
	if err != nil {
		panic(err) // the size is a constant
	}
	return &rates{writes: writes, byName: lru}
}

// take takes one write. It returns how many are left, and how long to wait where
// there was none.
func (r *rates) take(name string, now time.Time) (left int, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.byName.Get(name)
	if !ok {
		l = rate.NewLimiter(rate.Limit(float64(r.writes)/60), r.writes)
		r.byName.Add(name, l)
	}
	if !l.AllowN(now, 1) {
		missing := 1 - l.TokensAt(now)
		return 0, time.Duration(missing / float64(l.Limit()) * float64(time.Second))
	}
	return int(l.TokensAt(now)), 0
}

// full is how long it takes until all can be written again.
func (r *rates) full(left int) time.Duration {
	return time.Duration(float64(r.writes-left) / float64(r.writes) * float64(time.Minute))
}
