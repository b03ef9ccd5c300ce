package adminapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-service/internal/dev/devstack"
	"iam-service/internal/iam"
)

// One edit succeeds, the other is a conflict: no edit is lost without a response that says so.
func TestOfTwoConcurrentEditsOfARoleOneIsRejected(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	r := w.want(200, "root", "GET", "/v1/tenants/acme/roles/auditor", nil)
	tag := r.header.Get("ETag")
	var mu sync.Mutex
	got := map[int][]string{}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			p := fmt.Sprintf("log:read%d", i)
			r := w.call("root", "PUT", "/v1/tenants/acme/roles/auditor", map[string]any{"permissions": []string{p}}, "If-Match: "+tag)
			mu.Lock()
			defer mu.Unlock()
			got[r.status] = append(got[r.status], p)
		})
	}
	all.Wait()
	if len(got[200]) != 1 || len(got[412]) != 7 {
		t.Fatalf("answers: %v", got)
	}
	r = w.want(200, "root", "GET", "/v1/tenants/acme/roles/auditor", nil)
	if fmt.Sprint(r.field("permissions")) != "["+got[200][0]+"]" || r.header.Get("ETag") == tag {
		t.Errorf("active is %s, %s was returned as active", r, got[200][0])
	}
	w.want(428, "root", "PUT", "/v1/tenants/acme/roles/auditor", map[string]any{})
	w.want(412, "root", "PUT", "/v1/tenants/acme/roles/auditor", map[string]any{}, "If-None-Match: *")
	w.want(412, "root", "PUT", "/v1/tenants/acme/roles/newer", map[string]any{}, "If-Match: *")
	w.want(412, "root", "DELETE", "/v1/tenants/acme/roles/auditor", nil, "If-Match: "+tag)
	w.want(412, "root", "PUT", "/v1/tenants/acme/roles/auditor", map[string]any{}, "If-Match: W/"+r.header.Get("ETag"))
	made := w.want(201, "root", "PUT", "/v1/tenants/acme/roles/newer", map[string]any{}, "If-None-Match: *")
	if made.header.Get("Location") != "/v1/tenants/acme/roles/newer" {
		t.Errorf("Location is %q", made.header.Get("Location"))
	}
}

// Of those who make one thing at once, one has made it.
func TestOfManyConcurrentCreatesOneSucceeds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for _, c := range []struct {
		method, path string
		body         any
		headers      []string
		lost         int
	}{
		{"POST", "/v1/tenants", map[string]any{"id": "wayne", "slug": "wayne", "name": "W"}, nil, 409},
		{"PUT", "/v1/tenants/stark", map[string]any{"slug": "stark", "name": "S"}, []string{"If-None-Match: *"}, 412},
		{"POST", "/v1/users", map[string]any{"subject": "bruce"}, nil, 409},
		{"POST", "/v1/roles", map[string]any{"name": "hero"}, nil, 409},
		{"POST", "/v1/tenants/acme/members", map[string]any{"subject": "clark"}, nil, 409},
		{"POST", "/v1/tenants/acme/mappings", map[string]any{"claim": "groups", "value": "heroes", "roles": []string{"viewer"}}, nil, 409},
	} {
		var mu sync.Mutex
		got := map[int]int{}
		var all sync.WaitGroup
		for range 6 {
			all.Go(func() {
				r := w.call("root", c.method, c.path, c.body, c.headers...)
				mu.Lock()
				defer mu.Unlock()
				got[r.status]++
			})
		}
		all.Wait()
		if got[201] != 1 || got[c.lost] != 5 {
			t.Errorf("%s %s: answers %v", c.method, c.path, got)
		}
	}
}

// A caller whose connection was cut sends the same again: one thing is made, and the
// answer is the one that got lost.
func TestARepeatedPostCreatesOneObject(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	body := map[string]any{"name": "once", "permissions": []string{"a:b"}}
	b, err := json.Marshal(body)
	w.OK(err)
	token := w.Mint("root", map[string]any{"aud": devstack.AdminAudience})
	for i := range 20 { // cut at some moment, before or after the commit
		short, cancel := context.WithTimeout(ctx, time.Duration(i)*500*time.Microsecond)
		req, err := http.NewRequestWithContext(short, http.MethodPost, w.admin+"/v1/tenants/acme/roles", strings.NewReader(string(b)))
		w.OK(err)
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Idempotency-Key", "k")
		req.Header.Set("Content-Type", "application/json")
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
		}
		cancel()
	}
	var mu sync.Mutex
	answers := map[string]int{}
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			r := w.call(token, "POST", "/v1/tenants/acme/roles", body, "Idempotency-Key: k")
			mu.Lock()
			defer mu.Unlock()
			answers[fmt.Sprint(r.status, r.header.Get("Location"), r.header.Get("ETag"), string(r.body))]++
		})
	}
	all.Wait()
	if len(answers) != 1 {
		t.Errorf("different answers: %v", answers)
	}
	for a := range answers {
		if !strings.HasPrefix(a, `201/v1/tenants/acme/roles/once"`) {
			t.Errorf("answered %s", a)
		}
	}
	if n := len(w.want(200, "root", "GET", "/v1/audit?tenant=acme&object=once", nil).items()); n != 1 {
		t.Errorf("made %d times", n)
	}
	r := w.want(422, token, "POST", "/v1/tenants/acme/roles", map[string]any{"name": "twice"}, "Idempotency-Key: k")
	if r.field("code") != "idempotency_key_reused" {
		t.Errorf("got %s", r)
	}
	// A key is its caller's own, and what failed can be tried again under it.
	w.want(409, "tina", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "once"}, "Idempotency-Key: k")
	w.want(201, "tina", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "hers"}, "Idempotency-Key: k")
	if r := w.want(201, "tina", "POST", "/v1/tenants/acme/roles", map[string]any{"name": "hers"}, "Idempotency-Key: k"); r.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("not replayed: %s", r)
	}
}

// Two administrators who remove each other, many times: one always stays.
func TestOfTwoAdministratorsRemovingEachOtherOneSucceeds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.want(201, "root", "POST", "/v1/users", map[string]any{"subject": "rival", "platform_roles": []string{"platform-admin"}})
	ids := map[string]string{"root": w.user("root"), "rival": w.user("rival")}
	for round := range 10 {
		ways := []func(who, whom string) reply{
			func(who, whom string) reply {
				return w.call(who, "PATCH", "/v1/users/"+ids[whom], map[string]any{"status": "blocked"})
			},
			func(who, whom string) reply {
				return w.call(who, "PUT", "/v1/users/"+ids[whom], map[string]any{}, "If-Match: *")
			},
		}
		var a, b reply
		var both sync.WaitGroup
		both.Go(func() { a = ways[round%2]("root", "rival") })
		both.Go(func() { b = ways[(round/2)%2]("rival", "root") })
		both.Wait()
		won := 0
		for _, r := range []reply{a, b} {
			switch r.status {
			case 200:
				won++
			case 403, 409:
			default:
				t.Fatalf("round %d: %s and %s", round, a, b)
			}
		}
		if won != 1 {
			t.Fatalf("round %d: %d succeeded: %s and %s", round, won, a, b)
		}
		for _, subject := range []string{"root", "rival"} { // and again
			_, err := w.DB.PutUser(ctx, iam.User{Issuer: w.RAuth.Issuer, Subject: subject, Status: iam.UserActive, PlatformRoles: []string{iam.PlatformAdmin}})
			w.OK(err)
		}
	}
	// The same of two administrators of a tenant: there is no last one there, but who has
	// been removed removes no other any more.
	for range 5 {
		x, y := w.member("acme", "xenia", iam.RoleTenantAdmin), w.member("acme", "yves", iam.RoleTenantAdmin)
		var a, b reply
		var both sync.WaitGroup
		both.Go(func() { a = w.call("xenia", "DELETE", "/v1/tenants/acme/members/"+y, nil) })
		both.Go(func() { b = w.call("yves", "DELETE", "/v1/tenants/acme/members/"+x, nil) })
		both.Wait()
		if (a.status == 204) == (b.status == 204) {
			t.Fatalf("both or none: %s and %s", a, b)
		}
	}
}

// Two edits at once, each of which alone would be fine.
func TestTwoConcurrentEditsDoNotGrantTogetherWhatNeitherMay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	for range 10 {
		// While root takes the permission from tina's role, tina gives it away: afterwards
		// no user has it to whom she granted it when she no longer held it.
		w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "boss", Permissions: []string{"x:y"}}))
		w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "gift", Permissions: []string{"x:y"}}))
		w.member("acme", "tina", iam.RoleTenantAdmin, "boss")
		heir := w.member("acme", "heir")
		var taken, given reply
		var both sync.WaitGroup
		both.Go(func() { taken = w.call("root", "PUT", "/v1/tenants/acme/roles/boss", map[string]any{}, "If-Match: *") })
		both.Go(func() {
			given = w.call("tina", "PUT", "/v1/tenants/acme/members/"+heir, map[string]any{"roles": []string{"gift"}}, "If-Match: *")
		})
		both.Wait()
		if taken.status != 200 || given.status != 200 && given.status != 403 {
			t.Fatalf("%s and %s", taken, given)
		}
		list := w.want(200, "root", "GET", "/v1/audit?tenant=acme&limit=2", nil).items()
		if given.status == 200 && list[0]["object"] == heir {
			t.Fatalf("it was given after it was taken: %v", list)
		}
	}
}
