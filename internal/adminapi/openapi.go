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
		w.Header().Set("Content-Security-Policy", "default-src 'self'; style-src 'self' 'unsafe-inline'; "+
			"script-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		page.ServeHTTP(w, req)
	})
	r.Get("/docs", docs)
	r.Get("/docs/*", docs)
}

const apiDescription = "Tenants, roles, users, members, mappings and OAuth2 clients; manifests of services; the audit log; " +
	"the active policy, and explanations of its decisions. A caller needs an access token for the audience of the admin API. " +
	"A resource that does not exist and one that the caller may not see are 404 alike.\n\n" +
	"**Conditional requests.** Resources have an `ETag`. A `PUT` names the version that it replaces: `If-Match` with that tag, " +
	"or `If-None-Match: *` to create something; without either it is 428, and 412 if another request was first.\n\n" +
	"**Idempotent retries.** A `POST` with an `Idempotency-Key` can be retried for 24 hours: the same request has the same response " +
	"(`Idempotency-Replayed: true`) and no further effect; another request with the same key is 422.\n\n" +
	"**Lists** have pages: `limit`, and `after` with the `next` of the previous page, or the `Link`. Their order is fixed and " +
	"documented, so that nothing is missing or repeated while data changes.\n\n" +
	"**Problems** are RFC 9457 documents that name every invalid field. **Writes** are rate limited for each caller, by each " +
	"replica (`RateLimit`)."

var apiTags = []*huma.Tag{
	{Name: "caller", Description: "Who the caller is, and what they are authorized for."},
	{Name: "overview", Description: "The state of the platform."},
	{Name: "tenants", Description: "Customers of the platform."},
	{Name: "roles", Description: "Named sets of permissions, of one tenant or of all."},
	{Name: "members", Description: "Users in a tenant, with their roles."},
	{Name: "requests", Description: "Requests of members for a role, for a time."},
	{Name: "mappings", Description: "Roles of a tenant that follow from claims of the identity provider."},
	{Name: "scim-groups", Description: "Groups of a tenant's provisioning client (SCIM, see docs/scim.md), and the roles to which they are mapped."},
	{Name: "users", Description: "Users of the platform, across tenants."},
	{Name: "access", Description: "Who can do what, by which role, and until when."},
	{Name: "services", Description: "Manifests of services: role templates and attributes."},
	{Name: "clients", Description: "OAuth2 clients, here and in the identity provider. sync: pending until the provider has confirmed a change."},
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
			Name: "If-None-Match", In: "header", Description: "ETags of cached responses: 304 if one is current",
			Schema: &huma.Schema{Type: huma.TypeString, MaxLength: ptr(1000)}, Example: `"7-1f3870be274f6c49"`,
		})
		ok := op.Responses["200"]
		if ok.Headers == nil {
			ok.Headers = map[string]*huma.Param{}
		}
		if ok.Headers["ETag"] == nil { // withETag adds it
			ok.Headers["ETag"] = &huma.Param{Schema: &huma.Schema{Type: huma.TypeString}, Description: "of the whole response"}
		}
		op.Responses["304"] = &huma.Response{Description: "Not modified", Headers: map[string]*huma.Param{"ETag": ok.Headers["ETag"]}}
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
