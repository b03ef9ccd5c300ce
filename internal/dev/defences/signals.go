package defences

// ofSignals are the defences of the receiver of signals.
var ofSignals = []Defence{
	{
		Threat: "a forged signal", File: "internal/token/signals/receiver.go",
		Code: "if known != 1 {", Without: `if known != 1 && bearer == "" {`,
		Package: "./internal/adminapi", Test: "TestASignalThatIsNotValidChangesNothing",
	},
	{
		Threat: "a forged signal", File: "internal/token/signals/receiver.go",
		Code: `[]string{"secevent+jwt"}`, Without: `[]string{"secevent+jwt", "at+jwt"}`,
		Package: "./internal/adminapi", Test: "TestASignalThatIsNotValidChangesNothing",
	},
	{
		Threat: "a forged signal", File: "internal/token/signals/set.go",
		Code: `if !s.isFor(claims["aud"]) {`, Without: `if claims["aud"] == nil {`,
		Package: "./internal/adminapi", Test: "TestASignalThatIsNotValidChangesNothing",
	},
	{
		Threat: "a forged signal", File: "internal/token/signals/set.go",
		Code: "case age < -skew:", Without: "case age < -24*time.Hour:",
		Package: "./internal/adminapi", Test: "TestASignalThatIsNotValidChangesNothing",
	},
	{
		Threat: "a forged signal", File: "internal/token/signals/set.go",
		Code: "case age > s.MaxAge:", Without: "case age > 1000*s.MaxAge:",
		Package: "./internal/adminapi", Test: "TestASignalThatIsNotValidChangesNothing",
	},
	{
		Threat: "a forged signal", File: "internal/token/signals/set.go",
		Code: `[]string{"exp", "sub"}`, Without: "[]string{}",
		Package: "./internal/adminapi", Test: "TestASignalThatIsNotValidChangesNothing",
	},
	{
		Threat: "a forged signal", File: "internal/token/signals/set.go",
		Code: "if strings.ContainsFunc(text, unicode.IsControl) {", Without: `if text == "\x00" && strings.ContainsFunc(text, unicode.IsControl) {`,
		Package: "./internal/adminapi", Test: "TestASignalThatIsNotValidChangesNothing",
	},
	{
		Threat: "a replayed signal", File: "internal/admin/signals.go",
		Code: "if err != nil || !fresh {", Without: `if err != nil || !fresh && signal.ID == "" {`,
		Package: "./internal/adminapi", Test: "TestASignalIsAppliedOnce",
	},
	{
		Threat: "a replayed signal", File: "internal/admin/signals.go",
		Code: "if own.EventAt.After(at) && !own.Blocks && !final {", Without: "if own.EventAt.After(at) && own.Blocks && !final {",
		Package: "./internal/adminapi", Test: "TestAnOlderSignalDoesNotSupersedeANewerOne",
	},
	{
		Threat: "a replayed signal", File: "internal/admin/signals.go",
		Code: "if own.EventAt.After(at) {", Without: "if own.EventAt.IsZero() {",
		Package: "./internal/adminapi", Test: "TestAnOlderSignalDoesNotSupersedeANewerOne",
	},
	{
		Threat: "a signal beyond its issuer", File: "internal/token/signals/subject.go",
		Code: "case !slices.Contains(s.Users, issuer):", Without: "case len(s.Users) == 0 && slices.Contains(s.Users, issuer):",
		Package: "./internal/adminapi", Test: "TestASignalThatIsNotValidChangesNothing",
	},
	{
		Threat: "a signal beyond its issuer", File: "internal/admin/signals.go",
		Code: "!slices.Contains(w.caller.Reach, u.Issuer)", Without: "len(w.caller.Reach) == 0 && !slices.Contains(w.caller.Reach, u.Issuer)",
		Package: "./internal/adminapi", Test: "TestSubjectsOfSeveralFormatsNameAUser",
	},
	{
		Threat: "a signal beyond its issuer", File: "internal/admin/signals.go",
		Code: "at.After(limit) {", Without: "at.IsZero() {\n\t\tat = limit\n\t} else if at.Year() > 9000 {",
		Package: "./internal/adminapi", Test: "TestASignalMovesNoRevocationBackNorIntoTheFuture",
	},
	{
		Threat: "a signal beyond its issuer", File: "internal/admin/signals.go",
		Code: "if before.After(u.TokensNotBefore) {\n\t\t\tu.TokensNotBefore, outcome", Without: "if !before.IsZero() {\n\t\t\tu.TokensNotBefore, outcome",
		Package: "./internal/adminapi", Test: "TestASignalMovesNoRevocationBackNorIntoTheFuture",
	},
	{
		Threat: "a signal beyond its issuer", File: "internal/admin/signals.go",
		Code: "if !own.Blocks || others || u.Status != iam.UserBlocked {", Without: "if u.Status != iam.UserBlocked || others && own.Blocks {",
		Package: "./internal/adminapi", Test: "TestASignalBlocksAndUnblocksWhatSignalsHaveBlocked",
	},
	{
		Threat: "a signal beyond its issuer", File: "internal/admin/signals.go",
		Code: "if e.Narrowed && effect != iam.SignalUnblock {", Without: "if e.Narrowed && effect == iam.SignalNone {",
		Package: "./internal/adminapi", Test: "TestSubjectsOfSeveralFormatsNameAUser",
	},
	{
		Threat: "a signal beyond its issuer", File: "internal/admin/signals.go",
		Code: `if iam.CodeOf(err) == "last_platform_admin" {`, Without: `if iam.CodeOf(err) == "last" {`,
		Package: "./internal/adminapi", Test: "TestOfTheLastPlatformAdministratorASignalRevokesTheTokensAlone",
	},
}
