package defences

// ofConsole are the defences of the console's sessions.
var ofConsole = []Defence{
	{
		Threat: "a page of another origin acts", File: "internal/console/console.go",
		Code: `case r.Header.Get("X-Requested-With") != "iam-console",`, Without: "case false,",
		Package: "./internal/console", Test: "TestAnotherOriginCannotActWithThePersonsCookie",
	},
	{
		Threat: "a page of another origin acts", File: "internal/console/console.go",
		Code: `site != "" && site != "same-origin",`, Without: `site == "never",`,
		Package: "./internal/console", Test: "TestAnotherOriginCannotActWithThePersonsCookie",
	},
	{
		Threat: "a page of another origin acts", File: "internal/console/files.go",
		Code: "form-action 'self'; frame-ancestors 'none'\")", Without: "form-action 'self'\")",
		Package: "./internal/console", Test: "TestThePageHasAStrictPolicyAndNoOtherOriginInIt",
	},
	{
		Threat: "another's login at the console", File: "internal/console/login.go",
		Code: `if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(t.State)) != 1 {`, Without: "if t.State == \"\" {",
		Package: "./internal/console", Test: "TestALoginThatWasNotBegunHereFails",
	},
	{
		Threat: "another's login at the console", File: "internal/console/login.go",
		Code: "if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce)) != 1 {", Without: "if nonce == \"\" {",
		Package: "./internal/console", Test: "TestALoginThatWasNotBegunHereFails",
	},
	{
		Threat: "another's login at the console", File: "internal/console/login.go",
		Code: `iss != c.cfg.Issuer && (iss != "" || m.SendsIssuer) {`, Without: `iss == "never" {`,
		Package: "./internal/console", Test: "TestALoginThatWasNotBegunHereFails",
	},
	{
		Threat: "another's login at the console", File: "internal/console/login.go",
		Code: "if !returns.MatchString(t.Return) {", Without: `if t.Return == "" {`,
		Package: "./internal/console", Test: "TestALoginReturnsToThePageAlone",
	},
	{
		Threat: "a stolen session of the console", File: "internal/postgres/sessions.go",
		Code: "FROM console_sessions WHERE id = $1 AND idle_ends_at > clock_timestamp()", Without: "FROM console_sessions WHERE id = $1 AND true",
		Package: "./internal/console", Test: "TestASessionCookieIsUselessAfterItsEnd",
	},
	{
		Threat: "a stolen session of the console", File: "internal/console/session.go",
		Code:    "if err := c.cfg.Store.EndConsoleSession(r.Context(), s.ConsoleSession.ID); err != nil {\n\t\treturn err\n\t}\n\tc.setCookie",
		Without: "c.setCookie",
		Package: "./internal/console", Test: "TestASessionCookieIsUselessAfterItsEnd",
	},
	{
		Threat: "a stolen session of the console", File: "internal/postgres/sessions.go",
		Code: "selectConsoleSession+` FOR UPDATE`", Without: "selectConsoleSession",
		Package: "./internal/console", Test: "TestARefreshTokenIsUsedOnceOverAllReplicas",
	},
}
