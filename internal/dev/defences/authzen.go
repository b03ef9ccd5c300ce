package defences

// ofAuthzen are those of the AuthZEN API.
var ofAuthzen = []Defence{
	{
		Threat: "evaluations for any caller", File: "internal/enrich/pdp/question.go",
		Code: "if !slices.Contains(c.scopes, Scope) {", Without: "if false {",
		Package: "./internal/gateway/authzen", Test: "TestOnlyARegisteredClientWithTheScopeAsks",
	},
	{
		Threat: "evaluations for any caller", File: "internal/enrich/pdp/question.go",
		Code: "case !t.Program():", Without: "case false:",
		Package: "./internal/gateway/authzen", Test: "TestOnlyARegisteredClientWithTheScopeAsks",
	},
	{
		Threat: "an erased user's id means another user", File: "internal/enrich/pdp/question.go",
		Code: "if err != nil || p.ID == e.asked {", Without: "if err != nil || p.Known {",
		Package: "./internal/gateway/authzen", Test: "TestTheIDOfAnErasedUserMeansNobody",
	},
	{
		Threat: "evaluations about another tenant", File: "internal/enrich/pdp/question.go",
		Code: `case c.tenant != "" && named != c.tenant:`, Without: "case false:",
		Package: "./internal/gateway/authzen", Test: "TestAClientAsksAboutItsTenantAlone",
	},
	{
		Threat: "evaluations about another tenant", File: "internal/enrich/pdp/pdp.go",
		Code: `if e.subject.issuer != "" && !s.cfg.Issuers.Reaches(e.subject.issuer, e.tenant) {`, Without: "if false {",
		Package: "./internal/gateway/authzen", Test: "TestKillSwitchesHoldWhateverThePolicyAllows",
	},
	{
		Threat: "evaluations above a kill switch", File: "internal/enrich/pdp/pdp.go",
		Code: "if p.Known && p.Status != iam.UserActive {", Without: "if false {",
		Package: "./internal/gateway/authzen", Test: "TestKillSwitchesHoldWhateverThePolicyAllows",
	},
	{
		Threat: "evaluations above a kill switch", File: "internal/enrich/pdp/pdp.go",
		Code: "if d.Allow && e.issued(result.notBefore) {", Without: "if false {",
		Package: "./internal/gateway/authzen", Test: "TestKillSwitchesHoldWhateverThePolicyAllows",
	},
	{
		Threat: "evaluations above a kill switch", File: "internal/enrich/pdp/pdp.go",
		Code: "if !p.Known || p.Status != iam.ClientActive || p.Tenant", Without: "if false && p.Tenant",
		Package: "./internal/gateway/authzen", Test: "TestKillSwitchesHoldWhateverThePolicyAllows",
	},
	{
		Threat: "an evaluation that is read in two ways", File: "internal/gateway/authzen/json.go",
		Code: "if _, repeated := o[name]; repeated {", Without: "if false {",
		Package: "./internal/gateway/authzen", Test: "TestABodyThatCanBeReadInTwoWaysIsRejected",
	},
	{
		Threat: "an evaluation that is read in two ways", File: "internal/gateway/authzen/json.go",
		Code: "if !utf8.Valid(text) || !pairedSurrogates(text) {", Without: "if !utf8.Valid(text) {",
		Package: "./internal/gateway/authzen", Test: "TestABodyThatCanBeReadInTwoWaysIsRejected",
	},
	{
		Threat: "evaluations without an end", File: "internal/gateway/authzen/evaluations.go",
		Code: "if len(list) > maxEvaluations {", Without: "if false {",
		Package: "./internal/gateway/authzen", Test: "TestAnInvalidEvaluationIsADenyAndAnInvalidRequestIs400",
	},
	{
		Threat: "evaluations without an end", File: "internal/gateway/authzen/json.go",
		Code: "if depth == maxDepth {", Without: "if false {",
		Package: "./internal/gateway/authzen", Test: "TestABodyThatCanBeReadInTwoWaysIsRejected",
	},
	{
		Threat: "evaluations without an end", File: "internal/enrich/pdp/search.go",
		Code: "x.done += part.Read - len(part.Users)", Without: "",
		Package: "./internal/gateway/authzen", Test: "TestAPageEndsWhereNobodyIsOfTheIssuer",
	},
	{
		Threat: "evaluations without an end", File: "internal/enrich/pdp/pdp.go",
		Code: "placeLimit{each: 1, all: 3}", Without: "placeLimit{each: 3, all: 3}",
		Package: "./internal/gateway/authzen", Test: "TestSearchesOfATenantLeaveAPlaceForOthers",
	},
	{
		Threat: "a page of another search", File: "internal/gateway/authzen/search.go",
		Code: "!bytes.Equal(p.Of, requestHash(k, c, body))", Without: "false",
		Package: "./internal/gateway/authzen", Test: "TestATokenContinuesItsOwnSearchAlone",
	},
}
