package authoring_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"

	"iam-service/internal/policy"
	"iam-service/internal/policy/authoring"
	"iam-service/policies"
)

// folder is a new policy, with files written over it.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mine")
	if _, err := authoring.New(dir, policies.FS); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func load(t *testing.T, dir string) *authoring.Folder {
	t.Helper()
	f, err := authoring.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// What "policy new" makes is good in every respect, and so is the default policy.
func TestABeginningIsGood(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{folder(t, nil), "../../../policies"} {
		f := load(t, dir)
		found, revision, err := f.Check(t.Context(), authoring.CheckOptions{Admin: true})
		if err != nil || len(found) > 0 || revision == nil {
			t.Errorf("%s: %v, %v", dir, found, err)
		}
		var out bytes.Buffer
		report, err := f.Test(t.Context(), &out, authoring.TestOptions{Threshold: 100, Timeout: time.Minute})
		if err != nil || !report.Passed() || report.Ran < 10 {
			t.Errorf("%s: %+v, %v: %s", dir, report, err, &out)
		}
	}
	if _, err := authoring.New("../../../policies", policies.FS); err == nil {
		t.Error("a folder that is there was written over")
	}
}

// Each thing that is asked for is missed where it is missing, with file and line.
func TestEachFaultOfAPolicyIsFound(t *testing.T) {
	t.Parallel()
	const meta = "# METADATA\n# title: T\n# description: D\n# custom:\n#   code: c\n"
	rule := func(text string) string { return "package iam.claims\n\n" + text }
	denial := func(body string) string {
		return rule(meta + "denials contains _reason(rego.metadata.rule()) if {\n\t" + body + "\n}\n")
	}
	for name, c := range map[string]struct {
		text string
		want string // rule:line, of all findings
	}{
		"nothing":                        {denial("input.token.acr == \"1\""), ""},
		"not formatted":                  {rule(meta + "denials contains _reason(rego.metadata.rule()) if input.token.acr  ==  \"1\"\n"), "format:0"},
		"no metadata":                    {rule("denials contains {\"code\": \"x\", \"title\": \"x\"} if input.token.acr == \"1\"\n"), "metadata:3"},
		"no description":                 {rule("# METADATA\n# title: T\n# custom:\n#   code: c\ndenials contains _reason(rego.metadata.rule()) if input.token.acr == \"1\"\n"), "metadata:7"},
		"a bad code":                     {strings.Replace(denial("input.token.acr == \"1\""), "code: c", "code: Not-A-Code", 1), "metadata:8"},
		"a name":                         {rule("_isIt if input.token.acr\n"), "snake-case:3"},
		"print":                          {denial("print(input.token.acr)"), "print:8"},
		"a field that is none":           {denial("input.tokn.acr == \"1\""), "strict:9"},
		"an unused variable":             {denial("x := input.token.acr"), "strict:9"},
		"a forbidden builtin":            {denial("http.send({\"url\": input.token.acr})"), "strict:9"},
		"a walk":                         {denial("some of_issuer in data.directory.users\n\tof_issuer[input.token.sub].id == input.token.acr"), "walk:9"},
		"a walk with a key":              {denial("some id, _ in data.directory.tenants\n\tid == input.token.acr"), "walk:9"},
		"a walk by a wildcard":           {denial("data.directory.tenants[_].slug == input.token.acr"), "walk:9"},
		"a walk over one issuer":         {denial("data.directory.users[input.token.iss][_].id == input.token.acr"), "walk:9"},
		"a walk by a variable":           {denial("some s\n\tdata.directory.users[input.token.iss][s].id == input.token.acr"), "walk:10"},
		"a count":                        {denial("count(data.directory.users) > to_number(input.token.acr)"), "walk:9"},
		"a walk under another name":      {"package iam.claims\n\nimport data.directory as d\n\n" + meta + "denials contains _reason(rego.metadata.rule()) if count(d.users) > to_number(input.token.acr)\n", "walk:10"},
		"a document by a variable":       {denial("some tenant in input.token.groups\n\tdata.directory.tenants[tenant].status == \"archived\""), ""},
		"a document by an assignment":    {denial("t := input.token.acr\n\tdata.directory.tenants[t].status == \"archived\""), ""},
		"a document by an argument":      {rule("_f(t) := data.directory.tenants[t].status\n"), ""},
		"a negated call of the input":    {rule("_f(x) if x == \"1\"\n\n_g if not _f(input.token.acr)\n"), "negated-call-of-input:5"},
		"a negated builtin":              {rule("_g if not startswith(input.request.path, \"/x\")\n"), "negated-call-of-input:3"},
		"a negated membership":           {rule("_g if not input.token.acr in {\"2\"}\n"), "negated-call-of-input:3"},
		"a negated call of a rule":       {rule("_p := input.request.path\n\n_g if not startswith(_p, \"/x\")\n"), "negated-call-of-input:5"},
		"a negated call within one":      {rule("_g if not startswith(lower(input.request.path), \"/x\")\n"), "negated-call-of-input:3"},
		"a negated comparison":           {rule("_g if not input.token.acr == \"2\"\n"), ""},
		"a negated rule":                 {rule("_strong if input.token.acr == \"2\"\n\n_g if not _strong\n"), ""},
		"a walk in a comprehension":      {rule("_x := [id | data.directory.tenants[id].status == \"active\"]\n"), "walk:3"},
		"a key that is bound later":      {rule("_x if {\n\tdata.directory.tenants[k].status == \"active\"\n\tk = input.token.sub\n}\n"), "walk:4"},
		"a key that is read later":       {rule("_x := who if {\n\tsome sub\n\tdata.directory.users[input.token.iss][sub].status == \"active\"\n\twho := lower(sub)\n}\n"), "walk:5"},
		"a collection under its name":    {"package iam.claims\n\nimport data.directory.tenants as ts\n\n_x if ts[_].status == \"active\"\n", "walk:5"},
		"the directory as a value":       {"package iam.claims\n\nimport data.directory as d\n\n_x := d\n", "walk:5"},
		"any root of data":               {rule("_x if {\n\tsome root\n\tdata[root].tenants[_]\n}\n"), "walk:5"},
		"a variable named as a rule":     {rule("_x if {\n\tsome roles\n\tdata.directory.tenants[roles].status == \"active\"\n}\n"), "walk:5"},
		"every":                          {rule("_x if {\n\tevery t in input.token.groups {\n\t\tdata.directory.tenants[t].status == \"active\"\n\t}\n}\n"), ""},
		"a key of another document":      {rule("_x if {\n\tsome id\n\t_user.memberships[id].status == \"active\"\n\tdata.directory.tenants[id].status == \"active\"\n}\n"), ""},
		"a key of the head":              {rule("_t[id] := data.directory.tenants[id] if _user.memberships[id].status == \"active\"\n"), ""},
		"mocked":                         {rule("_x if _y with data.directory.users as {}\n\n_y if input.token.acr\n"), ""},
		"a test among the rules":         {rule("test_x if input.token.acr == \"1\"\n"), "test-in-test-file:3"},
		"a package in another folder":    {"package iam.elsewhere\n\nx := 1\n", "package-in-folder:1"},
		"a package outside of the roots": {"package other\n\nx := 1\n", "gate:0 package-in-folder:1"},
	} {
		dir := folder(t, map[string]string{"iam/claims/extra.rego": c.text})
		found, _, err := load(t, dir).Check(t.Context(), authoring.CheckOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range found {
			if f.File != filepath.Join(dir, "iam/claims/extra.rego") && f.Rule != "gate" {
				t.Errorf("%s: %s", name, f)
			}
			if f.Rule != "unreached" { // most are short of a rule that uses them
				got = append(got, fmt.Sprintf("%s:%d", f.Rule, f.Line))
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: found %q, want %q: %v", name, got, c.want, found)
		}
	}
	// What only the gate knows.
	dir := folder(t, map[string]string{"iam/config/data.json": `{"headers": ["X-User-ID", "X-User-Shoe-Size"]}`})
	if found, _, err := load(t, dir).Check(t.Context(), authoring.CheckOptions{}); err != nil || len(found) == 0 || !strings.Contains(found[0].String(), "X-User-Shoe-Size is missing from GATEWAY_HEADERS") {
		t.Errorf("found %v, %v", found, err)
	}
	// From another package, by a reference.
	for _, head := range []string{"claims.grants contains", "claims[\"grants\"] contains"} {
		dir = folder(t, map[string]string{"iam/extra.rego": "package iam\n\n" + head + " {\"code\": \"x\", \"title\": \"x\"} if input.token.acr == \"0\"\n"})
		if found, _, err := load(t, dir).Check(t.Context(), authoring.CheckOptions{}); err != nil || !slices.ContainsFunc(found, func(f authoring.Finding) bool { return f.Rule == "metadata" && f.Line == 3 }) {
			t.Errorf("%s: found %v, %v", head, found, err)
		}
	}
	dir = folder(t, map[string]string{"schemas/claims.json": `{"auth_time": {"type": "number"}}`})
	if _, err := authoring.Load(dir); err == nil || !strings.Contains(err.Error(), `has no "properties"`) {
		t.Errorf("claims without properties: %v", err)
	}
	// All errors of parsing, of all files.
	dir = folder(t, map[string]string{"iam/claims/a.rego": "package iam.claims\n\nx if {\n", "iam/claims/b.rego": "pakage x\n"})
	if _, err := authoring.Load(dir); err == nil || !strings.Contains(err.Error(), "a.rego:") || !strings.Contains(err.Error(), "b.rego:1") {
		t.Errorf("got %v", err)
	}
}

// What never has a value, is never reached or never loaded is found: a denial that depends on it
// would pass every other check, and deny no request.
func TestWhatCanNeverFireIsFound(t *testing.T) {
	t.Parallel()
	const meta = "# METADATA\n# title: T\n# description: D\n# custom:\n#   code: c\n"
	denial := func(body string) string {
		return "package iam.claims\n\n" + meta + "denials contains _reason(rego.metadata.rule()) if {\n\t" + body + "\n}\n"
	}
	const claims = "iam/claims/extra.rego"
	for name, c := range map[string]struct {
		files map[string]string
		want  string // file:line:column, of all findings, with their rules; empty: nothing
		text  string // of one of them
	}{
		"a collection that is none":      {map[string]string{claims: denial(`data.directory.user[input.token.iss][input.token.sub].status == "x"`)}, claims + ":9:2 undefined", "data.directory has clients, tenants, users"},
		"a field of a user":              {map[string]string{claims: denial(`_user.attribtues.department == "sales"`)}, claims + ":9:2 strict", `want (one of): ["attributes"`},
		"a field of a membership":        {map[string]string{claims: denial(`_membership.state == "suspended"`)}, claims + ":9:2 strict", `"tenant_status"`},
		"a field of a client":            {map[string]string{claims: denial(`data.directory.clients[input.token.iss][input.token.client_id].role == "x"`)}, claims + ":9:2 strict", `"scopes"`},
		"a field of a role":              {map[string]string{claims: denial(`_tenant.roles.viewer.permission == ["x"]`)}, claims + ":9:2 strict", `"permissions"`},
		"a type of a field":              {map[string]string{claims: denial(`_user.id == 7`)}, claims + ":9:2 strict", "number"},
		"a package that is none":         {map[string]string{claims: denial(`data.iam.claimz.scopes[input.token.acr]`)}, claims + ":9:2 undefined", "data.iam has admin, authzen, claims, config"},
		"a rule of another package":      {map[string]string{claims: denial(`data.iam.admin.grantz`)}, claims + ":9:2 undefined", "data.iam.admin has"},
		"data that is not there":         {map[string]string{claims: denial(`data.iam.limits.daily > 3`)}, claims + ":9:2 undefined", "data.iam has"},
		"data that is not there, nested": {map[string]string{claims: denial(`data.iam.limits.daly > 3`), "iam/limits/data.json": `{"daily": 3}`}, claims + ":9:2 undefined iam/limits/data.json:0:0 schema", "data.iam.limits has daily"},
		"data that is there":             {map[string]string{claims: denial(`data.iam.limits[input.token.sub] > data.iam.limits.daily`), "iam/limits/data.yml": "daily: 3\n"}, "iam/limits/data.yml:0:0 schema", "data.iam.limits is not validated: no METADATA assigns a schema to it"},
		"a list":                         {map[string]string{claims: denial(`data.iam.lists.first[0] == input.token.sub`), "iam/lists/data.yaml": "first: [a]\n"}, "iam/lists/data.yaml:0:0 schema", "schemas: - data.iam.lists"},
		"an undeclared claim":            {map[string]string{claims: denial(`input.token.auth_time < input.now - 900`)}, claims + ":9:2 strict", "schemas/claims.json"},
		"a claim that the folder declares": {map[string]string{
			claims: denial(`input.token.auth_time < input.now - 900`), "schemas/claims.json": `{"properties": {"auth_time": {"type": "number"}}}`,
			"iam/admin/extra.rego": "package iam.admin\n\n" + meta + "denials contains _reason(rego.metadata.rule()) if input.token.auth_time < 7\n",
		}, "", ""},
		"a declared claim of another type": {map[string]string{claims: denial(`input.token.auth_time == "x"`), "schemas/claims.json": `{"properties": {"auth_time": {"type": "number"}}}`}, claims + ":9:2 strict", "number"},
		"a setting that is none":           {map[string]string{claims: denial(`data.iam.config.headerz`)}, claims + ":9:2 strict", `"headers"`},
		"another root":                     {map[string]string{claims: denial(`data.shared.blocked[input.token.sub]`)}, claims + ":9:2 undefined", `"metadata": {"uses": ["shared"]}`},
		"the root of another bundle":       {map[string]string{claims: denial(`data.shared.blocked[input.token.sub]`), ".manifest": `{"roots": ["iam"], "metadata": {"uses": ["shared"]}}`}, "", ""},
		"what takes the place of a rule":   {map[string]string{claims: denial("_f with data.iam.nothing as 1") + "\n_f if input.token.acr\n"}, "", ""},
		"the input, in another package": {map[string]string{claims: denial(`data.iam.lib.internal`), "iam/lib/lib.rego": "package iam.lib\n\ninternal if input.request.pth == \"/x\"\n"},
			"iam/lib/lib.rego:3:13 strict", `"path"`},
		"the input of the other entrypoint": {map[string]string{"iam/admin/extra.rego": "package iam.admin\n\n" + meta + "denials contains _reason(rego.metadata.rule()) if input.settings.unknown_users == \"x\"\n"},
			"iam/admin/extra.rego:8:51 strict", `"action"`},
		"a package of both entrypoints": {map[string]string{
			claims: denial(`data.iam.lib.slow`), "iam/lib/lib.rego": "package iam.lib\n\nslow if input.now > 7\n\nslow if input.action == \"x\"\n\nslow if input.acton == \"x\"\n",
			"iam/admin/extra.rego": "package iam.admin\n\n" + meta + "denials contains _reason(rego.metadata.rule()) if data.iam.lib.slow\n",
		}, "iam/lib/lib.rego:7:9 strict", `"action"`},
		"a sample that nothing reaches":  {map[string]string{"iam/sample/sample.rego": "package iam.sample\n\ndefault allow := false\n\nallow if input.request.method == \"GET\"\n"}, "iam/sample/sample.rego:3:1 unreached", "data.iam.claims.decision"},
		"data under another name":        {map[string]string{"iam/limits/config.json": `{"a": 1}`}, "iam/limits/config.json:0:0 not-loaded", "data.iam.limits.config it is iam/limits/config/data.json"},
		"YAML under another name":        {map[string]string{"iam/limits.yaml": "a: 1\n"}, "iam/limits.yaml:0:0 not-loaded", "data.json or data.yaml"},
		"rules under another name":       {map[string]string{"iam/claims/night.rego.bak": "package iam.claims\n"}, "iam/claims/night.rego.bak:0:0 not-loaded", ".rego"},
		"cases in a folder of their own": {map[string]string{"cases/team/x.yaml": "cases: []\n"}, "cases/team/x.yaml:0:0 not-loaded", "cases/*.yaml"},
		"questions that are not read":    {map[string]string{"preview/x.yml": "questions: []\n"}, "preview/x.yml:0:0 not-loaded", "preview/*.yaml"},
		"a schema that nothing uses":     {map[string]string{"schemas/claim.json": "{}"}, "schemas/claim.json:0:0 not-loaded", "schemas/claims.json"},
		"what is no policy":              {map[string]string{"README.md": "x", "iam/claims/NOTES.md": "x", "Makefile": "x", "preview/questions.yaml": "questions: []\n", ".ci/x.yaml": "x"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, c.files)
			found, _, err := load(t, dir).Check(t.Context(), authoring.CheckOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			said := false
			for _, f := range found {
				rel, err := filepath.Rel(dir, f.File)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprintf("%s:%d:%d %s", rel, f.Line, f.Column, f.Rule))
				said = said || strings.Contains(f.String(), c.text)
			}
			if strings.Join(got, " ") != c.want || c.want != "" && !said {
				t.Errorf("found %v, want %s with %q", found, c.want, c.text)
			}
		})
	}
}

// Tests and cases that fail are said, and what nothing has seen.
func TestFailedTestsAndMissingCoverageAreReported(t *testing.T) {
	t.Parallel()
	run := func(files map[string]string, o authoring.TestOptions) (authoring.TestReport, string) {
		t.Helper()
		var out bytes.Buffer
		dir := folder(t, files)
		report, err := load(t, dir).Test(t.Context(), &out, o)
		if err != nil {
			t.Fatal(err)
		}
		for i, file := range report.Uncovered {
			report.Uncovered[i] = strings.TrimPrefix(file, dir+"/")
		}
		return report, strings.ReplaceAll(out.String(), dir+"/", "")
	}
	report, out := run(map[string]string{"iam/claims/more_test.rego": "package iam.claims_test\n\nimport data.iam.claims\n\ntest_wrong if claims.scopes == {\"a\"} with input as {\"token\": {\"sub\": \"s\"}}\n"}, authoring.TestOptions{})
	if report.Failed != 1 || report.Passed() || !strings.Contains(out, "test_wrong: FAIL") || !strings.Contains(out, "claims.scopes == {\"a\"}") || !strings.Contains(out, "set()") {
		t.Errorf("%+v: %s", report, out)
	}
	report, out = run(map[string]string{"iam/claims/extra.rego": "package iam.claims\n\n_unseen if input.token.acr == \"7\"\n"}, authoring.TestOptions{Threshold: 90})
	if !slices.Equal(report.Uncovered, []string{"iam/claims/extra.rego"}) || !strings.Contains(out, "iam/claims/extra.rego:3") {
		t.Errorf("%+v: %s", report, out)
	}
	report, _ = run(map[string]string{"iam/claims/extra.rego": "package iam.claims\n\n_unseen if input.token.acr == \"7\"\n"}, authoring.TestOptions{Threshold: 90, Run: "mine"})
	if !report.Passed() || report.Ran != 2 {
		t.Errorf("a part: %+v", report)
	}
	// A case sees lines as a test does.
	report, out = run(map[string]string{
		"iam/claims/extra.rego": "package iam.claims\n\ndenials contains {\"code\": \"c\", \"title\": \"t\"} if input.token.acr == \"7\"\n",
		"cases/extra.yaml":      "cases: [{title: seven, input: {token: {iss: i, sub: s, acr: \"7\"}}, want: {allow: false}}]\n",
	}, authoring.TestOptions{Threshold: 90})
	if !report.Passed() {
		t.Errorf("%+v: %s", report, out)
	}
	wrong := `cases:
  - {title: who, input: {token: {iss: i, sub: s}}, want: {allow: true, tenant: acme, headers: {X-User-ID: u}, codes: [member], status: 401}}
  - {title: broken, entrypoint: admin, input: {}, want: {allow: false, status: 403}}
`
	report, out = run(map[string]string{"cases/wrong.yaml": wrong}, authoring.TestOptions{})
	if report.CasesFailed != 1 || !strings.Contains(out, `FAIL cases/wrong.yaml: who: allow is false, want true; status is 403, want 401; tenant is null, want "acme"; codes is ["user_unknown"], want "member"; X-User-ID is "", want "u"`) {
		t.Errorf("%+v: %s", report, out)
	}
	for text, want := range map[string]string{
		"cases: [{title: x, want: {}}]":                                   "want.allow must be true or false",
		"cases: [{want: {allow: true}}]":                                  "has no title",
		"cases: [{title: x, entrypoint: other, want: {allow: true}}]":     "entrypoint must be",
		"cases: [{title: x, wants: {allow: true}}]":                       "wants",
		"cases: []\n---\ncases: []":                                       "it must be one YAML document",
		"cases: [{title: x, want: {allow: true}}]\ncases: []":             "cases",
		"cases:\n- {title: x, input: {a: [}, want: {allow: true}}\n  bad": "cases/x.yaml",
	} {
		if _, err := authoring.Load(folder(t, map[string]string{"cases/x.yaml": text})); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Code hosts take a log that has what SARIF 2.1.0 requires.
func TestFindingsAreSARIF(t *testing.T) {
	t.Parallel()
	found := []authoring.Finding{
		{File: "a b/iam/x.rego", Line: 3, Column: 7, Rule: "strict", Text: "undefined ref", Details: []string{"have: x"}},
		{File: "/tmp/y.rego", Rule: "format", Text: "is not formatted"},
		{Rule: "gate", Text: "it has no rule"},
	}
	text, err := json.Marshal(authoring.SARIF(found, "1.2.3"))
	if err != nil {
		t.Fatal(err)
	}
	var log struct {
		Schema  string `json:"$schema"`
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct {
					Name  string
					Rules []struct {
						ID               string
						ShortDescription struct{ Text string }
					}
				}
			}
			Results []struct {
				RuleID    string
				RuleIndex int
				Level     string
				Message   struct{ Text string }
				Locations []struct {
					PhysicalLocation struct {
						ArtifactLocation struct{ URI string }
						Region           *struct{ StartLine, StartColumn int }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(text, &log); err != nil {
		t.Fatal(err)
	}
	if log.Version != "2.1.0" || log.Schema == "" || len(log.Runs) != 1 || log.Runs[0].Tool.Driver.Name == "" || len(log.Runs[0].Results) != len(found) {
		t.Fatalf("%s", text)
	}
	rules := log.Runs[0].Tool.Driver.Rules
	for i, r := range log.Runs[0].Results {
		if r.RuleID != found[i].Rule || rules[r.RuleIndex].ID != r.RuleID || rules[r.RuleIndex].ShortDescription.Text == "" || r.Level != "error" || !strings.HasPrefix(r.Message.Text, found[i].Text) {
			t.Errorf("%+v", r)
		}
	}
	first, second := log.Runs[0].Results[0].Locations[0].PhysicalLocation, log.Runs[0].Results[1].Locations[0].PhysicalLocation
	if first.ArtifactLocation.URI != "a%20b/iam/x.rego" || first.Region == nil || first.Region.StartLine != 3 || first.Region.StartColumn != 7 {
		t.Errorf("%+v", first)
	}
	if second.ArtifactLocation.URI != "file:///tmp/y.rego" || second.Region != nil || len(log.Runs[0].Results[2].Locations) != 0 {
		t.Errorf("%s", text)
	}
}

// What is checked is what is built, and what serves takes: hidden files are none of it,
// links are; wherever the folder lies, the bytes are the same.
func TestAllToolsSeeTheSamePolicy(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{".hidden/z.rego": "package iam.claims\n\ngrants contains 1\n", "iam/claims/.#lock.rego": "not Rego at all"})
	linked := filepath.Join(dir, "iam/claims/mine.rego")
	elsewhere := filepath.Join(t.TempDir(), "shared.rego")
	if err := os.Rename(linked, elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, linked); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "iam/claims/.#claims.rego")); err != nil {
		t.Fatal(err)
	}
	current := filepath.Join(t.TempDir(), "current")
	if err := os.Symlink(dir, current); err != nil {
		t.Fatal(err)
	}
	found, checked, err := load(t, current).Check(t.Context(), authoring.CheckOptions{})
	if err != nil || len(found) > 0 {
		t.Fatalf("found %v, %v", found, err)
	}
	a, err1 := authoring.Build(dir, "v", nil)
	b, err2 := authoring.Build(current, "v", nil)
	if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
		t.Errorf("%d and %d bytes, %v, %v", len(a), len(b), err1, err2)
	}
	file := filepath.Join(t.TempDir(), "b.tar.gz")
	if err := os.WriteFile(file, a, 0o600); err != nil {
		t.Fatal(err)
	}
	built, err := authoring.CheckBundle(t.Context(), file, authoring.CheckOptions{})
	if err != nil || built.ID != checked.ID {
		t.Errorf("checked was %s, built is %+v, %v", checked.ID, built, err)
	}
	if policy.Fingerprint(dir) == "" || authoringFingerprintMoves(t, dir) {
		t.Error("a save is not seen next to a dangling link")
	}
}

func authoringFingerprintMoves(t *testing.T, dir string) (same bool) {
	t.Helper()
	before := policy.Fingerprint(dir)
	if err := os.WriteFile(filepath.Join(dir, "iam/claims/zz.rego"), []byte("package iam.claims\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return policy.Fingerprint(dir) == before
}

// A name that would break what is begun is refused.
func TestABeginningHasANameOfItsOwn(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"claims", "member", "2fa", "MyPolicy", "policy.v2", "my policy"} {
		dir := filepath.Join(t.TempDir(), name)
		if made, err := authoring.New(dir, policies.FS); err == nil || len(made) > 0 {
			t.Errorf("%s: made %v, %v", name, made, err)
		}
	}
}

func TestAFileIsFormattedInPlace(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"iam/claims/x.rego": "package iam.claims\n_x   :=   1\n"})
	listed, err := authoring.Unformatted([]string{dir})
	if err != nil || len(listed) != 1 {
		t.Errorf("listed %v, %v", listed, err)
	}
	if written, err := authoring.Format([]string{dir}); err != nil || !slices.Equal(written, listed) {
		t.Errorf("wrote %v, %v", written, err)
	}
	text, err := os.ReadFile(listed[0])
	if err != nil || string(text) != "package iam.claims\n\n_x := 1\n" {
		t.Errorf("wrote %q, %v", text, err)
	}
	if left, err := authoring.Unformatted([]string{dir}); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// House style is Rego, and has tests.
func TestHouseStyle(t *testing.T) {
	t.Parallel()
	modules := map[string]*ast.Module{}
	for _, file := range []string{"style/style.rego", "style/style_test.rego"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		modules[file] = ast.MustParseModuleWithOpts(string(text), ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true})
	}
	ctx := context.Background()
	store := inmem.New()
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		t.Fatal(err)
	}
	results, err := tester.NewRunner().SetStore(store).SetModules(modules).SetTimeout(time.Minute).RunTests(ctx, txn)
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for r := range results {
		ran++
		if !r.Pass() {
			t.Errorf("%s", r)
		}
		for name, sub := range r.SubResults {
			if sub.Fail {
				t.Errorf("case failed: %s", name)
			}
		}
	}
	if ran < 2 {
		t.Errorf("%d tests ran", ran)
	}
}
