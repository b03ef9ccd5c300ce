package adminapi_test

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"iam-service/internal/admin"
)

// While a decision is logged, others can change the same tenant: a slow log delays none of them.
func TestADecisionIsLoggedUnderNoLock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	var logged atomic.Int64
	w.Logs.OnWrite(func(line []byte) {
		if !bytes.Contains(line, []byte(`"admin decision"`)) {
			return
		}
		logged.Add(1)
		// An operator, for whom no policy is asked and nothing is logged.
		err := w.service.Do(ctx, admin.Caller{Operator: "test"}, admin.Task{Action: "test", Tenant: "acme", Writes: true}, func(context.Context, *admin.Work) error { return nil })
		if err != nil {
			t.Errorf("while a decision was logged, the tenant could not be locked: %v", err)
		}
	})
	if r := w.call("root", "POST", "/v1/tenants/acme/members", map[string]any{"subject": "new", "roles": []string{"viewer"}}); r.status != 201 {
		t.Error(r)
	}
	if n := logged.Load(); n != 1 {
		t.Errorf("the decision was logged %d times, want once", n)
	}
}

// A change that needs two answers of the policy leaves both in the log.
func TestEachDecisionOfARequestIsLoggedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	path := "/v1/tenants/acme/members/" + w.member("acme", "new")
	w.want(200, "root", "PATCH", path, map[string]any{"status": "suspended", "attributes": map[string]any{}}, "Content-Type: application/merge-patch+json")
	logged := w.Logs.String()
	for _, action := range []string{"member:update", "member:set-status"} {
		if n := strings.Count(logged, `"action":"`+action+`","tenant":"acme"`); n != 1 {
			t.Errorf("%s was logged %d times, want once", action, n)
		}
	}
}
