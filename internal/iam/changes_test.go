package iam_test

import (
	"encoding/json"
	"testing"

	"iam-service/internal/iam"
)

func TestAnEntryOfTheAuditShowsItsChangesFieldByField(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, before, after, want string }{
		{
			name: "a list", before: `{"status":"active","roles":["a"]}`, after: `{"status":"active","roles":["a","b"]}`,
			want: `[{"field":"/roles","before":["a"],"after":["a","b"]}]`,
		},
		{
			name: "a field that is new, and one that goes", before: `{"x":1}`, after: `{"y":2}`,
			want: `[{"field":"/x","before":1},{"field":"/y","after":2}]`,
		},
		{
			name: "within an object", before: `{"role_terms":{"a":{"expires_at":"1"},"b":{"reason":"x"}}}`, after: `{"role_terms":{"a":{"expires_at":"2"},"b":{"reason":"x"}}}`,
			want: `[{"field":"/role_terms/a/expires_at","before":"1","after":"2"}]`,
		},
		{name: "created", after: `{"name":"a/b~c","at/tr":{"k":1}}`, want: `[{"field":"/at~1tr/k","after":1},{"field":"/name","after":"a/b~c"}]`},
		{name: "deleted", before: `{"roles":[]}`, want: `[{"field":"/roles","before":[]}]`},
		{name: "the same", before: `{"a":{"b":1}}`, after: `{"a":{"b":1}}`, want: `null`},
		{name: "an object in place of a text", before: `{"a":"x"}`, after: `{"a":{"b":1}}`, want: `[{"field":"/a","before":"x","after":{"b":1}}]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := json.Marshal(iam.AuditEntry{Before: json.RawMessage(c.before), After: json.RawMessage(c.after)}.Changes())
			if err != nil || string(got) != c.want {
				t.Errorf("got %s, want %s (%v)", got, c.want, err)
			}
		})
	}
}
