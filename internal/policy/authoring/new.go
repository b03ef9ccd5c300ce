package authoring

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

//go:embed all:skeleton
var skeleton embed.FS

// New makes a folder with a policy to begin with: the rule, its test, its schema and its
// cases, which all pass. It fails where there is something already.
func New(dir string, from fs.FS) ([]string, error) {
	if list, err := os.ReadDir(dir); err == nil && len(list) > 0 {
		return nil, fmt.Errorf("%s is not empty", dir)
	}
	name := strings.ReplaceAll(filepath.Base(dir), "-", "_")
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
			return os.WriteFile(target, []byte(strings.ReplaceAll(string(text), "NAME", name)), 0o644) //nolint:gosec // a policy is no secret
		})
	}
	if err := write(from, "."); err != nil {
		return made, err
	}
	return made, write(skeleton, "skeleton")
}
