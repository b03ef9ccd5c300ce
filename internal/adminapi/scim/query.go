package scim

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	filter "github.com/scim2/filter-parser/v2"

	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// Limits of lists.
const (
	defaultCount = 100
	maxCount     = 200
	maxStart     = 1_000_000
	maxFilter    = 2048   // bytes
	maxNesting   = 8      // of parentheses and brackets
	maxListed    = 50_000 // members in one list of groups: a page ends earlier
)

// listQuery is what a request of a list asks for.
type listQuery struct {
	postgres.SCIMQuery
	start    int  // startIndex
	byCursor bool // RFC 9865, else by index
	shown    projection
}

// list reads the query of a GET, or the body of a POST to .search (RFC 7644, section 3.4.3).
func (r *request) list() (q listQuery, err error) {
	params := r.URL.Query()
	if r.Method == http.MethodPost {
		if params, err = searchParams(r.body); err != nil {
			return q, err
		}
	}
	q.Tenant = r.tenant
	q.shown = project(params["attributes"], params["excludedAttributes"])
	if q.Limit, err = number(params, "count", defaultCount); err != nil {
		return q, err
	}
	q.Limit = min(max(q.Limit, 0), maxCount)
	if q.start, err = number(params, "startIndex", 1); err != nil {
		return q, err
	}
	if q.start = max(q.start, 1); q.start > maxStart {
		return q, malformed(invalidValue, "startIndex is 1,000,000 at most: use a cursor (RFC 9865)")
	}
	q.Offset = q.start - 1
	if cursor, given := params["cursor"]; given {
		if params.Has("startIndex") {
			return q, malformed(invalidValue, "cursor and startIndex exclude each other")
		}
		q.byCursor = true
		if q.After, err = decodeCursor(cursor[0]); err != nil {
			return q, err
		}
	}
	if text := params.Get("filter"); text != "" {
		q.Filter, err = parseFilter(text)
	}
	return q, err
}

func number(params url.Values, name string, without int) (int, error) {
	if params.Get(name) == "" {
		return without, nil
	}
	n, err := strconv.Atoi(params.Get(name))
	if err != nil {
		return 0, malformed(invalidValue, name+" must be a whole number")
	}
	return n, nil
}

// searchParams turns the body of a search into parameters.
func searchParams(body []byte) (url.Values, error) {
	o, err := parseObject(body)
	if err != nil {
		return nil, err
	}
	params := url.Values{}
	for _, name := range []string{"filter", "startIndex", "count", "cursor", "attributes", "excludedAttributes"} {
		raw, given := o[strings.ToLower(name)]
		if !given || isNull(raw) {
			continue
		}
		var s string
		var n int
		var list []string
		switch {
		case json.Unmarshal(raw, &s) == nil:
			params.Add(name, s)
		case json.Unmarshal(raw, &n) == nil:
			params.Add(name, strconv.Itoa(n))
		case json.Unmarshal(raw, &list) == nil:
			params[name] = list
		default:
			return nil, malformed(invalidSyntax, name+" has a value of another type")
		}
	}
	return params, nil
}

// A cursor is the id of the last resource of the page before.
func encodeCursor(id string) string { return base64.RawURLEncoding.EncodeToString([]byte(id)) }

func decodeCursor(cursor string) (string, error) {
	id, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || cursor != "" && len(id) != 36 || strings.Trim(string(id), "0123456789abcdef-") != "" {
		return "", malformed(invalidCursor, "cursor is not the nextCursor of an earlier page")
	}
	return string(id), nil
}

// page is a list response.
type page struct {
	Schemas      []string   `json:"schemas"`
	TotalResults int        `json:"totalResults"`
	StartIndex   int        `json:"startIndex,omitempty"`
	ItemsPerPage int        `json:"itemsPerPage"`
	NextCursor   string     `json:"nextCursor,omitempty"`
	Resources    []resource `json:"Resources"`
}

// answer is a page of resources; last is the id of the last one, and more says that others follow.
func (q listQuery) answer(total int, resources []resource, last string, more bool) page {
	p := page{Schemas: []string{listSchema}, TotalResults: total, ItemsPerPage: len(resources), Resources: resources}
	switch {
	case !q.byCursor:
		p.StartIndex = q.start
	case more:
		p.NextCursor = encodeCursor(last)
	}
	return p
}

// parseFilter parses a filter. The parser recurses with the nesting, which is therefore bounded.
func parseFilter(text string) (*postgres.SCIMFilter, error) {
	if err := simple(text); err != nil {
		return nil, malformed(invalidFilter, err.Error())
	}
	expression, err := filter.ParseFilterNumber([]byte(text))
	if err != nil {
		return nil, malformed(invalidFilter, "the filter cannot be parsed: see RFC 7644, section 3.4.2.2")
	}
	return translate(expression)
}

// simple rejects a filter or a path that is too long, or nested too deeply.
func simple(text string) error {
	if len(text) > maxFilter {
		return iam.Errorf(iam.Malformed, "a filter has %d bytes at most", maxFilter)
	}
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '(' || c == '[':
			if depth++; depth > maxNesting {
				return iam.Errorf(iam.Malformed, "a filter is nested %d times at most", maxNesting)
			}
		case c == ')' || c == ']':
			depth--
		}
	}
	return nil
}

func translate(e filter.Expression) (*postgres.SCIMFilter, error) {
	switch e := e.(type) {
	case *filter.LogicalExpression:
		left, err := translate(e.Left)
		if err != nil {
			return nil, err
		}
		right, err := translate(e.Right)
		return &postgres.SCIMFilter{Logic: string(e.Operator), Of: []*postgres.SCIMFilter{left, right}}, err
	case *filter.NotExpression:
		of, err := translate(e.Expression)
		return &postgres.SCIMFilter{Logic: "not", Of: []*postgres.SCIMFilter{of}}, err
	case *filter.ValuePath: // members[value eq "…"] is members.value eq "…"
		inner, ok := e.ValueFilter.(*filter.AttributeExpression)
		if !ok || inner.AttributePath.SubAttribute != nil {
			return nil, malformed(invalidFilter, "a filter in brackets compares one sub-attribute")
		}
		return comparison(name(e.AttributePath)+"."+strings.ToLower(inner.AttributePath.AttributeName), inner)
	case *filter.AttributeExpression:
		return comparison(name(e.AttributePath), e)
	}
	return nil, malformed(invalidFilter, "the filter is not supported")
}

func comparison(of string, e *filter.AttributeExpression) (*postgres.SCIMFilter, error) {
	f := &postgres.SCIMFilter{Attribute: of, Operator: strings.ToLower(string(e.Operator)), Value: e.CompareValue}
	if s, ok := e.CompareValue.(string); ok {
		// The parser returns a string as it is written, with its escapes.
		if json.Unmarshal([]byte(`"`+s+`"`), &s) != nil || strings.ContainsRune(s, 0) {
			return nil, malformed(invalidFilter, "a string in the filter is no JSON string")
		}
		f.Value = s
	}
	return f, nil
}

// name is an attribute in lower case, without the schema of its resource.
func name(p filter.AttributePath) string {
	if uri := strings.TrimSuffix(p.URI(), ":"); uri != "" {
		return attribute(uri + ":" + pathName(p))
	}
	return attribute(pathName(p))
}

func pathName(p filter.AttributePath) string {
	if sub := p.SubAttributeName(); sub != "" {
		return p.AttributeName + "." + sub
	}
	return p.AttributeName
}
