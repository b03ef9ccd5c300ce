package docs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"iam-service/internal/policy/authoring"
	"iam-service/policies"
)

// Each example of the guide passes policy check, and decides what its cases expect.
func TestExamplesOfThePolicyGuidePassTheirCases(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("policy-guide.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```[a-z]+ ([a-z_./-]+)\n(.*?)```")
	examples := 0
	for _, section := range strings.Split(string(guide), "\n## ")[1:] {
		title, _, _ := strings.Cut(section, "\n")
		blocks := block.FindAllStringSubmatch(section, -1)
		if len(blocks) == 0 {
			continue
		}
		examples++
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "guide")
			if _, err := authoring.New(dir, policies.FS); err != nil {
				t.Fatal(err)
			}
			for _, b := range blocks {
				if err := os.WriteFile(filepath.Join(dir, b[1]), []byte(b[2]), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			folder, err := authoring.Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			found, _, err := folder.Check(t.Context(), authoring.CheckOptions{})
			if err != nil || len(found) > 0 {
				t.Errorf("policy check found %v, %v", found, err)
			}
			var out bytes.Buffer
			if report, err := folder.Test(t.Context(), &out, authoring.TestOptions{Threshold: 90}); err != nil || !report.Passed() || report.Cases < 5 {
				t.Errorf("%+v, %v: %s", report, err, &out)
			}
		})
	}
	if examples < 8 {
		t.Errorf("only %d examples were found", examples)
	}
}
