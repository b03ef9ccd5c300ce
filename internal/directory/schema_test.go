package directory_test

import (
	"bytes"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"iam-service/internal/directory"
	"iam-service/internal/iam"
	"iam-service/policies"
)

// The schema by which policies are checked says what the documents have: no less, or a good
// policy would be refused, and no more, or a denial could depend on what never comes.
func TestTheSchemaOfTheDirectoryIsThatOfItsDocuments(t *testing.T) {
	t.Parallel()
	text, err := policies.FS.ReadFile("schemas/directory.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("directory.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("directory.json")
	if err != nil {
		t.Fatal(err)
	}

	l := newLoader()
	alice := l.users["alice"]
	alice.TokensNotBefore, alice.Attributes = time.Unix(1, 0), map[string]any{"department": "sales"}
	l.users["alice"] = alice
	l.clients["c1"] = iam.ClientFacts{Client: iam.Client{ClientID: "c1", Tenant: "acme", Status: "active", Roles: []string{"viewer"}, Scopes: []string{"s"}, TokensNotBefore: time.Unix(1, 0)}}
	s := newStore(l, directory.Config{Issuers: issuers, Wait: 10 * time.Second})
	at := func(path string) any {
		v, err := read(s, "directory|"+path)
		if err != nil {
			t.Fatal(err)
		}
		x, err := ast.JSON(v)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	all := map[string]any{
		"users":   map[string]any{issuer: map[string]any{"alice": at("users|" + issuer + "|alice")}},
		"tenants": map[string]any{"acme": at("tenants|acme"), "globex": at("tenants|globex")},
		"clients": map[string]any{issuer: map[string]any{"c1": at("clients|" + issuer + "|c1"), "ops": at("clients|" + issuer + "|ops")}},
	}
	if err := schema.Validate(all); err != nil {
		t.Errorf("a document is not as the schema says: %v", err)
	}
	want, got := map[string]bool{}, map[string]bool{}
	named(doc, []any{all}, "", want, got)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !got[name] {
			t.Errorf("the schema has %s, and no document does", name)
		}
	}
}

// named collects the properties that a schema names, and those of them that some of the values have.
func named(schema any, values []any, at string, want, got map[string]bool) {
	s, _ := schema.(map[string]any)
	properties, _ := s["properties"].(map[string]any)
	var others []any
	below := map[string][]any{}
	for _, v := range values {
		object, _ := v.(map[string]any)
		for k, x := range object {
			if _, is := properties[k]; is {
				below[k] = append(below[k], x)
			} else {
				others = append(others, x)
			}
		}
	}
	for k, inner := range properties {
		want[at+"."+k] = true
		got[at+"."+k] = got[at+"."+k] || len(below[k]) > 0
		named(inner, below[k], at+"."+k, want, got)
	}
	if inner, ok := s["additionalProperties"].(map[string]any); ok {
		named(inner, others, at+".*", want, got)
	}
}
