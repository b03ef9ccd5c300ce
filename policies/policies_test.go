package policies_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"

	"iam-service/internal/policy/authoring"
)

// The default policy is held to what is asked of every other: its tests see all of it, its
// cases hold, and there is nothing to fix.
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
	if err != nil || !report.Passed() || report.Ran < 10 || report.Cases < 8 {
		t.Errorf("%+v, %v:\n%s", report, err, &out)
	}
}

// "opa test -b policies" runs the same tests: nothing of theirs needs this program.
func TestOPAItselfTestsTheDefaultPolicy(t *testing.T) {
	t.Parallel()
	bundles, err := tester.LoadBundles([]string{"."}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	store := inmem.NewFromObject(bundles["."].Data)
	txn, err := store.NewTransaction(ctx, storage.WriteParams)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Abort(ctx, txn)
	results, err := tester.NewRunner().SetStore(store).SetBundles(bundles).SetTimeout(time.Minute).RunTests(ctx, txn)
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for r := range results {
		if ran++; !r.Pass() {
			t.Errorf("%s", r)
		}
	}
	if ran < 10 {
		t.Errorf("%d tests ran", ran)
	}
}
