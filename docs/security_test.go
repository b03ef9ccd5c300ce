package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"iam-service/internal/dev/defences"
)

// SECURITY.md names tests that exist, and marks the threats whose defences are taken out nightly.
func TestEachThreatNamesTestsThatExist(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range function.FindAllStringSubmatch(string(source), -1) {
			declared[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	marked, named := map[string]bool{}, 0
	_, table, _ := strings.Cut(string(text), "## Threat model")
	table, _, _ = strings.Cut(table, "\n## ")
	for line := range strings.SplitSeq(table, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 6 {
			continue
		}
		threat, taken := strings.CutSuffix(strings.TrimSpace(cells[1]), " *")
		marked[threat] = taken
		for _, m := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(cells[4], -1) {
			named++
			if !declared[m[1]] {
				t.Errorf("%s: there is no test %s", threat, m[1])
			}
		}
	}
	if named < 30 {
		t.Fatalf("%d tests are named", named)
	}
	taken := map[string]bool{}
	for _, d := range defences.All {
		taken[d.Threat] = true
		if !marked[d.Threat] {
			t.Errorf("SECURITY.md does not mark %q, whose defence is taken out", d.Threat)
		}
		source, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(d.File)))
		if err != nil || strings.Count(string(source), d.Code) != 1 {
			t.Errorf("%s: %q is not there exactly once (%v): follow the code in internal/dev/defences", d.File, d.Code, err)
		}
		if name, _, _ := strings.Cut(d.Test, "/"); !declared[name] {
			t.Errorf("%s: there is no test %s", d.Threat, d.Test)
		}
	}
	for threat, m := range marked {
		if m && !taken[threat] {
			t.Errorf("SECURITY.md marks %q, and no defence of it is taken out", threat)
		}
	}
}
