package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"iam-service/internal/cli"
)

// rules is what the tests read of deploy/prometheus/rules.yaml.
type rules struct {
	Groups []struct {
		Rules []struct {
			Alert       string
			Expr        string
			Labels      map[string]string
			Annotations map[string]string
		}
	}
}

func TestEachAlertHasASectionInTheRunbookAndTheOtherWayRound(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "deploy", "prometheus", "rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var r rules
	if err := yaml.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	alerts := map[string]bool{}
	sections := anchors(t, "runbook.md")
	for _, g := range r.Groups {
		for _, rule := range g.Rules {
			if rule.Alert == "" {
				continue
			}
			anchor := strings.ToLower(rule.Alert)
			alerts[anchor] = true
			if !sections[anchor] {
				t.Errorf("docs/runbook.md has no section %s", rule.Alert)
			}
			if want := "docs/runbook.md#" + anchor; rule.Annotations["runbook_url"] != want {
				t.Errorf("%s: runbook_url is %q, want %q", rule.Alert, rule.Annotations["runbook_url"], want)
			}
			if rule.Annotations["summary"] == "" || !slices.Contains([]string{"page", "ticket"}, rule.Labels["severity"]) {
				t.Errorf("%s needs a summary, and severity page or ticket", rule.Alert)
			}
		}
	}
	if len(alerts) == 0 {
		t.Fatal("there are no alerts")
	}
	for section := range sections {
		if strings.HasPrefix(section, "iam") && !alerts[section] {
			t.Errorf("docs/runbook.md has a section %s, and there is no such alert", section)
		}
	}
}

// commandPattern finds commands of the program, up to the first word that is no subcommand's name.
var commandPattern = regexp.MustCompile("iam-service((?: [a-z][a-z-]+)+)((?: --[a-z-]+)*)")

func TestTheRunbooksCommandsExist(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"runbook.md", "outages.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, code := range regexp.MustCompile("(?s)```.*?```|`[^`]+`").FindAllString(string(text), -1) {
			for _, m := range commandPattern.FindAllStringSubmatch(code, -1) {
				found++
				words := strings.Fields(m[1])
				cmd, _, err := cli.Command(nil).Find(words)
				below := strings.Fields(cmd.CommandPath())[1:] // of words, those that name the command
				if err != nil || len(below) == 0 || !slices.Equal(below, words[:len(below)]) || cmd.HasSubCommands() && len(words) > len(below) {
					t.Errorf("%s: there is no command iam-service%s", page, m[1])
					continue
				}
				for _, flag := range strings.Fields(m[2]) {
					if cmd.Flags().Lookup(strings.TrimPrefix(flag, "--")) == nil {
						t.Errorf("%s: iam-service%s has no flag %s", page, m[1], flag)
					}
				}
			}
		}
		if found == 0 {
			t.Errorf("%s names no command", page)
		}
	}
}
