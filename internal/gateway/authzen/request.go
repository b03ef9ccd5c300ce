package authzen

import (
	"fmt"
	"strings"

	"iam-service/internal/enrich/pdp"
	"iam-service/internal/iam"
)

// Bounds of names, in bytes.
const (
	maxType = 255
	maxID   = 1024
)

// faults are all that is wrong with a request.
type faults []iam.FieldError

func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return &iam.Error{Kind: iam.Malformed, Code: "invalid_evaluation", Detail: "the request is not valid", Fields: f}
}

// need names the required members of each entity, by words. "" is an entity that is not read.
type need struct{ subject, action, resource string }

// requestOf reads the entities of a request. Unknown members are ignored (section 10.1.1).
func requestOf(body map[string]any, n need) (pdp.Request, error) {
	var r reader
	var q pdp.Request
	q.Subject = r.entity(body, "subject", n.subject)
	if n.action != "" {
		q.Action.Name, q.Action.Properties = r.named(body, "action")
	}
	q.Resource = r.entity(body, "resource", n.resource)
	q.Context = r.object(body, "context", "/context", false)
	return q, r.wrong.err()
}

// reader reads members, and notes all that is wrong.
type reader struct{ wrong faults }

func (r *reader) fault(pointer, detail string) {
	r.wrong = append(r.wrong, iam.FieldError{Pointer: pointer, Detail: detail})
}

// object returns a member that is an object. null is no value.
func (r *reader) object(from map[string]any, name, pointer string, required bool) map[string]any {
	v := from[name]
	if v == nil {
		if required {
			r.fault(pointer, "is missing")
		}
		return nil
	}
	o, ok := v.(map[string]any)
	if !ok {
		r.fault(pointer, "must be an object")
	}
	return o
}

func (r *reader) text(from map[string]any, name, pointer string, most int) string {
	s, ok := from[name].(string)
	switch {
	case from[name] == nil:
		r.fault(pointer, "is missing")
	case !ok:
		r.fault(pointer, "must be a string")
	case s == "":
		r.fault(pointer, "must not be empty")
	case len(s) > most:
		r.fault(pointer, fmt.Sprintf("has %d bytes, %d are allowed", len(s), most))
	default:
		return s
	}
	return ""
}

// entity reads a subject or a resource. An id that is not needed is ignored.
func (r *reader) entity(from map[string]any, name, needed string) (e pdp.Entity) {
	o := r.object(from, name, "/"+name, true)
	if o == nil {
		return e
	}
	e.Type = r.text(o, "type", "/"+name+"/type", maxType)
	if strings.Contains(needed, "id") {
		e.ID = r.text(o, "id", "/"+name+"/id", maxID)
	}
	e.Properties = r.object(o, "properties", "/"+name+"/properties", false)
	return e
}

func (r *reader) named(from map[string]any, name string) (string, map[string]any) {
	o := r.object(from, name, "/"+name, true)
	if o == nil {
		return "", nil
	}
	return r.text(o, "name", "/"+name+"/name", maxType), r.object(o, "properties", "/"+name+"/properties", false)
}
