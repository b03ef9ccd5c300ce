package authoring

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"iam-service/internal/policy"
	"iam-service/policies"
)

// Schemas of what a policy reads: the input of each entrypoint, the directory and
// data.iam.config. A folder's own schemas/NAME.json replaces the service's.
const (
	claimsInput  = "enrichment"
	adminInput   = "administration"
	authzenInput = "authzen"
	directory    = "directory"
	config       = "config"

	// customClaims declares claims of tokens beyond those that the service knows.
	customClaims = "claims"
)

// serviceSchemas are the service's own schemas, by name.
func serviceSchemas() (map[string]any, error) {
	files, err := fs.Glob(policies.FS, "schemas/*.json")
	if err != nil {
		return nil, err
	}
	schemas := map[string]any{}
	for _, file := range files {
		text, err := fs.ReadFile(policies.FS, file)
		if err != nil {
			return nil, err
		}
		var schema any
		if err := json.Unmarshal(text, &schema); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		schemas[schemaName(file)] = schema
	}
	return schemas, nil
}

func schemaName(file string) string {
	return strings.TrimSuffix(strings.TrimPrefix(file, "schemas/"), ".json")
}

// addClaims puts the properties of schemas/claims.json among those of a token.
func addClaims(schemas map[string]any) error {
	own, there := schemas[customClaims]
	if !there {
		return nil
	}
	claims, _ := own.(map[string]any)
	properties, ok := claims["properties"].(map[string]any)
	if !ok {
		return fmt.Errorf(`schemas/%s.json has no "properties": add {"properties": {"auth_time": {"type": "number"}}}`, customClaims)
	}
	for _, name := range []string{claimsInput, adminInput} {
		schemas[name] = union(schemas[name], map[string]any{"properties": map[string]any{"token": map[string]any{"properties": properties}}})
	}
	return nil
}

// union merges b into a; values of b win.
func union(a, b any) any {
	ma, ok1 := a.(map[string]any)
	mb, ok2 := b.(map[string]any)
	if !ok1 || !ok2 {
		return b
	}
	all := maps.Clone(ma)
	for k, v := range mb {
		if was, there := all[k]; there {
			v = union(was, v)
		}
		all[k] = v
	}
	return all
}

// schemaSet is what OPA's type checker finds under schema.NAME.
func (f *Folder) schemaSet() *ast.SchemaSet {
	set := ast.NewSchemaSet()
	put := func(name string, schema any) {
		ref := ast.Ref{ast.VarTerm("schema")}
		for step := range strings.SplitSeq(name, "/") {
			ref = ref.Append(ast.StringTerm(step))
		}
		set.Put(ref, schema)
	}
	for name, schema := range f.schemas {
		put(name, schema)
	}
	for bits := range byAll + 1 { // of packages that several entrypoints reach
		if names := inputsOf(bits); len(names) > 1 {
			var merged any = map[string]any{}
			for _, name := range names {
				merged = union(merged, f.schemas[name])
			}
			put(inputOf(bits), merged)
		}
	}
	return set
}

// inputsOf names the schemas of the input of a set of entrypoints.
func inputsOf(bits int) (names []string) {
	for _, e := range entrypoints {
		if bits&e.bit != 0 {
			names = append(names, e.input)
		}
	}
	return names
}

// inputOf names the schema of what any of a set of entrypoints reads.
func inputOf(bits int) string { return strings.Join(inputsOf(bits), "_and_") }

// Sets of entrypoints of the service.
const (
	byClaims = 1 << iota
	byAdmin
	byAuthzen
	byAll = byClaims | byAdmin | byAuthzen
)

// entrypoints are the rules that the service evaluates, each with the schema of its input.
var entrypoints = []struct {
	rules []string
	bit   int
	input string
}{
	{rules: []string{policy.Entrypoint}, bit: byClaims, input: claimsInput},
	{rules: []string{policy.AdminEntrypoint}, bit: byAdmin, input: adminInput},
	{rules: []string{policy.AuthzenEntrypoint, policy.AuthzenCandidates}, bit: byAuthzen, input: authzenInput},
}

// reachedBy returns for each rule the entrypoints that reach it, over all that rules refer to.
func reachedBy(compiler *ast.Compiler) map[*ast.Rule]int {
	by := map[*ast.Rule]int{}
	for _, e := range entrypoints {
		var next []*ast.Rule
		for _, rule := range e.rules {
			next = append(next, compiler.GetRulesExact(ast.MustParseRef(rule))...)
		}
		for len(next) > 0 {
			r := next[len(next)-1]
			next = next[:len(next)-1]
			if by[r]&e.bit != 0 {
				continue
			}
			by[r] |= e.bit
			if r.Else != nil {
				next = append(next, r.Else)
			}
			for other := range compiler.Graph.Dependencies(r) {
				next = append(next, other.(*ast.Rule)) //nolint:forcetypeassert // a graph of rules
			}
		}
	}
	return by
}

// contract returns modules that declare the types of what rules read: one for each package, with
// the schema of its input, and one for the directory. A package's own annotations override
// them. Where by is nil, a package's name decides which input it has.
func (f *Folder) contract(by map[*ast.Rule]int) (map[string]*ast.Module, error) {
	packages, annotated := map[string]int{}, map[string]bool{}
	for _, m := range f.rules() {
		name := m.Package.Path.String()
		packages[name] |= 0
		for _, a := range m.Annotations {
			annotated[name] = annotated[name] || a.Scope == "subpackages" // one for each package is allowed
		}
	}
	for r, bits := range by {
		packages[r.Module.Package.Path.String()] |= bits
	}
	text := map[string]string{}
	for name, bits := range packages {
		if annotated[name] {
			continue
		}
		input := inputOf(bits)
		switch {
		case bits != 0:
		case strings.HasPrefix(name+".", "data.iam.admin."):
			input = adminInput
		case strings.HasPrefix(name+".", "data.iam.authzen."):
			input = authzenInput
		default:
			input = claimsInput
		}
		text["types of "+name] = fmt.Sprintf("# METADATA\n# scope: subpackages\n# schemas:\n#   - input: schema.%s\n#   - data.iam.config: schema.%s\npackage %s\n", input, config, strings.TrimPrefix(name, "data."))
	}
	text["types of the directory"] = f.directoryModule()
	modules := make(map[string]*ast.Module, len(text))
	for name, source := range text {
		m, err := ast.ParseModuleWithOpts(name, source, ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true})
		if err != nil {
			return nil, err
		}
		modules[name] = m
	}
	return modules, nil
}

// directoryModule is the directory as rules, from its schema. OPA's checker does not support
// schemas of objects whose keys are data, but it infers the type of a rule that builds one.
func (f *Folder) directoryModule() string {
	var out strings.Builder
	fmt.Fprintf(&out, "package directory\n")
	schema, _ := f.schemas[directory].(map[string]any)
	collections, _ := schema["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(collections)) {
		document, keys := collections[name], ""
		var body []string
		for {
			s, _ := document.(map[string]any)
			inner, ok := s["additionalProperties"].(map[string]any)
			if !ok || s["properties"] != nil {
				break
			}
			key := fmt.Sprintf("k%d", len(body))
			keys += "[" + key + "]"
			body = append(body, key+` := ""`)
			document = inner
		}
		if len(body) == 0 {
			body = []string{"true"}
		}
		fmt.Fprintf(&out, "\n%s%s := %s if {\n\t%s\n}\n", name, keys, exampleOf(document, 0), strings.Join(body, "\n\t"))
	}
	return out.String()
}

// exampleOf is a Rego term of the type that a schema describes.
func exampleOf(schema any, depth int) string {
	s, _ := schema.(map[string]any) // true, or nothing: anything
	local := func(name string) string { return fmt.Sprintf("%s%d", name, depth) }
	properties, _ := s["properties"].(map[string]any)
	switch values, isEnum := s["enum"].([]any); {
	case s["type"] == "string", isEnum && allStrings(values):
		return `""`
	case s["type"] == "number", s["type"] == "integer":
		return "0"
	case s["type"] == "boolean":
		return "true"
	case s["type"] == "array":
		x := local("x")
		return fmt.Sprintf("[%s | %s := %s]", x, x, exampleOf(s["items"], depth+1))
	case len(properties) > 0:
		var fields []string
		for _, name := range slices.Sorted(maps.Keys(properties)) {
			fields = append(fields, fmt.Sprintf("%q: %s", name, exampleOf(properties[name], depth+1)))
		}
		return "{" + strings.Join(fields, ", ") + "}"
	case s["additionalProperties"] != nil, s["type"] == "object":
		k, v := local("k"), local("v")
		return fmt.Sprintf(`{%s: %s | %s := ""; %s := %s}`, k, v, k, v, exampleOf(s["additionalProperties"], depth+1))
	default:
		return "input.anything"
	}
}

func allStrings(values []any) bool {
	return len(values) > 0 && !slices.ContainsFunc(values, func(v any) bool { _, ok := v.(string); return !ok })
}

// unreached finds rules that no decision depends on.
func (f *Folder) unreached(compiler *ast.Compiler, by map[*ast.Rule]int) (found []Finding) {
	reported := map[string]bool{}
	for file, m := range compiler.Modules {
		for _, r := range m.Rules {
			name := r.Ref().GroundPrefix().String()
			if by[r] != 0 || reported[file+name] {
				continue
			}
			reported[file+name] = true
			found = append(found, at(r.Location, "unreached", fmt.Sprintf("%s decides nothing: none of %s, %s and %s reaches it",
				strings.TrimPrefix(name, "data."), policy.Entrypoint, policy.AdminEntrypoint, policy.AuthzenEntrypoint)))
		}
	}
	return found
}

// undefined finds references below data to neither a rule nor data: a condition with one never
// holds.
func (f *Folder) undefined(compiler *ast.Compiler) (found []Finding) {
	for _, m := range compiler.Modules {
		var where *ast.Location
		var vis *ast.GenericVisitor
		vis = ast.NewGenericVisitor(func(x any) bool {
			switch x := x.(type) {
			case *ast.Rule:
				where = x.Location
			case *ast.Expr:
				where = nearest(x.Location, where)
			case *ast.With:
				vis.Walk(x.Value) // the target of "with" may be absent
				return true
			case *ast.Term:
				if ref, ok := x.Value.(ast.Ref); ok {
					if text := f.undefinedReason(compiler, ref); text != "" {
						found = append(found, at(nearest(x.Location, where), "undefined", text))
					}
				}
			}
			return false
		})
		vis.Walk(m)
	}
	return found
}

func nearest(a, b *ast.Location) *ast.Location {
	if a != nil && a.Row > 0 {
		return a
	}
	return b
}

// undefinedReason returns why a reference never has a value; "" if it can have one.
func (f *Folder) undefinedReason(compiler *ast.Compiler, ref ast.Ref) string {
	if !ref.HasPrefix(ast.DefaultRootRef) || len(ref) < 2 {
		return ""
	}
	var steps []string // the ground ones
	for _, t := range ref[1:] {
		s, ok := t.Value.(ast.String)
		if !ok {
			break
		}
		steps = append(steps, string(s))
	}
	if len(steps) == 0 {
		return "" // any root: the walks are found elsewhere
	}
	if steps[0] == directory {
		if len(steps) > 1 && collections[steps[1]] == 0 {
			return fmt.Sprintf("%s is never defined: data.directory has %s", ref, strings.Join(slices.Sorted(maps.Keys(collections)), ", "))
		}
		return ""
	}
	if !f.owns(steps) {
		if slices.Contains(f.uses, steps[0]) {
			return ""
		}
		return fmt.Sprintf(`%s is never defined: %q is none of the roots of .manifest (%s); if another bundle provides it, declare that there: "metadata": {"uses": [%q]}`,
			ref, steps[0], strings.Join(f.roots, ", "), steps[0])
	}
	node, value := compiler.RuleTree.Child(ast.DefaultRootDocument.Value), any(f.Data)
	for i, step := range steps {
		object, isObject := value.(map[string]any)
		switch {
		case i == 2 && steps[0] == "iam" && steps[1] == config, // its schema describes it
			node != nil && len(node.Values) > 0, // a rule: its type does
			value != nil && !isObject:           // a list
			return ""
		}
		has := slices.Collect(maps.Keys(object))
		if node != nil {
			for _, child := range node.Sorted {
				if name, ok := child.(ast.String); ok {
					has = append(has, string(name))
				}
			}
			node = node.Child(ast.String(step))
		}
		var there bool
		if value, there = object[step]; !there && node == nil {
			slices.Sort(has)
			return fmt.Sprintf("%s is never defined: %s has %s", ref, strings.Join(append([]string{"data"}, steps[:i]...), "."), strings.Join(slices.Compact(has), ", "))
		}
	}
	return ""
}

// owns reports whether a path lies below, or leads to, a root of the policy.
func (f *Folder) owns(steps []string) bool {
	p := strings.Join(steps, "/") + "/"
	return slices.ContainsFunc(f.roots, func(root string) bool {
		root = strings.Trim(root, "/") + "/"
		return root == "/" || strings.HasPrefix(p, root) || strings.HasPrefix(root, p)
	})
}

// notLoaded finds files that look like a part of the policy, but whose names OPA ignores.
func (f *Folder) notLoaded() (found []Finding) {
	for _, rel := range f.unreadFiles {
		text := ""
		ext := path.Ext(rel)
		top, _, _ := strings.Cut(rel, "/")
		switch isData := ext == ".json" || ext == ".yaml" || ext == ".yml"; {
		case strings.HasPrefix(rel, "preview/") && (ext == ".yaml" && strings.Count(rel, "/") == 1 || !isData):
		case strings.HasPrefix(rel, "preview/"):
			text = "is not read: questions must be in preview/*.yaml"
		case strings.HasPrefix(rel, "schemas/"):
			text = "is not read: schemas must be in schemas/*.json"
		case strings.HasPrefix(rel, "cases/"):
			text = "is not in the bundle: cases must be in cases/*.yaml, not in subfolders"
		case isData:
			name := strings.TrimSuffix(rel, ext)
			text = fmt.Sprintf("is not loaded: OPA reads data from files named data.json or data.yaml, of which the folder is the path; for data.%s it is %s/data%s",
				strings.ReplaceAll(name, "/", "."), name, ext)
		case f.owns([]string{top}) && strings.Contains(rel, "/") && ext != ".md" && ext != ".txt":
			text = "is not loaded: OPA reads .rego files, and data from files named data.json or data.yaml"
		}
		if text != "" {
			found = append(found, Finding{File: f.display(rel), Rule: "not-loaded", Text: text})
		}
	}
	used := map[string]bool{}
	for _, m := range f.Modules {
		for _, a := range m.Annotations {
			for _, s := range a.Schemas {
				used[strings.Trim(strings.TrimPrefix(s.Schema.String(), "schema"), ".")] = true
			}
		}
	}
	known := []string{adminInput, authzenInput, customClaims, config, directory, claimsInput}
	for name := range f.schemas {
		if !slices.Contains(known, name) && !used[strings.ReplaceAll(name, "/", ".")] {
			found = append(found, Finding{File: f.display("schemas/" + name + ".json"), Rule: "not-loaded",
				Text: fmt.Sprintf("is used by nothing: the service has schemas/%s.json, and others need METADATA with schemas that names them", strings.Join(known, ".json, schemas/"))})
		}
	}
	return found
}
