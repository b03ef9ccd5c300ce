package internal_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// mayImport is the architecture: what each package may know of its siblings.
// Change it on purpose and in the same commit as the diagram in ARCHITECTURE.md.
var mayImport = map[string][]string{
	"internal/iam":       {},
	"internal/directory": {"internal/iam"},
	"internal/policy":    {"internal/iam", "internal/directory"},
	"internal/token":     {"internal/iam"},
	"internal/enrich":    {"internal/iam", "internal/directory", "internal/policy", "internal/token"},
	"internal/postgres":  {"internal/iam", "migrations"},
	"internal/eventbus":  {},
	"internal/httpapi":   {"internal/iam", "internal/enrich", "internal/token"},
	"internal/telemetry": {},
	"internal/app": {
		"internal/iam", "internal/directory", "internal/policy", "internal/token", "internal/enrich", "internal/postgres", "internal/eventbus",
		"internal/httpapi", "internal/telemetry", "policies",
	},
	"migrations":      {},
	"policies":        {},
	"cmd/iam-service": {"internal/app"},

	// Development and tests; nothing above may import these.
	"internal/devstack":              {"internal/devstack/devpg", "internal/devstack/devrauth", "internal/iam", "internal/postgres"},
	"internal/devstack/devpg":        {},
	"internal/devstack/devrauth":     {},
	"internal/postgres/postgrestest": {"internal/devstack/devpg", "internal/iam", "internal/postgres"},
	"internal/scripttest":            {},
	"cmd/iam-dev":                    {"internal/app", "internal/devstack", "internal/iam", "internal/postgres", "internal/telemetry"},
}

// mayKnow says who may use a library that others must not know.
var mayKnow = map[string][]string{
	"github.com/jackc/pgx":             {"internal/postgres", "internal/app", "internal/devstack/devpg", "internal/postgres/postgrestest", "cmd/iam-dev"},
	"github.com/open-policy-agent/opa": {"internal/policy", "internal/directory", "internal/enrich", "internal/token"},
	"github.com/nats-io":               {"internal/eventbus", "internal/devstack"},
}

func TestDependencyDirection(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "iam-service/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		pkg := strings.TrimPrefix(words[0], "iam-service/")
		allowed, known := mayImport[pkg]
		if pkg == "internal" || pkg == "iam-service" {
			continue // holds this test alone
		}
		if !known {
			t.Errorf("%s is new: say what it may import", pkg)
			continue
		}
		seen++
		for _, imp := range words[1:] {
			if sibling, ok := strings.CutPrefix(imp, "iam-service/"); ok && !slices.Contains(allowed, sibling) {
				t.Errorf("%s imports %s", pkg, sibling)
			}
			for library, who := range mayKnow {
				if strings.HasPrefix(imp, library) && !slices.Contains(who, pkg) {
					t.Errorf("%s imports %s", pkg, imp)
				}
			}
		}
	}
	if seen != len(mayImport) {
		t.Errorf("%d packages were looked at, the table has %d", seen, len(mayImport))
	}
}

// What goes to production carries nothing of the development stack.
func TestTheProductionProgramHasNoDevelopmentParts(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "iam-service/cmd/iam-service").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(out)) {
		for _, no := range []string{"iam-service/internal/devstack", "nats-server", "embedded-postgres", "testscript"} {
			if strings.Contains(dep, no) {
				t.Errorf("cmd/iam-service carries %s", dep)
			}
		}
	}
}
