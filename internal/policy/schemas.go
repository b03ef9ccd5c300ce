package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"iam-service/internal/directory"
	"iam-service/policies"
)

// Configuration is code: a false that is written "false" can grant access. So the gate validates
// data by schemas (JSON Schema, draft 7 to 2020-12):
//
//   - data.iam.config by the schema that is part of the program, always. Its keys are those of
//     that schema and those of the bundle's own schemas/config.json; any other is rejected.
//   - data to which the METADATA of a rule or package assigns a schema (schemas: data.x: schema.y),
//     by that schema, which OPA's compiler also uses to check the types of rules.
//
// OPA stores only rules and data of a bundle, so a bundle carries its schemas as
// data.iam.schemas, and the gate removes them from data.

// configPath is the path of the configuration.
const configPath = "data.iam.config"

// configSchema is the program's own schema of the configuration.
var configSchema = sync.OnceValue(func() map[string]any { return embeddedSchema("config") })

func embeddedSchema(name string) map[string]any {
	text, err := policies.FS.ReadFile("schemas/" + name + ".json")
	if err != nil {
		panic(err) // it is embedded
	}
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		panic(err) // as above
	}
	return asObject(schema)
}

// directorySchema is the schema of data.directory. It leaves attributes open, which bundles describe.
var directorySchema = sync.OnceValues(func() (map[string]any, *jsonschema.Schema) {
	schema := embeddedSchema("directory")
	compiled, err := compileSchema("data.directory", schema)
	if err != nil {
		panic(err) // it is embedded
	}
	return schema, compiled
})

// asObject is x as an object; nil where it is not one.
func asObject(x any) map[string]any {
	m, _ := x.(map[string]any)
	return m
}

// binding assigns a schema to a path of data.
type binding struct {
	path ast.Ref
	name string // of schemas/NAME.json
	own  any    // or the schema that METADATA defines inline; nil: none
}

// bindings are those of the METADATA of modules. A bundle cannot describe data that the
// service owns.
func bindings(modules map[string]*ast.Module) (all []binding) {
	for _, file := range slices.Sorted(maps.Keys(modules)) {
		for _, a := range modules[file].Annotations {
			for _, s := range a.Schemas {
				if !s.Path.HasPrefix(ast.DefaultRootRef) || s.Path.HasPrefix(ast.DefaultRootRef.Append(ast.StringTerm(directory.Root))) {
					continue
				}
				b := binding{path: s.Path}
				if s.Definition != nil {
					b.own = *s.Definition
				} else {
					b.name = strings.Join(steps(s.Schema), "/")
				}
				all = append(all, b)
			}
		}
	}
	return all
}

// steps are the steps of a reference after its root; METADATA has only strings.
func steps(ref ast.Ref) (all []string) {
	for _, t := range ref[1:] {
		s, _ := t.Value.(ast.String)
		all = append(all, string(s))
	}
	return all
}

// readSchemas reads the schemas of data in a folder.
func (c *Candidate) readSchemas(fsys fs.FS) error {
	modules := make(map[string]*ast.Module, len(c.Modules))
	for file, text := range c.Modules {
		m, err := ast.ParseModuleWithOpts(file, text, ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true})
		if err != nil {
			return err
		}
		modules[file] = m
	}
	for _, b := range append(bindings(modules), binding{name: "config"}) {
		if b.name == "" {
			continue
		}
		file := path.Join("schemas", b.name+".json")
		text, err := fs.ReadFile(fsys, file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the gate reports it
		}
		if err != nil {
			return fmt.Errorf("read the policy %s: %w", c.Source, err)
		}
		schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if b.name == "config" && reflect.DeepEqual(schema, any(configSchema())) {
			continue // the gate has it
		}
		if c.Schemas == nil {
			c.Schemas = map[string]any{}
		}
		c.Schemas[b.name] = schema
	}
	return nil
}

// checkData validates data by their schemas, and reports every violation. Data without a
// schema, or whose schema is missing in the bundle, are unvalidated.
func (c *Candidate) checkData(modules map[string]*ast.Module) (unvalidated []string, err error) {
	var errs []error
	for _, b := range bindings(modules) {
		value, there := at(c.Data, steps(b.path))
		schema := b.own
		if b.name != "" {
			schema = c.Schemas[b.name]
		}
		switch {
		case !there, b.path.String() == configPath && b.name == "config": // validated below
		case schema == nil:
			unvalidated = append(unvalidated, fmt.Sprintf("%s is not validated: the bundle does not contain schemas/%s.json "+
				"(iam-service policy build includes it)", b.path, b.name))
		default:
			errs = append(errs, validate(b.path.String(), schema, value))
		}
	}
	covered := []ast.Ref{ast.MustParseRef(configPath)}
	for _, b := range bindings(modules) {
		covered = append(covered, b.path)
	}
	for _, path := range uncovered(c.Data, ast.DefaultRootRef, covered) {
		unvalidated = append(unvalidated, fmt.Sprintf("%s is not validated: no METADATA assigns a schema to it (schemas: - %s: schema.NAME)", path, path))
	}
	config, there := at(c.Data, []string{"iam", "config"})
	if !there {
		return unvalidated, errors.Join(append(errs, errors.New(configPath+" is missing: it must have at least headers"))...)
	}
	open := maps.Clone(configSchema())
	delete(open, "additionalProperties") // the bundle may have more
	errs = append(errs, validate(configPath, open, config))
	known := slices.Sorted(maps.Keys(asObject(open["properties"])))
	if own := c.Schemas["config"]; own != nil {
		errs = append(errs, validate(configPath, own, config))
		known = slices.Compact(slices.Sorted(slices.Values(slices.AppendSeq(known, maps.Keys(asObject(asObject(own)["properties"]))))))
	}
	for _, key := range slices.Sorted(maps.Keys(asObject(config))) {
		if !slices.Contains(known, key) {
			errs = append(errs, fmt.Errorf("%s: %s: unknown key; %s are allowed, describe your own in schemas/config.json",
				configPath, pointer(key), strings.Join(known, ", ")))
		}
	}
	return unvalidated, errors.Join(uniqueErrors(errs)...)
}

// uncovered returns the largest parts of data that no path covers.
func uncovered(data any, here ast.Ref, paths []ast.Ref) (all []ast.Ref) {
	if slices.ContainsFunc(paths, func(p ast.Ref) bool { return here.HasPrefix(p) }) {
		return nil
	}
	m, isObject := data.(map[string]any)
	if !isObject || !slices.ContainsFunc(paths, func(p ast.Ref) bool { return p.HasPrefix(here) }) {
		return []ast.Ref{here}
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		all = append(all, uncovered(m[key], here.Append(ast.StringTerm(key)), paths)...)
	}
	return all
}

// uniqueErrors removes duplicates: two schemas can report the same violation.
func uniqueErrors(errs []error) (all []error) {
	seen := map[string]bool{}
	for _, err := range errs {
		if err != nil && !seen[err.Error()] {
			seen[err.Error()] = true
			all = append(all, err)
		}
	}
	return all
}

// at returns the value at a path of data.
func at(data any, steps []string) (any, bool) {
	for _, step := range steps {
		m, ok := data.(map[string]any)
		if !ok {
			return nil, false
		}
		if data, ok = m[step]; !ok {
			return nil, false
		}
	}
	return data, true
}

// noLoader loads no further schemas: a schema must be self-contained.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("a schema must be self-contained: %s is not loaded", url)
}

// validate reports every violation of a schema.
func validate(where string, schema, value any) error {
	compiled, err := compileSchema(where, schema)
	if err != nil {
		return err
	}
	return checkAgainst(where, schema, compiled, value)
}

func compileSchema(where string, schema any) (*jsonschema.Schema, error) {
	v, err := ast.InterfaceToValue(schema)
	if err != nil {
		return nil, fmt.Errorf("the schema of %s: %w", where, err)
	}
	if n := invalidNumber(v); n != nil {
		return nil, fmt.Errorf("the schema of %s: %w", where, errOutOfBounds(n))
	}
	const name = "schema:data" // not a location: all references are within the schema
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	compiler.DefaultDraft(jsonschema.Draft7)
	if err := compiler.AddResource(name, schema); err != nil {
		return nil, fmt.Errorf("the schema of %s: %w", where, err)
	}
	compiled, err := compiler.Compile(name)
	if err != nil {
		return nil, fmt.Errorf("the schema of %s: %w", where, err)
	}
	return compiled, nil
}

// checkAgainst is validate with a compiled schema.
func checkAgainst(where string, schema any, compiled *jsonschema.Schema, value any) error {
	err := compiled.Validate(value)
	invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return err
	}
	var errs []error
	for _, leaf := range leaves(invalid) {
		place := where
		if len(leaf.InstanceLocation) > 0 {
			place += ": " + pointer(leaf.InstanceLocation...)
		}
		text := leaf.BasicOutput().Error.String()
		if k, ok := leaf.ErrorKind.(*kind.AdditionalProperties); ok {
			slices.Sort(k.Properties)
			text = fmt.Sprintf("unknown key: %s; %s are allowed", strings.Join(k.Properties, ", "), strings.Join(allowed(schema, leaf.SchemaURL), ", "))
		}
		errs = append(errs, fmt.Errorf("%s: %s", place, text))
	}
	return errors.Join(errs...)
}

// leaves are the errors without causes.
func leaves(e *jsonschema.ValidationError) (all []*jsonschema.ValidationError) {
	if len(e.Causes) == 0 {
		return []*jsonschema.ValidationError{e}
	}
	for _, cause := range e.Causes {
		all = append(all, leaves(cause)...)
	}
	return all
}

// pointer is a JSON pointer (RFC 6901).
func pointer(steps ...string) (p string) {
	for _, step := range steps {
		p += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(step)
	}
	return p
}

// allowed are the properties of the object at a schema's location.
func allowed(schema any, location string) []string {
	_, fragment, _ := strings.Cut(location, "#")
	for step := range strings.SplitSeq(strings.TrimPrefix(fragment, "/"), "/") {
		if step != "" {
			schema = asObject(schema)[step]
		}
	}
	return slices.Sorted(maps.Keys(asObject(asObject(schema)["properties"])))
}
