// Command takeout takes out each defence in turn, runs its test, and fails unless the test fails, and passes with the
// defence in place. It changes no file: the compiler sees the changed one by an overlay. It owns no defence: the list is
// package defences.
//
//	go run ./internal/dev/defences/takeout [regexp of threats]
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"iam-service/internal/dev/defences"
)

func main() {
	only := ".*"
	if len(os.Args) > 1 {
		only = os.Args[1]
	}
	pattern, err := regexp.Compile(only)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	var chosen []defences.Defence
	for _, d := range defences.All {
		if pattern.MatchString(d.Threat) {
			chosen = append(chosen, d)
		}
	}
	unfit := control(chosen)
	failed := 0
	for _, d := range chosen {
		began := time.Now()
		why := unfit[d.Test]
		if why == nil {
			why = takeOut(d)
		}
		result := "noticed"
		if why != nil {
			failed++
			result = "NOT NOTICED: " + why.Error()
		}
		fmt.Printf("%-40s %-70s %5.1f s  %s\n", d.Threat, d.Test, time.Since(began).Seconds(), result)
	}
	if failed > 0 || len(chosen) == 0 {
		fmt.Fprintf(os.Stderr, "%d of %d defences can be taken out without a test that fails\n", failed, len(chosen))
		os.Exit(1)
	}
}

// control runs the tests with all defences in place: one that fails then, or is skipped, notices nothing. It returns why,
// by test.
func control(all []defences.Defence) map[string]error {
	tests := map[string][]string{} // of a package
	for _, d := range all {
		if name, _, _ := strings.Cut(d.Test, "/"); !slices.Contains(tests[d.Package], name) {
			tests[d.Package] = append(tests[d.Package], name)
		}
	}
	outputs := map[string]string{}
	for pkg, names := range tests {
		out, err := goTest("-v", "-run", "^("+strings.Join(names, "|")+")$", pkg)
		outputs[pkg] = out
		fmt.Printf("%-40s %d tests with all defences in place: %v\n", pkg, len(names), cmp.Or(err, errors.New("passed")))
	}
	unfit := map[string]error{}
	for _, d := range all {
		if !strings.Contains(outputs[d.Package], "--- PASS: "+d.Test+" (") {
			unfit[d.Test] = errors.New("it does not pass with all defences in place, or is skipped")
		}
	}
	return unfit
}

// goTest runs tests of this tree, and returns what they print.
func goTest(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", append([]string{"test", "-vet=off", "-count=1"}, args...)...).CombinedOutput()
	return string(out), err
}

// takeOut returns nil if the test fails without the defence, as it must.
func takeOut(d defences.Defence) error {
	text, err := os.ReadFile(d.File)
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), d.Code); n != 1 {
		return fmt.Errorf("%q is %d times in %s, not once: follow the code", d.Code, n, d.File)
	}
	dir, err := os.MkdirTemp("", "defences")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary folder
	file, overlay := filepath.Join(dir, "changed"+filepath.Ext(d.File)), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), d.Code, d.Without, 1)), 0o600); err != nil {
		return err
	}
	changed, err := filepath.Abs(d.File)
	if err != nil {
		return err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {changed: file}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(overlay, list, 0o600); err != nil {
		return err
	}
	name, sub, _ := strings.Cut(d.Test, "/")
	run := "^" + name + "$"
	if sub != "" {
		run += "/^" + sub + "$"
	}
	out, err := goTest("-overlay", overlay, "-run", run, d.Package)
	switch {
	case err == nil:
		return fmt.Errorf("%s passes", d.Test)
	case strings.Contains(out, "[build failed]"):
		return fmt.Errorf("it does not build: %s", out)
	case !strings.Contains(out, "--- FAIL: "+name):
		return fmt.Errorf("it is not the test that fails: %s", out)
	}
	return nil
}
