package policies_test

import (
	"bytes"
	"testing"

	"iam-service/internal/policy/authoring"
)

// The default policy is held to what is asked of every other: its tests see all of it, its
// cases hold, and there is nothing to mend.
func TestTheDefaultPolicyIsGood(t *testing.T) {
	t.Parallel()
	folder, err := authoring.Load(".")
	if err != nil {
		t.Fatal(err)
	}
	found, _, err := folder.Check(t.Context(), authoring.CheckOptions{Admin: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		t.Error(f)
	}
	var out bytes.Buffer
	report, err := folder.Test(t.Context(), &out, authoring.TestOptions{Threshold: 100})
	if err != nil || !report.Good() || report.Ran < 10 || report.Cases < 8 {
		t.Errorf("%+v, %v:\n%s", report, err, &out)
	}
}
