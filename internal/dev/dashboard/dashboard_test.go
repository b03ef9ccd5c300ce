package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../../.."

// go run ./internal/dev/dashboard > deploy/grafana/iam-service.json
func TestTheDashboardIsTheGeneratedOne(t *testing.T) {
	t.Parallel()
	var want bytes.Buffer
	if err := writeDashboard(&want); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, "deploy/grafana/iam-service.json"))
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("deploy/grafana/iam-service.json is another one (%v): make dashboard", err)
	}
}

func TestEachPanelHasADescriptionAndOverlapsNoOther(t *testing.T) {
	t.Parallel()
	ids, titles := map[int]bool{}, map[string]bool{}
	taken := map[[2]int]string{}
	for _, p := range build().Panels {
		if ids[p.ID] || titles[p.Title] || p.Title == "" {
			t.Errorf("%d %q: its id or title is another panel's too, or missing", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if at[0] >= 24 || taken[at] != "" {
					t.Fatalf("%q covers %q, or lies outside", p.Title, taken[at])
				}
				taken[at] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if !strings.HasSuffix(p.Description, ".") || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("%q lacks a description, a unit or a query", p.Title)
		}
		for _, q := range p.Targets {
			if !strings.Contains(q.Expr, `instance=~"$instance"`) || q.LegendFormat == "" {
				t.Errorf("%q: a query does not follow the choice of replicas, or has no legend: %s", p.Title, q.Expr)
			}
		}
	}
}

// Who is paged finds the metric of the alert on the dashboard.
func TestEachMetricOfAnAlertHasAPanel(t *testing.T) {
	t.Parallel()
	rules, err := os.ReadFile(filepath.Join(root, "deploy/prometheus/rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	if err := writeDashboard(&shown); err != nil {
		t.Fatal(err)
	}
	metrics := regexp.MustCompile(`\b(iam|http|idp_adapter|database|outbox|event_bus)_[a-z_]+\b`).FindAllString(string(rules), -1)
	if len(metrics) == 0 {
		t.Fatal("there are no alerts")
	}
	missing := map[string]bool{}
	for _, m := range metrics {
		m = regexp.MustCompile(`_seconds_(count|bucket)$`).ReplaceAllString(m, "_seconds") // of a histogram
		if !regexp.MustCompile(`\b` + m + `(_bucket)?\b`).Match(shown.Bytes()) {
			missing[m] = true
		}
	}
	for m := range missing {
		t.Errorf("%s has no panel", m)
	}
}
