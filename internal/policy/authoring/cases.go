package authoring

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"iam-service/internal/policy"
)

// RunCases runs all cases as the gate does, and prints those that fail, or with each what is
// decided in all.
func (f *Folder) RunCases(ctx context.Context, out io.Writer, each bool) (failed int, err error) {
	if len(f.Cases) == 0 {
		return 0, nil
	}
	engine, err := policy.NewEngine(policy.Config{Headers: f.headers(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, err
	}
	candidate, err := policy.FromFolder(f.Path)
	if err != nil {
		return 0, err
	}
	revision, err := engine.Check(ctx, candidate) // the cases are run below, and each is told of
	if err != nil {
		return 0, err
	}
	for _, c := range f.Cases {
		answer, why := engine.Try(ctx, revision, c)
		switch {
		case why != "":
			failed++
			fmt.Fprintf(out, "FAIL %s: %s: %s\n", c.File, c.Title, why)
		case each:
			fmt.Fprintf(out, "     %s: %s\n", c.Title, answer)
		}
	}
	return failed, nil
}

// headers are those that gateways would have to be configured for: the usual ones, and what
// the policy declares.
func (f *Folder) headers() []string {
	all := slices.Clone(policy.DefaultHeaders)
	root, _ := f.Data["iam"].(map[string]any)    // absent: the gate says so
	config, _ := root["config"].(map[string]any) // as above
	list, _ := config["headers"].([]any)         // as above
	for _, x := range list {
		if name, ok := x.(string); ok && policy.CheckHeaders(name) == nil && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}
