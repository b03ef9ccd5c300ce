package adminapi_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"iam-service/internal/adminapi"
)

// What generators of clients and readers stumble over. The linters and generators themselves
// run by "make openapi-check".
func TestTheDocumentIsFitForGenerators(t *testing.T) {
	t.Parallel()
	var doc map[string]any
	if err := json.Unmarshal(adminapi.OpenAPI("test"), &doc); err != nil {
		t.Fatal(err)
	}
	if s, _ := doc["servers"].([]any); len(s) != 1 {
		t.Errorf("servers: %v", doc["servers"])
	}
	patterns, examples := 0, 0
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if types, ok := v["type"].([]any); ok && slices.Contains(types, any("array")) {
				t.Errorf("%s can be null, and is a list", at)
			}
			if _, ok := v["pattern"].(string); ok {
				patterns++
			}
			if _, ok := v["examples"].([]any); ok {
				examples++
			}
			for k, x := range v {
				walk(at+"/"+k, x)
			}
		case []any:
			for i, x := range v {
				walk(fmt.Sprint(at, "/", i), x)
			}
		}
	}
	walk("", doc)
	if patterns < 40 || examples < 100 {
		t.Errorf("%d patterns and %d examples", patterns, examples)
	}
	paths, _ := doc["paths"].(map[string]any)
	for path, item := range paths {
		for method, op := range item.(map[string]any) {
			op, _ := op.(map[string]any)
			if op["description"] == nil || op["operationId"] == nil {
				t.Errorf("%s %s has no description or name", method, path)
			}
			body, _ := op["requestBody"].(map[string]any)
			content, _ := body["content"].(map[string]any)
			manifest := strings.HasSuffix(path, "/manifest") || path == "/s2s/system/sync" // YAML too, as it lies in repositories
			if len(content) > 1 && !manifest {
				t.Errorf("%s %s takes %d media types", method, path, len(content))
			}
		}
	}
}
