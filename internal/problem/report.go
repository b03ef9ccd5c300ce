package problem

import (
	"log/slog"
	"net/http"
	"sync"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/token"
)

// Reporter reports errors where they stop travelling.
type Reporter struct {
	Logger       *slog.Logger
	unanswerable PerSecond
}

// write answers r with a problem document and, if the fault is ours, logs it.
func (f *Reporter) Write(w http.ResponseWriter, r *http.Request, err error) {
	p := New(err, RequestID(r))
	f.Report(w, r, p, err)
	Write(w, p)
}

// report logs a fault of ours, and adds the headers that go with a problem. What cannot be answered
// now is one line a second for each code: in an outage every request fails alike.
func (f *Reporter) Report(w http.ResponseWriter, r *http.Request, p Document, err error) {
	attrs := []slog.Attr{slog.String("request_id", RequestID(r)), slog.String("path", token.Hide(r.URL.Path)), slog.Any("err", err)}
	switch {
	case p.Status == http.StatusInternalServerError:
		f.Logger.LogAttrs(r.Context(), slog.LevelError, "request failed", attrs...)
	case p.Status > http.StatusInternalServerError:
		f.unanswerable.Log(p.Code, func(count int64) {
			f.Logger.LogAttrs(r.Context(), slog.LevelWarn, "request not answerable now", append(attrs, slog.String("code", p.Code), slog.Int64("count", count))...)
		})
	case p.Status == http.StatusUnauthorized:
		challenge := "Bearer"
		if iam.CodeOf(err) != "" { // RFC 6750, section 3.1: no error code where no token came
			challenge = `Bearer error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
	}
}

// PerSecond writes one line a second for each code. Its zero value is ready.
type PerSecond struct {
	mu    sync.Mutex
	codes map[string]*quieted
}

type quieted struct {
	logged  time.Time
	pending int64 // since then; their line is due a second after the last one
}

// log has line write a line: at once where the last one of the code is a second old, else
// when it is, with the count of all calls until then.
func (p *PerSecond) Log(code string, line func(count int64)) {
	if p.due(code, line) {
		line(1)
	}
}

func (p *PerSecond) due(code string, line func(count int64)) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.codes == nil {
		p.codes = map[string]*quieted{}
	}
	q := p.codes[code]
	if q == nil { // codes are ours, and few
		q = &quieted{}
		p.codes[code] = q
	}
	now := time.Now()
	wait := time.Second - now.Sub(q.logged)
	if q.pending == 0 && wait <= 0 {
		q.logged = now
		return true
	}
	if q.pending++; q.pending == 1 {
		time.AfterFunc(wait, func() {
			p.mu.Lock()
			count := q.pending
			q.logged, q.pending = time.Now(), 0
			p.mu.Unlock()
			line(count)
		})
	}
	return false
}
