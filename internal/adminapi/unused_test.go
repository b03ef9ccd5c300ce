package adminapi_test

import (
	"encoding/csv"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/iam"
)

func daysAgo(n int) time.Time { return time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -n) }

func day(t time.Time) string { return t.Format(time.DateOnly) }

// old makes all that exists in acme older than any question, and records usage on the last days.
func (w *adminWorld) old(recorded int) {
	w.Helper()
	for _, table := range []string{"memberships", "roles", "clients"} {
		w.exec(`UPDATE ` + table + ` SET created_at = now() - interval '900 days'`)
	}
	for n := range recorded {
		w.OK(w.DB.RecordUsage(ctx, iam.Usage{Day: daysAgo(n), Decisions: 10, Roles: true}))
	}
}

// use records that something was used some days ago.
func (w *adminWorld) use(ago int, u iam.Usage) {
	w.Helper()
	u.Day, u.Roles = daysAgo(ago), true
	for i := range u.Members {
		u.Members[i].Issuer = w.RAuth.Issuer
	}
	w.OK(w.DB.RecordUsage(ctx, u))
}

// unused are the values of a field of the items of a question.
func (w *adminWorld) unused(query, field string) (found []string, r reply) {
	w.Helper()
	r = w.want(200, "tina", "GET", "/v1/tenants/acme/access/unused?"+query, nil)
	for _, item := range r.items() {
		found = append(found, fmt.Sprint(item[field]))
	}
	return found, r
}

func TestWhatWasNotUsedIsListedWithWhatItsRemovalWouldChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	if r := w.want(409, "tina", "GET", "/v1/tenants/acme/access/unused", nil); r.field("code") != "usage_not_recorded" {
		t.Errorf("where nothing is recorded: %s", r)
	}
	w.old(120)
	fresh := w.member("acme", "newcomer", "viewer") // created today: not unused for 90 days
	acme := func(subjects ...string) (list []iam.UsedMember) {
		for _, s := range subjects {
			list = append(list, iam.UsedMember{Tenant: "acme", Subject: s})
		}
		return list
	}
	w.use(10, iam.Usage{Members: acme("alice")})
	w.use(100, iam.Usage{Members: acme("frank", "nobody")})
	w.use(20, iam.Usage{Members: acme("frank")})
	w.use(95, iam.Usage{Members: acme("tina", "frank"), Named: []iam.UsedRole{{Tenant: "acme", Role: "auditor"}, {Tenant: "acme", Role: "none"}}})
	w.use(5, iam.Usage{Named: []iam.UsedRole{{Tenant: "acme", Role: "viewer"}}})

	// Memberships: dave and erin were never seen, tina for 95 days; a later day is not moved back by an earlier one.
	got, r := w.unused("days=90", "user")
	want := []string{w.user("dave"), w.user("erin"), w.user("tina")}
	slices.Sort(want)
	if !slices.Equal(got, want) || slices.Contains(got, fresh) {
		t.Errorf("memberships: got %v, want dave, erin and tina %v", got, want)
	}
	for _, item := range r.items() {
		trim, _ := item["trim"].(map[string]any)
		switch item["subject"] {
		case "tina":
			if item["last_used"] != day(daysAgo(95)) || trim["administrator"] != true || !slices.Contains(trim["permissions"].([]any), any("document:write")) {
				t.Errorf("tina: %v", item)
			}
		case "erin":
			if item["last_used"] != nil {
				t.Errorf("erin: %v", item)
			}
		}
	}
	if r.field("complete") != true || r.field("unused_since") != day(daysAgo(90)) || r.field("recorded_since") != day(daysAgo(119)) {
		t.Errorf("what is known of the recording: %s", r)
	}
	if r.field("administrators", "now") != 1.0 || r.field("administrators", "left") != 0.0 {
		t.Errorf("administrators: %v", r.field("administrators"))
	}
	if got, _ := w.unused("days=97", "subject"); slices.Contains(got, "tina") || !slices.Contains(got, "erin") {
		t.Errorf("for 97 days: got %v, want erin", got)
	}

	// It is not known what was used before the recording began: the answer says so.
	if _, r := w.unused("days=365", "user"); r.field("complete") != false || r.field("recorded_days") != 119.0 {
		t.Errorf("longer than usage is recorded: %s", r)
	}

	// Roles of the tenant, and global ones that it has given.
	got, r = w.unused("kind=role", "role")
	if want := []string{"auditor", "editor", "iam:tenant-admin"}; !slices.Equal(got, want) {
		t.Errorf("roles: got %v, want %v", got, want)
	}
	for _, item := range r.items() {
		trim, _ := item["trim"].(map[string]any)
		if item["role"] == "auditor" && (item["last_used"] != day(daysAgo(95)) || trim["mappings"] != 1.0) || item["role"] == "editor" && (item["global"] != true || trim["members"] == nil) {
			t.Errorf("got %v", item)
		}
	}

	// Clients.
	got, _ = w.unused("kind=client", "client_id")
	if len(got) != 1 {
		t.Fatalf("clients: got %v, want one", got)
	}
	w.use(1, iam.Usage{Clients: []iam.UsedClient{{Issuer: w.RAuth.Issuer, ClientID: got[0]}, {Issuer: w.RAuth.Issuer, ClientID: "unknown"}}})
	if got, _ := w.unused("kind=client", "client_id"); len(got) != 0 {
		t.Errorf("clients that were used: got %v", got)
	}

	// Nothing is removed by the question, and what is removed takes its use along.
	w.want(204, "root", "DELETE", "/v1/tenants/acme/members/"+w.user("alice"), nil)
	var n int
	w.OK(w.sql().QueryRow(ctx, `SELECT count(*) FROM membership_usage WHERE tenant = 'acme'`).Scan(&n))
	if n != 2 {
		t.Errorf("%d memberships with a last use, want those of frank and tina", n)
	}
	for _, c := range []struct {
		name, query string
	}{{"days", "days=0"}, {"many days", "days=731"}, {"kind", "kind=x"}, {"after", "after=x"}, {"after of another kind", "after=" + "WyIiLCJ4Il0"}} {
		if r := w.call("tina", "GET", "/v1/tenants/acme/access/unused?"+c.query, nil); r.status != 422 {
			t.Errorf("%s: got %s, want 422", c.name, r)
		}
	}
}

func TestUnusedAccessIsPagedAndExported(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for i := range 7 {
		w.member("acme", fmt.Sprint("=many-", i), "viewer")
	}
	w.old(100)
	all, _ := w.unused("limit=500", "user")
	var paged []string
	for after := ""; ; {
		got, r := w.unused("limit=3&after="+after, "user")
		paged = append(paged, got...)
		if after, _ = r.field("next").(string); after == "" {
			break
		}
		if len(got) != 3 || !strings.Contains(r.header.Get("Link"), `rel="next"`) {
			t.Fatalf("a page: %s", r)
		}
	}
	if !slices.Equal(all, paged) || len(all) < 10 {
		t.Errorf("in pages: %v, at once: %v", paged, all)
	}
	r := w.want(200, "tina", "GET", "/v1/tenants/acme/access/unused", nil, "Accept: text/csv")
	rows, err := csv.NewReader(strings.NewReader(string(r.body))).ReadAll()
	w.OK(err)
	if len(rows) != len(all)+1 || rows[0][0] != "tenant" || !strings.Contains(string(r.body), ",'=many-0,") {
		t.Errorf("CSV:\n%s", r.body)
	}
	for _, kind := range []string{"membership", "role", "client"} {
		got, _ := w.unused("limit=500&kind="+kind, "kind")
		lines := w.want(200, "tina", "GET", "/v1/tenants/acme/access/unused?kind="+kind, nil, "Accept: application/jsonl")
		if n := strings.Count(string(lines.body), "\n"); n != len(got) || n == 0 {
			t.Errorf("%s: %d lines, want %d", kind, n, len(got))
		}
	}
}

// What a gateway asks about is recorded by the program; here it is enough that a decision's own names fit.
func TestADecisionIsRecordedAsUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.old(91)
	w.use(0, iam.Usage{
		Members: []iam.UsedMember{{Tenant: "acme", Subject: "erin"}, {Tenant: "globex", Subject: "erin"}},
		Clients: []iam.UsedClient{{Issuer: w.Other.Issuer, ClientID: "x"}},
		Named:   []iam.UsedRole{{Tenant: "nowhere", Role: "viewer"}},
	})
	if got, _ := w.unused("", "subject"); slices.Contains(got, "erin") {
		t.Errorf("erin was used: %v", got)
	}
	var n int
	w.OK(w.sql().QueryRow(ctx, `SELECT (SELECT count(*) FROM membership_usage) + (SELECT count(*) FROM role_usage) + (SELECT count(*) FROM client_usage)`).Scan(&n))
	if n != 1 {
		t.Errorf("%d uses of what exists, want 1: that of erin in acme", n)
	}
	w.exec(`INSERT INTO role_usage VALUES ('acme', 'gone', now())`)
	w.OK(w.service.Chores(ctx, time.Hour))
	w.OK(w.sql().QueryRow(ctx, `SELECT count(*) FROM role_usage`).Scan(&n))
	if n != 0 {
		t.Error("the use of a role that is gone stays")
	}
}
