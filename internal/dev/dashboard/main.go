// Command dashboard writes deploy/grafana/iam-service.json, or with -rules the queries of it as recording rules, which
// promtool parses (make test-rules).
//
// It owns the panels (panels.go) and their layout. It knows Grafana's model (grafana.go), and no metric: a script of
// cmd/iam-service compares the metrics with the running program.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	asRules := flag.Bool("rules", false, "print the queries as recording rules")
	flag.Parse()
	write := writeDashboard
	if *asRules {
		write = writeRules
	}
	if err := write(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func writeDashboard(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(build())
}

// writeRules writes each query as a recording rule, with a value in place of each of Grafana's variables.
func writeRules(out io.Writer) error {
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	type group struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	}
	plain := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*")
	var rules []rule
	add := func(expr string) {
		rules = append(rules, rule{fmt.Sprintf("dashboard:query:n%d", len(rules)), plain.Replace(expr)})
	}
	for _, s := range sections {
		for _, g := range s.graphs {
			for _, q := range g.queries {
				add(q.expr)
			}
		}
	}
	add(activations)
	return json.NewEncoder(out).Encode(map[string]any{"groups": []group{{"dashboard", rules}}}) // JSON is YAML
}

// activations is 1 where the active policy has changed.
const activations = `max(changes(iam_policy_in_force_timestamp_seconds{` + here + `}[$__rate_interval])) > 0`

const (
	columns = 3
	width   = 24 / columns
	height  = 8
)

func build() dashboard {
	d := dashboard{
		UID:           "iam-service",
		Title:         "iam-service",
		Description:   "Enrichment, caches, freshness, dependencies, policies, clients and events. What to do about an alert: docs/runbook.md",
		Tags:          []string{"iam-service"},
		SchemaVersion: 39,
		Editable:      true,
		GraphTooltip:  1,
		Refresh:       "30s",
		Time:          timeRange{"now-1h", "now"},
		Templating: templating{[]variable{
			{Name: "datasource", Label: "Prometheus", Type: "datasource", Query: "prometheus"},
			{
				Name: "instance", Label: "Replica", Type: "query", Query: "label_values(iam_build_info, instance)", Datasource: &prometheus,
				Refresh: 2, Multi: true, IncludeAll: true, AllValue: ".*", Sort: 1,
			},
		}},
		Annotations: annotations{[]annotation{
			{Name: "Policy activated", Datasource: prometheus, Expr: activations, Enable: true, IconColor: "blue", TitleFormat: "policy activated", Step: "30s"},
		}},
	}
	id, y := 0, 0
	for _, s := range sections {
		id++
		open := false
		d.Panels = append(d.Panels, panel{ID: id, Type: "row", Title: s.title, GridPos: grid{H: 1, W: 24, Y: y}, Collapsed: &open})
		y++
		for i, g := range s.graphs {
			id++
			d.Panels = append(d.Panels, g.panel(id, grid{H: height, W: width, X: i % columns * width, Y: y + i/columns*height}))
		}
		y += (len(s.graphs) + columns - 1) / columns * height
	}
	return d
}

func (g *graph) panel(id int, at grid) panel {
	p := panel{
		ID: id, Type: "timeseries", Title: g.title, Description: g.says, GridPos: at, Datasource: &prometheus,
		FieldConfig: &fieldConfig{Defaults: fieldDefaults{Unit: g.unit}, Overrides: []struct{}{}},
	}
	for i, q := range g.queries {
		p.Targets = append(p.Targets, target{
			RefID: string(rune('A' + i)), Datasource: prometheus, Expr: q.expr, LegendFormat: q.legend, Range: !g.stat, Instant: g.stat, Exemplar: g.exemplars,
		})
	}
	if g.stat {
		p.Type = "stat"
		p.Options = &panelOptions{ReduceOptions: &reduce{Calcs: []string{"lastNotNull"}}, ColorMode: "none", TextMode: "value_and_name"}
		return p
	}
	zero := 0.
	p.FieldConfig.Defaults.Min = &zero
	c := custom{FillOpacity: 10, ShowPoints: "never", Stacking: stacking{"none"}, ThresholdsStyle: thresholdsStyle{"off"}}
	if g.stacked {
		c.FillOpacity, c.Stacking.Mode = 40, "normal"
	}
	if g.limit > 0 {
		c.ThresholdsStyle.Mode = "line"
		p.FieldConfig.Defaults.Thresholds = &thresholds{Mode: "absolute", Steps: []step{{Color: "green"}, {Color: "red", Value: &g.limit}}}
	}
	p.FieldConfig.Defaults.Custom = &c
	p.Options = &panelOptions{Legend: &legend{DisplayMode: "list", Placement: "bottom", Calcs: []string{}}, Tooltip: &tooltip{Mode: "multi", Sort: "desc"}}
	return p
}
