package adminapi

import (
	"bytes"
	"encoding/json"
	"errors"
)

// Patched is the body of a PATCH as it was sent: which fields it has, and which of them are null, matters.
type Patched struct {
	RawBody []byte
}

// actions are those that a patch must be authorized for: a caller who may suspend something may not therefore change it.
func (p Patched) actions(rt route) []string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(p.RawBody, &fields) != nil {
		return []string{rt.update} // validation has rejected it before
	}
	_, status := fields["status"]
	switch {
	case !status:
		return []string{rt.update}
	case len(fields) == 1:
		return []string{rt.action}
	default:
		return []string{rt.update, rt.action}
	}
}

// apply applies a merge patch (RFC 7396) to the wire form of what is stored. The result is not validated yet.
func apply[T any](p Patched, stored T) (patched T, err error) {
	b, err := json.Marshal(stored)
	if err != nil {
		return patched, err
	}
	var target, patch any
	err = errors.Join(unmarshalExact(b, &target), unmarshalExact(p.RawBody, &patch)) // huma has decoded it already
	if err != nil {
		return patched, err
	}
	merged, err := json.Marshal(mergePatch(target, patch))
	if err != nil {
		return patched, err
	}
	return patched, unmarshalExact(merged, &patched)
}

// unmarshalExact decodes JSON without a loss of precision in numbers.
func unmarshalExact(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode(v)
}

// mergePatch is MergePatch of RFC 7396, section 2.
func mergePatch(target, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	merged, ok := target.(map[string]any)
	if !ok {
		merged = map[string]any{}
	}
	for name, value := range changes {
		if value == nil {
			delete(merged, name)
		} else {
			merged[name] = mergePatch(merged[name], value)
		}
	}
	return merged
}
