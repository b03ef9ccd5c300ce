package authoring

import (
	"maps"
	"net/url"
	"path/filepath"
	"slices"
)

// checks are the rules of findings, with what each requires.
var checks = map[string]string{
	"format":                "A file is formatted as opa fmt does",
	"gate":                  "The policy passes the service's gate",
	"line-length":           "Lines can be read next to a diff",
	"metadata":              "A rule that grants or denies has METADATA with title, description and code",
	"negated-call-of-input": "A negated call does not hide missing input",
	"not-loaded":            "Every file is read by something",
	"package-in-folder":     "A package lies in the folder of its name",
	"parse":                 "A file is Rego",
	"print":                 "Nothing is printed by a request",
	"snake-case":            "Names are in snake case",
	"strict":                "The policy compiles strictly, and reads only what there is",
	"test-in-test-file":     "Tests are in test files",
	"test-package":          "The package of a test file ends with _test",
	"undefined":             "A reference leads to a rule or to data",
	"unreached":             "A rule is reached by an entrypoint",
	"walk":                  "A document of the directory is named by its keys",
}

// SARIF is a log of SARIF 2.1.0, as code hosts show it at the lines of a change.
func SARIF(found []Finding, version string) any {
	type text struct {
		Text string `json:"text"`
	}
	type rule struct {
		ID    string `json:"id"`
		Short text   `json:"shortDescription"`
	}
	type region struct {
		Line   int `json:"startLine"`
		Column int `json:"startColumn,omitempty"`
	}
	type physical struct {
		Artifact struct {
			URI string `json:"uri"`
		} `json:"artifactLocation"`
		Region *region `json:"region,omitempty"`
	}
	type location struct {
		Physical physical `json:"physicalLocation"`
	}
	type result struct {
		RuleID    string     `json:"ruleId"`
		RuleIndex int        `json:"ruleIndex"`
		Level     string     `json:"level"`
		Message   text       `json:"message"`
		Locations []location `json:"locations,omitempty"`
	}
	names := slices.Sorted(maps.Keys(checks))
	rules := make([]rule, len(names))
	for i, name := range names {
		rules[i] = rule{name, text{checks[name]}}
	}
	results := []result{}
	for _, f := range found {
		index, _ := slices.BinarySearch(names, f.Rule)
		message := f.Text
		for _, line := range f.Details {
			message += "\n" + line
		}
		r := result{RuleID: f.Rule, RuleIndex: index, Level: "error", Message: text{message}}
		if f.File != "" {
			var at physical
			uri := url.URL{Path: filepath.ToSlash(f.File)}
			if filepath.IsAbs(f.File) {
				uri.Scheme = "file"
			}
			at.Artifact.URI = uri.String()
			if f.Line > 0 {
				at.Region = &region{f.Line, f.Column}
			}
			r.Locations = []location{{at}}
		}
		results = append(results, r)
	}
	type driver struct {
		Name    string `json:"name"`
		Version string `json:"version,omitempty"`
		Rules   []rule `json:"rules"`
	}
	type tool struct {
		Driver driver `json:"driver"`
	}
	type run struct {
		Tool    tool     `json:"tool"`
		Results []result `json:"results"`
	}
	return struct {
		Schema  string `json:"$schema"`
		Version string `json:"version"`
		Runs    []run  `json:"runs"`
	}{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []run{{tool{driver{"iam-service policy check", version, rules}}, results}}}
}
