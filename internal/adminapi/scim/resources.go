package scim

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"iam-service/internal/iam"
)

// Schemas of resources and messages.
const (
	userSchema  = "urn:ietf:params:scim:schemas:core:2.0:User"
	groupSchema = "urn:ietf:params:scim:schemas:core:2.0:Group"
	listSchema  = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
)

// reference is an entry of members or groups.
type reference struct {
	Value   string `json:"value,omitempty"`
	Ref     string `json:"$ref,omitempty"`
	Display string `json:"display,omitempty"`
	Type    string `json:"type,omitempty"`
}

// resource is a resource by its attributes.
type resource map[string]any

func path(tenant, kind, id string) string { return "/scim/v2/" + tenant + "/" + kind + "/" + id }

func instant(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func meta(kind, location string, created, modified time.Time, tag string) map[string]any {
	return map[string]any{
		"resourceType": kind,
		"created":      instant(created),
		"lastModified": instant(modified),
		"location":     location,
		"version":      tag,
	}
}

func userResource(u iam.SCIMUser, shown projection) resource {
	r := resource{
		"schemas":  []string{userSchema},
		"id":       u.User,
		"userName": u.Subject,
		"active":   u.InForce(),
		"meta":     meta("User", path(u.Tenant, "Users", u.User), u.CreatedAt, u.UpdatedAt, userTag(u)),
	}
	if u.ExternalID != "" {
		r["externalId"] = u.ExternalID
	}
	if len(u.Groups) > 0 {
		groups := make([]reference, len(u.Groups))
		for i, g := range u.Groups {
			groups[i] = shown.reference("groups", reference{g.ID, path(u.Tenant, "Groups", g.ID), g.DisplayName, "direct"})
		}
		r["groups"] = groups
	}
	return shown.of(r)
}

// groupResource is a group; members are nil where they are not shown.
func groupResource(g iam.SCIMGroup, members []string, shown projection) resource {
	r := resource{
		"schemas":     []string{groupSchema},
		"id":          g.ID,
		"displayName": g.DisplayName,
		"meta":        meta("Group", path(g.Tenant, "Groups", g.ID), g.CreatedAt, g.UpdatedAt, etag(g.Version)),
	}
	if g.ExternalID != "" {
		r["externalId"] = g.ExternalID
	}
	if len(members) > 0 {
		list := make([]reference, len(members))
		for i, id := range members {
			list[i] = shown.reference("members", reference{Value: id, Ref: path(g.Tenant, "Users", id), Type: "User"})
		}
		r["members"] = list
	}
	return shown.of(r)
}

// projection is which attributes are shown (RFC 7644, section 3.9): id and schemas always are.
type projection struct {
	only, not map[string]bool // in lower case, without a schema; nil: all, none
}

func project(attributes, excluded []string) projection {
	set := func(names []string) map[string]bool {
		var s map[string]bool
		for _, list := range names {
			for name := range strings.SplitSeq(list, ",") {
				if name = attribute(strings.TrimSpace(name)); name != "" {
					if s == nil {
						s = map[string]bool{}
					}
					s[name] = true
				}
			}
		}
		return s
	}
	return projection{set(attributes), set(excluded)}
}

// attribute is the name of an attribute in lower case, without the schema of its resource.
func attribute(name string) string {
	name = strings.ToLower(name)
	for _, schema := range []string{userSchema, groupSchema} {
		name = strings.TrimPrefix(name, strings.ToLower(schema)+":")
	}
	return name
}

// shows reports whether an attribute, or a part of it, is shown.
func (p projection) shows(name string) bool {
	if name = strings.ToLower(name); p.not[name] {
		return false
	}
	if p.only == nil || p.only[name] {
		return true
	}
	for shown := range p.only {
		if strings.HasPrefix(shown, name+".") {
			return true
		}
	}
	return false
}

// showsPart reports whether a sub-attribute of an attribute that is shown is shown.
func (p projection) showsPart(of, name string) bool {
	of, name = strings.ToLower(of), strings.ToLower(of+"."+name)
	return !p.not[name] && (p.only == nil || p.only[of] || p.only[name])
}

func (p projection) reference(of string, r reference) reference {
	for name, value := range map[string]*string{"value": &r.Value, "$ref": &r.Ref, "display": &r.Display, "type": &r.Type} {
		if !p.showsPart(of, name) {
			*value = ""
		}
	}
	return r
}

func (p projection) of(r resource) resource {
	for name, v := range r {
		if name == "id" || name == "schemas" {
			continue
		}
		if !p.shows(name) {
			delete(r, name)
			continue
		}
		if parts, ok := v.(map[string]any); ok {
			for part := range parts {
				if !p.showsPart(name, part) {
					delete(parts, part)
				}
			}
		}
	}
	return r
}

// object is a JSON object by the names of its attributes, in lower case and without the schema of the resource: names are
// compared ignoring case (RFC 7643, section 2.1).
type object map[string]json.RawMessage

// maxAttributes is the largest number of attributes of one object.
const maxAttributes = 256

// parseObject decodes an object. It rejects an attribute that is there twice, in any case: two programs could read it differently.
func parseObject(raw []byte) (object, error) {
	if !json.Valid(raw) {
		return nil, malformed(invalidSyntax, "the body is no JSON")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, malformed(invalidSyntax, "a JSON object is required")
	}
	o := object{}
	for d.More() {
		t, err := d.Token()
		name, _ := t.(string) // a name is a string
		var value json.RawMessage
		if err == nil {
			err = d.Decode(&value)
		}
		if err != nil {
			return nil, malformed(invalidSyntax, "the body is no JSON")
		}
		name = attribute(name)
		if _, twice := o[name]; twice {
			return nil, malformed(invalidSyntax, "the attribute "+clip(name)+" is there twice")
		}
		if len(o) == maxAttributes {
			return nil, malformed(invalidSyntax, "an object has 256 attributes at most")
		}
		o[name] = value
	}
	return o, nil
}

// text reads an attribute that is a string; "" and false where there is none, or null.
func (o object) text(name string) (s string, found bool, err error) {
	raw, found := o[strings.ToLower(name)]
	if !found || isNull(raw) {
		return "", false, nil
	}
	s, err = text(name, raw)
	return s, true, err
}

func isNull(raw json.RawMessage) bool { return string(bytes.TrimSpace(raw)) == "null" }

func text(name string, raw json.RawMessage) (s string, err error) {
	if json.Unmarshal(unwrap(raw), &s) != nil {
		return "", malformed(invalidValue, name+" must be a string")
	}
	return s, nil
}

// boolean reads a boolean, also one that is written as a string in any case, as Entra ID does.
func boolean(name string, raw json.RawMessage) (*bool, error) {
	raw = unwrap(raw)
	var b *bool
	if json.Unmarshal(raw, &b) == nil && b != nil {
		return b, nil
	}
	var s string
	if json.Unmarshal(raw, &s) == nil {
		switch strings.ToLower(s) {
		case "true":
			return new(true), nil
		case "false":
			return new(false), nil
		}
	}
	return nil, malformed(invalidValue, name+" must be true or false")
}

// elements calls each with one element of a list after the other, until it fails: a body can have millions of them, which are
// never in memory together. It reports whether raw is a list.
func elements(raw json.RawMessage, each func(json.RawMessage) error) (isList bool, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return false, nil
	}
	for d.More() {
		var one json.RawMessage
		if err := d.Decode(&one); err != nil {
			return true, malformed(invalidSyntax, "the body is no JSON")
		}
		if err := each(one); err != nil {
			return true, err
		}
	}
	return true, nil
}

// unwrap returns the value of a list of one entry, as older versions of Entra ID send simple attributes: [{"value": …}].
func unwrap(raw json.RawMessage) json.RawMessage {
	var only struct {
		Value json.RawMessage `json:"value"`
	}
	n := 0
	isList, err := elements(raw, func(one json.RawMessage) error {
		if n++; n > 1 {
			return errMany
		}
		return json.Unmarshal(one, &only)
	})
	if isList && err == nil && n == 1 && len(only.Value) > 0 {
		return only.Value
	}
	return raw
}

var errMany = errors.New("more than one element")

// members reads a list of members, or one of them. Their ids are never nil.
func members(raw json.RawMessage) ([]string, error) {
	type member struct {
		Value *string `json:"value"`
		Type  string  `json:"type"`
	}
	ids := []string{}
	if isNull(raw) {
		return ids, nil
	}
	add := func(raw json.RawMessage) error {
		var m member
		switch err := json.Unmarshal(raw, &m); {
		case err != nil:
			return malformed(invalidValue, `members must be a list of objects with the id of a user as "value"`)
		case m.Value == nil:
			return malformed(invalidValue, `a member must have the id of a user as "value"`)
		case m.Type != "" && !strings.EqualFold(m.Type, "User"):
			return malformed(invalidValue, "members must be users: groups within groups are not supported")
		case len(ids) == iam.MaxSCIMGroupMembers:
			return malformed(invalidValue, "a group can have 100,000 members at most")
		}
		ids = append(ids, *m.Value)
		return nil
	}
	isList, err := elements(raw, add)
	if err == nil && !isList {
		err = add(raw)
	}
	if err != nil {
		return nil, err
	}
	return ids, nil
}

func clip(s string) string {
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return `"` + strings.ToValidUTF8(s, "�") + `"`
}
