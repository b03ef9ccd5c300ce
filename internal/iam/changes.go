package iam

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
)

// FieldChange is one field of an object before and after a change.
type FieldChange struct {
	Field  string          `json:"field"`            // JSON Pointer (RFC 6901)
	Before json.RawMessage `json:"before,omitempty"` // nil: it was not there
	After  json.RawMessage `json:"after,omitempty"`  // nil: it is no more
}

// Changes are the fields in which an entry's before and after differ, sorted. Objects are compared field by field, lists as
// a whole. An object that was created or deleted has all its fields.
func (e AuditEntry) Changes() []FieldChange {
	var changes []FieldChange
	compareFields("", e.Before, e.After, &changes)
	return changes
}

func compareFields(at string, before, after json.RawMessage, changes *[]FieldChange) {
	a, isObject := fieldsOf(before)
	b, isObjectToo := fieldsOf(after)
	if (isObject || len(before) == 0) && (isObjectToo || len(after) == 0) && (isObject || isObjectToo) {
		names := maps.Clone(a)
		if names == nil {
			names = map[string]json.RawMessage{}
		}
		maps.Copy(names, b)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			compareFields(at+"/"+escapePointer(name), a[name], b[name], changes)
		}
		return
	}
	if !bytes.Equal(before, after) {
		*changes = append(*changes, FieldChange{at, before, after})
	}
}

func fieldsOf(doc json.RawMessage) (fields map[string]json.RawMessage, ok bool) {
	if len(doc) == 0 || doc[0] != '{' || json.Unmarshal(doc, &fields) != nil {
		return nil, false
	}
	return fields, true
}
