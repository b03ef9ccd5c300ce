package adminapi_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"iam-service/internal/admin"
	"iam-service/internal/dev/await"
	"iam-service/internal/dev/world"
	"iam-service/internal/iam"
	"iam-service/internal/policy"
	"iam-service/policies"
)

// bundleOf is the default policy, packed, with a change.
func (w *adminWorld) bundleOf(change func(c *policy.Candidate)) []byte {
	w.Helper()
	c, err := policy.FromFS("test", policies.FS)
	w.OK(err)
	change(c)
	packed, err := c.Pack()
	w.OK(err)
	return packed
}

// named is a bundle that differs from others by a rule.
func (w *adminWorld) named(name string) []byte {
	w.Helper()
	return w.bundleOf(func(c *policy.Candidate) {
		c.Name = name
		c.Modules["iam/claims/name.rego"] = "package iam.claims\n\n_name := \"" + name + "\"\n"
	})
}

// stored is the short name of a revision that is stored, and was active twice.
func (w *adminWorld) stored() string {
	w.Helper()
	packed := w.named("stored")
	r, err := w.policies.Receive(ctx, "test", packed)
	w.OK(err)
	w.OK(w.service.Do(ctx, admin.Caller{Operator: "test", Via: "command"}, admin.Task{Action: "policy:take", Writes: true}, func(ctx context.Context, wk *admin.Work) error {
		if _, _, err := wk.AddPolicyRevision(ctx, r, packed); err != nil {
			return err
		}
		return wk.TakePolicy(ctx, r.Digest)
	}))
	return r.ID()
}

func (w *adminWorld) upload(status int, who string, packed []byte) string {
	w.Helper()
	r := w.want(status, who, "POST", "/v1/policy/revisions", string(packed), "Content-Type: application/gzip")
	revision, _ := r.field("revision").(string)
	return revision
}

func TestAPolicyIsSentActivatedAndRolledBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	embedded := w.Engine.Revision().ID

	// What does not pass the gate is refused, with file and line.
	bad := w.bundleOf(func(c *policy.Candidate) {
		c.Modules["iam/claims/bad.rego"] = "package iam.claims\n\ndenials contains x\n"
	})
	r := w.want(422, "paula", "POST", "/v1/policy/revisions", string(bad), "Content-Type: application/gzip")
	if text, _ := r.field("detail").(string); !strings.Contains(text, "bad.rego:3") {
		t.Errorf("no file and line: %s", r)
	}
	w.want(422, "paula", "POST", "/v1/policy/revisions", "no bundle", "Content-Type: application/gzip")

	first := w.upload(201, "paula", w.named("first"))
	if again := w.upload(200, "paula", w.named("first")); again != first {
		t.Errorf("the same bundle is %s and %s", first, again)
	}
	second := w.upload(201, "paula", w.named("second"))
	if now := w.Engine.Revision().ID; now != embedded {
		t.Errorf("%s is active: an upload activates nothing", now)
	}

	// Only policy administrators activate; platform administrators roll back.
	w.want(403, "root", "POST", "/v1/policy/revisions/"+first+":activate", map[string]any{})
	w.want(409, "paula", "POST", "/v1/policy/revisions/"+first+":rollback", nil)
	w.want(200, "paula", "POST", "/v1/policy/revisions/"+first+":activate", map[string]any{"reason": "ticket 7"})
	if now := w.Engine.Revision().ID; now != first {
		t.Errorf("%s is active, want %s", now, first)
	}
	w.want(200, "paula", "POST", "/v1/policy/revisions/"+second+":activate", nil)
	r = w.want(409, "paula", "POST", "/v1/policy/revisions/"+first+":activate", nil)
	if r.field("code") != "policy_superseded" {
		t.Errorf("an older one is activated again, or is refused for another reason: %s", r)
	}
	w.want(200, "root", "POST", "/v1/policy/revisions/"+first+":rollback", map[string]any{"reason": "it locks people out"})
	if now := w.Engine.Revision().ID; now != first {
		t.Errorf("%s is active, want %s", now, first)
	}
	w.want(404, "paula", "POST", "/v1/policy/revisions/000000000000:activate", nil)
	w.want(404, "paula", "GET", "/v1/policy/revisions/nonsense", nil)

	// Each activation is audited with its caller.
	var kinds []string
	for _, x := range w.want(200, "audrey", "GET", "/v1/policy/activations", nil).items() {
		kinds = append(kinds, x["kind"].(string)+" "+x["revision"].(string))
	}
	if got, want := strings.Join(kinds, ", "), "rollback "+first+", activate "+second+", activate "+first; got != want {
		t.Errorf("activations are %s, want %s", got, want)
	}
	r = w.want(200, "audrey", "GET", "/v1/policy", nil)
	if r.field("last_activation", "reason") != "it locks people out" || r.field("last_activation", "kind") != "rollback" || r.field("activation") != "managed" {
		t.Errorf("GET /v1/policy: %s", r)
	}
	if replicas, _ := r.field("replicas").([]any); len(replicas) != 1 {
		t.Errorf("replicas: %s", r)
	}
	r = w.want(200, "audrey", "GET", "/v1/policy/revisions?limit=1", nil)
	if len(r.items()) != 1 || r.items()[0]["revision"] != second || r.field("next") == nil {
		t.Errorf("the first page is %s", r)
	}
}

// A replica that is not ready for a revision holds its activation up, unless it is forced.
func TestAReplicaThatIsNotReadyHoldsAnActivationUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	first := w.upload(201, "paula", w.named("first"))
	w.OK(w.DB.ReportPolicy(ctx, iam.PolicyReplica{Replica: "other-replica", Prepared: []string{}}))
	r := w.want(409, "paula", "POST", "/v1/policy/revisions/"+first+":activate", nil)
	if r.field("code") != "policy_not_prepared" || !strings.Contains(r.String(), "other-replica") {
		t.Errorf("got %s", r)
	}
	refused, err := json.Marshal(map[string]any{"digest": w.digest(first), "reason": "it declares X-User-Shoe"})
	w.OK(err)
	w.OK(w.DB.ReportPolicy(ctx, iam.PolicyReplica{Replica: "other-replica", Prepared: []string{}, Refused: refused}))
	if r = w.want(409, "paula", "POST", "/v1/policy/revisions/"+first+":activate", nil); !strings.Contains(r.String(), "X-User-Shoe") {
		t.Errorf("why it refuses it is not said: %s", r)
	}
	w.want(200, "paula", "POST", "/v1/policy/revisions/"+first+":activate", map[string]any{"force": true})
}

func (w *adminWorld) digest(revision string) string {
	w.Helper()
	d, _ := w.want(200, "paula", "GET", "/v1/policy/revisions/"+revision, nil).field("digest").(string)
	return d
}

// decided is the id of a decision that was recorded: mia is not let into a tenant that is
// not hers.
func (w *adminWorld) decided() string {
	w.Helper()
	status, lines, body := w.Ask("GET /system/enrich-token", world.Bearer(w.Mint("alice", nil)), "X-Active-Tenant-ID: nowhere")
	if status != 403 {
		w.Fatalf("alice got into a tenant that is not there: %d %v", status, lines)
	}
	id := regexp.MustCompile(`/decisions/([A-Za-z0-9_-]{22})`).FindStringSubmatch(body)
	if id == nil {
		w.Fatalf("the answer names no decision: %s", body)
	}
	await.True(w, "the log or the store has it", func() bool { return w.call("audrey", "GET", "/v1/decisions/"+id[1], nil).status == 200 })
	return id[1]
}

// decidedOf is the id of a decision that was recorded, for a user and a tenant.
func (w *adminWorld) decidedOf(who, tenant string, more ...map[string]any) string {
	w.Helper()
	claims := map[string]any{}
	for _, m := range more {
		maps.Copy(claims, m)
	}
	_, lines, body := w.Ask("GET /system/enrich-token", world.Bearer(w.Mint(who, claims)), "X-Active-Tenant-ID: "+tenant)
	id := regexp.MustCompile(`(?:/decisions/|X-Decision-Id: )([A-Za-z0-9_-]{22})`).FindStringSubmatch(strings.Join(lines, "\n") + body)
	if id == nil {
		w.Fatalf("the answer names no decision: %v %s", lines, body)
	}
	await.True(w, "the log or the store has it", func() bool { return w.call("audrey", "GET", "/v1/decisions/"+id[1], nil).status == 200 })
	return id[1]
}

func TestADecisionIsFoundAgainAndExplained(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{decisions: true})
	id := w.decided()
	r := w.want(200, "audrey", "GET", "/v1/decisions?subject=alice&tenant=nowhere&code=not_a_member", nil)
	if len(r.items()) != 1 || r.items()[0]["decision"] != id || r.items()[0]["allow"] != false {
		t.Errorf("found %s, want %s", r, id)
	}
	for _, other := range []string{"subject=bob", "tenant=acme", "code=member", "outcome=allowed", "to=2001-01-01T00:00:00Z", "issuer=x", "client_id=x"} {
		if r := w.want(200, "audrey", "GET", "/v1/decisions?"+other, nil); len(r.items()) != 0 {
			t.Errorf("%s finds %s", other, r)
		}
	}
	for _, name := range []string{"issuer", "subject", "client_id", "tenant", "code"} {
		for _, bad := range []string{"%00", "a%00b", "%ff"} {
			if r := w.want(422, "audrey", "GET", "/v1/decisions?"+name+"="+bad, nil); !slices.Equal(r.pointers(), []string{name}) {
				t.Errorf("%s=%s: %s", name, bad, r)
			}
		}
	}
	cursor := base64.RawURLEncoding.EncodeToString([]byte(`["2030-01-01T00:00:00Z","\u0000"]`))
	if r := w.want(422, "audrey", "GET", "/v1/decisions?after="+cursor, nil); !slices.Equal(r.pointers(), []string{"after"}) {
		t.Errorf("got %s", r)
	}
	w.want(404, "audrey", "GET", "/v1/decisions/%00", nil)
	w.want(404, "audrey", "POST", "/v1/policy/explain", map[string]any{"decision": "\x00"})
	r = w.want(200, "audrey", "POST", "/v1/policy/explain", map[string]any{"decision": id})
	text, _ := r.field("text").(string)
	for _, want := range []string{
		"denied, 403 not_a_member", "when it was recorded", "denied by:\n  not_a_member: Not a member of the requested tenant (iam/claims/claims.rego:",
		"member: A member of the active tenant", "fails: _membership.status == \"active\"", "_membership.status is undefined",
		"_user.memberships[_tenant_meant] is undefined", "_tenant_meant is \"nowhere\"", "facts:\n", "users/" + w.RAuth.Issuer + "/alice, version ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not said:\n%s", want, text)
		}
	}
	if strings.Contains(text, "changed since") {
		t.Errorf("nothing has changed:\n%s", text)
	}

	// What has changed since is said, and what would be now.
	w.want(200, "root", "GET", "/v1/users?issuer="+w.RAuth.Issuer+"&subject=alice", nil)
	user, _ := w.want(200, "root", "GET", "/v1/users?issuer="+w.RAuth.Issuer+"&subject=alice", nil).items()[0]["id"].(string)
	w.want(200, "root", "PATCH", "/v1/users/"+user, map[string]any{"status": "blocked"}, "If-Match: *", "Content-Type: application/merge-patch+json")
	text, _ = w.want(200, "audrey", "POST", "/v1/policy/explain", map[string]any{"decision": id}).field("text").(string)
	for _, want := range []string{"changed since: users/" + w.RAuth.Issuer + "/alice", "user_blocked: The user is blocked"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not said:\n%s", want, text)
		}
	}

	// By the user, and by a token.
	r = w.want(200, "audrey", "POST", "/v1/policy/explain", map[string]any{"subject": "frank", "tenant": "acme"})
	if r.field("allow") != true || !strings.Contains(r.field("text").(string), "granted by:\n  member:") {
		t.Errorf("frank: %s", r)
	}
	// The active revision can be named, also where it is not stored.
	active := w.Engine.Revision().ID
	if r = w.want(200, "audrey", "POST", "/v1/policy/explain", map[string]any{"subject": "frank", "tenant": "acme", "revision": active}); r.field("revision") != active {
		t.Errorf("another revision is explained: %s", r)
	}
	r = w.want(200, "audrey", "POST", "/v1/policy/explain", map[string]any{"token": w.Mint("stranger", nil)})
	if r.field("code") != "user_unknown" {
		t.Errorf("a stranger: %s", r)
	}
	away := w.upload(201, "paula", w.with(`# METADATA
# title: From elsewhere
# description: All requests from there are denied.
# custom:
#   code: elsewhere
denials contains _reason(rego.metadata.rule()) if input.request.client_ip == "192.0.2.7"
`))
	from := func(ip string) map[string]any {
		return map[string]any{"subject": "frank", "tenant": "acme", "revision": away, "request": map[string]any{"client_ip": ip}}
	}
	for ip, code := range map[string]string{"192.0.2.7": "elsewhere", "192.0.2.8": "member"} {
		if text := w.want(200, "audrey", "POST", "/v1/policy/explain", from(ip)).text("text"); !strings.Contains(text, code) || strings.Contains(text, "allowed, ") != (code == "member") {
			t.Errorf("from %s: %s", ip, text)
		}
	}
	if r := w.want(200, "audrey", "POST", "/v1/policy/explain", map[string]any{"subject": "frank", "tenant": "acme", "revision": away}); r.field("code") != "request_facts_missing" ||
		!strings.Contains(r.text("text"), "the policy reads input.request.client_ip") {
		t.Errorf("from an unknown address: %s", r)
	}
	for field, value := range map[string]string{"method": "get", "host": "a..b", "scheme": "1"} {
		r := w.want(422, "audrey", "POST", "/v1/policy/explain", map[string]any{"subject": "frank", "request": map[string]any{field: value}})
		if !strings.Contains(fmt.Sprint(r), "/request/"+field) {
			t.Errorf("%s %q: %s", field, value, r)
		}
	}
	w.want(422, "audrey", "POST", "/v1/policy/explain", from("here"))
	w.want(422, "audrey", "POST", "/v1/policy/explain", map[string]any{"token": "x.y.z"})
	w.want(422, "audrey", "POST", "/v1/policy/explain", map[string]any{"token": "x", "subject": "y"})
	w.want(422, "audrey", "POST", "/v1/policy/explain", map[string]any{})
	w.want(404, "audrey", "POST", "/v1/policy/explain", map[string]any{"decision": "none"})
}
