package adminapi

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"iam-service/internal/admin"
	"iam-service/internal/problem"
)

// route is one line of the API.
type route struct {
	method, path, action string
	summary, description string
	tag                  string
	status               int // 0: 200
	maxBody              int64
}

// about is what every input says: the tenant that it is about, "" for the platform.
type about[I any] interface {
	*I
	tenant() string
}

// once is an input whose request can be repeated.
type once interface {
	key() string
	raw() []byte
}

// add registers a route: h runs within one transaction, in which its caller was found
// to be allowed what the route is about.
func add[I, O any, P about[I]](a *server, rt route, h func(context.Context, *admin.Work, P) (*O, error)) {
	register(a, rt, func(ctx context.Context, r asked, p P) (*O, error) {
		do := func(ctx context.Context, w *admin.Work) (*O, error) { return h(ctx, w, p) }
		if r.once == nil {
			return admin.Do(ctx, a.Service, r.caller, r.task, do)
		}
		out, replayed, err := admin.DoOnce(ctx, a.Service, r.caller, r.task, *r.once, do)
		if replayed {
			r.header.Set("Idempotency-Replayed", "true")
		}
		return out, err
	})
}

// asked is a request of the admin API.
type asked struct {
	caller admin.Caller
	task   admin.Task
	once   *admin.IdempotencyKey // nil: it has no key
	header http.Header           // of the answer
}

// register adds a route to the API: h sees to it that its caller may.
func register[I, O any, P about[I]](a *server, rt route, h func(context.Context, asked, P) (*O, error)) {
	op := huma.Operation{
		OperationID: operationID(rt), Method: rt.method, Path: rt.path, Summary: rt.summary, Description: rt.description,
		Tags: []string{rt.tag}, DefaultStatus: rt.status, MaxBodyBytes: rt.maxBody,
		Errors:     []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusServiceUnavailable},
		Extensions: map[string]any{"x-action": rt.action},
	}
	if op.MaxBodyBytes == 0 {
		op.MaxBodyBytes = maxBody
	}
	if op.MaxBodyBytes > maxBatchBody {
		op.BodyReadTimeout = uploadWait
	}
	writes := rt.method != http.MethodGet
	if writes {
		op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusConflict, http.StatusPreconditionFailed, http.StatusPreconditionRequired,
			http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	} else {
		op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusUnprocessableEntity)
	}
	huma.Register(a.api, op, func(ctx context.Context, in *I) (*O, error) {
		p := P(in)
		req, _ := ctx.Value(requestKey{}).(request) // authenticate puts it there
		r := asked{
			caller: callerOf(ctx), header: req.w.Header(),
			task: admin.Task{Action: rt.action, Tenant: p.tenant(), Writes: writes, Patient: rt.action == "tenant:delete"},
		}
		if o, ok := any(p).(interface{ object() string }); ok {
			r.task.Object = o.object()
		}
		_, r.task.Client = any(p).(interface{ client() })
		if l, ok := any(p).(interface{ leaves() bool }); ok {
			r.task.LeaveTenant = l.leaves()
		}
		if c, ok := any(p).(interface{ actions() []string }); ok {
			r.task.Action, r.task.Also = c.actions()[0], c.actions()[1:]
		}
		if k, ok := any(p).(once); ok && k.key() != "" {
			r.once = &admin.IdempotencyKey{Key: k.key(), Request: sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s", req.r.Method, req.r.URL.RequestURI(), k.raw()))}
		}
		out, err := h(ctx, r, p)
		if found, ok := errors.AsType[*problem.Document](err); ok {
			return nil, found
		}
		if err != nil {
			pr := problem.New(err, problem.RequestID(req.r))
			a.rejected(ctx, err, problem.RequestID(req.r))
			a.failures.Report(req.w, req.r, pr, err)
			return nil, &pr
		}
		return out, nil
	})
}

// operationID is the method and the path, as one word.
func operationID(rt route) string {
	path := strings.TrimPrefix(strings.TrimPrefix(rt.path, "/v1"), "/")
	return strings.ToLower(rt.method) + "-" + strings.NewReplacer("/", "-", "{", "", "}", "", ":", "-").Replace(path)
}
