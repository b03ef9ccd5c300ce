package adminapi

// Patterns of names. They are documented here and validated by package iam, whose errors say more than "does not match". They
// are added once huma has compiled its validation.
const (
	patternTenant     = `^[a-z0-9][a-z0-9_-]{0,63}$`
	patternName       = `^[a-z0-9][a-z0-9._-]{0,63}$`
	patternRole       = `^(iam:)?[a-z0-9][a-z0-9._-]*$`
	patternPermission = `^[a-z0-9][a-z0-9._:-]{0,63}$`
	patternUser       = `^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`
)

// patterns are by schema and property; that of an array is the pattern of its items. Those of parameters have no schema.
var patterns = map[string]map[string]string{
	"":              {"tenant": patternTenant, "role": patternRole, "service": patternName, "user": patternUser, "group": patternUser},
	"TenantPost":    {"id": patternTenant, "slug": patternName},
	"TenantPut":     {"slug": patternName},
	"TenantPatch":   {"slug": patternName},
	"TenantBody":    {"id": patternTenant, "slug": patternName},
	"RolePost":      {"name": patternName, "permissions": patternPermission, "inherits": patternRole},
	"RolePut":       {"permissions": patternPermission, "inherits": patternRole},
	"RoleBody":      {"name": patternRole, "permissions": patternPermission, "inherits": patternRole},
	"MemberPost":    {"roles": patternRole},
	"MemberPut":     {"roles": patternRole},
	"MemberPatch":   {"roles": patternRole},
	"MemberBody":    {"tenant": patternTenant, "roles": patternRole},
	"MappingPost":   {"roles": patternRole},
	"MappingPut":    {"roles": patternRole},
	"MappingBody":   {"roles": patternRole},
	"SCIMGroupPut":  {"roles": patternRole},
	"SCIMGroupBody": {"roles": patternRole},
	"UserPost":      {"default_tenant": patternTenant},
	"UserPut":       {"default_tenant": patternTenant},
	"UserPatch":     {"default_tenant": patternTenant},
	"ClientPost":    {"tenant": patternTenant, "roles": patternRole},
	"ClientPut":     {"roles": patternRole},
	"ServiceBody":   {"name": patternName},
}

const (
	exampleUser   = "0f8fad5b-d9cb-469f-a165-70867728950e"
	exampleClient = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
	exampleTime   = "2030-01-31T12:00:00Z"
)

// examples are by property, and used in every schema where they fit its type; "Schema.property" takes precedence. Those of
// parameters are "?name".
var examples = map[string]any{
	"TenantPost.id":             "acme",
	"TenantBody.id":             "acme",
	"UserBody.id":               exampleUser,
	"SCIMGroupBody.id":          exampleUser,
	"SCIMGroupBody.members":     412,
	"SCIMGroupBody.external_id": "00g1emaKYZTWRYYRRTSK",
	"display_name":              "Accounting",
	"MappingBody.id":            "m3J1c2VyLWdyb3Vwcw",
	"PreviewBody.id":            exampleClient,
	"TenantPost.name":           "Acme Ltd",
	"TenantPut.name":            "Acme Ltd",
	"TenantPatch.name":          "Acme Ltd",
	"TenantBody.name":           "Acme Ltd",
	"OwnTenant.name":            "Acme Ltd",
	"RolePost.name":             "invoice-editor",
	"RoleBody.name":             "invoice-editor",
	"ManifestRole.name":         "invoice-editor",
	"ServiceBody.name":          "billing",
	"EffectiveRole.name":        "invoice-editor",
	"EffectivePermission.name":  "invoice:write",
	"slug":                      "acme-ltd",
	"attributes":                map[string]any{"cost-center": 4711},
	"version":                   7,
	"tenant":                    "acme",
	"default_tenant":            "acme",
	"user":                      exampleUser,
	"issuer":                    "https://auth.example.com",
	"subject":                   "248289761001",
	"roles":                     []any{"invoice-editor"},
	"permissions":               []any{"invoice:read", "invoice:write"},
	"inherits":                  []any{"invoice-viewer"},
	"description":               "Writes invoices",
	"expires_at":                exampleTime,
	"claim":                     "groups",
	"value":                     "accounting",
	"platform_roles":            []any{"auditor"},
	"tokens_not_before":         exampleTime,
	"before":                    exampleTime,
	"service":                   "billing",
	"client_id":                 exampleClient,
	"client_name":               "Invoices",
	"redirect_uris":             []any{"https://invoices.example.com/callback"},
	"post_logout_redirect_uris": []any{"https://invoices.example.com/"},
	"grant_types":               []any{"authorization_code", "refresh_token"},
	"response_types":            []any{"code"},
	"scopes":                    []any{"openid", "invoice:read"},
	"jwks_uri":                  "https://invoices.example.com/jwks.json",
	"ManifestPut.roles":         nil,
	"ManifestBody.roles":        nil,
	"ManifestPut.attributes":    nil,
	"ManifestBody.attributes":   nil,
	"EffectiveBody.roles":       nil,
	"EffectiveBody.permissions": nil,
	"key":                       "cost-center",
	"next":                      "WyJhY21lIl0",
	"request_id":                "b2f5ff47436671b6",
	"created_at":                exampleTime,
	"updated_at":                exampleTime,
	"Problem.type":              "/problems/invalid",
	"Problem.title":             "The request is not valid",
	"Problem.status":            422,
	"Problem.detail":            "some fields are not valid",
	"Problem.instance":          "/requests/b2f5ff47436671b6",
	"ProblemField.pointer":      "/roles/0",
	"ProblemField.detail":       `there is no role named "edtor"`,
	"reason":                    "pilot of the new rules",
	"overlap":                   "24h",
	"action":                    "member:create",
	"actor":                     exampleUser,
	"object":                    exampleUser,
	"decision":                  "01J9ZC4Y2W8M6T0K3N5R7V9XAB",

	"?tenant":          "acme",
	"?role":            "invoice-editor",
	"?user":            exampleUser,
	"?group":           exampleUser,
	"?service":         "billing",
	"?limit":           50,
	"?search":          "acm",
	"?id":              exampleClient,
	"?If-Match":        `"7"`,
	"?Idempotency-Key": "5f1c8a3e-add-alice",
	"?issuer":          "https://auth.example.com",
	"?subject":         "248289761001",
}
