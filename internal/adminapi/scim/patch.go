package scim

import (
	"encoding/json"
	"strings"

	filter "github.com/scim2/filter-parser/v2"
)

// maxOperations is the largest number of operations in one PATCH.
const maxOperations = 1000

// operation is one operation of a PATCH (RFC 7644, section 3.5.2) on one attribute.
type operation struct {
	op    string // add, remove, replace
	name  string // of the attribute, in lower case, without the schema of the resource
	path  string // as it was sent; "": the operation had none
	where filter.Expression
	sub   bool // it is about a sub-attribute
	value json.RawMessage
}

// parsePatch reads the operations of a PATCH; one without a path becomes one for each attribute of its value. Both Entra ID
// and Okta send op in any case, and names with a dot as attributes.
func parsePatch(body []byte) ([]operation, error) {
	o, err := parseObject(body)
	if err != nil {
		return nil, err
	}
	var all []operation
	n := 0
	isList, err := elements(o["operations"], func(raw json.RawMessage) error {
		operations, err := parseOperation(raw)
		if err != nil {
			return err
		}
		all = append(all, operations...)
		if n++; max(n, len(all)) > maxOperations {
			return malformed(invalidValue, "a PATCH has 1,000 operations at most; one without a path counts for each attribute of its value")
		}
		return nil
	})
	if err == nil && (!isList || n == 0) {
		err = malformed(invalidSyntax, "Operations must be a list of at least one operation")
	}
	return all, err
}

func parseOperation(raw json.RawMessage) ([]operation, error) {
	o, err := parseObject(raw)
	if err != nil {
		return nil, err
	}
	op, _, err := o.text("op")
	if err != nil {
		return nil, err
	}
	one := operation{op: strings.ToLower(op), value: o["value"]}
	switch one.op {
	case "add", "replace":
		if one.value == nil {
			return nil, malformed(invalidValue, one.op+" needs a value")
		}
	case "remove":
	default:
		return nil, malformed(invalidSyntax, "op must be add, remove or replace")
	}
	path, _, err := o.text("path")
	if err != nil {
		return nil, err
	}
	if path != "" {
		err := one.target(path)
		return []operation{one}, err
	}
	if one.op == "remove" {
		return nil, malformed(noTarget, "remove needs a path")
	}
	values, err := parseObject(one.value)
	if err != nil {
		return nil, malformed(invalidValue, "the value of an operation without a path must be an object of attributes")
	}
	all := make([]operation, 0, len(values))
	for name, value := range values {
		all = append(all, operation{op: one.op, name: name, sub: strings.ContainsAny(name, ".[:"), value: value})
	}
	return all, nil
}

// target sets what an operation is about.
func (o *operation) target(path string) error {
	if err := simple(path); err != nil {
		return malformed(invalidPath, err.Error())
	}
	cannot := malformed(invalidPath, "the path "+clip(path)+" cannot be parsed: see RFC 7644, section 3.5.2")
	outer := path
	// The parser's own filter in brackets knows one "and" or "or": the inner part is parsed as a filter of its own.
	if open, end := strings.IndexByte(path, '['), strings.LastIndexByte(path, ']'); open > 0 && open < end {
		var err error
		if o.where, err = filter.ParseFilterNumber([]byte(strings.TrimSpace(path[open+1 : end]))); err != nil {
			return cannot
		}
		outer = path[:open] + path[end+1:]
	}
	p, err := filter.ParsePathNumber([]byte(outer))
	if err != nil || p.ValueExpression != nil {
		return cannot
	}
	o.path = path
	o.name = name(filter.AttributePath{URIPrefix: p.AttributePath.URIPrefix, AttributeName: p.AttributePath.AttributeName})
	o.sub = p.SubAttribute != nil || p.AttributePath.SubAttribute != nil
	return nil
}

// values reads the ids that an operation on members names: of its value, or none.
func (o operation) values() ([]string, error) {
	if o.value == nil {
		return nil, nil
	}
	return members(o.value)
}

// matcher is the expression in brackets of a path of members, over the id of a member.
func matcher(e filter.Expression) (func(id string) bool, error) {
	switch e := e.(type) {
	case *filter.LogicalExpression:
		left, err := matcher(e.Left)
		if err != nil {
			return nil, err
		}
		right, err := matcher(e.Right)
		if e.Operator == filter.AND {
			return func(id string) bool { return left(id) && right(id) }, err
		}
		return func(id string) bool { return left(id) || right(id) }, err
	case *filter.NotExpression:
		of, err := matcher(e.Expression)
		return func(id string) bool { return !of(id) }, err
	case *filter.AttributeExpression:
		f, err := comparison(name(e.AttributePath), e)
		if err != nil {
			return nil, err
		}
		want, isText := f.Value.(string)
		equal := func(is bool) (func(string) bool, error) {
			switch f.Attribute {
			case "value":
				return func(id string) bool { return (id == want) == is }, nil
			case "type":
				return func(string) bool { return strings.EqualFold(want, "User") == is }, nil
			}
			return nil, malformed(invalidFilter, "members can be selected by value and type alone")
		}
		switch {
		case isText && f.Operator == "eq":
			return equal(true)
		case isText && f.Operator == "ne":
			return equal(false)
		}
	}
	return nil, malformed(invalidFilter, "members can be selected by eq, ne, and, or, not")
}

// single returns the id of a member that value eq "…" selects: the usual case, for which no members are read.
func single(e filter.Expression) (id string, ok bool) {
	a, ok := e.(*filter.AttributeExpression)
	if !ok {
		return "", false
	}
	f, err := comparison(name(a.AttributePath), a)
	if err != nil || f.Attribute != "value" || f.Operator != "eq" {
		return "", false
	}
	id, ok = f.Value.(string)
	return id, ok
}
