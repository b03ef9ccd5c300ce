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
	After string `query:"after" maxLength:"500" doc:"next of the previous page"`
}

// cursor decodes after, which pageOf has encoded.
func (p Paged) cursor(into ...any) error {
	if p.After == "" {
		return nil
	}
	b, err := base64.RawURLEncoding.DecodeString(p.After)
	if err == nil {
		err = json.Unmarshal(b, &into)
	}
	if err != nil {
		return invalidCursor()
	}
	return nil
}

// userCursor is cursor for a key that ends with the id of a user.
func (p Paged) userCursor(into ...*string) error {
	key := make([]any, len(into))
	for i, part := range into {
		key[i] = part
	}
	if err := p.cursor(key...); err != nil {
		return err
	}
	if id := *into[len(into)-1]; id != "" && (uuid.Validate(id) != nil || len(id) != 36) {
		return invalidCursor()
	}
	return nil
}

func invalidCursor() error {
	return iam.InvalidFields([]iam.FieldError{{Pointer: "after", Detail: "is not the next of an earlier page"}})
}

// collection is a response with a page of resources.
type collection[T any] struct {
	Link string `header:"Link" doc:"rel=\"next\" where there is more (RFC 8288)"`
	Body page[T]
}

type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"value of after for the next page; absent on the last page"`
}

// all is a collection in one page.
func all[S, T any](stored []S, wire func(S) T) *collection[T] {
	out := &collection[T]{Body: page[T]{Items: []T{}}}
	for _, x := range stored {
		out.Body.Items = append(out.Body.Items, wire(x))
	}
	return out
}

// pageOf is one page of a collection. One more than a page was read, if there is one, so that the caller learns of the next page.
func pageOf[S, T any](ctx context.Context, p Paged, stored []S, wire func(S) T, key func(S) []any) (*collection[T], error) {
	if len(stored) <= p.Limit {
		return all(stored, wire), nil
	}
	stored = stored[:p.Limit]
	out := all(stored, wire)
	cursor, err := json.Marshal(key(stored[len(stored)-1]))
	if err != nil {
		return nil, err
	}
	out.Body.Next = base64.RawURLEncoding.EncodeToString(cursor)
	out.Link = linkTo(ctx, out.Body.Next)
	return out, nil
}

// encoded is a cursor: the opposite of Paged.cursor.
func (Paged) encoded(key []any) string {
	b, err := json.Marshal(key)
	if err != nil {
		panic(err) // keys are texts, numbers and times
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// linkTo is the Link to the next page of the current request; "": there is none.
func linkTo(ctx context.Context, next string) string {
	if next == "" {
		return ""
	}
	current := exchangeOf(ctx).r.URL
	q := current.Query()
	q.Set("after", next)
	return "<" + (&url.URL{Path: current.Path, RawQuery: q.Encode()}).String() + `>; rel="next"`
}
