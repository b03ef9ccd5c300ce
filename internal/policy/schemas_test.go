package policy_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"iam-service/internal/policy"
	"iam-service/internal/policy/authoring"
)

// limits is a package whose METADATA gives data.iam.limits a schema.
const limits = `# METADATA
# scope: package
# schemas:
#   - data.iam.limits: schema.limits
package iam.limits

allowed := data.iam.limits.most
`

func TestConfigurationThatViolatesItsSchemaIsRejected(t *testing.T) {
	t.Parallel()
	mine := strings.Replace(shippedSchema(t), `"properties": {`, `"properties": {"office_hours": {"type": "object", "additionalProperties": false, "properties": {"from": {"type": "integer", "maximum": 23}}},`, 1)
	for name, c := range map[string]struct {
		files
		want []string // nothing: it is accepted
	}{
		"a string for a boolean": {files{"iam/config/data.json": `{"headers": ["X-User-ID"], "allow_without_tenant": "false"}`}, []string{"data.iam.config: /allow_without_tenant: got string, want boolean"}},
		"in YAML":                {files{"iam/config/data.json": "-", "iam/config/data.yaml": "headers: [X-User-ID]\nallow_without_tenant: 'false'\n"}, []string{"/allow_without_tenant: got string"}},
		"from above":             {files{"iam/config/data.json": "-", "iam/data.json": `{"config": {"headers": ["X-User-ID"], "allow_without_tenant": "no"}}`}, []string{"/allow_without_tenant: got string"}},
		"several at once": {files{"iam/config/data.json": `{"headers": ["X-User-ID"], "attributes_encoding": "xml", "anonymous": {"paths": "/x", "prefligth": true}}`}, []string{
			"/attributes_encoding: value must be one of 'base64', 'json'", "/anonymous/paths: got string, want array", "/anonymous: unknown key: prefligth; paths, preflight are allowed",
		}},
		"unknown key": {files{"iam/config/data.json": `{"headers": ["X-User-ID"], "allow_without_tennant": false}`}, []string{
			"/allow_without_tennant: unknown key; allow_without_tenant, anonymous, attributes_encoding, authzen, headers, narrow_roles_by_scope, tenant_attributes, user_attributes are allowed, describe your own in schemas/config.json",
		}},
		"it is no object":  {files{"iam/config/data.json": "-", "iam/data.json": `{"config": []}`}, []string{"data.iam.config: got array, want object"}},
		"it is missing":    {files{"iam/config/data.json": "-"}, []string{"data.iam.config is missing"}},
		"a key of its own": {files{"schemas/config.json": mine, "iam/config/data.json": `{"headers": ["X-User-ID"], "office_hours": {"from": 7}}`}, nil},
		"a key of its own that does not fit": {files{"schemas/config.json": mine, "iam/config/data.json": `{"headers": ["X-User-ID"], "office_hours": {"from": 24, "to": 3}}`}, []string{
			"/office_hours/from: maximum: got 24, want 23", "/office_hours: unknown key: to; from are allowed",
		}},
		"an unknown key": {files{"schemas/config.json": mine, "iam/config/data.json": `{"headers": ["X-User-ID"], "hours": 7}`}, []string{"/hours"}},
		"its own schema wants less of what is shipped": {files{
			"schemas/config.json": `{"type": "object", "properties": {"allow_without_tenant": {}}}`, "iam/config/data.json": `{"headers": ["X-User-ID"], "allow_without_tenant": "false"}`,
		}, []string{"/allow_without_tenant: got string"}},
		"its own schema leaves all open": {files{"schemas/config.json": `{}`, "iam/config/data.json": `{"headers": ["X-User-ID"], "x": 1}`}, []string{"/x: unknown key"}},
		"other data that fit":            {files{"schemas/limits.json": `{"properties": {"most": {"type": "integer"}}}`, "iam/limits/p.rego": limits, "iam/limits/data.json": `{"most": 7}`}, nil},
		"other data that do not": {files{"schemas/limits.json": `{"properties": {"most": {"type": "integer"}}}`, "iam/limits/p.rego": limits, "iam/limits/data.json": `{"most": "7"}`}, []string{
			"data.iam.limits: /most: got string, want integer",
		}},
		"a schema in METADATA": {files{"iam/limits/p.rego": strings.Replace(limits, "schema.limits", "{properties: {most: {type: integer}}}", 1), "iam/limits/data.json": `{"most": "7"}`}, []string{
			"/most: got string, want integer",
		}},
		"a schema from elsewhere":         {files{"schemas/config.json": `{"$ref": "http://127.0.0.1:1/x.json"}`}, []string{"http://127.0.0.1:1/x.json is not loaded"}},
		"a schema from the file system":   {files{"schemas/config.json": `{"$ref": "file:///etc/passwd"}`}, []string{"file:///etc/passwd is not loaded"}},
		"a schema that is none":           {files{"schemas/config.json": `{"type": "objekt"}`}, []string{"the schema of data.iam.config"}},
		"a schema with an endless number": {files{"schemas/config.json": `{"properties": {"headers": {"maxItems": 1e-30000}}}`}, []string{"out of bounds"}},
		"a schema that is no JSON":        {files{"schemas/config.json": `{`}, []string{"schemas/config.json"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := c.write(t, t.TempDir())
			e := engine(t)
			err := e.SubmitPath(ctx, dir)
			// Packed, by our own tool, it is the same.
			packed, packErr := authoring.Build(dir, "", nil)
			if packErr == nil {
				var candidate *policy.Candidate
				if candidate, packErr = engine(t).Unpack("packed", packed); packErr == nil {
					var r *policy.Revision
					if r, packErr = engine(t).Prepare(ctx, candidate); packErr == nil && r.Digest != e.Revision().Digest {
						t.Error("the packed one is another revision")
					}
				}
			}
			for way, err := range map[string]error{"as a folder": err, "packed": packErr} {
				if (err == nil) != (len(c.want) == 0) {
					t.Errorf("%s: got %v", way, err)
				}
				for _, want := range c.want {
					if err != nil && !strings.Contains(err.Error(), want) {
						t.Errorf("%s: %q is not in: %v", way, want, err)
					}
				}
			}
		})
	}
}

// What another tool has packed carries no schemas: the shipped one is there all the same, and
// what is not validated is said.
func TestABundleOfAnotherToolIsHeldToTheShippedSchema(t *testing.T) {
	t.Parallel()
	e := engine(t)
	unpack := func(f files) error {
		c, err := e.Unpack("test", f.tarball(t))
		if err != nil {
			t.Fatal(err)
		}
		return e.Submit(ctx, c)
	}
	if err := unpack(files{"iam/config/data.json": `{"headers": ["X-User-ID"], "allow_without_tenant": "false"}`}); err == nil || !strings.Contains(err.Error(), "/allow_without_tenant") {
		t.Errorf("got %v", err)
	}
	if err := unpack(files{"iam/limits/p.rego": limits, "iam/limits/data.json": `{"most": "7"}`}); err != nil {
		t.Fatal(err)
	}
	if w := strings.Join(e.Revision().Unvalidated, "; "); !strings.Contains(w, "data.iam.limits is not validated: the bundle does not contain schemas/limits.json") {
		t.Errorf("warnings: %s", w)
	}
}

// The author gets the finding before it is deployed.
func TestTheToolsOfAnAuthorValidateConfiguration(t *testing.T) {
	t.Parallel()
	f := files{"iam/config/data.json": `{"headers": ["X-User-ID"], "allow_without_tenant": "false"}`}
	maps.Copy(f, files{"schemas/config.json": shippedSchema(t)})
	dir := f.write(t, t.TempDir())
	folder, err := authoring.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	found, _, err := folder.Check(ctx, authoring.CheckOptions{})
	if err != nil || len(found) == 0 || !strings.Contains(found[0].String(), "/allow_without_tenant: got string, want boolean") {
		t.Errorf("check: %v, %v", found, err)
	}
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	if err := os.WriteFile(file, f.tarball(t), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := authoring.CheckBundle(ctx, file, authoring.CheckOptions{}); err == nil || !strings.Contains(err.Error(), "/allow_without_tenant: got string, want boolean") {
		t.Errorf("check of a bundle: %v", err)
	}
}

func shippedSchema(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../policies/schemas/config.json")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDataWithoutASchemaAreNamed(t *testing.T) {
	t.Parallel()
	e := engine(t)
	if err := offer(t, e, files{"iam/limits/data.json": `{"deny_guests": "false"}`}); err != nil {
		t.Fatal(err)
	}
	said := func(part string) bool {
		return slices.ContainsFunc(e.Revision().Unvalidated, func(w string) bool { return strings.HasPrefix(w, part) })
	}
	if !said("data.iam.limits is not validated") || said("data.iam.config") {
		t.Errorf("got %q", e.Revision().Unvalidated)
	}
}
