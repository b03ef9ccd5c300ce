package postgres

import (
	"fmt"
	"strings"
	"time"

	"iam-service/internal/iam"
)

// SCIMFilter is a filter (RFC 7644, section 3.4.2.2) over users or groups: either a comparison of an attribute, or the
// conjunction, disjunction or negation of other filters.
type SCIMFilter struct {
	Logic string        // "and", "or", "not"; "": a comparison
	Of    []*SCIMFilter // of a Logic

	Attribute string // in lower case: "username", "externalid", "members.value"
	Operator  string // eq, ne, co, sw, ew, pr, gt, ge, lt, le
	Value     any    // string or bool; nil: of pr
}

// scimColumn is how an attribute is compared.
type scimColumn struct {
	sql  string
	kind string // "text", "caseless", "bool", "time", "id", "members"
}

// scimTable is the columns of users or groups.
type scimTable struct {
	tenant, issuer string
	columns        map[string]scimColumn // by attribute in lower case
}

var (
	scimUserTable = scimTable{"m.tenant", "u.issuer", map[string]scimColumn{
		"id":                {"m.user_id", "id"},
		"username":          {"u.subject", "text"},
		"externalid":        {"s.external_id", "text"},
		"active":            {"(m.status = 'active' AND coalesce(m.expires_at > now(), true))", "bool"},
		"meta.created":      {"m.created_at", "time"},
		"meta.lastmodified": {"greatest(m.updated_at, s.updated_at)", "time"},
	}}
	scimGroupTable = scimTable{"g.tenant", "g.issuer", map[string]scimColumn{
		"id":                {"g.id", "id"},
		"displayname":       {"g.display_name", "caseless"},
		"externalid":        {"g.external_id", "text"},
		"members":           {"g.id", "members"},
		"members.value":     {"g.id", "members"},
		"meta.created":      {"g.created_at", "time"},
		"meta.lastmodified": {"g.updated_at", "time"},
	}}
)

func (q SCIMQuery) where(t scimTable) (w where, err error) {
	w.and(t.tenant+" = $%d", q.Tenant)
	if q.Issuer != "" {
		w.and(t.issuer+" = $%d", q.Issuer)
	}
	if q.Filter != nil {
		condition, err := w.scim(q.Filter, t.columns)
		if err != nil {
			return w, err
		}
		w.conditions = append(w.conditions, condition)
	}
	return w, nil
}

// conditionsSQL is the WHERE clause alone.
func (w *where) conditionsSQL() string { return " WHERE " + strings.Join(w.conditions, " AND ") }

func offset(w *where, n int) string {
	if n == 0 {
		return ""
	}
	w.args = append(w.args, n)
	return fmt.Sprintf(" OFFSET $%d", len(w.args))
}

// scim translates a filter. What comes from the caller becomes an argument; the rest is from the tables above.
func (w *where) scim(f *SCIMFilter, columns map[string]scimColumn) (string, error) {
	if f.Logic == "" {
		return w.compare(f, columns)
	}
	parts := make([]string, len(f.Of))
	for i, of := range f.Of {
		part, err := w.scim(of, columns)
		if err != nil {
			return "", err
		}
		parts[i] = part
	}
	if f.Logic == "not" {
		return "NOT coalesce(" + parts[0] + ", false)", nil
	}
	return "(" + strings.Join(parts, " "+strings.ToUpper(f.Logic)+" ") + ")", nil
}

var comparisons = map[string]string{"eq": "=", "ne": "IS DISTINCT FROM", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}

func (w *where) compare(f *SCIMFilter, columns map[string]scimColumn) (string, error) {
	c, known := columns[f.Attribute]
	if !known {
		return "", invalidFilter("the attribute %q cannot be filtered by", f.Attribute)
	}
	arg := func(v any, cast string) string {
		w.args = append(w.args, v)
		return fmt.Sprintf("$%d::%s", len(w.args), cast)
	}
	if c.kind == "members" {
		return w.inGroup(f, arg)
	}
	if f.Operator == "pr" {
		return c.sql + " IS NOT NULL", nil
	}
	sign := comparisons[f.Operator]
	switch v := f.Value.(type) {
	case bool:
		if c.kind == "bool" && (f.Operator == "eq" || f.Operator == "ne") {
			return c.sql + " " + sign + " " + arg(v, "bool"), nil
		}
	case string:
		switch c.kind {
		case "bool":
			if b, ok := map[string]bool{"true": true, "false": false}[strings.ToLower(v)]; ok && (f.Operator == "eq" || f.Operator == "ne") {
				return c.sql + " " + sign + " " + arg(b, "bool"), nil
			}
		case "time":
			if t, err := time.Parse(time.RFC3339, v); err == nil && sign != "" {
				// What is shown is cut to milliseconds, so that is what is compared.
				return "date_trunc('milliseconds', " + c.sql + ") " + sign + " " + arg(t, "timestamptz"), nil
			}
		case "id":
			if f.Operator == "eq" && !isUUID(v) {
				return "false", nil
			}
			if f.Operator == "eq" { // by the index
				return c.sql + " = " + arg(v, "uuid"), nil
			}
			return compareText(f.Operator, c.sql+"::text", arg(v, "text")), nil
		case "caseless":
			return compareText(f.Operator, "lower("+c.sql+")", "lower("+arg(v, "text")+")"), nil
		case "text":
			return compareText(f.Operator, c.sql, arg(v, "text")), nil
		}
	}
	return "", invalidFilter("the attribute %q cannot be compared by %q with this value", f.Attribute, f.Operator)
}

func (w *where) inGroup(f *SCIMFilter, arg func(any, string) string) (string, error) {
	const has = "EXISTS (SELECT FROM scim_group_members x WHERE x.group_id = g.id"
	user, isText := f.Value.(string)
	switch {
	case f.Operator == "pr":
		return has + ")", nil
	case f.Operator == "eq" && isText && !isUUID(user):
		return "false", nil
	case f.Operator == "eq" && isText:
		return has + " AND x.user_id = " + arg(user, "uuid") + ")", nil
	}
	return "", invalidFilter("members can be filtered by eq and pr alone")
}

func compareText(operator, column, value string) string {
	switch operator {
	case "co":
		return "strpos(" + column + ", " + value + ") > 0"
	case "sw":
		return "starts_with(" + column + ", " + value + ")"
	case "ew":
		return "right(" + column + ", char_length(" + value + ")) = " + value
	}
	return column + " " + comparisons[operator] + " " + value
}

// isUUID reports whether s is a UUID as we write it.
func isUUID(s string) bool {
	for i := range len(s) {
		if hyphen := i == 8 || i == 13 || i == 18 || i == 23; hyphen != (s[i] == '-') || !hyphen && !strings.ContainsRune("0123456789abcdef", rune(s[i])) {
			return false
		}
	}
	return len(s) == 36
}

func invalidFilter(format string, args ...any) error {
	return &iam.Error{Kind: iam.Malformed, Code: "invalid_filter", Detail: fmt.Sprintf(format, args...)}
}
