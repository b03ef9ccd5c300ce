package authoring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"iam-service/internal/policy"
)

// RunCases runs all cases as the gate does, and prints those that fail; with each, it prints
// all decisions.
func (f *Folder) RunCases(ctx context.Context, out io.Writer, each bool, more ...rego.EvalOption) (failed int, err error) {
	if len(f.Cases) == 0 {
		return 0, nil
	}
	engine, err := policy.NewEngine(policy.Config{Headers: f.headers(), CaseTime: time.Minute, Log: slog.New(slog.DiscardHandler)}) // a busy machine is not the policy's fault
	if err != nil {
		return 0, err
	}
	candidate, err := policy.FromFolder(f.Path)
	if err != nil {
		return 0, err
	}
	modules := make(map[string]string, len(candidate.Modules))
	for rel, text := range candidate.Modules {
		modules[f.display(rel)] = text // as in errors and in the coverage
	}
	candidate.Modules = modules
	revision, err := engine.Check(ctx, candidate) // the cases run below, each with its own report
	if err != nil {
		return 0, err
	}
	for _, c := range f.Cases {
		result, err := engine.EvaluateCase(ctx, revision, c, more...)
		var why string
		switch header, isHeader := errors.AsType[*policy.HeaderError](err); {
		case isHeader:
			why = err.Error() + f.locationOf(header.Name)
		case err != nil:
			why = err.Error()
		default:
			why = c.Want.Mismatch(result)
		}
		switch {
		case why != "":
			failed++
			fmt.Fprintf(out, "FAIL %s: %s: %s\n", c.File, c.Title, why)
		case each:
			fmt.Fprintf(out, "     %s: %s\n", c.Title, result)
		}
	}
	return failed, nil
}

// locationOf is the place of a text in the rules, as " (FILE:LINE:COLUMN)"; "" where it is none.
func (f *Folder) locationOf(text string) (where string) {
	for _, m := range f.rules() {
		ast.WalkTerms(m, func(t *ast.Term) bool {
			if s, ok := t.Value.(ast.String); ok && string(s) == text && t.Location != nil && where == "" {
				where = fmt.Sprintf(" (%s:%d:%d)", t.Location.File, t.Location.Row, t.Location.Col)
			}
			return false
		})
	}
	return where
}

// headers are the default headers and those that the policy declares.
func (f *Folder) headers() []string {
	all := slices.Clone(policy.DefaultHeaders)
	root, _ := f.Data["iam"].(map[string]any)    // absent: the gate reports it
	config, _ := root["config"].(map[string]any) // as above
	list, _ := config["headers"].([]any)         // as above
	for _, x := range list {
		if name, ok := x.(string); ok && policy.CheckHeaders(name) == nil && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}
