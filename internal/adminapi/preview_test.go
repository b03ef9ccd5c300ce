package adminapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-service/internal/dev/await"
	"iam-service/internal/dev/world"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/internal/policyops/preview"
)

// with is a bundle of the default policy and one more file of rules.
func (w *adminWorld) with(rego string) []byte {
	w.Helper()
	return w.bundleOf(func(c *policy.Candidate) { c.Modules["iam/claims/more.rego"] = "package iam.claims\n\n" + rego })
}

const noViewers = `# METADATA
# title: No viewers
# description: A user who is only a viewer is denied in acme.
# custom:
#   code: no_viewers
denials contains _reason(rego.metadata.rule()) if {
	_tenant.id == "acme"
	_membership.roles == ["viewer"]
}
`

// A preview names those who would gain and lose, and what activating it shows is what the
// preview said.
func TestAPreviewNamesTheUsersThatLoseARole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{decisions: true})
	w.member("acme", "vera", "viewer")
	w.member("acme", "vito", "viewer")
	w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "payer"}))
	w.member("acme", "edna", "payer")
	w.Ask("GET /system/enrich-token", world.Bearer(w.Mint("vera", map[string]any{"email": "vera@example.com"})))
	w.decided()
	candidate := w.upload(201, "paula", w.with(noViewers))
	r := w.want(202, "paula", "POST", "/v1/policy/preview", map[string]any{"revision": candidate, "replay": "1h"})
	id, _ := r.field("id").(string)
	if r.header.Get("Location") != "/v1/policy/previews/"+id || r.field("state") != "running" {
		t.Errorf("got %s", r)
	}
	await.True(w, "the log or the store has it", func() bool {
		r = w.want(200, "paula", "GET", "/v1/policy/previews/"+id, nil)
		return r.field("state") != "running"
	})
	var report preview.Report
	text, err := json.Marshal(r.field("report"))
	w.OK(err)
	w.OK(json.Unmarshal(text, &report))
	if r.field("state") != "done" || report.Directory.Counts["loses"] == 0 || report.Directory.Counts["gains"] != 0 || report.Directory.Counts["breaks"] != 0 {
		t.Fatalf("got %s", r)
	}
	var losers []string
	for _, g := range report.Directory.Groups {
		if g.Kind == "loses" && !slices.Contains(g.After, "no_viewers") {
			t.Errorf("the rule is not named: %+v", g)
		}
		for _, who := range g.Sample {
			if g.Kind == "loses" {
				losers = append(losers, who.Subject)
			}
		}
	}
	if !slices.Contains(losers, "vera") || !slices.Contains(losers, "vito") || slices.Contains(losers, "edna") {
		t.Errorf("those who lose are %v", losers)
	}
	if report.Replayed == nil || report.Replayed.Asked == 0 {
		t.Errorf("what was recorded was not asked: %s", text)
	}
	if report.Replayed == nil || report.Replayed.NotReplayable != 1 || !slices.Equal(report.Replayed.Lacking, []string{"input.token.email"}) {
		t.Errorf("what was not recorded is not named: %s", text)
	}
	if len(report.Questions) != 1 || !strings.HasPrefix(report.Questions[0], "GET /") {
		t.Errorf("the questions are %q", report.Questions)
	}

	// It can be named where it is activated, and no other can.
	w.want(422, "paula", "POST", "/v1/policy/revisions/"+candidate+":activate", map[string]any{"preview": "00000000-0000-0000-0000-000000000000"})
	w.want(200, "paula", "POST", "/v1/policy/revisions/"+candidate+":activate", map[string]any{"preview": id})
	if status, _, _ := w.Ask("GET /system/enrich-token", world.Bearer(w.Mint("vera", nil)), "X-Active-Tenant-ID: acme"); status != 403 {
		t.Errorf("vera gets %d", status)
	}
	if r := w.want(200, "paula", "GET", "/v1/policy", nil); r.field("last_activation", "preview") != id {
		t.Errorf("the preview is not stored: %s", r)
	}
	begin := func(body map[string]any) (r reply) {
		await.True(w, "the log or the store has it", func() bool { // the one before has said that it is done, and has not left yet
			r = w.call("paula", "POST", "/v1/policy/preview", body)
			return r.text("code") != "preview_running"
		})
		return r
	}
	next := w.upload(201, "paula", w.named("next"))
	of := begin(map[string]any{"revision": next, "against": next}).text("id")
	await.True(w, "the log or the store has it", func() bool {
		return w.want(200, "paula", "GET", "/v1/policy/previews/"+of, nil).text("state") == "done"
	})
	w.want(422, "paula", "POST", "/v1/policy/revisions/"+next+":activate", map[string]any{"preview": of}) // it does not compare with the active revision
	w.want(422, "paula", "POST", "/v1/policy/preview", map[string]any{"revision": candidate, "replay": "soon"})
	w.want(422, "paula", "POST", "/v1/policy/preview", map[string]any{"revision": candidate, "questions": []any{map[string]any{"title": "q", "token": map[string]any{"sub": "root"}}}})
	if r := begin(map[string]any{"revision": "000000000000"}); r.status != 404 {
		t.Errorf("of one that is not there: %s", r)
	}

	// One that runs, on whichever replica, can be cancelled; one that is over cannot.
	if r := w.want(409, "paula", "POST", "/v1/policy/previews/"+id+":cancel", nil); r.field("code") != "preview_over" {
		t.Errorf("got %s", r)
	}
	w.want(404, "paula", "POST", "/v1/policy/previews/00000000-0000-0000-0000-000000000000:cancel", nil)
	running := iam.PolicyPreview{State: "running"}
	w.OK(w.sql().QueryRow(ctx, `
		INSERT INTO policy_previews (candidate, against, replica, actor_kind, actor)
		SELECT candidate, against, 'another', actor_kind, actor FROM policy_previews WHERE id = $1::uuid RETURNING id::text`, id).Scan(&running.ID))
	if going, err := w.DB.PreviewProgress(ctx, running); err != nil || !going {
		t.Errorf("the worker learns %v, %v", going, err)
	}
	w.want(403, "audrey", "POST", "/v1/policy/previews/"+running.ID+":cancel", nil)
	if r := w.want(200, "paula", "POST", "/v1/policy/previews/"+running.ID+":cancel", nil); r.field("state") != "cancelled" || r.field("finished_at") == nil {
		t.Errorf("got %s", r)
	}
	running.State, running.Report = "done", []byte("{}")
	if going, err := w.DB.PreviewProgress(ctx, running); err != nil || going {
		t.Errorf("the worker learns %v, %v", going, err)
	}
	if r := w.want(200, "paula", "GET", "/v1/policy/previews/"+running.ID, nil); r.field("state") != "cancelled" || r.field("report") != nil {
		t.Errorf("got %s", r)
	}
}

// A shadow is evaluated in the background. Callers notice nothing, and differences are
// counted and stored.
func TestAShadowRunsInTheBackground(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	w.member("acme", "vera", "viewer")
	w.OK(w.DB.PutRole(ctx, iam.Role{Tenant: "acme", Name: "payer"}))
	w.member("acme", "edna", "payer")
	candidate := w.upload(201, "paula", w.with(noViewers))
	w.want(200, "paula", "POST", "/v1/policy/revisions/"+candidate+":shadow", map[string]any{"share": 1})
	for range 3 { // the later ones are answers from the cache
		for _, who := range []string{"vera", "edna"} {
			if status, _, _ := w.Ask("GET /system/enrich-token", world.Bearer(w.Mint(who, nil)), "X-Active-Tenant-ID: acme"); status != 200 {
				t.Fatalf("%s gets %d", who, status)
			}
		}
	}
	var r reply
	await.True(w, "the log or the store has it", func() bool {
		r = w.want(200, "paula", "GET", "/v1/policy/shadow", nil)
		asked, _ := r.field("here", "asked").(float64)
		return asked == 6
	})
	counts, _ := r.field("here", "counts").(map[string]any)
	if counts["loses"] != 3.0 || len(counts) != 1 || !strings.Contains(string(r.body), `"vera"`) || strings.Contains(string(r.body), `"edna"`) {
		t.Errorf("got %s", r)
	}
	w.want(200, "paula", "POST", "/v1/policy/revisions/"+candidate+":shadow", map[string]any{"share": 0})
	if status, _, _ := w.Ask("GET /system/enrich-token", world.Bearer(w.Mint("vera", nil)), "X-Active-Tenant-ID: acme"); status != 200 {
		t.Fatalf("vera gets %d", status)
	}
	if r = w.want(200, "paula", "GET", "/v1/policy/shadow", nil); r.field("revision") != nil || r.field("here", "asked") != 6.0 {
		t.Errorf("it is asked on: %s", r)
	}

	// The same one again begins anew, and so does another share.
	for _, share := range []float64{0.5, 1} {
		w.want(200, "paula", "POST", "/v1/policy/revisions/"+candidate+":shadow", map[string]any{"share": share})
		if r = w.want(200, "paula", "GET", "/v1/policy/shadow", nil); r.field("here", "revision") != candidate || r.field("here", "asked") != 0.0 || strings.Contains(string(r.body), "vera") {
			t.Errorf("what was seen before is reported: %s", r)
		}
	}
	if status, _, _ := w.Ask("GET /system/enrich-token", world.Bearer(w.Mint("vera", nil)), "X-Active-Tenant-ID: acme"); status != 200 {
		t.Fatalf("vera gets %d", status)
	}
	await.True(w, "the log or the store has it", func() bool {
		return w.want(200, "paula", "GET", "/v1/policy/shadow", nil).field("here", "asked") == 1.0
	})
}

func TestTheActivePolicyIsNeverAShadow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	candidate := w.upload(201, "paula", w.with(noViewers))
	w.want(200, "paula", "POST", "/v1/policy/revisions/"+candidate+":activate", map[string]any{"force": true})
	if r := w.want(409, "paula", "POST", "/v1/policy/revisions/"+candidate+":shadow", map[string]any{"share": 1}); r.field("code") != "policy_in_force" {
		t.Errorf("got %s", r)
	}
	w.want(200, "paula", "POST", "/v1/policy/revisions/"+candidate+":shadow", map[string]any{"share": 0}) // also to end one that is active since
}

// pieces of policies: each changes the decisions of some.
var pieces = []string{
	`denials contains {"code": "no_editors", "title": "t"} if "editor" in roles`,
	`denials contains {"code": "no_viewers", "title": "t"} if "viewer" in roles`,
	`grants contains {"code": "at_home", "title": "t"} if {
	_known
	not _has_hint
}`,
	`denials contains {"code": "no_globex", "title": "t"} if _tenant.id == "globex"`,
	`denials contains {"code": "only_level", "title": "t"} if {
	_person
	not _level
}

_level if input.token.acr == "2"`,
	`grants contains {"code": "anyone", "title": "t"} if _user.id`,
	`_direct_roles contains "editor" if _user.status == "active"`,
	`_direct_roles contains "viewer" if input.token.acr == "2"`,
	`_optional["X-User-Subject"] := "hidden" if _tenant.id == "acme"`,
	`_optional["X-Scopes"] := [1] if "editor" in roles`, // no header: broken, for some
}

// Preview equals reality: for random pairs of policies and random facts, those whose answers
// differ by the preview are those whose answers differ when the candidate is activated, and
// in the same way.
func TestAPreviewEqualsWhatActivationChanges(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, settings{})
	subjects := []string{}
	for i := range 12 {
		subject := fmt.Sprint("p", i)
		subjects = append(subjects, subject)
		status := iam.UserActive
		if random.IntN(6) == 0 {
			status = iam.UserBlocked
		}
		id, err := w.DB.PutUser(ctx, iam.User{Issuer: w.RAuth.Issuer, Subject: subject, Status: status})
		w.OK(err)
		for _, tenant := range []string{"acme", "globex", "initech"} {
			if random.IntN(3) == 0 {
				continue
			}
			m := iam.Membership{Tenant: tenant, User: id, Status: iam.MembershipActive}
			if random.IntN(5) == 0 {
				m.Status = iam.MembershipSuspended
			}
			for _, role := range []string{"viewer", "editor"} {
				if tenant != "initech" && random.IntN(2) == 0 {
					m.Roles = append(m.Roles, role)
				}
			}
			w.OK(w.DB.PutMembership(ctx, m))
		}
	}
	w.Settle()
	policyOf := func() *policy.Revision {
		var chosen []string
		for _, p := range pieces {
			if random.IntN(3) == 0 {
				chosen = append(chosen, p)
			}
		}
		c, err := w.Engine.UnpackVerified("test", w.with(strings.Join(chosen, "\n\n")+"\n"))
		w.OK(err)
		r, err := w.Engine.Prepare(ctx, c)
		w.OK(err)
		return r
	}
	question := preview.Question{Title: "q", Token: map[string]any{"client_id": "web"}, Of: []string{"users"}}
	changes, rounds := 0, 20
	if testing.Short() { // make nightly runs all
		rounds = 4
	}
	for range rounds {
		question.Token = map[string]any{"client_id": "web"}
		more := map[string]any{}
		if random.IntN(2) == 0 {
			question.Token["acr"], more["acr"] = "2", "2"
		}
		base, candidate := policyOf(), policyOf()
		said := map[string]string{}
		m, err := w.DB.Snapshot(ctx)
		w.OK(err)
		_, err = preview.Run(ctx, preview.Config{
			Engine: w.Engine, Issuers: w.Issuers, Base: base, Candidate: candidate, Questions: []preview.Question{question}, Facts: m, Workers: 2,
			OnChange: func(c preview.Change) error {
				if c.Kind != preview.Reasons && !c.Outsider && slices.Contains(subjects, c.Subject) {
					var headers []string
					for _, h := range c.Headers {
						headers = append(headers, fmt.Sprint(h.Name, " ", h.Before, " > ", h.After))
					}
					said[c.Subject+" in "+c.Tenant] = fmt.Sprint(c.Before.Status, " > ", c.After.Status, " ", headers)
				}
				return nil
			},
		})
		m.Close()
		w.OK(err)

		answers := func(r *policy.Revision) map[string]answer {
			w.Engine.Activate(ctx, r)
			got := map[string]answer{}
			for _, subject := range subjects {
				token := world.Bearer(w.Mint(subject, more))
				for _, tenant := range w.tenantsOf(subject) {
					lines := []string{token}
					if tenant != "" {
						lines = append(lines, "X-Active-Tenant-ID: "+tenant)
					}
					status, head, _ := w.Ask("GET /system/enrich-token", lines...)
					values := map[string]string{}
					for name, v := range world.Claims(head) {
						values[name] = strings.Join(v, "|")
					}
					got[subject+" in "+tenant] = answer{status, values}
				}
			}
			return got
		}
		before, after := answers(base), answers(candidate)
		happens := map[string]string{}
		for who, b := range before {
			a := after[who]
			var headers []string
			if b.status == 200 && a.status == 200 {
				for _, name := range w.Engine.Headers() {
					if name != "X-Decision-Id" && name != "X-Policy-Revision" && a.headers[name] != b.headers[name] {
						headers = append(headers, fmt.Sprint(name, " ", b.headers[name], " > ", a.headers[name]))
					}
				}
			}
			if b.status != a.status || len(headers) > 0 {
				happens[who] = fmt.Sprint(b.status, " > ", a.status, " ", headers)
			}
		}
		if !maps.Equal(said, happens) {
			t.Fatalf("the preview says\n%v\nand what happens is\n%v", said, happens)
		}
		changes += len(happens)
	}
	if changes < rounds {
		t.Errorf("only %d changes in %d rounds: the policies are too much alike", changes, rounds)
	}
}

const letsAnybodyIn = `_is_member if _known

# METADATA
# title: Anybody
# description: A request for a tenant is allowed.
# custom:
#   code: anybody
grants contains _reason(rego.metadata.rule()) if input.request.tenant_hint
`

// A policy that admits users without a membership changes nothing for members: the preview includes the
// others, too.
func TestAPreviewIncludesUsersWithoutAMembership(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	prepared := func(packed []byte) *policy.Revision {
		t.Helper()
		c, err := w.Engine.UnpackVerified("test", packed)
		w.OK(err)
		r, err := w.Engine.Prepare(ctx, c)
		w.OK(err)
		return r
	}
	open := prepared(w.bundleOf(func(c *policy.Candidate) {
		c.Modules["iam/claims/more.rego"] = "package iam.claims\n\n" + letsAnybodyIn
		c.Data["iam"].(map[string]any)["config"].(map[string]any)["anonymous"] = map[string]any{"paths": []any{"/"}}
	}))
	m, err := w.DB.Snapshot(ctx)
	w.OK(err)
	defer m.Close()
	gains := map[string]bool{}
	var done, total int64
	report, err := preview.Run(ctx, preview.Config{
		Engine: w.Engine, Issuers: w.Issuers, Base: prepared(w.named("before")), Candidate: open, Facts: m,
		OnProgress: func(d, t int64) { done, total = d, t },
		OnChange: func(c preview.Change) error {
			if c.Kind == preview.Gains && c.Outsider {
				gains[c.Subject+" in "+c.Tenant] = true
			}
			return nil
		},
	})
	w.OK(err)
	for _, want := range []string{" in ", " in acme", preview.Unknown + " in acme", preview.Unknown + " in globex"} {
		if !gains[want] {
			t.Errorf("%q is not among those who gain: %v", want, gains)
		}
	}
	for _, tenant := range []string{"acme", "globex"} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(gains)), func(who string) bool {
			return strings.HasSuffix(who, " in "+tenant) && !strings.HasPrefix(who, " ") && !strings.HasPrefix(who, preview.Unknown)
		}) {
			t.Errorf("no user of another tenant gains in %s: %v", tenant, gains)
		}
	}
	if report.Of(preview.Gains) < int64(len(gains)) || done != total {
		t.Errorf("counted are %v, done are %d of %d", report.Outsiders.Counts, done, total)
	}
	var text strings.Builder
	report.Text(&text)
	if !strings.Contains(text.String(), "    anonymous in acme\n") {
		t.Errorf("it says %s", &text)
	}
}

type answer struct {
	status  int
	headers map[string]string
}

func (w *adminWorld) tenantsOf(subject string) []string {
	w.Helper()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	u, found, err := w.DB.User(ctx, w.RAuth.Issuer, subject)
	w.OK(err)
	if !found {
		w.Fatal("no such user: " + subject)
	}
	tenants := []string{""} // asking for none
	for _, m := range u.Memberships {
		tenants = append(tenants, m.Tenant)
	}
	return tenants
}
