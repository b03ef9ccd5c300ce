package adminapi_test

import (
	"fmt"
	"strings"
	"testing"

	"iam-service/internal/iam"
)

// Erasing forgets whom it was; what they did stays, by our id.
func TestAnErasedUserLeavesOurIDAndNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	const subject = "very-particular-subject"
	w.want(201, "root", "POST", "/v1/users", map[string]any{"subject": subject, "attributes": map[string]any{"department": "very-particular-value"}})
	id := w.user(subject)
	w.want(201, "tina", "POST", "/v1/tenants/acme/members", map[string]any{"subject": subject, "roles": []string{"editor"}})
	w.want(204, "root", "DELETE", "/v1/users/"+id, nil)
	w.want(404, "root", "GET", "/v1/users/"+id, nil)
	w.want(404, "tina", "GET", "/v1/tenants/acme/members/"+id, nil)
	if found := w.search(subject); len(found) > 0 {
		t.Errorf("the subject is still in %v", found)
	}
	if got := len(w.want(200, "root", "GET", "/v1/audit?object="+id, nil).items()); got != 5 { // made, a member, their default tenant, erased, no member
		t.Errorf("%d entries speak of them", got)
	}
	for _, e := range w.want(200, "root", "GET", "/v1/audit?action=user:erase", nil).items() {
		if strings.Contains(fmt.Sprint(e), "very-particular-value") {
			t.Errorf("erasing them wrote down what they were: %v", e)
		}
	}
	// A user who returns is another user.
	w.want(201, "root", "POST", "/v1/users", map[string]any{"subject": subject})
	if again := w.user(subject); again == id {
		t.Error("the id was used again")
	}
}

// search names the columns of all tables in which a text occurs.
func (w *adminWorld) search(text string) []string {
	w.Helper()
	rows, err := w.sql().Query(ctx, `SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') ORDER BY 1`)
	w.OK(err)
	var tables []string
	for rows.Next() {
		var name string
		w.OK(rows.Scan(&name))
		tables = append(tables, name)
	}
	w.OK(rows.Err())
	var found []string
	for _, table := range tables {
		var n int
		w.OK(w.sql().QueryRow(ctx, `SELECT count(*) FROM "`+table+`" x WHERE x::text LIKE '%' || $1 || '%'`, text).Scan(&n))
		if n > 0 {
			found = append(found, table)
		}
	}
	return found
}

func TestATenantIsDeletedOnlyWhenNothingNeedsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.want(409, "root", "DELETE", "/v1/tenants/umbrella", nil)
	w.want(200, "root", "PATCH", "/v1/tenants/umbrella", map[string]any{"status": "archived"})
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "c", Tenant: "umbrella", Status: iam.ClientActive}))
	if r := w.want(409, "root", "DELETE", "/v1/tenants/umbrella", nil); r.field("code") != "tenant_has_clients" {
		t.Errorf("got %s", r)
	}
	_, err := w.sql().Exec(ctx, `DELETE FROM clients WHERE tenant = 'umbrella'`)
	w.OK(err)
	w.want(204, "root", "DELETE", "/v1/tenants/umbrella", nil)
	w.want(404, "root", "GET", "/v1/tenants/umbrella", nil)
	w.want(404, "root", "GET", "/v1/tenants/umbrella/members", nil)
	if r := w.want(409, "root", "POST", "/v1/tenants", map[string]any{"id": "umbrella", "slug": "u", "name": "u"}); !strings.Contains(string(r.body), "never used again") {
		t.Errorf("got %s", r)
	}
	if n := len(w.want(200, "root", "GET", "/v1/audit?tenant=umbrella", nil).items()); n != 2 {
		t.Errorf("%d entries are left of it", n)
	}
}

func TestARoleIsDeletedOnlyWithoutHolders(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.want(201, "root", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "chief", "inherits": []string{"auditor"}})
	m := w.member("acme", "max", "auditor", "viewer")
	if r := w.want(409, "root", "DELETE", "/v1/tenants/acme/roles/auditor", nil); !strings.Contains(string(r.body), "1 member, 1 mapping in acme, the roles acme/chief") {
		t.Errorf("got %s", r)
	}
	w.want(204, "root", "DELETE", "/v1/tenants/acme/roles/auditor?remove=true", nil)
	if got := w.want(200, "root", "GET", "/v1/tenants/acme/members/"+m, nil).field("roles"); fmt.Sprint(got) != "[viewer]" {
		t.Errorf("the member holds %v", got)
	}
	if n := len(w.want(200, "root", "GET", "/v1/tenants/acme/mappings", nil).items()); n != 0 {
		t.Errorf("%d mappings are left without a role", n)
	}
	if got := w.want(200, "root", "GET", "/v1/tenants/acme/roles/chief", nil).field("inherits"); fmt.Sprint(got) != "[]" {
		t.Errorf("chief inherits %v", got)
	}
	w.want(201, "root", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "botrole"})
	w.OK(w.DB.PutClient(ctx, iam.Client{Issuer: w.RAuth.Issuer, ClientID: "b", Tenant: "acme", Roles: []string{"botrole"}, Status: iam.ClientActive}))
	w.want(409, "root", "DELETE", "/v1/tenants/acme/roles/botrole", nil)
	w.want(204, "root", "DELETE", "/v1/tenants/acme/roles/botrole?remove=true", nil)
	w.want(409, "root", "DELETE", "/v1/roles/viewer", nil)
	w.want(409, "root", "DELETE", "/v1/roles/iam:tenant-admin", nil)
	w.want(409, "tina", "DELETE", "/v1/tenants/acme/roles/viewer", nil) // a global one
}
