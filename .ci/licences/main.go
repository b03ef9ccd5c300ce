// Command licences lists the licences of the modules that the program is built from, and fails for one that is not allowed
// or not recognised. It is a module of its own, so that its dependency is none of the service's.
//
// usage: licences ROOT FILE [-update]     ROOT is the repository; FILE holds the list, below ROOT
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// allowed are the licences, by SPDX identifier, under which the binary may be distributed as it is: permissive ones, and
// MPL-2.0, whose files are used unchanged.
var allowed = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MPL-2.0", "Unlicense", "Zlib"}

// covered is how much of a licence file must be the text of licences, in percent: the rest is names and years.
const covered = 75

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: licences ROOT FILE [-update]")
	}
	root, file := args[0], filepath.Join(args[0], args[1])
	modules, err := list(root)
	if err != nil {
		return err
	}
	var faults []error
	var text strings.Builder
	text.WriteString("<!-- Written by \"make licences UPDATE=1\": do not edit. -->\n\n# Licences of dependencies\n\n" +
		"The modules of which the program `iam-service` is built, by the licence files that they contain. Allowed are\n" +
		strings.Join(allowed[:len(allowed)-1], ", ") + " and\n" + allowed[len(allowed)-1] + "; `make licences` fails for another one.\n\n" +
		"| module | licence |\n| --- | --- |\n")
	for _, m := range modules {
		found, err := licences(m.Dir)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", m.Path, err))
			continue
		}
		for _, l := range found {
			if !slices.Contains(allowed, l) {
				faults = append(faults, fmt.Errorf("%s: %s is not allowed: %s", m.Path, l, strings.Join(allowed, ", ")))
			}
		}
		fmt.Fprintf(&text, "| %s | %s |\n", m.Path, strings.Join(found, ", "))
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	if slices.Contains(args, "-update") {
		return os.WriteFile(file, []byte(text.String()), 0o644)
	}
	is, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if string(is) != text.String() {
		return fmt.Errorf("%s is not the list of the dependencies: make licences UPDATE=1", args[1])
	}
	return nil
}

type module struct{ Path, Dir string }

// list returns the modules of the packages that the program is built from on each platform of a release, by path.
func list(root string) ([]module, error) {
	seen := map[string]module{}
	for _, arch := range []string{"amd64", "arm64"} {
		cmd := exec.Command("go", "list", "-deps", "-json=Module", "./cmd/iam-service")
		cmd.Dir, cmd.Stderr = root, os.Stderr
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0")
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		for d := json.NewDecoder(out); ; {
			var p struct {
				Module *struct {
					Path, Dir string
					Main      bool
				}
			}
			if err := d.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, err
			}
			if m := p.Module; m != nil && !m.Main {
				seen[m.Path] = module{m.Path, m.Dir}
			}
		}
		if err := cmd.Wait(); err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
	}
	if len(seen) == 0 {
		return nil, errors.New("no dependencies")
	}
	var modules []module
	for _, m := range seen {
		modules = append(modules, m)
	}
	slices.SortFunc(modules, func(a, b module) int { return strings.Compare(a.Path, b.Path) })
	return modules, nil
}

var isLicence = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([-.].*)?$`)

// licences returns the licences of a module's licence files, each of which must be recognised.
func licences(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		ext := filepath.Ext(e.Name()) // .docs is that of documentation, which is not in the binary
		if e.IsDir() || !isLicence.MatchString(e.Name()) || ext == ".go" || ext == ".docs" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		c := licensecheck.Scan(text)
		if c.Percent < covered || len(c.Match) == 0 {
			return nil, fmt.Errorf("%s is not recognised: %.0f %% of it is the text of a licence", e.Name(), c.Percent)
		}
		for _, m := range c.Match {
			found = append(found, m.ID)
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no licence file")
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}
