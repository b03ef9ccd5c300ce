package adminapi

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"iam-service/internal/admin"
	"iam-service/internal/iam"
	"iam-service/internal/problem"
	"iam-service/internal/token"
)

// Limits of the admin API.
const (
	maxBody      = 64 << 10
	maxBatchBody = 4 << 20
	verifyWait   = 2 * time.Second // for an issuer's keys
	maxLimiters  = 10_000          // callers whose rate is remembered
	maxUploads   = 2               // bundles that are read at once
	uploadWait   = 25 * time.Second
)

// around gives each request an id, a line in the log and its figures.
func (a *server) around(next http.Handler) http.Handler {
	return problem.Handle(a.failures, func(w http.ResponseWriter, r *http.Request) error {
		began := time.Now()
		rec := problem.NewRecorder(w)
		rec.Header().Set("Cache-Control", "no-store")
		line := &logLine{}
		a.survive(rec, r.WithContext(context.WithValue(r.Context(), logLineKey{}, line)), next)
		route := strings.TrimPrefix(chi.RouteContext(r.Context()).RoutePattern(), "/v1")
		took := time.Since(began)
		a.Observe(route, "", r.Method, rec.Status, took)
		a.Log.LogAttrs(r.Context(), slog.LevelInfo, "admin request", append(line.attrs,
			slog.String("method", r.Method), slog.String("route", route), slog.String("path", token.Hide(r.URL.Path)), slog.Int("status", rec.Status),
			slog.Duration("took", took), slog.String("request_id", problem.RequestID(r)))...)
		return nil
	})
}

// survive answers a request that makes us panic as any other fault of ours.
func (a *server) survive(w *problem.Recorder, r *http.Request, next http.Handler) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler { //nolint:errorlint // it is the value itself
			panic(p)
		}
		a.Log.ErrorContext(r.Context(), "a request made us panic", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
		if w.Wrote {
			panic(http.ErrAbortHandler) // half an answer is none: the connection is cut
		}
		a.failures.Write(w, r, fmt.Errorf("panic: %v", p))
	}()
	next.ServeHTTP(w, r)
}

// logLine gathers what is said of a request when it is over.
type logLine struct{ attrs []slog.Attr }

type (
	logLineKey struct{}
	callerKey  struct{}
	requestKey struct{}
)

// authenticate lets nobody pass without a token that is for the admin API.
func (a *server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := a.caller(r)
		if err != nil {
			a.failures.Write(w, r, err)
			return
		}
		if line, ok := r.Context().Value(logLineKey{}).(*logLine); ok {
			line.attrs = append(line.attrs, slog.String("issuer", c.Token.Issuer), slog.String("subject", c.Token.Subject),
				slog.String("client_id", c.Token.ClientID), slog.String("address", c.Address))
		}
		ctx := context.WithValue(r.Context(), callerKey{}, c)
		next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, requestKey{}, request{w, r})))
	})
}

// request is what handlers behind huma need of it.
type request struct {
	w http.ResponseWriter
	r *http.Request
}

func (a *server) caller(r *http.Request) (admin.Caller, error) {
	c := admin.Caller{Via: "api", Method: r.Method, RequestID: problem.RequestID(r)}
	if c.Method == http.MethodHead {
		c.Method = http.MethodGet // what a policy says of one holds for the other
	}
	raw, err := problem.Bearer(r.Header)
	if err != nil {
		return c, &iam.Error{Kind: iam.Malformed, Code: "malformed_request", Detail: problem.DetailOf(err)}
	}
	if raw == "" {
		return c, iam.Errorf(iam.Unauthenticated, "a bearer token for the admin API is needed")
	}
	peer := problem.Peer(r)
	address, err := a.Trusted.ClientIP(r.Header, peer)
	if err != nil {
		return c, &iam.Error{Kind: iam.Malformed, Code: "malformed_request", Detail: problem.DetailOf(err)}
	}
	if address = cmp.Or(address, peer); address.IsValid() {
		c.Address = address.String()
	}
	c.Token, err = a.Verify(r.Context(), raw, "", time.Now().Add(verifyWait))
	if iam.KindOf(err) == iam.Unauthenticated {
		a.rejected(r.Context(), err, c.RequestID) // why goes to our log alone
		err = &iam.Error{Kind: iam.Unauthenticated, Code: "invalid_token", Detail: "the token is expired, revoked, malformed or not for the admin API"}
	}
	return c, err
}

func (a *server) rejected(ctx context.Context, err error, request string) {
	if a.Rejected != nil {
		a.Rejected(ctx, err, slog.String("request_id", request))
	}
}

// uploads asks whether somebody may send a bundle before its body is read, and lets few do
// so at once: bundles are large, and the gate is work that not everybody can have done.
func (a *server) uploads(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/v1/policy/revisions" {
			next.ServeHTTP(w, r)
			return
		}
		err := a.Service.Authorize(r.Context(), callerOf(r.Context()), admin.Task{Action: "policy:upload"})
		if err != nil {
			a.failures.Write(w, r, err)
			return
		}
		select {
		case a.uploading <- struct{}{}:
			defer func() { <-a.uploading }()
			next.ServeHTTP(w, r)
		default:
			a.failures.Write(w, r, &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "other bundles are being sent: try again"})
		}
	})
}

func callerOf(ctx context.Context) admin.Caller {
	c, _ := ctx.Value(callerKey{}).(admin.Caller) // authenticate puts it there
	return c
}
