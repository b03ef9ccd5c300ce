package adminapi

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"iam-service/internal/iam"
	"iam-service/internal/problem"
)

// configureHuma makes huma respond with problem documents. huma has these settings once for the whole program.
var configureHuma = sync.OnceFunc(func() {
	huma.ValidateStrictCasing = true
	huma.DefaultArrayNullable = false // an absent list is omitted; none is null
	huma.NewErrorWithContext = func(ctx huma.Context, status int, _ string, errs ...error) huma.StatusError {
		of := context.Background()
		if ctx != nil {
			of = ctx.Context()
		}
		return invalidRequest(of, status, errs)
	}
	huma.NewError = func(status int, _ string, errs ...error) huma.StatusError {
		return invalidRequest(context.Background(), status, errs)
	}
})

// invalidRequest is the problem document of a request that huma has rejected.
func invalidRequest(ctx context.Context, status int, errs []error) *problem.Document {
	e := &iam.Error{Kind: problem.KindOf(status)}
	switch status {
	case http.StatusUnsupportedMediaType, http.StatusNotAcceptable, http.StatusRequestTimeout:
		e.Kind = iam.Malformed
	}
	e.Detail = map[iam.Kind]string{
		iam.Invalid:   "some fields are not valid",
		iam.Malformed: "the request cannot be read",
		iam.TooLarge:  "the body is too large",
	}[e.Kind]
	for _, err := range errs {
		d, ok := errors.AsType[*huma.ErrorDetail](err)
		if !ok {
			continue // not meant for callers
		}
		e.Fields = append(e.Fields, iam.FieldError{Pointer: pointerOf(d.Location), Detail: d.Message})
	}
	p := problem.New(ctx, e, problem.RequestIDIn(ctx))
	if e.Kind == iam.Malformed {
		p.Status = status // 415 is more precise than 400
	}
	return &p
}

// pointerOf turns body.roles[1] into a JSON Pointer, and query.limit into the name of the parameter.
func pointerOf(location string) string {
	where, rest, _ := strings.Cut(location, ".")
	if where != "body" && !strings.HasPrefix(where, "body[") {
		return rest
	}
	location = strings.TrimPrefix(location, "body")
	location = strings.NewReplacer("[", "/", "]", "", ".", "/").Replace(location)
	return location
}

// isText reports whether PostgreSQL accepts s as a text. A decision cannot contain any other string, so searching for one is
// the fault of the request, not of the decision log.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
