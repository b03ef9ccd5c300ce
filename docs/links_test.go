package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// A link within the repository leads to a file, and to a heading of it where it names one.
func TestLinksOfTheDocumentsLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(prose(t, page), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := page
			if target != "" {
				file = filepath.Join(filepath.Dir(page), target)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s, which does not exist", page, m[1])
			} else if anchor != "" && !anchors(t, file)[anchor] {
				t.Errorf("%s links to %s, which has no such heading", page, m[1])
			}
		}
	}
}

// pages are the files with documents, relative to this folder.
func pages(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../*.md", "*.md", "decisions/*.md", "gateways/*.md", "../bundles/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		all = append(all, found...)
	}
	return all
}

// prose is a page without its blocks of code.
func prose(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(string(text), "")
}

// anchors are what the headings of a page are linked by.
func anchors(t *testing.T, page string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for line := range strings.Lines(prose(t, page)) {
		if heading := strings.TrimLeft(line, "#"); heading != line {
			found[strings.Map(func(r rune) rune {
				switch {
				case r == ' ':
					return '-'
				case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
					return unicode.ToLower(r)
				}
				return -1
			}, strings.TrimSpace(heading))] = true
		}
	}
	return found
}

// index.md has a line for each page, and decisions/README.md for each record.
func TestEveryPageIsIndexed(t *testing.T) {
	t.Parallel()
	for index, pattern := range map[string]string{"index.md": "*.md", "decisions/README.md": "decisions/*.md"} {
		listed := prose(t, index)
		pages, err := filepath.Glob(pattern)
		if err != nil || len(pages) < 10 {
			t.Fatalf("%s: %v, %v", pattern, pages, err)
		}
		for _, page := range pages {
			if page != index && !strings.Contains(listed, "("+filepath.Base(page)+")") {
				t.Errorf("%s does not list %s", index, page)
			}
		}
	}
}

// width is the most columns that a line of prose has.
const width = 110

// generatedPages are written by programs, which do not wrap.
var generatedPages = []string{"nightly.md", "gamedays.md"}

// A line of prose fits into the width. Tables, headings, comments, definitions of links and what has no
// place to break (a long link) may be wider.
func TestProseIsWrapped(t *testing.T) {
	t.Parallel()
	unbreakable := regexp.MustCompile("^ *([-*] |[0-9]+[.] )?(`[^`]*`|[^ `])+$")
	exempt := regexp.MustCompile(`^\s*(\||#|<|\[[^]]+\]:)`)
	for _, page := range pages(t) {
		t.Run(strings.TrimPrefix(page, "../"), func(t *testing.T) {
			t.Parallel()
			if slices.Contains(generatedPages, page) {
				return
			}
			for line := range strings.Lines(prose(t, page)) {
				line = strings.TrimRight(line, "\n")
				if utf8.RuneCountInString(line) > width && !exempt.MatchString(line) && !unbreakable.MatchString(line) {
					t.Errorf("wrap this line at %d columns:\n%s", width, line)
				}
			}
		})
	}
}
