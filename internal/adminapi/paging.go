package adminapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/url"

	"github.com/google/uuid"

	"iam-service/internal/iam"
)

// Paged is an input that asks for one page.
type Paged struct {
	Limit int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"entries of a page"`
	After string `query:"after" maxLength:"500" doc:"where to go on: next of the page before"`
}

// cursor reads what next wrote.
func (p Paged) cursor(into ...any) error {
	if p.After == "" {
		return nil
	}
	b, err := base64.RawURLEncoding.DecodeString(p.After)
	if err == nil {
		err = json.Unmarshal(b, &into)
	}
	if err != nil {
		return badCursor()
	}
	return nil
}

func badCursor() error {
	return &iam.Error{Kind: iam.Invalid, Detail: "some fields are not valid", Fields: []iam.FieldError{{Pointer: "after", Detail: "is not what a page before had in next"}}}
}

// many is an answer with a page of things.
type many[T any] struct {
	Link string `header:"Link" doc:"rel=\"next\" where there is more (RFC 8288)"`
	Body page[T]
}

type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"the value of after for the next page; absent: this is the last"`
}

// pageOf makes a page of one entry more than was asked for: whether there is more.
func pageOf[S, T any](ctx context.Context, p Paged, list []S, wire func(S) T, key func(S) []any) (*many[T], error) {
	out := &many[T]{Body: page[T]{Items: []T{}}}
	more := len(list) > p.Limit
	if more {
		list = list[:p.Limit]
	}
	for _, x := range list {
		out.Body.Items = append(out.Body.Items, wire(x))
	}
	if !more {
		return out, nil
	}
	b, err := json.Marshal(key(list[len(list)-1]))
	if err != nil {
		return nil, err
	}
	out.Body.Next = base64.RawURLEncoding.EncodeToString(b)
	req, _ := ctx.Value(requestKey{}).(request) // authenticate puts it there
	q := req.r.URL.Query()
	q.Set("after", out.Body.Next)
	out.Link = "<" + (&url.URL{Path: req.r.URL.Path, RawQuery: q.Encode()}).String() + `>; rel="next"`
	return out, nil
}

// userCursor is a cursor of one id of a user.
func (p Paged) userCursor(into *string) error {
	if err := p.cursor(into); err != nil {
		return err
	}
	if *into != "" && uuid.Validate(*into) != nil {
		return badCursor()
	}
	return nil
}
