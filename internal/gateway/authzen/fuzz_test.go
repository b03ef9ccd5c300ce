package authzen

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"sigs.k8s.io/yaml"

	"iam-service/internal/iam"
)

// Whatever a body is: it is rejected as malformed, or encoding/json, which is more lenient, reads the same; and what is
// asked then is valid or names what is not.
func FuzzABodyIsReadInOneWay(f *testing.F) {
	text, err := os.ReadFile("testdata/certification.yaml")
	if err != nil {
		f.Fatal(err)
	}
	var cases []struct{ Request string }
	if err := yaml.Unmarshal(text, &cases); err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		f.Add([]byte(c.Request))
	}
	for _, s := range []string{`{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":"\ud800"}`, `{"a":"\\ud800"}`, `{"a":1e400}`, `{"evaluations":[{},{}],"options":{"evaluations_semantic":"execute_all"}}`, `{"page":{"limit":1,"token":"x"}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		body, err := parseObject(text)
		if err != nil {
			if iam.KindOf(err) != iam.Malformed {
				t.Fatalf("%v", err)
			}
			return
		}
		var lenient map[string]any
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		if err := dec.Decode(&lenient); err != nil {
			t.Fatalf("accepted, and no JSON: %v", err)
		}
		ours, err := json.Marshal(body)
		theirs, errTheirs := json.Marshal(lenient)
		if err != nil || errTheirs != nil || !bytes.Equal(ours, theirs) {
			t.Fatalf("%s is read as %s and as %s (%v, %v)", text, ours, theirs, err, errTheirs)
		}
		if again, err := parseObject(ours); err != nil || len(again) != len(body) {
			t.Fatalf("what was read cannot be read again: %s, %v", ours, err)
		}
		for _, n := range []need{subjects.need, resources.need, actions.need, {subject: "type id", action: "name", resource: "type id"}} {
			q, err := requestOf(body, n)
			switch {
			case err == nil && (q.Subject.Type == "" || q.Resource.Type == "" || n.action != "" && q.Action.Name == ""):
				t.Fatalf("%s: a required member is empty: %+v", text, q)
			case err != nil && iam.KindOf(err) != iam.Malformed:
				t.Fatalf("%v", err)
			}
		}
		items, semantic, err := batchOf(body)
		switch {
		case err != nil && iam.KindOf(err) != iam.Malformed:
			t.Fatalf("%v", err)
		case err == nil && (len(items) > maxEvaluations || semantic != executeAll && semantic != denyOnFirstDeny && semantic != permitOnFirstPermit):
			t.Fatalf("%d evaluations, %q", len(items), semantic)
		}
	})
}
