package style_test

import data.style

module(change) := object.union(
	{"file": "iam/claims/claims.rego", "package": "iam.claims", "lines": ["package iam.claims"], "rules": []},
	change,
)

rule(change) := object.union({"name": "grants", "line": 3, "arguments": [], "prints": false, "negations": []}, change)

cases := {
	"a good module": [module({"rules": [rule({"name": "_own_f", "arguments": ["the_user"]})]}), []],
	"a name": [module({"rules": [rule({"name": "isAdmin"})]}), ["snake-case"]],
	"an argument": [module({"rules": [rule({"arguments": ["User"]})]}), ["snake-case"]],
	"a package": [module({"file": "iam/Claims/x.rego", "package": "iam.Claims"}), ["snake-case"]],
	"elsewhere": [module({"package": "iam.other"}), ["package-in-folder"]],
	"below another folder": [module({"file": "policies/iam/claims/claims.rego"}), []],
	"a stray test": [module({"rules": [rule({"name": "test_x"})]}), ["test-in-test-file"]],
	"a test": [module({"file": "iam/claims/claims_test.rego", "package": "iam.claims_test", "rules": [rule({"name": "test_x", "prints": true})]}), []],
	"a test in the package itself": [module({"file": "iam/claims/claims_test.rego"}), ["test-package"]],
	"print": [module({"rules": [rule({"prints": true})]}), ["print"]],
	"a negation": [module({"rules": [rule({"negations": [{"line": 4, "text": "f(input.x)"}]})]}), ["negated-call-of-input"]],
}

test_findings[name] if {
	some name, case in cases
	got := {f.rule | some f in style.findings with input as case[0]}
	got == {r | some r in case[1]}
}

test_a_long_line_is_found if {
	line := concat("", [x | some _ in numbers.range(1, 161); x := "x"])
	some f in style.findings with input as module({"lines": ["short", line]})
	f == {"rule": "line-length", "line": 2, "text": "the line has 161 characters, 160 are allowed"}
}
