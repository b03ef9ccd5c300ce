package adminapi_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"iam-service/internal/iam"
	"iam-service/internal/policy"
)

const denyEditors = `package iam.claims

# METADATA
# title: No editors
# description: An editor is denied.
# custom:
#   code: no_editors
denials contains _reason(rego.metadata.rule()) if "editor" in _membership.roles
`

// evaluate asks as a person.
func (w *adminWorld) evaluate(who string, body map[string]any) reply {
	w.Helper()
	return w.want(200, who, "POST", "/v1/policy/evaluate", body)
}

func (w *adminWorld) kept() (n int) {
	w.Helper()
	w.OK(w.sql().QueryRow(ctx, `SELECT (SELECT count(*) FROM policy_revisions) + (SELECT count(*) FROM policy_activations) + (SELECT count(*) FROM audit)`).Scan(&n))
	return n
}

// A draft decides a question as the policy would, with its rules explained, its facts, and a case that pins the decision. It
// changes nothing.
func TestADraftIsEvaluatedAndNothingIsStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{decisions: true})
	base := w.stored()
	w.member("acme", "edna", "editor")
	before, active := w.kept(), w.Engine.Revision().Digest
	question := map[string]any{"subject": "edna", "tenant": "acme", "request": map[string]any{"method": "GET", "path": "/v1/documents", "host": "api.example.com", "scheme": "https", "client_ip": "203.0.113.7"}}

	r := w.evaluate("paula", map[string]any{"base": base, "question": question})
	if r.field("compiled") != true || r.field("decision", "allow") != true || r.field("decision", "headers", "X-Tenant-Id") != "acme" {
		t.Fatalf("the base does not allow it: %s", r)
	}
	r = w.evaluate("paula", map[string]any{"base": base, "files": map[string]any{"iam/claims/more.rego": denyEditors}, "question": question})
	if r.field("decision", "allow") != false || r.field("decision", "code") != "no_editors" || !strings.Contains(string(r.body), `"fired":true`) {
		t.Fatalf("the draft does not deny it: %s", r)
	}
	if !strings.Contains(string(r.body), `"path":"users/`) || r.field("input", "token", "sub") != "edna" {
		t.Errorf("the facts or the input are missing: %s", r)
	}
	yaml, _ := r.field("case", "yaml").(string)
	if yaml == "" {
		t.Fatalf("no case is written: %s", r)
	}
	files := map[string]any{"iam/claims/more.rego": denyEditors, "cases/new.yaml": "cases:\n" + yaml}
	r = w.evaluate("paula", map[string]any{"base": base, "files": files, "cases": true})
	cases, _ := r.field("cases").([]any)
	if len(cases) != 1 || cases[0].(map[string]any)["passed"] != true {
		t.Errorf("the case does not pin the decision: %s\n%s", r, yaml)
	}
	delete(files, "iam/claims/more.rego")
	r = w.evaluate("paula", map[string]any{"base": base, "files": files, "cases": true})
	if cases, _ = r.field("cases").([]any); len(cases) != 1 || cases[0].(map[string]any)["passed"] != false {
		t.Errorf("the case passes without the rule: %s", r)
	}
	if n := w.kept(); n != before || w.Engine.Revision().Digest != active {
		t.Errorf("something is stored or activated: %d rows, then %d", before, n)
	}
}

// A token is verified, and occurs in no log; a recorded decision can be asked again.
func TestADraftIsAskedWithATokenAndWithARecordedDecision(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{decisions: true})
	base := w.stored()
	w.member("acme", "edna", "editor")
	token := w.Mint("edna", map[string]any{"email": "edna.secret@example.com", "aud": "gateway"})
	draft := map[string]any{"iam/claims/more.rego": denyEditors}
	r := w.want(422, "paula", "POST", "/v1/policy/evaluate", map[string]any{"base": base, "question": map[string]any{"token": token + "x", "tenant": "acme"}})
	if p := r.pointers(); len(p) != 1 || p[0] != "/question/token" {
		t.Errorf("a forged token: %s", r)
	}
	r = w.evaluate("paula", map[string]any{"base": base, "files": draft, "question": map[string]any{"token": w.Mint("edna", map[string]any{"email": "edna.secret@example.com"}), "tenant": "acme"}})
	if r.field("decision", "code") != "no_editors" || strings.Contains(string(r.body), "edna.secret") {
		t.Errorf("got %s", r)
	}
	if strings.Contains(w.Logs.String(), token) || strings.Contains(w.Logs.String(), "edna.secret") {
		t.Error("the log has the token or its claims")
	}
	r = w.evaluate("paula", map[string]any{"base": base, "files": draft, "question": map[string]any{"decision": w.decidedOf("edna", "acme")}})
	if r.field("decision", "code") != "no_editors" || r.field("explanation", "recorded", "allow") != true {
		t.Errorf("got %s", r)
	}
}

// The files of the active policy become a draft, a bundle, a revision, and the active policy.
func TestADraftIsBuiltUploadedAndActivated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	base := w.upload(201, "paula", w.bundleOf(func(*policy.Candidate) {}))
	r := w.want(200, "paula", "GET", "/v1/policy/revisions/"+base+"/files", nil)
	var listed struct {
		Digest string
		Files  []struct{ Path, Kind, Text string }
	}
	w.OK(json.Unmarshal(r.body, &listed))
	kinds := map[string]int{}
	files := map[string]any{}
	for _, f := range listed.Files {
		kinds[f.Kind]++
		files[f.Path] = f.Text
	}
	if kinds["rego"] < 3 || kinds["data"] == 0 || kinds["manifest"] != 1 || iam.PolicyID(listed.Digest) != base {
		t.Fatalf("got %s", r)
	}
	files["iam/claims/more.rego"] = denyEditors
	draft := map[string]any{"base": base, "files": files, "name": "no-editors"}
	built := w.want(200, "paula", "POST", "/v1/policy/drafts", draft)
	if again := w.want(200, "paula", "POST", "/v1/policy/drafts", draft); string(again.body) != string(built.body) || built.header.Get("Content-Type") != "application/gzip" {
		t.Error("equal drafts are different bytes")
	}
	revision := w.upload(201, "paula", built.body)
	if r := w.want(200, "paula", "GET", "/v1/policy/revisions/"+revision, nil); r.field("name") != "no-editors" {
		t.Errorf("got %s", r)
	}
	w.want(202, "paula", "POST", "/v1/policy/preview", map[string]any{"revision": revision})
	w.want(200, "paula", "POST", "/v1/policy/revisions/"+revision+":activate", map[string]any{"reason": "test"})
	if w.Engine.Revision().ID != revision {
		t.Errorf("%s is active", w.Engine.Revision().ID)
	}
	w.want(200, "paula", "GET", "/v1/policy/revisions/active/files", nil)
	r = w.want(422, "paula", "POST", "/v1/policy/drafts", map[string]any{"base": base, "files": map[string]any{"iam/claims/more.rego": "package iam.claims\n\nx := http.send({})\n"}})
	if !strings.Contains(string(r.body), "more.rego:3") {
		t.Errorf("got %s", r)
	}
}

// A draft without end is stopped, and the replica serves on.
func TestADraftWithoutEndIsStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, settings{})
	base := w.stored()
	w.member("acme", "edna", "editor")
	var steps strings.Builder
	for i := range 9 {
		fmt.Fprintf(&steps, "some x%d in _list; ", i)
	}
	rego := "package iam.claims\n\n_list := [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n\ndenials contains {\"code\": \"never\", \"title\": \"never\"} if count([1 | " + steps.String() + "x0 > 10]) == 1\n"
	question := map[string]any{"subject": "edna", "tenant": "acme"}
	r := w.evaluate("paula", map[string]any{"base": base, "files": map[string]any{"iam/claims/more.rego": rego}, "question": question})
	if r.field("decision", "status") != 503. || r.field("decision", "code") != "policy_timeout" {
		t.Errorf("got %s", r)
	}
	if r := w.evaluate("paula", map[string]any{"base": base, "question": question}); r.field("decision", "allow") != true {
		t.Errorf("got %s", r)
	}
}
