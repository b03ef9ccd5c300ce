package adminapi_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-service/internal/dev/world"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
)

// asked is the id of a pending request of a member, for a role without permissions.
func (w *adminWorld) asked(tenant, user string) (id string) {
	w.Helper()
	for _, r := range []string{"askers", "asked"} {
		w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: tenant, Name: r}))
	}
	w.OK(w.sql().QueryRow(ctx, `INSERT INTO role_requests (tenant, user_id, role, seconds, reason, approval, grants, decide_by)
		VALUES ($1, $2, 'asked', 60, 'x', 'required', '', now() + interval '1 h') RETURNING id::text`, tenant, user).Scan(&id))
	return id
}

const acmeRequests = "/v1/tenants/acme/requests"

// requestable makes roles of acme that viewers can ask for, and tina their holder.
func (w *adminWorld) requestable() {
	w.Helper()
	for name, approval := range map[string]string{"payer": "required", "oncall": "break_glass"} {
		w.want(201, "root", "POST", "/v1/tenants/acme/roles", map[string]any{
			"name": name, "permissions": []string{name + ":act"}, "request": map[string]any{"by": []string{"viewer"}, "approval": approval, "max_seconds": 3600},
		})
	}
	w.member("acme", "tina", iam.RoleTenantAdmin, "editor", "payer")
}

func ask(role string) map[string]any {
	return map[string]any{"role": role, "seconds": 600, "reason": "the month is closed"}
}

func (w *adminWorld) holds(user string) map[string]string {
	w.Helper()
	held := map[string]string{}
	roles, _ := w.want(200, "root", "GET", "/v1/users/"+user+"/effective?tenant=acme", nil).field("roles").([]any)
	for _, r := range roles {
		m, _ := r.(map[string]any)
		held[fmt.Sprint(m["name"])] = fmt.Sprint(m["expires_at"])
	}
	return held
}

func (w *adminWorld) emitted(after int64) (types []string) {
	w.Helper()
	rows, err := w.sql().Query(ctx, `SELECT type FROM outbox WHERE seq > $1 ORDER BY seq`, after)
	w.OK(err)
	defer rows.Close()
	for rows.Next() {
		var s string
		w.OK(rows.Scan(&s))
		types = append(types, s)
	}
	return types
}

func (w *adminWorld) lastEvent() (seq int64) {
	w.Helper()
	w.OK(w.sql().QueryRow(ctx, `SELECT coalesce(max(seq), 0) FROM outbox`).Scan(&seq))
	return seq
}

func TestAMemberAsksForARoleAndAnAdministratorApproves(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.requestable()
	ann, other := w.member("acme", "ann", "editor"), w.member("acme", "other", "viewer") // an editor is a viewer by inheritance
	if r := w.want(200, "ann", "GET", "/v1/tenants/acme/requestable-roles", nil); len(r.items()) != 2 || r.items()[1]["role"] != "payer" {
		t.Errorf("what she can ask for: %s", r)
	}
	before := w.lastEvent()
	r := w.want(201, "ann", "POST", acmeRequests, ask("payer"))
	id := r.text("id")
	if r.text("status") != "pending" || r.text("user") != ann || r.header.Get("Location") != acmeRequests+"/"+id {
		t.Errorf("asked: %s", r)
	}
	if _, has := w.holds(ann)["payer"]; has {
		t.Error("it is granted before anyone has approved")
	}
	// She sees her own, administrators and auditors those of the tenant, others none.
	for who, want := range map[string]int{"ann": 1, "tina": 1, "root": 1, "audrey": 1, "other": 0} {
		if got := len(w.want(200, who, "GET", acmeRequests, nil).items()); got != want {
			t.Errorf("%s sees %d requests, want %d", who, got, want)
		}
	}
	w.want(200, "ann", "GET", acmeRequests+"/"+id, nil)
	for _, r := range []reply{w.call("other", "GET", acmeRequests+"/"+id, nil), w.call("other", "POST", acmeRequests+"/"+id+":cancel", nil), w.call("ann", "GET", acmeRequests+"/x", nil)} {
		if r.status != 404 || r.text("detail") != "not found" {
			t.Errorf("another's request: %s", r)
		}
	}
	if got := len(w.want(200, "other", "GET", acmeRequests+"?user="+ann, nil).items()); got != 0 {
		t.Errorf("by a filter another's requests are seen: %d", got)
	}
	w.want(403, "other", "POST", acmeRequests+"/"+id+":approve", nil)
	r = w.want(200, "tina", "POST", acmeRequests+"/"+id+":approve", map[string]any{"reason": "as agreed"})
	end, err := time.Parse(time.RFC3339, r.text("expires_at"))
	if err != nil || r.text("status") != "approved" || r.text("decider") != w.user("tina") || r.text("decision") != "as agreed" {
		t.Errorf("approved: %s", r)
	}
	if left := time.Until(end); left < 9*time.Minute || left > 10*time.Minute {
		t.Errorf("it is granted for %s", left)
	}
	if w.holds(ann)["payer"] == "" {
		t.Error("it is not granted")
	}
	if m := w.want(200, "tina", "GET", "/v1/tenants/acme/members/"+ann, nil); m.field("role_terms", "payer", "reason") != "the month is closed" {
		t.Errorf("its term: %s", m)
	}
	if got := w.emitted(before); !slices.Equal(got, []string{"RoleRequested.v1", "UserRolesAssigned.v1", "RoleRequestApproved.v1"}) {
		t.Errorf("events: %v", got)
	}
	var texts string
	w.OK(w.sql().QueryRow(ctx, `SELECT string_agg(data::text, '') FROM outbox WHERE seq > $1`, before).Scan(&texts))
	if strings.Contains(texts, "the month is closed") || strings.Contains(texts, "as agreed") {
		t.Error("a reason is in an event")
	}
	// Once decided it stays so. Asked for again before it ends, it ends later.
	for _, what := range []string{":approve", ":cancel"} {
		w.want(409, map[string]string{":approve": "tina", ":cancel": "ann"}[what], "POST", acmeRequests+"/"+id+what, nil)
	}
	again := w.want(201, "ann", "POST", acmeRequests, map[string]any{"role": "payer", "seconds": 1200, "reason": "more"}).text("id")
	w.want(200, "tina", "POST", acmeRequests+"/"+again+":approve", nil)
	if later, _ := time.Parse(time.RFC3339, w.holds(ann)["payer"]); !later.After(end) {
		t.Errorf("it ends at %s, before %s", later, end)
	}
	// Rejected and cancelled, it grants nothing.
	w.want(422, "tina", "POST", acmeRequests+"/"+w.want(201, "other", "POST", acmeRequests, ask("payer")).text("id")+":reject", map[string]any{"reason": ""})
	mine := w.want(200, "other", "GET", acmeRequests+"?status=pending", nil).items()[0]["id"].(string)
	w.want(200, "tina", "POST", acmeRequests+"/"+mine+":reject", map[string]any{"reason": "not yours"})
	w.want(200, "other", "POST", acmeRequests+"/"+w.want(201, "other", "POST", acmeRequests, ask("payer")).text("id")+":cancel", nil)
	if _, has := w.holds(other)["payer"]; has {
		t.Error("a rejected and a cancelled request have granted the role")
	}
}

func TestABreakGlassRoleIsGrantedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.requestable()
	ann := w.member("acme", "ann", "viewer")
	before := w.lastEvent()
	r := w.want(201, "ann", "POST", acmeRequests, ask("oncall"))
	if r.text("status") != "approved" || r.text("approval") != "break_glass" || r.text("expires_at") == "" || w.holds(ann)["oncall"] == "" {
		t.Errorf("got %s", r)
	}
	if got := w.emitted(before); !slices.Equal(got, []string{"RoleRequested.v1", "UserRolesAssigned.v1", "RoleRequestApproved.v1", "BreakGlassUsed.v1"}) {
		t.Errorf("events: %v", got)
	}
	var audited int
	w.OK(w.sql().QueryRow(ctx, `SELECT count(*) FROM audit WHERE chain = 'acme' AND actor = $1 AND action = 'request:create' AND after::text LIKE '%the month is closed%'`, ann).Scan(&audited))
	if audited < 2 {
		t.Errorf("%d entries of the audit name it, its asker and the reason", audited)
	}
	w.want(422, "ann", "POST", acmeRequests, map[string]any{"role": "oncall", "seconds": 600, "reason": ""})
	w.want(422, "ann", "POST", acmeRequests, map[string]any{"role": "oncall", "seconds": 3601, "reason": "x"})
}

// Each of these is an attack, or a race that would grant what was not approved.
func TestARequestGrantsNoMoreThanAllowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.requestable()
	ann := w.member("acme", "ann", "viewer")
	pending := func() string {
		t.Helper()
		for _, q := range w.want(200, "ann", "GET", acmeRequests+"?status=pending", nil).items() {
			w.want(200, "ann", "POST", acmeRequests+"/"+q["id"].(string)+":cancel", nil)
		}
		return acmeRequests + "/" + w.want(201, "ann", "POST", acmeRequests, ask("payer")).text("id")
	}
	refused := func(name string, status int, code string, r reply) {
		t.Helper()
		if r.status != status || r.text("code") != code {
			t.Errorf("%s: got %s, want %d %s", name, r, status, code)
		}
		if _, has := w.holds(ann)["payer"]; has {
			t.Fatalf("%s: it is granted", name)
		}
	}
	// No one approves their own, whatever they are; nor what they do not hold, or hold for less time.
	own := w.want(201, "tina", "POST", acmeRequests, ask("oncall"))
	w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "seller", Permissions: []string{"seller:act"}, Request: &iam.Requestable{By: []string{"viewer"}, Approval: "required", MaxSeconds: 600}}))
	_ = own
	mine := acmeRequests + "/" + w.want(201, "tina", "POST", acmeRequests, ask("seller")).text("id")
	refused("one's own", 403, "own_request", w.call("tina", "POST", mine+":approve", nil))
	refused("rejecting one's own", 403, "own_request", w.call("tina", "POST", mine+":reject", map[string]any{"reason": "x"}))
	w.member("acme", "weak", iam.RoleTenantAdmin)
	refused("what one does not hold", 403, "more_than_held", w.call("weak", "POST", pending()+":approve", nil))
	w.OK(w.DB.PutMembership(ctx, iam.Membership{
		Tenant: "acme", User: w.member("acme", "brief"), Status: iam.MembershipActive, Roles: []string{iam.RoleTenantAdmin, "viewer", "payer"},
		Terms: map[string]iam.RoleTerm{"payer": {ExpiresAt: time.Now().Add(5 * time.Minute)}},
	}))
	refused("what one holds for less time", 403, "more_than_held", w.call("brief", "POST", pending()+":approve", nil))
	// Someone else's tenant, no member, a program.
	w.want(404, "bob", "POST", pending()+":approve", nil)
	w.want(404, "ann", "POST", "/v1/tenants/globex/requests", ask("admin"))
	refused("of a platform administrator who is no member", 409, "asker_not_member", w.call("root", "POST", acmeRequests, ask("payer")))
	// The asker's situation, or the role, has changed.
	q := pending()
	w.OK(w.DB.PutMembership(ctx, iam.Membership{Tenant: "acme", User: ann, Status: iam.MembershipSuspended, Roles: []string{"viewer"}}))
	refused("a suspended asker", 409, "asker_not_active", w.call("tina", "POST", q+":approve", nil))
	w.OK(w.DB.PutMembership(ctx, iam.Membership{Tenant: "acme", User: ann, Status: iam.MembershipActive}))
	refused("an asker who may no longer ask", 409, "role_not_requestable", w.call("tina", "POST", q+":approve", nil))
	w.member("acme", "ann", "viewer")
	payer := map[string]any{"permissions": []string{"payer:act"}, "request": map[string]any{"by": []string{"viewer"}, "approval": "required", "max_seconds": 3600}}
	w.want(200, "root", "PUT", "/v1/tenants/acme/roles/payer", map[string]any{"permissions": []string{"payer:act", "document:write"}, "request": payer["request"]}, "If-Match: *")
	refused("a role that has grown", 409, "role_changed", w.call("tina", "POST", q+":approve", nil))
	w.want(200, "root", "PUT", "/v1/tenants/acme/roles/payer", map[string]any{"permissions": []string{"payer:act"}}, "If-Match: *")
	refused("a role that can no longer be asked for", 409, "role_not_requestable", w.call("tina", "POST", q+":approve", nil))
	w.want(200, "root", "PUT", "/v1/tenants/acme/roles/payer", payer, "If-Match: *")
	w.want(422, "root", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "x", "request": map[string]any{"by": []string{"none"}, "approval": "required", "max_seconds": 60}})
	// Its time has passed.
	_, err := w.sql().Exec(ctx, `UPDATE role_requests SET decide_by = now() - interval '1 s' WHERE status = 'pending' AND user_id = $1`, ann)
	w.OK(err)
	refused("after its time", 409, "request_not_pending", w.call("tina", "POST", q+":approve", nil))
	if n, err := w.service.ExpireRequests(ctx); err != nil || n != 1 {
		t.Errorf("%d requests have expired, %v", n, err)
	}
	if r := w.want(200, "ann", "GET", q, nil); r.text("status") != "expired" || r.text("decider_kind") != "service" {
		t.Errorf("expired: %s", r)
	}
	// She has left, or was erased.
	q = pending()
	w.want(204, "root", "DELETE", "/v1/tenants/acme/members/"+ann, nil)
	if r := w.call("tina", "POST", q+":approve", nil); r.status != 409 || r.text("code") != "asker_not_active" {
		t.Errorf("who has left: %s", r)
	}
	w.want(204, "root", "DELETE", "/v1/users/"+ann, nil)
	w.want(404, "tina", "GET", q, nil)
}

// A caller who makes a role one that is granted without an approval must hold what it grants, for good.
func TestABreakGlassRoleIsMadeByItsHolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.requestable()
	w.OK(w.DB.PutMembership(ctx, iam.Membership{
		Tenant: "acme", User: w.member("acme", "temp"), Status: iam.MembershipActive, Roles: []string{iam.RoleTenantAdmin, "viewer", "payer"},
		Terms: map[string]iam.RoleTerm{"payer": {ExpiresAt: time.Now().Add(time.Hour)}},
	}))
	rule := map[string]any{"by": []string{"viewer"}, "approval": "break_glass", "max_seconds": 3600}
	for name, r := range map[string]reply{
		"of a role that one does not hold":   w.call("tina", "PUT", "/v1/tenants/acme/roles/oncall", map[string]any{"permissions": []string{"oncall:act"}, "request": rule}, "If-Match: *"),
		"of one that one holds for a time":   w.call("temp", "PUT", "/v1/tenants/acme/roles/payer", map[string]any{"permissions": []string{"payer:act"}, "request": rule}, "If-Match: *"),
		"a new one, held for a time":         w.call("temp", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "new", "permissions": []string{"payer:act"}, "request": rule}),
		"a new one with what is not one's":   w.call("tina", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "new", "permissions": []string{"oncall:act"}, "request": rule}),
		"a new one that inherits such a one": w.call("temp", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "new", "inherits": []string{"payer"}, "request": rule}),
	} {
		if r.status != 403 || r.text("code") != "more_than_held" {
			t.Errorf("%s: got %s", name, r)
		}
	}
	w.want(201, "tina", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "new", "permissions": []string{"payer:act"}, "request": rule})
	// A role whose holders can ask is not deleted under the rule.
	w.want(201, "root", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "crew"})
	w.want(201, "root", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "z", "request": map[string]any{"by": []string{"crew"}, "approval": "required", "max_seconds": 60}})
	w.want(409, "root", "DELETE", "/v1/tenants/acme/roles/crew", nil)
	w.want(204, "root", "DELETE", "/v1/tenants/acme/roles/crew?remove=true", nil)
	if r := w.want(200, "root", "GET", "/v1/tenants/acme/roles/z", nil); r.field("request") != nil {
		t.Errorf("the rule is left: %s", r)
	}
}

// Of two approvers who decide at once one does, and one request grants once.
func TestTwoApproversDecideOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{conns: 8})
	w.requestable()
	ann := w.member("acme", "ann", "viewer")
	w.member("acme", "tim", iam.RoleTenantAdmin, "payer")
	id := w.want(201, "ann", "POST", acmeRequests, ask("payer")).text("id")
	before := w.lastEvent()
	statuses := make([]int, 6)
	var wg sync.WaitGroup
	for i := range statuses {
		wg.Go(func() {
			who, what, body := []string{"tina", "tim", "ann"}[i%3], []string{":approve", ":reject", ":cancel"}[i%3], any(nil)
			if what == ":reject" {
				body = map[string]any{"reason": "no"}
			}
			statuses[i] = w.call(who, "POST", acmeRequests+"/"+id+what, body).status
		})
	}
	wg.Wait()
	done := 0
	for _, s := range statuses {
		if s == 200 {
			done++
		} else if s != 409 {
			t.Errorf("statuses: %v", statuses)
		}
	}
	decided := 0
	for _, e := range w.emitted(before) {
		if strings.HasPrefix(e, "RoleRequest") {
			decided++
		}
	}
	if done != 1 || decided != 1 {
		t.Errorf("%d decisions, %d events: %v", done, decided, statuses)
	}
	status := w.want(200, "ann", "GET", acmeRequests+"/"+id, nil).text("status")
	if _, has := w.holds(ann)["payer"]; has != (status == "approved") {
		t.Errorf("it is %s, and granted: %v", status, has)
	}
}

func TestRequestsOfAMemberAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.requestable()
	w.member("acme", "ann", "viewer")
	w.want(201, "ann", "POST", acmeRequests, ask("payer"))
	if r := w.call("ann", "POST", acmeRequests, ask("payer")); r.status != 409 || r.text("code") != "already_requested" {
		t.Errorf("twice: %s", r)
	}
	user := w.user("ann")
	_, err := w.sql().Exec(ctx, `INSERT INTO role_requests (tenant, user_id, role, seconds, reason, approval, grants, status, decide_by)
		SELECT 'acme', $1, 'r' || i, 60, 'x', 'required', '', CASE WHEN i < 10 THEN 'pending' ELSE 'cancelled' END, now() + interval '1 h' FROM generate_series(1, 49) i`, user)
	w.OK(err)
	if r := w.call("ann", "POST", acmeRequests, ask("oncall")); r.status != 409 || r.text("code") != "too_many_requests_pending" {
		t.Errorf("with ten pending: %s", r)
	}
	_, err = w.sql().Exec(ctx, `UPDATE role_requests SET status = 'cancelled' WHERE status = 'pending'`)
	w.OK(err)
	if r := w.call("ann", "POST", acmeRequests, ask("oncall")); r.status != 429 || r.text("code") != "too_many_role_requests" {
		t.Errorf("with fifty in a day: %s", r)
	}
	// Pages are the newest first.
	var got []int64
	w.OK(w.DB.View(ctx, func(ctx2 context.Context, tx *postgres.Tx) error {
		for f := (postgres.RequestFilter{Limit: 20}); ; {
			page, err := tx.Requests(ctx2, "acme", f)
			if err != nil || len(page) == 0 {
				return err
			}
			for _, q := range page {
				got = append(got, -q.Seq)
			}
			f.Before = page[len(page)-1].Seq
		}
	}))
	if len(got) != 50 || !slices.IsSorted(got) {
		t.Errorf("%d requests, in the order %v", len(got), got)
	}
}

// The explanation of a denial names the roles that would have allowed it, of those that the subject can ask for.
func TestAnExplainedDenialNamesARequestableRole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.Load(world.Policy{ClaimsRego: `package iam.claims

decision := {"allow": true, "tenant": input.request.tenant_hint, "headers": {}} if allowed

else := {"allow": false, "status": 403, "reasons": [{"code": "no_permission", "title": "x"}]}

allowed if {
	t := data.directory.tenants[input.request.tenant_hint]
	some role in data.directory.users[input.token.iss][input.token.sub].memberships[t.id].roles
	some granted in t.roles[role].closure
	"payer:act" in t.roles[granted].permissions
}
`})
	w.requestable()
	w.want(201, "root", "POST", "/v1/tenants/acme/roles", map[string]any{
		"name": "boss", "inherits": []string{"payer"}, "request": map[string]any{"by": []string{"editor"}, "approval": "required", "max_seconds": 60},
	})
	w.member("acme", "ann", "viewer")
	named := func(who, path string, body map[string]any) []string {
		t.Helper()
		var names []string
		r := w.want(200, who, "POST", path, body)
		list, _ := r.field("requestable").([]any)
		for _, x := range list {
			m, _ := x.(map[string]any)
			names = append(names, fmt.Sprint(m["role"], " ", m["approval"], " ", m["max_seconds"]))
		}
		if text := r.text("text"); len(names) > 0 && !strings.Contains(text, "payer") {
			t.Errorf("the text does not name it: %s", text)
		}
		return names
	}
	want := []string{"payer required 3600"} // not boss, for which she cannot ask, nor oncall, which would not do
	for who, path := range map[string]string{"tina": "/v1/policy/explain?tenant=acme", "audrey": "/v1/policy/explain"} {
		if got := named(who, path, map[string]any{"subject": "ann", "tenant": "acme"}); !slices.Equal(got, want) {
			t.Errorf("to %s: %v, want %v", who, got, want)
		}
	}
	if got := named("audrey", "/v1/policy/explain", map[string]any{"subject": "tina", "tenant": "acme"}); len(got) > 0 {
		t.Errorf("of what is allowed: %v", got)
	}
	w.want(403, "ann", "POST", "/v1/policy/explain?tenant=acme", map[string]any{"subject": "ann"})
	// Facts stay as they are.
	if _, has := w.holds(w.user("ann"))["payer"]; has {
		t.Error("the role was granted")
	}
}
