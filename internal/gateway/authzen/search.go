package authzen

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"

	"iam-service/internal/enrich/pdp"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/problem"
)

// What is searched, with what a request must have (sections 8.4 to 8.6).
type kind struct {
	name string
	need need
}

var (
	subjects  = kind{name: "subject", need: need{subject: "type", action: "name", resource: "type id"}}
	resources = kind{name: "resource", need: need{subject: "type id", action: "name", resource: "type"}}
	actions   = kind{name: "action", need: need{subject: "type id", resource: "type id"}}
)

// The results of one page.
const (
	defaultLimit = 50
	maxLimit     = 100
)

type entityBody struct {
	Type       string         `json:"type"`
	ID         string         `json:"id"`
	Properties map[string]any `json:"properties,omitempty"`
}

type actionBody struct {
	Name string `json:"name"`
}

type pageBody struct {
	NextToken string `json:"next_token"`
	Count     int    `json:"count"`
}

// searchBody is section 8.3: the page comes first.
type searchBody struct {
	Page    *pageBody      `json:"page,omitempty"`
	Context map[string]any `json:"context,omitempty"`
	Results []any          `json:"results"`
}

// search serves section 8.
func (s *Service) search(k kind, find func(context.Context, *pdp.Caller, pdp.Request, pdp.Page) (pdp.Found, error)) handler {
	return func(w http.ResponseWriter, r *http.Request, c *pdp.Caller, body map[string]any) error {
		q, err := requestOf(body, k.need)
		if err != nil {
			return err
		}
		paged, page, err := pageOf(k, c, body)
		if err != nil {
			return err
		}
		found, err := find(r.Context(), c, q, page)
		if err != nil {
			return err
		}
		out := searchBody{Results: []any{}}
		for _, e := range found.Entities {
			out.Results = append(out.Results, entityBody(e))
		}
		for _, name := range found.Actions {
			out.Results = append(out.Results, actionBody{Name: name})
		}
		if found.Unlisted {
			out.Context = map[string]any{"reasons": []policy.Reason{{Code: "resources_not_listed", Title: "The policy lists no resources of the type: the service knows none"}}}
		}
		if paged || found.Next != nil {
			out.Page = &pageBody{Count: len(out.Results)}
			if found.Next != nil {
				if out.Page.NextToken, err = tokenOf(position{After: *found.Next, Limit: page.Limit, Of: requestHash(k, c, body)}); err != nil {
					return err
				}
			}
		}
		return problem.Encode(w, http.StatusOK, out)
	}
}

// position is what a page's token has. It needs no signature: a caller that makes one up skips results of a search that
// it may run.
type position struct {
	After pdp.Position `json:"a"`
	Limit int          `json:"l"`
	Of    []byte       `json:"of"` // requestHash
}

func tokenOf(p position) (string, error) {
	text, err := json.Marshal(p)
	return base64.RawURLEncoding.EncodeToString(text), err
}

// requestHash identifies a search: the entities must be the same on each page (section 8.2).
func requestHash(k kind, c *pdp.Caller, body map[string]any) []byte {
	text, err := json.Marshal([]any{k.name, c.Tenant(), body["subject"], body["action"], body["resource"], body["context"]})
	if err != nil {
		panic(err) // it was JSON
	}
	sum := sha256.Sum256(text)
	return sum[:16]
}

// pageOf reads the page that is asked for; paged reports whether one is.
func pageOf(k kind, c *pdp.Caller, body map[string]any) (paged bool, page pdp.Page, err error) {
	page.Limit = defaultLimit
	if body["page"] == nil {
		return false, page, nil
	}
	asked, ok := body["page"].(map[string]any)
	if !ok {
		return false, page, faults{{Pointer: "/page", Detail: "must be an object"}}.err()
	}
	limit, hasLimit, err := limitOf(asked)
	if err != nil {
		return false, page, err
	}
	if hasLimit {
		page.Limit = limit
	}
	token, ok := asked["token"].(string)
	switch {
	case asked["token"] == nil:
		return true, page, nil
	case !ok:
		return false, page, faults{{Pointer: "/page/token", Detail: "must be a string"}}.err()
	case token == "":
		return true, page, nil
	}
	bad := faults{{Pointer: "/page/token", Detail: "is not the next_token of a page of this search: the entities and the limit must be the same"}}.err()
	text, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return false, page, bad
	}
	var p position
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if dec.Decode(&p) != nil || p.Limit < 0 || p.Limit > maxLimit || !bytes.Equal(p.Of, requestHash(k, c, body)) || !validPosition(k, body, p.After) {
		return false, page, bad
	}
	if hasLimit && limit != p.Limit {
		return false, page, bad
	}
	return true, pdp.Page{Limit: p.Limit, After: p.After}, nil
}

// limitOf reads page.limit: a non-negative integer. A larger one than ours is ours.
func limitOf(page map[string]any) (limit int, there bool, err error) {
	if page["limit"] == nil {
		return 0, false, nil
	}
	n, ok := page["limit"].(json.Number)
	limit, notInt := strconv.Atoi(string(n))
	if !ok || notInt != nil || limit < 0 {
		return 0, false, faults{{Pointer: "/page/limit", Detail: "must be an integer, 0 or more"}}.err()
	}
	return min(limit, maxLimit), true, nil
}

// validPosition reports whether a search can have ended there: what reaches SQL has the shape of its column.
func validPosition(k kind, body map[string]any, p pdp.Position) bool {
	subject, _ := body["subject"].(map[string]any) // it was read
	switch {
	case p == pdp.Position{}:
		return true
	case k.name != subjects.name:
		return p.Issuer == "" && len(p.ID) <= maxID
	case subject["type"] == pdp.TypeClient:
		return iam.ValidClientID(p.ID) && iam.ValidIssuer(p.Issuer)
	}
	return p.Issuer == "" && pdp.ValidUserID(p.ID)
}
