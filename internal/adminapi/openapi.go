package adminapi

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"reflect"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"
	"github.com/swaggest/swgui"
	"github.com/swaggest/swgui/v5emb"

	"iam-service/internal/problem"
)

// humaConfig configures how requests are decoded, and describes the API as a whole.
func (a *server) humaConfig() huma.Config {
	c := huma.DefaultConfig("iam-service", a.Version)
	c.Info.Description = apiDescription
	c.DocsPath, c.OpenAPIPath, c.SchemasPath = "", "", ""
	c.CreateHooks = nil // otherwise bodies have a $schema
	c.RejectUnknownQueryParameters = true
	c.Formats = map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat}
	c.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"bearer": {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "An access token for ADMIN_AUDIENCE."},
	}
	c.Security = []map[string][]string{{"bearer": {}}}
	c.Tags = apiTags
	return c
}

// schemaName names a type in the document. Names are public: those of package problem do not follow its type names.
func schemaName(t reflect.Type, hint string) string {
	switch t {
	case reflect.TypeFor[problem.Document]():
		return "Problem"
	case reflect.TypeFor[problem.Field]():
		return "ProblemField"
	}
	return huma.DefaultSchemaNamer(t, hint)
}

// mountDocs serves the document and a page to browse it, to anonymous callers too.
func (a *server) mountDocs(r chi.Router) {
	document := sync.OnceValue(a.openAPI)
	r.Get("/openapi.json", problem.Observed("/openapi.json", a.Observe, withETag(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oai.openapi+json;version=3.1")
		_, _ = w.Write(document()) // fails only where the caller has disconnected
	})).ServeHTTP))
	page := v5emb.NewWithConfig(swgui.Config{SettingsUI: map[string]string{"tryItOutEnabled": "true"}})("iam-service", "/openapi.json", "/docs/")
	docs := problem.Observed("/docs", a.Observe, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		page.ServeHTTP(w, req)
	})
	r.Get("/docs", docs)
	r.Get("/docs/*", docs)
}

const apiDescription = "Tenants, roles, users, members, mappings and OAuth2 clients; manifests of services; the audit log; the active policy, and " +
	"explanations of its decisions. A caller needs an access token for the audience of the admin API. A resource that does not exist and one that " +
	"the caller may not see are 404 alike.\n\n" +
	"**Conditional requests.** Resources have an `ETag`. A `PUT` names the version that it replaces: `If-Match` with that tag, or `If-None-Match: *` to " +
	"create something; without either it is 428, and 412 if another request was first.\n\n" +
	"**Idempotent retries.** A `POST` with an `Idempotency-Key` can be retried for 24 hours: the same request has the same response " +
	"(`Idempotency-Replayed: true`) and no further effect; another request with the same key is 422.\n\n" +
	"**Lists** have pages: `limit`, and `after` with the `next` of the previous page, or the `Link`. Their order is fixed and documented, so that nothing is " +
	"missing or repeated while data changes.\n\n" +
	"**Problems** are RFC 9457 documents that name every invalid field. **Writes** are rate limited for each caller, by each replica (`RateLimit`)."

var apiTags = []*huma.Tag{
	{Name: "tenants", Description: "Customers of the platform."},
	{Name: "roles", Description: "Named sets of permissions, of one tenant or of all."},
	{Name: "members", Description: "Users in a tenant, with their roles."},
	{Name: "mappings", Description: "Roles of a tenant that follow from claims of the identity provider."},
	{Name: "users", Description: "Users of the platform, across tenants."},
	{Name: "services", Description: "Manifests of services: role templates and attributes."},
	{Name: "clients", Description: "OAuth2 clients, here and in the identity provider. 202 with sync: pending until the provider has confirmed a change."},
	{Name: "audit", Description: "The audit log."},
	{Name: "policy", Description: "The active policy, previews of others, and explanations of decisions."},
}

// OpenAPI returns the OpenAPI document of the admin API, as /openapi.json serves it.
func OpenAPI(version string) []byte {
	a := &server{Config: Config{Version: version, Log: slog.New(slog.DiscardHandler)}}
	a.mount(chi.NewRouter())
	return a.openAPI()
}

func (a *server) openAPI() []byte {
	b, err := json.MarshalIndent(a.api.OpenAPI(), "", "  ")
	if err != nil {
		panic(err) // any test would find it
	}
	return append(b, '\n')
}

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
	"":            {"tenant": patternTenant, "role": patternRole, "service": patternName, "user": patternUser},
	"TenantPost":  {"id": patternTenant, "slug": patternName},
	"TenantPut":   {"slug": patternName},
	"TenantPatch": {"slug": patternName},
	"TenantBody":  {"id": patternTenant, "slug": patternName},
	"RolePost":    {"name": patternName, "permissions": patternPermission, "inherits": patternRole},
	"RolePut":     {"permissions": patternPermission, "inherits": patternRole},
	"RoleBody":    {"name": patternRole, "permissions": patternPermission, "inherits": patternRole},
	"MemberPost":  {"roles": patternRole},
	"MemberPut":   {"roles": patternRole},
	"MemberPatch": {"roles": patternRole},
	"MemberBody":  {"tenant": patternTenant, "roles": patternRole},
	"MappingPost": {"roles": patternRole},
	"MappingPut":  {"roles": patternRole},
	"MappingBody": {"roles": patternRole},
	"UserPost":    {"default_tenant": patternTenant},
	"UserPut":     {"default_tenant": patternTenant},
	"UserPatch":   {"default_tenant": patternTenant},
	"ClientPost":  {"tenant": patternTenant, "roles": patternRole},
	"ClientPut":   {"roles": patternRole},
	"ServiceBody": {"name": patternName},
}

const (
	exampleUser   = "0f8fad5b-d9cb-469f-a165-70867728950e"
	exampleClient = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
	exampleTime   = "2030-01-31T12:00:00Z"
)

// examples are by property, and used in every schema where they fit its type; "Schema.property" takes precedence. Those of
// parameters are "?name".
var examples = map[string]any{
	"TenantPost.id": "acme", "TenantBody.id": "acme", "UserBody.id": exampleUser, "MappingBody.id": "m3J1c2VyLWdyb3Vwcw", "PreviewBody.id": exampleClient,
	"TenantPost.name": "Acme Ltd", "TenantPut.name": "Acme Ltd", "TenantPatch.name": "Acme Ltd", "TenantBody.name": "Acme Ltd",
	"RolePost.name": "invoice-editor", "RoleBody.name": "invoice-editor", "ManifestRole.name": "invoice-editor", "ServiceBody.name": "billing",
	"EffectiveRole.name": "invoice-editor", "EffectivePermission.name": "invoice:write",
	"slug": "acme-ltd", "attributes": map[string]any{"cost-center": 4711}, "version": 7, "tenant": "acme", "default_tenant": "acme", "user": exampleUser,
	"issuer": "https://auth.example.com", "subject": "248289761001", "roles": []any{"invoice-editor"}, "permissions": []any{"invoice:read", "invoice:write"},
	"inherits": []any{"invoice-viewer"}, "description": "Writes invoices", "expires_at": exampleTime, "claim": "groups", "value": "accounting",
	"platform_roles": []any{"auditor"}, "tokens_not_before": exampleTime, "before": exampleTime, "service": "billing", "client_id": exampleClient,
	"client_name": "Invoices", "redirect_uris": []any{"https://invoices.example.com/callback"}, "post_logout_redirect_uris": []any{"https://invoices.example.com/"},
	"grant_types": []any{"authorization_code", "refresh_token"}, "response_types": []any{"code"}, "scopes": []any{"openid", "invoice:read"},
	"jwks_uri": "https://invoices.example.com/jwks.json", "ManifestPut.roles": nil, "ManifestBody.roles": nil, "ManifestPut.attributes": nil, "ManifestBody.attributes": nil,
	"EffectiveBody.roles": nil, "EffectiveBody.permissions": nil, "key": "cost-center", "next": "WyJhY21lIl0", "request_id": "b2f5ff47436671b6", "created_at": exampleTime, "updated_at": exampleTime,
	"Problem.type": "/problems/invalid", "Problem.title": "The request is not valid", "Problem.status": 422, "Problem.detail": "some fields are not valid",
	"Problem.instance": "/requests/b2f5ff47436671b6", "ProblemField.pointer": "/roles/0", "ProblemField.detail": `there is no role named "edtor"`,
	"reason": "pilot of the new rules", "overlap": "24h", "action": "member:create", "actor": exampleUser, "object": exampleUser, "decision": "01J9ZC4Y2W8M6T0K3N5R7V9XAB",

	"?tenant": "acme", "?role": "invoice-editor", "?user": exampleUser, "?service": "billing", "?limit": 50, "?search": "acm", "?id": exampleClient,
	"?If-Match": `"7"`, "?Idempotency-Key": "5f1c8a3e-add-alice", "?issuer": "https://auth.example.com", "?subject": "248289761001",
}

// complete adds to the document what holds for all routes. Validation of requests stays as it is.
func (a *server) complete() {
	doc := a.api.OpenAPI()
	doc.Servers = []*huma.Server{{URL: "/", Description: "Where ADMIN_ADDR is served"}}
	doc.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	doc.Info.Contact = &huma.Contact{Name: "The platform's operators"}
	for _, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if op != nil {
				completeOperation(op)
			}
		}
	}
	for name, schema := range doc.Components.Schemas.Map() {
		for property, s := range schema.Properties {
			if pattern := patterns[name][property]; pattern != "" {
				patterned(s).Pattern = pattern
			}
			example, given := examples[name+"."+property]
			if !given {
				example = examples[property]
			}
			if example != nil && len(s.Enum) == 0 && s.Ref == "" && fits(s, example) {
				s.Examples = []any{example}
			}
		}
	}
}

// patterned is the schema that a pattern is about: the items of an array.
func patterned(s *huma.Schema) *huma.Schema {
	if s.Type == huma.TypeArray {
		return s.Items
	}
	return s
}

// fits reports whether an example has the type of a schema.
func fits(s *huma.Schema, example any) bool {
	switch example.(type) {
	case string:
		return s.Type == huma.TypeString
	case int:
		return s.Type == huma.TypeInteger
	case []any:
		return s.Type == huma.TypeArray && s.Items.Type == huma.TypeString
	case map[string]any:
		return s.Type == huma.TypeObject
	}
	return false
}

func completeOperation(op *huma.Operation) {
	if op.Description == "" {
		op.Description = op.Summary + "."
	}
	if body := op.RequestBody; body != nil && len(body.Content) > 1 {
		delete(body.Content, "application/octet-stream") // huma adds it for RawBody, which is the same JSON
	}
	if op.Method == http.MethodGet {
		op.Parameters = append(op.Parameters, &huma.Param{
			Name: "If-None-Match", In: "header", Description: "ETags of cached responses: 304 where one of them is current",
			Schema: &huma.Schema{Type: huma.TypeString, MaxLength: ptr(1000)}, Example: `"7-1f3870be274f6c49"`,
		})
		op.Responses["304"] = &huma.Response{Description: "Not modified", Headers: map[string]*huma.Param{"ETag": op.Responses["200"].Headers["ETag"]}}
		if op.Responses["304"].Headers["ETag"] == nil {
			tag := &huma.Param{Schema: &huma.Schema{Type: huma.TypeString}, Description: "of the whole response"}
			op.Responses["304"].Headers["ETag"] = tag
			if op.Responses["200"].Headers == nil {
				op.Responses["200"].Headers = map[string]*huma.Param{}
			}
			op.Responses["200"].Headers["ETag"] = tag
		}
	}
	for _, p := range op.Parameters {
		if pattern := patterns[""][p.Name]; pattern != "" && p.Schema.Pattern == "" {
			p.Schema.Pattern = pattern
		}
		if example, ok := examples["?"+p.Name]; ok && p.Example == nil && fits(p.Schema, example) {
			p.Example = example
		}
	}
}

func ptr[T any](v T) *T { return &v }
