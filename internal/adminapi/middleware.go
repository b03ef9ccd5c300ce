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
	"iam-service/internal/telemetry/tracing"
	"iam-service/internal/token"
)

// Limits of requests.
const (
	maxBody      = 64 << 10
	maxBatchBody = 4 << 20
	verifyWait   = 2 * time.Second // for an issuer's keys
	maxUploads   = 2               // bundles that are read at once
	uploadWait   = 25 * time.Second
)

// record gives each request an id, a log line and its metrics.
func (a *server) record(next http.Handler) http.Handler {
	return problem.Handle(a.failures, func(w http.ResponseWriter, r *http.Request) error {
		began := time.Now()
		ctx, span := a.Tracing.Begin(r.Context(), tracing.FromHeader("admin request", r.Header, a.Trusted.Trusts(problem.Peer(r))))
		defer span.End()
		rec := problem.NewRecorder(w)
		rec.Header().Set("Cache-Control", "no-store")
		line := &logLine{}
		a.recoverPanic(rec, r.WithContext(context.WithValue(ctx, logLineKey{}, line)), next)
		route := strings.TrimPrefix(chi.RouteContext(r.Context()).RoutePattern(), "/v1")
		took := time.Since(began)
		tracing.Served(span, tracing.Response{Method: r.Method, Route: route, Status: rec.Status})
		a.Observe(ctx, problem.Observation{Handler: route, Method: r.Method, Status: rec.Status, Took: took})
		a.Log.LogAttrs(ctx, slog.LevelInfo, "admin request", append(line.attrs,
			slog.String("method", r.Method),
			slog.String("route", route),
			slog.String("path", token.Hide(r.URL.Path)),
			slog.Int("status", rec.Status),
			slog.Duration("took", took),
			slog.String("request_id", problem.RequestID(r)),
		)...)
		return nil
	})
}

// recoverPanic turns a panic into an internal error.
func (a *server) recoverPanic(w *problem.Recorder, r *http.Request, next http.Handler) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler { //nolint:errorlint // it is the value itself
			panic(p)
		}
		a.Log.ErrorContext(r.Context(), "request panicked", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
		if w.Wrote {
			panic(http.ErrAbortHandler) // net/http closes the connection: the caller must not take a partial response for a whole one
		}
		a.failures.Write(w, r, fmt.Errorf("panic: %v", p))
	}()
	next.ServeHTTP(w, r)
}

// logLine collects attributes for the log line of a request.
type logLine struct{ attrs []slog.Attr }

type (
	logLineKey  struct{}
	callerKey   struct{}
	exchangeKey struct{}
)

// exchange is the HTTP request and the response to it, for handlers behind huma, which hides both.
type exchange struct {
	w http.ResponseWriter
	r *http.Request
}

// exchangeOf returns the zero exchange where authenticate has not run.
func exchangeOf(ctx context.Context) exchange {
	x, _ := ctx.Value(exchangeKey{}).(exchange) // the zero value where there is none
	return x
}

// authenticate rejects requests without a valid token for the admin API.
func (a *server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := a.identify(r)
		if err != nil {
			a.failures.Write(w, r, err)
			return
		}
		ctx := context.WithValue(r.Context(), callerKey{}, c)
		next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, exchangeKey{}, exchange{w, r})))
	})
}

// identify returns the caller of a request, and adds them to its log line.
func (a *server) identify(r *http.Request) (admin.Caller, error) {
	c, err := a.caller(r)
	if err != nil {
		return c, err
	}
	if line, ok := r.Context().Value(logLineKey{}).(*logLine); ok {
		line.attrs = append(line.attrs,
			slog.String("issuer", c.Token.Issuer),
			slog.String("subject", c.Token.Subject),
			slog.String("client_id", c.Token.ClientID),
			slog.String("address", c.Address),
		)
	}
	return c, nil
}

func (a *server) caller(r *http.Request) (admin.Caller, error) {
	c := admin.Caller{Via: "api", Method: r.Method, RequestID: problem.RequestID(r)}
	if c.Method == http.MethodHead {
		c.Method = http.MethodGet // a policy authorizes both alike
	}
	raw, err := problem.Bearer(r.Header)
	if err != nil {
		return c, &iam.Error{Kind: iam.Malformed, Code: "malformed_request", Detail: problem.DetailOf(err)}
	}
	if raw == "" {
		return c, iam.Errorf(iam.Unauthenticated, "a bearer token for the admin API is required")
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
		a.rejected(r.Context(), err, c.RequestID) // the reason is logged, and not part of the response
		err = &iam.Error{
			Kind:   iam.Unauthenticated,
			Code:   "invalid_token",
			Detail: "the token is expired, revoked, malformed or not for the admin API",
		}
	}
	return c, err
}

// rejected reports an error to the owner of tokens, which counts those that were rejected.
func (a *server) rejected(ctx context.Context, err error, requestID string) {
	if a.Rejected != nil {
		a.Rejected(ctx, err, slog.String("request_id", requestID))
	}
}

// admitUploads authorizes an upload before its body is read, and admits few at once: bundles are large, and validating one takes
// time and memory.
func (a *server) admitUploads(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rt := a.routeOf(r)
		if !rt.upload {
			next.ServeHTTP(w, r)
			return
		}
		if err := a.Service.Authorize(r.Context(), callerOf(r.Context()), admin.Task{Action: rt.action}); err != nil {
			a.failures.Write(w, r, err)
			return
		}
		select {
		case a.uploads <- struct{}{}:
			defer func() { <-a.uploads }()
			next.ServeHTTP(w, r)
		default:
			a.failures.Write(w, r, &iam.Error{Kind: iam.Unavailable, Code: "busy", Detail: "other bundles are being uploaded: try again"})
		}
	})
}

func callerOf(ctx context.Context) admin.Caller {
	c, _ := ctx.Value(callerKey{}).(admin.Caller) // authenticate has set it
	return c
}
