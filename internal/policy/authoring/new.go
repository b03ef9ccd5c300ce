package authoring

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

//go:embed all:skeleton
var skeleton embed.FS

// New creates a folder with a working policy: a rule with its test, schema and cases, which
// all pass. It fails where the folder is not empty.
func New(dir string, from fs.FS) ([]string, error) {
	if list, err := os.ReadDir(dir); err == nil && len(list) > 0 {
		return nil, fmt.Errorf("%s is not empty", dir)
	}
	whole, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	name := strings.ReplaceAll(filepath.Base(whole), "-", "_")
	if !codeShape.MatchString(name) {
		return nil, fmt.Errorf("the folder's name becomes that of the first rule: it must consist of a-z 0-9 _ - and begin with a letter, is %q", filepath.Base(whole))
	}
	if nameTaken(from, name) {
		return nil, fmt.Errorf("the default policy has a rule or a file named %q: choose another name", name)
	}
	var made []string
	write := func(source fs.FS, root string) error {
		return fs.WalkDir(source, root, func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := fs.ReadFile(source, file)
			if err != nil {
				return err
			}
			rel := strings.TrimPrefix(file, root+"/")
			rel = strings.ReplaceAll(strings.TrimSuffix(rel, ".txt"), "NAME", name)
			target := filepath.Join(dir, filepath.FromSlash(rel))
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil { //nolint:gosec // as below
				return err
			}
			made = append(made, target)
			if root != "." {
				text = []byte(strings.ReplaceAll(string(text), "NAME", name))
			}
			return os.WriteFile(target, text, 0o644) //nolint:gosec // a policy is not secret
		})
	}
	if err := write(from, "."); err != nil {
		return made, err
	}
	return made, write(skeleton, "skeleton")
}

// nameTaken reports whether a policy has a file or a code of that name.
func nameTaken(from fs.FS, name string) (found bool) {
	_ = fs.WalkDir(from, ".", func(file string, d fs.DirEntry, err error) error { // what cannot be read is found out when it is copied
		if err == nil && !d.IsDir() && strings.HasSuffix(file, ".rego") {
			text, _ := fs.ReadFile(from, file) // as above
			found = found || strings.TrimSuffix(path.Base(file), ".rego") == name || strings.Contains(string(text), "#   code: "+name+"\n")
		}
		return nil
	})
	return found
}
