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
)

// Observe is told of every request: the route without its version, "" for none.
type Observe func(handler, gateway, method string, status int, took time.Duration)

// Handle adapts a handler that can fail to one that cannot.
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

// requestIDShape is what a caller's own id of a request may look like: it goes into
// logs and answers.
var requestIDShape = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// NewRequestID is the caller's own id of a request, or a new one.
func NewRequestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-ID"); requestIDShape.MatchString(id) {
		return id
	}
	return uuid.NewString()
}

type requestIDKey struct{}

// RequestID is the id that Handle gave the request; "" where none was given.
func RequestID(r *http.Request) string {
	id, _ := r.Context().Value(requestIDKey{}).(string) // "" where none was given
	return id
}

// Observed counts and times h under the name of its route.
func Observed(route string, observe Observe, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rec := NewRecorder(w)
		h(rec, r)
		observe(route, "", r.Method, rec.Status, time.Since(began))
	}
}

// Recorder records the status that was sent.
type Recorder struct {
	http.ResponseWriter
	Status int
	Wrote  bool
}

// NewRecorder returns one for a response of which nothing is sent yet.
func NewRecorder(w http.ResponseWriter) *Recorder {
	return &Recorder{ResponseWriter: w, Status: http.StatusOK}
}

func (r *Recorder) WriteHeader(status int) {
	r.Status, r.Wrote = status, true
	r.ResponseWriter.WriteHeader(status)
}

func (r *Recorder) Write(b []byte) (int, error) {
	r.Wrote = true
	return r.ResponseWriter.Write(b)
}

// Encode writes v as JSON.
func Encode(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client is gone; nothing left to tell
	return nil
}

// Nowhere responds 404.
func Nowhere(http.ResponseWriter, *http.Request) error {
	return iam.Errorf(iam.NotFound, "no such path")
}

// NotThisMethod answers 405 with the methods that the path takes (RFC 9110, section 15.5.6).
func NotThisMethod(w http.ResponseWriter, r *http.Request) error {
	var takes []string
	if routed := chi.RouteContext(r.Context()); routed != nil {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			if !routed.Routes.Match(chi.NewRouteContext(), method, cmp.Or(r.URL.RawPath, r.URL.Path)) {
				continue
			}
			if takes = append(takes, method); method == "GET" {
				takes = append(takes, "HEAD") // whatever takes GET takes HEAD
			}
		}
	}
	w.Header().Set("Allow", strings.Join(takes, ", "))
	Write(w, Document{
		Type: "/problems/method-not-allowed", Title: "The path does not take this method", Status: http.StatusMethodNotAllowed,
	})
	return nil
}
