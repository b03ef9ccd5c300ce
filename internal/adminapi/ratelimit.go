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

	"iam-service/internal/admin"
	"iam-service/internal/iam"
)

// maxLimiters bounds the callers whose rate is known; those that wrote least recently are evicted.
const maxLimiters = 10_000

// limitWrites limits the rate of each caller's writes, on this replica.
func (a *server) limitWrites(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		if err := a.limits.limit(callerOf(r.Context()), w.Header()); err != nil {
			a.failures.Write(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// limit takes one write of a caller, and says in the headers of the response how many are left.
func (l *writeLimits) limit(c admin.Caller, h http.Header) error {
	left, wait := l.take(c.Token.Issuer+"\x00"+c.Token.Subject+"\x00"+c.Token.ClientID, time.Now())
	h.Set("RateLimit-Policy", fmt.Sprintf(`"writes";q=%d;w=60`, l.perMinute))
	h.Set("RateLimit", fmt.Sprintf(`"writes";r=%d;t=%d`, left, int(math.Ceil(l.refill(left).Seconds()))))
	if wait <= 0 {
		return nil
	}
	h.Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	return &iam.Error{Kind: iam.TooManyRequests, Code: "rate_limited", Detail: fmt.Sprintf("more than %d writes a minute, as this replica counts them", l.perMinute)}
}

// writeLimits are the token buckets of callers.
type writeLimits struct {
	mu        sync.Mutex
	perMinute int
	byCaller  *simplelru.LRU[string, *rate.Limiter]
}

func newWriteLimits(perMinute int) *writeLimits {
	lru, err := simplelru.NewLRU[string, *rate.Limiter](maxLimiters, nil)
	if err != nil {
		panic(err) // the size is a constant
	}
	return &writeLimits{perMinute: perMinute, byCaller: lru}
}

// take takes one write. It returns how many are left, and how long to wait where there was none.
func (l *writeLimits) take(caller string, now time.Time) (left int, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket, ok := l.byCaller.Get(caller)
	if !ok {
		bucket = rate.NewLimiter(rate.Limit(float64(l.perMinute)/60), l.perMinute)
		l.byCaller.Add(caller, bucket)
	}
	if !bucket.AllowN(now, 1) {
		missing := 1 - bucket.TokensAt(now)
		return 0, time.Duration(missing / float64(bucket.Limit()) * float64(time.Second))
	}
	return int(bucket.TokensAt(now)), 0
}

// refill is the time until a bucket is full again.
func (l *writeLimits) refill(left int) time.Duration {
	return time.Duration(float64(l.perMinute-left) / float64(l.perMinute) * float64(time.Minute))
}
