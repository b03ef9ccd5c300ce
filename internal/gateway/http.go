package gateway

import (
	"net/http"
	"time"

	"iam-service/internal/problem"
)

// enrichHTTP serves an enrichment over HTTP, whatever its method: gateways send the client's.
func (s *Service) enrichHTTP(w http.ResponseWriter, r *http.Request, p *Profile, rest string) {
	began := time.Now()
	q, err := s.requestOf(r, p, rest)
	from := caller{peer: problem.Peer(r)}
	if sent := r.Header["X-Request-Id"]; len(sent) > 0 {
		from.requestID = sent[0]
	}
	o := s.decide(r.Context(), q, err, from)
	if p.layout == original {
		problemHeaders(w.Header(), &o)
	}
	s.respond(w, &o)
	s.observe(r.Context(), p, r.Method, &o, time.Since(began))
}

// respond writes an outcome. On a 200 every identity header is present, also where it is empty: a
// missing header lets the client's own through.
func (s *Service) respond(w http.ResponseWriter, o *outcome) {
	out := w.Header()
	out["Cache-Control"] = noStore
	if o.status != http.StatusOK {
		if o.challenge != "" {
			out.Set("WWW-Authenticate", o.challenge)
		}
		problem.Write(w, o.problem)
		return
	}
	for i, name := range s.Headers {
		out[name] = o.values[i : i+1 : i+1]
	}
	out["Content-Length"] = zero
	w.WriteHeader(http.StatusOK)
}

// problemHeaders are what nginx can read of a problem: its auth_request drops the body of a subrequest.
func problemHeaders(h http.Header, o *outcome) {
	if o.status == http.StatusOK {
		return
	}
	if o.problem.Code != "" {
		h.Set("X-Problem-Code", o.problem.Code)
	}
	if o.problem.Instance != "" {
		h.Set("X-Problem-Instance", o.problem.Instance)
	}
}

var (
	noStore = []string{"no-store"}
	zero    = []string{"0"}
)
