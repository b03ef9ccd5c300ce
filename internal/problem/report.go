package problem

import (
	"log/slog"
	"net/http"
	"sync"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/token"
)

// Reporter logs errors and responds with their documents.
type Reporter struct {
	Logger      *slog.Logger
	unavailable PerSecond
}

// Write reports err and responds with its document.
func (f *Reporter) Write(w http.ResponseWriter, r *http.Request, err error) {
	p := New(r.Context(), err, RequestID(r))
	f.Report(w, r, p, err)
	Write(w, p)
}

// Report logs err if the service is at fault, and adds the headers of p. Of 503 there is one line a second for each code: in an
// outage every request fails alike.
func (f *Reporter) Report(w http.ResponseWriter, r *http.Request, p Document, err error) {
	attrs := []slog.Attr{slog.String("request_id", RequestID(r)), slog.String("path", token.Hide(r.URL.Path)), slog.Any("err", err)}
	switch {
	case p.Status == http.StatusInternalServerError:
		f.Logger.LogAttrs(r.Context(), slog.LevelError, "request failed", attrs...)
	case p.Status > http.StatusInternalServerError:
		f.unavailable.Log(p.Code, func(count int64) {
			f.Logger.LogAttrs(r.Context(), slog.LevelWarn, "request failed closed", append(attrs, slog.String("code", p.Code), slog.Int64("count", count))...)
		})
	case p.Status == http.StatusUnauthorized:
		challenge := "Bearer"
		if iam.CodeOf(err) != "" { // RFC 6750, section 3.1: no error code if there was no token
			challenge = `Bearer error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
	}
}

// PerSecond limits log lines to one a second for each code. The zero value is ready to use.
type PerSecond struct {
	mu    sync.Mutex
	codes map[string]*window
}

// window is the time since the last line of a code.
type window struct {
	logged  time.Time
	pending int64 // calls since then; their line follows a second after logged
}

// Log calls line at once if the last line of the code is a second old, else when it is, with the number of calls until then.
func (p *PerSecond) Log(code string, line func(count int64)) {
	if p.due(code, line) {
		line(1)
	}
}

func (p *PerSecond) due(code string, line func(count int64)) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.codes == nil {
		p.codes = map[string]*window{}
	}
	q := p.codes[code]
	if q == nil { // there are few codes
		q = &window{}
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
