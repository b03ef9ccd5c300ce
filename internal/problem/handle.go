package problem

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"iam-service/internal/iam"
	"iam-service/internal/telemetry/tracing"
)

// Observation is a request that was answered.
type Observation struct {
	Handler string // its route without the version; "" where no route matched
	Gateway string // the profile of the gateway that asked; "" for others
	Method  string
	Status  int
	Took    time.Duration
}

// Observe records a request. Its context leads to its trace.
type Observe func(ctx context.Context, o Observation)

// Handle adapts a handler that returns an error: it responds with the problem document. It also gives the request an id.
func Handle(f *Reporter, h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id := NewRequestID(r)
		w.Header().Set("X-Request-ID", id)
		r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
		if err := h(w, r); err != nil {
			f.Write(w, r, err)
		}
	}
}

// requestIDPattern limits ids that callers send: they go into logs and responses.
var requestIDPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// NewRequestID is the id that the caller sent, or a new one.
func NewRequestID(r *http.Request) string { return RequestIDOf(r.Header.Get("X-Request-ID")) }

// RequestIDOf is the id that a caller sent, or a new one if that is not valid.
func RequestIDOf(sent string) string {
	if requestIDPattern.MatchString(sent) {
		return sent
	}
	return uuid.NewString()
}

type requestIDKey struct{}

// RequestID is the id that Handle gave the request; "" outside of Handle.
func RequestID(r *http.Request) string { return RequestIDIn(r.Context()) }

// RequestIDIn is RequestID of the request of a context.
func RequestIDIn(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string) // "" outside of Handle
	return id
}

// Observed records requests of h under the name of its route.
func Observed(route string, observe Observe, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rec := NewRecorder(w)
		h(rec, r)
		observe(r.Context(), Observation{Handler: route, Method: r.Method, Status: rec.Status, Took: time.Since(began)})
	}
}

// Recorder records the status of a response.
type Recorder struct {
	http.ResponseWriter
	Status int
	Wrote  bool
}

// NewRecorder wraps a response that has not started.
func NewRecorder(w http.ResponseWriter) *Recorder {
	return &Recorder{ResponseWriter: w, Status: http.StatusOK}
}

// WriteHeader implements http.ResponseWriter.
func (r *Recorder) WriteHeader(status int) {
	r.Status, r.Wrote = status, true
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *Recorder) Write(b []byte) (int, error) {
	r.Wrote = true
	return r.ResponseWriter.Write(b)
}

// Unwrap returns the response, for http.ResponseController.
func (r *Recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Encode writes v as JSON.
func Encode(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // fails only where the caller has disconnected
	return nil
}

// NotFound responds 404 to a path without a route.
func NotFound(http.ResponseWriter, *http.Request) error {
	return iam.Errorf(iam.NotFound, "no such path")
}

// MethodNotAllowed responds 405 with the methods of the path (RFC 9110, section 15.5.6).
func MethodNotAllowed(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	if routed := chi.RouteContext(r.Context()); routed != nil {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			if !routed.Routes.Match(chi.NewRouteContext(), method, cmp.Or(r.URL.RawPath, r.URL.Path)) {
				continue
			}
			if allowed = append(allowed, method); method == "GET" {
				allowed = append(allowed, "HEAD")
			}
		}
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	Write(w, Document{
		Type: "/problems/method-not-allowed", Title: "Method not allowed", Status: http.StatusMethodNotAllowed, TraceID: tracing.Of(r.Context()).Trace,
	})
	return nil
}
