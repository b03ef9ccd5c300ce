package adminapi

import (
	"bytes"
	"encoding/json"
	"errors"
)

// Patched is the body of a PATCH as it was sent: what stands there, and what is null, matters.
type Patched struct {
	RawBody []byte
}

// onlyStatus reports whether nothing but the status is changed, and whether it is at all.
func (p Patched) onlyStatus() (only, also bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(p.RawBody, &fields) != nil {
		return false, false // it is refused before anybody asks
	}
	_, also = fields["status"]
	return also && len(fields) == 1, also
}

// patchActions are what the policy is asked of a PATCH: a caller who may suspend a thing does
// not thereby change what it is.
func (p Patched) patchActions(kind string) []string {
	only, also := p.onlyStatus()
	switch {
	case only:
		return []string{kind + ":set-status"}
	case also:
		return []string{kind + ":update", kind + ":set-status"}
	default:
		return []string{kind + ":update"}
	}
}

// apply applies the patch (RFC 7396) to what there is, which is both in the wire's words. What
// comes of it has still to be checked.
func apply[T any](p Patched, now T) (after T, err error) {
	b, err := json.Marshal(now)
	if err != nil {
		return after, err
	}
	var target, patch any
	err = errors.Join(exactly(b, &target), exactly(p.RawBody, &patch)) // huma has read it already
	if err != nil {
		return after, err
	}
	merged, err := json.Marshal(mergePatch(target, patch))
	if err != nil {
		return after, err
	}
	return after, exactly(merged, &after)
}

// exactly decodes JSON with numbers as they are written.
func exactly(b []byte, v any) error {
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

// What a PATCH says of each kind, beside its fields. They are exported since huma looks into no
// others.

// PatchedTenant is a patch of a tenant.
type PatchedTenant struct{ Patched }

func (p PatchedTenant) actions() []string { return p.patchActions("tenant") }

// PatchedMember is a patch of a member.
type PatchedMember struct{ Patched }

func (p PatchedMember) actions() []string { return p.patchActions("member") }

// PatchedUser is a patch of a user.
type PatchedUser struct{ Patched }

func (p PatchedUser) actions() []string { return p.patchActions("user") }
