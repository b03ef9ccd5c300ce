package adminapi

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"iam-service/internal/iam"
	"iam-service/internal/problem"
)

// useProblems makes huma speak of its own findings as we do. It is set once for the
// program: huma has no other place for it.
var useProblems = sync.OnceFunc(func() {
	huma.ValidateStrictCasing = true
	huma.DefaultArrayNullable = false // an absent list is left out; none of ours is null
	huma.NewErrorWithContext = func(ctx huma.Context, status int, _ string, errs ...error) huma.StatusError {
		return found(requestIDOf(ctx), status, errs)
	}
	huma.NewError = func(status int, _ string, errs ...error) huma.StatusError { return found("", status, errs) }
})

func requestIDOf(ctx huma.Context) string {
	if ctx == nil {
		return ""
	}
	req, _ := ctx.Context().Value(requestKey{}).(request) // "" where it is not
	if req.r == nil {
		return ""
	}
	return problem.RequestID(req.r)
}

// found makes a problem of what huma found wrong with a request.
func found(id string, status int, errs []error) *problem.Document {
	e := &iam.Error{Kind: problem.KindOf(status)}
	switch status {
	case http.StatusUnsupportedMediaType, http.StatusNotAcceptable, http.StatusRequestTimeout:
		e.Kind = iam.Malformed
	}
	e.Detail = map[iam.Kind]string{iam.Invalid: "some fields are not valid", iam.Malformed: "the request cannot be read", iam.TooLarge: "the body is too large"}[e.Kind]
	for _, err := range errs {
		d, ok := errors.AsType[*huma.ErrorDetail](err)
		if !ok {
			continue // nothing of ours that the outside needs to know
		}
		e.Fields = append(e.Fields, iam.FieldError{Pointer: pointerOf(d.Location), Detail: d.Message})
	}
	p := problem.New(e, id)
	if e.Kind == iam.Malformed {
		p.Status = status // 415 is closer than 400
	}
	return &p
}

// pointerOf makes a JSON Pointer of body.roles[1], and a name of query.limit.
func pointerOf(location string) string {
	where, rest, _ := strings.Cut(location, ".")
	if where != "body" && !strings.HasPrefix(where, "body[") {
		return rest
	}
	location = strings.TrimPrefix(location, "body")
	location = strings.NewReplacer("[", "/", "]", "", ".", "/").Replace(location)
	return location
}

// isText reports whether PostgreSQL takes s for a text. What is none is in no decision, and
// asking for it is no fault of the decision log's.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
