package httpapi

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"iam-service/internal/iam"
	"iam-service/internal/token"
)

// Problem is an RFC 9457 document.
type Problem struct { //nolint:errname // RFC 9457 calls it a problem, and so do the answers
	Type     string         `json:"type" doc:"/problems/ and the kind of failure"`
	Title    string         `json:"title"`
	Status   int            `json:"status"`
	Detail   string         `json:"detail,omitempty" doc:"what is wrong this time"`
	Code     string         `json:"code,omitempty" doc:"a stable word for programs"`
	Instance string         `json:"instance,omitempty" doc:"/requests/ and the id of the request, or /decisions/ and that of the decision"`
	Errors   []problemField `json:"errors,omitempty" doc:"every wrong field"`
}

// problemField points at one wrong input: a place in the body, or a parameter.
type problemField struct {
	Pointer   *string `json:"pointer,omitempty" doc:"JSON Pointer (RFC 6901) into the body"`
	Parameter string  `json:"parameter,omitempty" doc:"name of a header, or of a part of the path or query"`
	Detail    string  `json:"detail"`
}

// problemFields tells pointers, which are empty or begin with /, from parameters.
func problemFields(fields []iam.FieldError) []problemField {
	var out []problemField
	for _, f := range fields {
		p := problemField{Detail: f.Detail}
		if f.Pointer == "" || f.Pointer[0] == '/' {
			p.Pointer = &f.Pointer
		} else {
			p.Parameter = f.Pointer
		}
		out = append(out, p)
	}
	return out
}

// wire is the only place where a Kind becomes a status code.
var wire = map[iam.Kind]struct {
	status int
	title  string
}{
	iam.Internal:        {http.StatusInternalServerError, "Something went wrong on our side"},
	iam.Unavailable:     {http.StatusServiceUnavailable, "The answer cannot be given now"},
	iam.Invalid:         {http.StatusUnprocessableEntity, "The request is not valid"},
	iam.Unauthenticated: {http.StatusUnauthorized, "The caller is not known"},
	iam.Forbidden:       {http.StatusForbidden, "The caller may not do this"},
	iam.NotFound:        {http.StatusNotFound, "There is no such thing"},
	iam.Conflict:        {http.StatusConflict, "The request contradicts the current state"},

	iam.Malformed:            {http.StatusBadRequest, "The request cannot be read"},
	iam.TooLarge:             {http.StatusRequestEntityTooLarge, "The request is too large"},
	iam.PreconditionFailed:   {http.StatusPreconditionFailed, "It is not what the caller believes"},
	iam.PreconditionRequired: {http.StatusPreconditionRequired, "A condition is needed"},
	iam.TooManyRequests:      {http.StatusTooManyRequests, "Too many requests"},
}

// newProblem says as much about err as the outside may know.
func newProblem(err error, id string) Problem {
	kind := iam.KindOf(err)
	w := wire[kind]
	p := Problem{Type: "/problems/" + string(kind), Title: w.title, Status: w.status}
	if id != "" {
		p.Instance = "/requests/" + id
	}
	if e, ok := errors.AsType[*iam.Error](err); ok && kind != iam.Internal {
		p.Detail, p.Code, p.Errors = e.Detail, e.Code, problemFields(e.Fields)
	}
	return p
}

// writeProblem answers with p.
func writeProblem(w http.ResponseWriter, p Problem) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client is gone; nothing left to tell
}

// failures reports errors where they stop travelling.
type failures struct {
	log          *slog.Logger
	unanswerable perSecond
}

// write answers r with a problem document and, if the fault is ours, logs it.
func (f *failures) write(w http.ResponseWriter, r *http.Request, err error) {
	p := newProblem(err, requestID(r))
	f.report(w, r, p, err)
	writeProblem(w, p)
}

// report logs a fault of ours, and adds the headers that go with a problem. What cannot be answered
// now is one line a second for each code: in an outage every request fails alike.
func (f *failures) report(w http.ResponseWriter, r *http.Request, p Problem, err error) {
	attrs := []slog.Attr{slog.String("request_id", requestID(r)), slog.String("path", token.Hide(r.URL.Path)), slog.Any("err", err)}
	switch {
	case p.Status == http.StatusInternalServerError:
		f.log.LogAttrs(r.Context(), slog.LevelError, "request failed", attrs...)
	case p.Status > http.StatusInternalServerError:
		f.unanswerable.log(p.Code, func(count int64) {
			f.log.LogAttrs(r.Context(), slog.LevelWarn, "request not answerable now", append(attrs, slog.String("code", p.Code), slog.Int64("count", count))...)
		})
	case p.Status == http.StatusUnauthorized:
		challenge := "Bearer"
		if iam.CodeOf(err) != "" { // RFC 6750, section 3.1: no error code where no token came
			challenge = `Bearer error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
	}
}

// perSecond writes one line a second for each code. Its zero value is ready.
type perSecond struct {
	mu    sync.Mutex
	codes map[string]*quieted
}

type quieted struct {
	logged  time.Time
	pending int64 // since then; their line is due a second after the last one
}

// log has line write a line: at once where the last one of the code is a second old, else
// when it is, with the count of all calls until then.
func (p *perSecond) log(code string, line func(count int64)) {
	if p.due(code, line) {
		line(1)
	}
}

func (p *perSecond) due(code string, line func(count int64)) bool {
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
