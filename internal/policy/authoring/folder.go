// Package authoring has the tools of a policy's author: test, check, format, build, sign,
// verify, inspect, and a skeleton for a new policy. They work on a folder or a bundle and
// need no running service.
//
// It owns the requirements beyond compilation: tests, acceptance cases, METADATA, no walk
// over the directory, house style (in Rego, in style/). It also runs the gate of package
// policy, which decides whether a service accepts the policy. It does not know which
// revision is active anywhere.
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

// Folder is a policy as its author edits it: rules with their tests, data, schemas
// (schemas/*.json) and acceptance cases (cases/*.yaml).
type Folder struct {
	Path    string                 // without links
	Modules map[string]*ast.Module // by file as it is shown, tests included
	Sources map[string][]byte      // of the modules
	Data    map[string]any
	Cases   []policy.Case

	displayPath string         // as the folder was named
	schemas     map[string]any // the service's and the folder's, by name
	roots       []string       // of .manifest
	uses        []string       // further roots of data, which other bundles provide
	unreadFiles []string       // files that are not part of the policy
}

// display is the name of a file for people: as they would open it.
func (f *Folder) display(rel string) string {
	return filepath.Join(f.displayPath, filepath.FromSlash(rel))
}

// rel is the name of a file in the folder.
func (f *Folder) rel(shown string) string {
	rel, err := filepath.Rel(f.displayPath, shown)
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
		return nil, fmt.Errorf("%s is not a folder: a bundle has no tests", dir)
	}
	f := &Folder{Path: dir, displayPath: given, Modules: map[string]*ast.Module{}, Sources: map[string][]byte{}, Data: map[string]any{}}
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
		case rel != "." && strings.HasPrefix(path.Base(rel), "."): // hidden: not part of the policy
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
		return nil // the gate reports it
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
		return fmt.Errorf("%s: %w", f.display(".manifest"), err)
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
			return fmt.Errorf("%s: cases must be in .yaml files", f.display(rel))
		}
		if strings.Count(rel, "/") > 1 {
			f.unreadFiles = append(f.unreadFiles, rel)
			return nil
		}
	case base == "data.json" || base == "data.yaml" || base == "data.yml":
	default:
		f.unreadFiles = append(f.unreadFiles, rel)
		return nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	switch {
	case strings.HasSuffix(rel, ".rego"):
		shown := f.display(rel)
		f.Sources[shown] = text
		m, err := ast.ParseModuleWithOpts(shown, string(text), ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true, Capabilities: policy.Capabilities()})
		if err != nil {
			return err
		}
		f.Modules[shown] = m
	case strings.HasPrefix(rel, "schemas/"):
		var schema any
		if err := json.Unmarshal(text, &schema); err != nil {
			return fmt.Errorf("%s: %w", f.display(rel), err)
		}
		f.schemas[schemaName(rel)] = schema
	case strings.HasPrefix(rel, "cases/"):
		cases, err := policy.ParseCases(f.display(rel), text)
		f.Cases = append(f.Cases, cases...)
		return err
	default:
		return f.readData(rel, text)
	}
	return nil
}

// readData merges a data file into data at the path of its folder.
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
		return fmt.Errorf("%s: %w", f.display(rel), err)
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
		return fmt.Errorf("%s must be an object", f.display(rel))
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
