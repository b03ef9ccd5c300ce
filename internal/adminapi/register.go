package adminapi

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"

	"iam-service/internal/admin"
	"iam-service/internal/problem"
)

// route is one row of the table: how a request is routed, authorized, limited and documented, and what serves it.
type route struct {
	method string
	path   string
	action string // that the caller must be authorized for, as in member:create
	self   bool   // it is about the caller alone: any valid token is enough, and there is no action
	update string // of a PATCH: the action for fields other than status, for which action alone is enough
	slow   bool   // it may take minutes
	bulk   bool   // it may take a minute, in many short statements

	tag         string
	summary     string
	description string // default: the summary

	status  int       // of success; default: 200
	success string    // describes status; default: its standard text
	also    responses // further responses of success, with the same body
	errors  []int     // statuses of errors, in addition to those of the method

	maxBody      int64        // in bytes; default: maxBody
	media        []string     // further media types of the body
	schema       reflect.Type // of a body that its handler decodes itself
	optionalBody bool
	upload       bool // the caller is authorized before the body is read, and few bodies are read at once

	result  reflect.Type // of a page, where the handler writes the response itself
	exports bool         // the whole list, as JSON lines and CSV
	streams bool         // the response is JSON lines
	bundle  bool         // the response is a bundle

	handler handler
}

// responses describes responses by status.
type responses map[int]string

// takes reports whether the body may have a media type other than JSON.
func (rt route) takes(media string) bool { return slices.Contains(rt.media, media) }

// target is what a request is about, as authorization sees it.
type target struct {
	tenant string // "": the platform
	object string // id or name; "": the whole collection
	client bool   // object is a client, whose record names the tenant
}

// input is a decoded request, which knows its target.
type input[I any] interface {
	*I
	target() target
}

// Inputs can embed these: Repeatable, Leaving and Patched.
type (
	repeatable interface {
		idempotency() (key string, body []byte)
	}
	leaving interface{ leavesTenant() bool }
	patched interface{ actions(rt route) []string }
)

// call is one authenticated request to a route.
type call struct {
	caller admin.Caller
	task   admin.Task
	key    *admin.IdempotencyKey // nil: the request has none
	header http.Header           // of the response
}

// readOnly is the task without its changes, for a transaction before or after the one that writes.
func (c call) readOnly() admin.Task {
	task := c.task
	task.Writes = false
	return task
}

// handler adds a route and the function that serves it to the API.
type handler func(a *server, rt route)

// inTx serves a route within one transaction, in which the caller has been authorized.
func inTx[I, O any, P input[I]](serve func(context.Context, *admin.Work, P) (*O, error)) handler {
	return func(a *server, rt route) {
		register(a, rt, func(ctx context.Context, c call, in P) (*O, error) {
			do := func(ctx context.Context, w *admin.Work) (*O, error) { return serve(ctx, w, in) }
			if c.key == nil {
				return admin.Do(ctx, a.Service, c.caller, c.task, do)
			}
			out, replayed, err := admin.DoOnce(ctx, a.Service, admin.Repeatable{Caller: c.caller, Task: c.task, Key: *c.key}, do)
			if replayed {
				c.header.Set("Idempotency-Replayed", "true")
			}
			return out, err
		})
	}
}

// withoutTx serves a route with a function that authorizes the caller itself: it does work that must not hold a transaction open.
func withoutTx[I, O any, P input[I]](serve func(context.Context, call, P) (*O, error)) handler {
	return func(a *server, rt route) { register(a, rt, serve) }
}

func register[I, O any, P input[I]](a *server, rt route, serve func(context.Context, call, P) (*O, error)) {
	huma.Register(a.api, rt.operation(), func(ctx context.Context, in *I) (*O, error) {
		x := exchangeOf(ctx)
		out, err := serve(ctx, newCall(ctx, rt, P(in)), in)
		if document, ok := errors.AsType[*problem.Document](err); ok {
			return nil, document
		}
		if err != nil {
			document := problem.New(ctx, err, problem.RequestID(x.r))
			a.rejected(ctx, err, problem.RequestID(x.r))
			a.failures.Report(x.w, x.r, document, err)
			return nil, &document
		}
		return out, nil
	})
	a.table[rt.method+" "+rt.path] = rt
	a.document(rt)
}

func newCall[I any, P input[I]](ctx context.Context, rt route, in P) call {
	x := exchangeOf(ctx)
	about := in.target()
	c := call{
		caller: callerOf(ctx),
		header: x.w.Header(),
		task: admin.Task{
			Action:  rt.action,
			Tenant:  about.tenant,
			Object:  about.object,
			Client:  about.client,
			Writes:  rt.method != http.MethodGet,
			Patient: rt.slow,
			Bulk:    rt.bulk,
			Self:    rt.self,
		},
	}
	if l, ok := any(in).(leaving); ok {
		c.task.LeaveTenant = l.leavesTenant()
	}
	if p, ok := any(in).(patched); ok {
		actions := p.actions(rt)
		c.task.Action, c.task.Also = actions[0], actions[1:]
	}
	if r, ok := any(in).(repeatable); ok {
		if key, body := r.idempotency(); key != "" {
			hash := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s", x.r.Method, x.r.URL.RequestURI(), body))
			c.key = &admin.IdempotencyKey{Key: key, Request: hash}
		}
	}
	return c
}

// routeOf returns the route of a request, within the middleware of the routes.
func (a *server) routeOf(r *http.Request) route {
	return a.table[r.Method+" "+chi.RouteContext(r.Context()).RoutePattern()]
}

// operation is the row in huma's terms.
func (rt route) operation() huma.Operation {
	op := huma.Operation{
		OperationID:   rt.operationID(),
		Method:        rt.method,
		Path:          rt.path,
		Summary:       rt.summary,
		Description:   rt.description,
		Tags:          []string{rt.tag},
		DefaultStatus: rt.status,
		MaxBodyBytes:  rt.maxBody,
		Errors:        append(errorStatuses(rt.method), rt.errors...),
	}
	if !rt.self {
		op.Extensions = map[string]any{"x-action": rt.action}
	}
	if op.MaxBodyBytes == 0 {
		op.MaxBodyBytes = maxBody
	}
	if rt.upload {
		op.BodyReadTimeout = uploadWait
	}
	return op
}

// operationID is the method and the path, as one word.
func (rt route) operationID() string {
	path := strings.TrimPrefix(strings.TrimPrefix(rt.path, "/v1"), "/")
	return strings.ToLower(rt.method) + "-" + strings.NewReplacer("/", "-", "{", "", "}", "", ":", "-").Replace(path)
}

// errorStatuses are those that any request of a method can have.
func errorStatuses(method string) []int {
	statuses := []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusServiceUnavailable, http.StatusBadRequest}
	if method == http.MethodGet {
		return append(statuses, http.StatusUnprocessableEntity)
	}
	return append(statuses, http.StatusConflict, http.StatusPreconditionFailed, http.StatusPreconditionRequired, http.StatusUnprocessableEntity,
		http.StatusTooManyRequests, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
}

// document adds to the OpenAPI document what the row knows and huma does not read from types. It runs after huma has compiled its
// validation, which therefore stays as it is.
func (a *server) document(rt route) {
	op := operationOf(a.api.OpenAPI().Paths[rt.path], rt.method)
	if body := op.RequestBody; body != nil {
		if rt.schema != nil {
			body.Content = map[string]*huma.MediaType{jsonMedia: {Schema: a.api.OpenAPI().Components.Schemas.Schema(rt.schema, true, "")}}
		}
		for _, media := range rt.media {
			body.Content[media] = &huma.MediaType{Schema: body.Content[jsonMedia].Schema}
		}
		if rt.optionalBody {
			body.Required = false
		}
	}
	success := strconv.Itoa(op.DefaultStatus)
	for status, description := range rt.also {
		response := *op.Responses[success]
		response.Description = description
		op.Responses[strconv.Itoa(status)] = &response
	}
	if op.DefaultStatus == http.StatusNoContent {
		op.Responses[success] = &huma.Response{Description: op.Responses[success].Description}
	}
	if rt.success != "" {
		op.Responses[success].Description = rt.success
	}
	if rt.bundle {
		op.Responses[success].Content = map[string]*huma.MediaType{gzipMedia: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}
	}
	if rt.result == nil && !rt.streams {
		return
	}
	content := map[string]*huma.MediaType{}
	if rt.result != nil {
		content[jsonMedia] = &huma.MediaType{Schema: a.api.OpenAPI().Components.Schemas.Schema(rt.result, true, "")}
	}
	if rt.exports || rt.streams {
		content[linesMedia] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Description: "JSON lines"}}
	}
	if rt.exports {
		content[ndjsonMedia] = content[linesMedia]
		content[csvMedia] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Description: "CSV (RFC 4180) with a header"}}
	}
	op.Responses[success].Content = content
}

func operationOf(item *huma.PathItem, method string) *huma.Operation {
	switch method {
	case http.MethodGet:
		return item.Get
	case http.MethodPost:
		return item.Post
	case http.MethodPut:
		return item.Put
	case http.MethodPatch:
		return item.Patch
	default:
		return item.Delete
	}
}
