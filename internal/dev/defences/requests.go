package defences

// ofRequests are the defences of roles for a time, and of requests for them.
var ofRequests = []Defence{
	{
		Threat: "a role outlives its grant", File: "internal/directory/document.go",
		Code: `item("roles", strs(m.RolesAt(u.AsOf))),`, Without: `item("roles", strs(m.Roles)),`,
		Package: "./internal/directory", Test: "TestADocumentEndsWhenARoleStartsOrEnds",
	},
	{
		Threat: "a role outlives its grant", File: "internal/directory/document.go",
		Code: "if next := m.NextChange(u.AsOf); !next.IsZero() {", Without: "if next := m.NextChange(u.AsOf); !next.IsZero() && next.Equal(m.ExpiresAt) {",
		Package: "./internal/enrich", Test: "TestACachedDecisionEndsWithARoleAndAtItsStart",
	},
	{
		Threat: "extending what is held for a time", File: "internal/admin/holding.go",
		Code: "return end.IsZero() || !h.lasting && !end.Before(h.until)", Without: "return true",
		Package: "./internal/adminapi", Test: "TestACallerExtendsNothingThatTheyHoldForATime",
	},
	{
		Threat: "extending what is held for a time", File: "internal/admin/member_changes.go",
		Code: "|| c.after.Terms[role].StartsAt.Before(c.before.Terms[role].StartsAt)", Without: "",
		Package: "./internal/adminapi", Test: "TestACallerExtendsNothingThatTheyHoldForATime",
	},
	{
		Threat: "extending what is held for a time", File: "internal/postgres/members.go",
		Code: "AND m.role_terms -> r -> 'expires_at' IS NULL", Without: "",
		Package: "./internal/adminapi", Test: "TestALastAdministratorIsOneWhoseRoleDoesNotEnd",
	},
	{
		Threat: "approving oneself", File: "internal/admin/requests.go",
		Code: "if err == nil && w.own(q) {", Without: "if false {",
		Package: "./internal/adminapi", Test: "TestARequestGrantsNoMoreThanAllowed",
	},
	{
		Threat: "approving oneself", File: "internal/admin/roles.go",
		Code:    `return w.checkLasting(r.Tenant, graph.Replacing(r), []string{r.Name}, "a break-glass role", "/request")`,
		Without: "return nil",
		Package: "./internal/adminapi", Test: "TestABreakGlassRoleIsMadeByItsHolder",
	},
	{
		Threat: "a request that no longer is what was asked", File: "internal/admin/requests.go",
		Code: "case !bytes.Equal(graph.Fingerprint(q.Role), q.Grants):", Without: "case !bytes.Equal(q.Grants, q.Grants):",
		Package: "./internal/adminapi", Test: "TestARequestGrantsNoMoreThanAllowed",
	},
	{
		Threat: "a request that no longer is what was asked", File: "internal/admin/requests.go",
		Code:    "case u.Status != iam.UserActive || m.Status != iam.MembershipActive || m.Expired:\n\t\treturn q, gone",
		Without: "case u.ID == \"\":\n\t\treturn q, gone",
		Package: "./internal/adminapi", Test: "TestARequestGrantsNoMoreThanAllowed",
	},
	{
		Threat: "a request that no longer is what was asked", File: "internal/admin/requests.go",
		Code: "case !q.DecideBy.After(now):", Without: "case now.IsZero():",
		Package: "./internal/adminapi", Test: "TestARequestGrantsNoMoreThanAllowed",
	},
	{
		Threat: "requests of others", File: "internal/admin/requests.go",
		Code: "case !all:\n\t\tf.User = w.user.ID", Without: "case f.User == \"none\":\n\t\tf.User = w.user.ID",
		Package: "./internal/adminapi", Test: "TestAMemberAsksForARoleAndAnAdministratorApproves",
	},
	{
		Threat: "requests of others", File: "internal/admin/requests.go",
		Code: "if err == nil && (!found || !all) {", Without: "if err == nil && !found {",
		Package: "./internal/adminapi", Test: "TestAMemberAsksForARoleAndAnAdministratorApproves",
	},
}
