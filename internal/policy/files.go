package policy

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// MaxFiles bounds the texts of a draft together, in bytes. A bundle can be larger; what people edit is not.
const MaxFiles = 8 << 20

// Kinds of files in a policy.
const (
	KindRego     = "rego"
	KindTest     = "test"
	KindCases    = "cases"
	KindData     = "data"
	KindSchema   = "schema"
	KindManifest = "manifest"
)

// KindOfFile is the kind of a file by its path; "" where no policy has such a file.
func KindOfFile(name string) string {
	folder, base := path.Split(name)
	extension := path.Ext(base)
	switch {
	case name == manifestFile:
		return KindManifest
	case strings.HasSuffix(base, "_test.rego"):
		return KindTest
	case extension == ".rego":
		return KindRego
	case folder == "cases/" && (extension == ".yaml" || extension == ".yml"):
		return KindCases
	case strings.HasPrefix(folder, "schemas/") && extension == ".json":
		return KindSchema
	case base == "data.json", base == "data.yaml", base == "data.yml":
		return KindData
	}
	return ""
}

const manifestFile = ".manifest"

// Files returns the files of a policy by path, so that FromFS of them is the same policy. A bundle has no tests, and
// carries cases and schemas in its data: they are written as the files that iam-service policy build reads.
func (c *Candidate) Files() (map[string]string, error) {
	files := map[string]string{}
	if c.files != nil {
		err := fs.WalkDir(c.files, ".", func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || KindOfFile(name) == "" {
				return err
			}
			text, err := fs.ReadFile(c.files, name)
			files[name] = string(text)
			return err
		})
		return files, err
	}
	maps.Copy(files, c.Modules)
	put := func(name string, content any) error {
		text, err := json.MarshalIndent(content, "", "  ")
		files[name] = string(text) + "\n"
		return err
	}
	if err := put(manifestFile, map[string]any{"revision": c.Name, "roots": c.Roots}); err != nil {
		return nil, err
	}
	if len(c.Data) > 0 {
		if err := put("data.json", c.Data); err != nil {
			return nil, err
		}
	}
	for name, schema := range c.Schemas {
		if err := put("schemas/"+name+".json", schema); err != nil {
			return nil, err
		}
	}
	return files, c.caseFiles(files)
}

// caseFiles adds the files of acceptance cases, in the order of the cases.
func (c *Candidate) caseFiles(files map[string]string) error {
	byFile := map[string][]Case{}
	for _, one := range c.Cases {
		name := one.File
		if KindOfFile(name) != KindCases {
			name = "cases/" + strings.TrimSuffix(path.Base("/"+name), path.Ext(name)) + ".yaml"
		}
		if name == "cases//.yaml" || name == "cases/.yaml" {
			name = "cases/cases.yaml"
		}
		one.File = ""
		byFile[name] = append(byFile[name], one)
	}
	for _, name := range slices.Sorted(maps.Keys(byFile)) {
		text, err := yaml.Marshal(map[string]any{"cases": byFile[name]})
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		files[name] = string(text)
	}
	return nil
}
