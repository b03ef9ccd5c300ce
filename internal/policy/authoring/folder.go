// Package authoring is the tools of who writes a policy: test, check, format, build, sign,
// verify, inspect, and a beginning of a new one. They work on a folder or a bundle and need
// nothing that runs.
//
// It owns what is asked of a policy beyond that it compiles: tests, acceptance cases,
// METADATA, no walk over the directory, house style (in Rego, beside this). What comes into
// force is decided by the gate of package policy, which is asked too. It does not know
// what is in force anywhere.
package authoring

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"sigs.k8s.io/yaml"

	"iam-service/internal/policy"
)

// Folder is a policy as its author has it: rules with tests beside them, data, schemas
// (schemas/*.json) and acceptance cases (cases/*.yaml).
type Folder struct {
	Path    string                 // without links
	Modules map[string]*ast.Module // by file as it is shown, tests included
	Sources map[string][]byte      // of the modules
	Data    map[string]any
	Cases   []policy.Case

	given   string         // as the folder was named
	schemas map[string]any // the service's and the folder's, by name
	roots   []string       // of .manifest
	uses    []string       // further roots of data, which other bundles bring along
	others  []string       // files that no part of this was read from
}

// shown is the name of a file for people: as they would open it.
func (f *Folder) shown(rel string) string { return filepath.Join(f.given, filepath.FromSlash(rel)) }

// rel is the name of a file in the folder.
func (f *Folder) rel(shown string) string {
	rel, err := filepath.Rel(f.given, shown)
	if err != nil {
		return shown // both are relative, or neither
	}
	return filepath.ToSlash(rel)
}

// rules are the modules without those of tests.
func (f *Folder) rules() map[string]*ast.Module {
	rules := maps.Clone(f.Modules)
	maps.DeleteFunc(rules, func(file string, _ *ast.Module) bool { return isTest(file) })
	return rules
}

// Load reads a folder. It fails with an ast.Errors that has all errors of parsing.
func Load(dir string) (*Folder, error) {
	given := dir
	dir, err := filepath.EvalSymlinks(dir) // "current" may lead to a release
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is no folder: a bundle has no tests", dir)
	}
	f := &Folder{Path: dir, given: given, Modules: map[string]*ast.Module{}, Sources: map[string][]byte{}, Data: map[string]any{}}
	if f.schemas, err = serviceSchemas(); err != nil {
		return nil, err
	}
	if err := f.readManifest(); err != nil {
		return nil, err
	}
	var parsing ast.Errors
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch {
		case rel != "." && strings.HasPrefix(path.Base(rel), "."): // hidden: no policy
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		}
		err = f.read(name, rel)
		if many, ok := errors.AsType[ast.Errors](err); ok {
			parsing = append(parsing, many...)
			return nil
		}
		return err
	})
	if err == nil && len(parsing) > 0 {
		err = parsing
	}
	if err == nil && len(f.Modules) == 0 {
		err = fmt.Errorf("%s has no .rego file", given)
	}
	if err == nil {
		err = addClaims(f.schemas)
	}
	return f, err
}

func (f *Folder) readManifest() error {
	text, err := os.ReadFile(filepath.Join(f.Path, ".manifest"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the gate says so
	}
	var manifest struct {
		Roots    []string `json:"roots"`
		Metadata struct {
			Uses []string `json:"uses"`
		} `json:"metadata"`
	}
	if err == nil {
		err = json.Unmarshal(text, &manifest)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.shown(".manifest"), err)
	}
	f.roots, f.uses = manifest.Roots, manifest.Metadata.Uses
	return nil
}

func (f *Folder) read(name, rel string) error {
	base := path.Base(rel)
	switch {
	case strings.HasSuffix(rel, ".rego"):
	case strings.HasPrefix(rel, "schemas/") && strings.HasSuffix(rel, ".json"):
	case strings.HasPrefix(rel, "cases/"):
		if !strings.HasSuffix(rel, ".yaml") && !strings.HasSuffix(rel, ".yml") {
			return fmt.Errorf("%s: cases are written in .yaml files", f.shown(rel))
		}
		if strings.Count(rel, "/") > 1 {
			f.others = append(f.others, rel)
			return nil
		}
	case base == "data.json" || base == "data.yaml" || base == "data.yml":
	default:
		f.others = append(f.others, rel)
		return nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	switch {
	case strings.HasSuffix(rel, ".rego"):
		shown := f.shown(rel)
		f.Sources[shown] = text
		m, err := ast.ParseModuleWithOpts(shown, string(text), ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true, Capabilities: policy.Capabilities()})
		if err != nil {
			return err
		}
		f.Modules[shown] = m
	case strings.HasPrefix(rel, "schemas/"):
		var schema any
		if err := json.Unmarshal(text, &schema); err != nil {
			return fmt.Errorf("%s: %w", f.shown(rel), err)
		}
		f.schemas[schemaName(rel)] = schema
	case strings.HasPrefix(rel, "cases/"):
		cases, err := policy.ParseCases(f.shown(rel), text)
		f.Cases = append(f.Cases, cases...)
		return err
	default:
		return f.readData(rel, text)
	}
	return nil
}

// readData puts a data file where its folder says.
func (f *Folder) readData(rel string, text []byte) error {
	var value any
	var err error
	if !strings.HasSuffix(rel, ".json") {
		text, err = yaml.YAMLToJSON(text)
	}
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		err = d.Decode(&value)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.shown(rel), err)
	}
	steps := strings.Split(path.Dir(rel), "/")
	if steps[0] == "." {
		steps = nil
	}
	for _, step := range slices.Backward(steps) {
		value = map[string]any{step: value}
	}
	object, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("%s must be an object", f.shown(rel))
	}
	merge(f.Data, object)
	return nil
}

func merge(into, from map[string]any) {
	for k, v := range from {
		a, ok1 := into[k].(map[string]any)
		b, ok2 := v.(map[string]any)
		if ok1 && ok2 {
			merge(a, b)
			continue
		}
		into[k] = v
	}
}

func isTest(file string) bool { return strings.HasSuffix(file, "_test.rego") }
