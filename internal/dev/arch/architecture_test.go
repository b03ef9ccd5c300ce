package arch_test

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mayImport is the architecture: what each package may know of its siblings.
// Change it on purpose and in the same commit as the diagram in ARCHITECTURE.md.
var mayImport = map[string][]string{
	"internal/iam":                  {},
	"internal/bounded":              {"internal/telemetry"},
	"internal/directory/clock":      {},
	"internal/directory":            {"internal/iam", "internal/bounded", "internal/directory/clock", "internal/telemetry", "internal/telemetry/tracing"},
	"internal/directory/feed":       {"internal/iam", "internal/directory", "internal/telemetry"},
	"internal/policy":               {"internal/iam", "internal/directory", "internal/policy/plan", "policies", "internal/telemetry", "internal/token/projection"},
	"internal/policy/plan":          {},
	"internal/policy/authoring":     {"internal/policy", "policies"},
	"internal/token/projection":     {},
	"internal/token":                {"internal/iam", "internal/bounded", "internal/telemetry", "internal/token/projection", "internal/telemetry/tracing"},
	"internal/token/signals":        {"internal/iam", "internal/telemetry", "internal/token"},
	"internal/enrich":               {"internal/iam", "internal/bounded", "internal/directory", "internal/policy", "internal/token", "internal/telemetry", "internal/telemetry/tracing"},
	"internal/enrich/pdp":           {"internal/iam", "internal/bounded", "internal/directory", "internal/enrich", "internal/policy", "internal/token", "internal/telemetry", "internal/telemetry/tracing"},
	"internal/events/outbox":        {"internal/telemetry", "internal/telemetry/tracing"},
	"internal/clients/rauth":        {"internal/iam"},
	"internal/postgres":             {"internal/iam", "internal/directory", "internal/directory/feed", "internal/events/outbox", "migrations", "internal/telemetry", "internal/telemetry/tracing"},
	"internal/events/natsbus":       {"internal/events/outbox"},
	"internal/admin":                {"internal/iam", "internal/directory", "internal/policy", "internal/postgres", "internal/token", "internal/telemetry/tracing"},
	"internal/clients":              {"internal/iam", "internal/admin", "internal/directory/clock", "internal/postgres", "internal/telemetry"},
	"internal/decisions":            {"internal/iam", "internal/directory", "internal/enrich", "internal/policy", "internal/token", "internal/telemetry"},
	"internal/policyops/explain":    {"internal/iam", "internal/directory", "internal/enrich", "internal/policy", "internal/token"},
	"internal/policyops/playground": {"internal/iam", "internal/policyops/explain", "internal/policy"},
	"internal/policyops/preview":    {"internal/iam", "internal/directory", "internal/enrich", "internal/policyops/explain", "internal/policy", "internal/token", "internal/telemetry"},
	"internal/policyops/rollout":    {"internal/iam", "internal/admin", "internal/policy", "internal/postgres"},
	"internal/problem":              {"internal/iam", "internal/token", "internal/telemetry", "internal/telemetry/tracing"},
	"internal/gateway":              {"internal/iam", "internal/enrich", "internal/policy", "internal/problem", "internal/telemetry", "internal/token", "internal/telemetry/tracing"},
	"internal/gateway/assertion":    {"internal/bounded", "internal/enrich", "internal/iam", "internal/policy", "internal/telemetry", "internal/token"},
	"internal/gateway/authzen":      {"internal/enrich/pdp", "internal/iam", "internal/policy", "internal/problem", "internal/telemetry/tracing"},
	"internal/gateway/probe":        {},
	"internal/gateway/setup":        {"internal/gateway", "internal/iam"},
	"internal/adminapi/scim":        {"internal/iam", "internal/admin", "internal/postgres", "internal/problem"},
	"internal/adminapi":             {"internal/iam", "internal/admin", "internal/adminapi/scim", "internal/clients", "internal/enrich", "internal/policyops/explain", "internal/policy", "internal/postgres", "internal/policyops/playground", "internal/policyops/preview", "internal/policyops/rollout", "internal/problem", "internal/token", "internal/token/signals", "internal/telemetry/tracing"},
	"internal/console":              {"internal/iam", "internal/problem", "internal/telemetry", "internal/token"},
	"internal/telemetry/tracing":    {},
	"internal/telemetry":            {"internal/telemetry/tracing"},
	"internal/server":               {"internal/iam", "internal/admin", "internal/bounded", "internal/directory", "internal/directory/feed", "internal/policy", "internal/token", "internal/token/signals", "internal/enrich", "internal/enrich/pdp", "internal/gateway/authzen", "internal/postgres", "internal/clients", "internal/console", "internal/decisions", "internal/events/natsbus", "internal/policyops/explain", "internal/events/outbox", "internal/policyops/playground", "internal/policyops/preview", "internal/clients/rauth", "internal/policyops/rollout", "internal/adminapi", "internal/gateway", "internal/gateway/assertion", "internal/telemetry", "policies", "internal/problem", "internal/telemetry/tracing"},
	"internal/server/doctor":        {"internal/clients/rauth", "internal/console", "internal/events/natsbus", "internal/iam", "internal/postgres", "internal/server", "internal/telemetry", "internal/token", "internal/token/signals"},
	"internal/cli": {
		"internal/server/doctor", "internal/iam", "internal/admin", "internal/clients", "internal/clients/rauth", "internal/decisions", "internal/adminapi", "internal/enrich", "internal/gateway/assertion", "internal/gateway/probe", "internal/gateway/setup", "internal/policy", "internal/policy/authoring", "internal/policyops/explain",
		"internal/policyops/preview", "internal/postgres", "internal/server", "internal/telemetry", "internal/token", "internal/token/signals", "policies",
	},
	"migrations":      {},
	"policies":        {},
	"cmd/iam-service": {"internal/cli"},
	"pkg/identity":    {}, // of backends: see TestWhatBackendsImportIsSmall

	// Development and tests; nothing above may import these.
	"internal/dev/devstack":            {"internal/dev/devpg", "internal/dev/devrauth", "internal/iam", "internal/postgres"},
	"internal/dev/defences":            {},
	"internal/dev/dashboard":           {},
	"internal/dev/defences/takeout":    {"internal/dev/defences"},
	"internal/dev/devpg":               {"internal/dev/freeport"},
	"internal/dev/freeport":            {},
	"internal/dev/gameday":             {},
	"internal/dev/devrauth":            {},
	"internal/dev/devhydra":            {"internal/dev/freeport"},
	"internal/dev/pgtest":              {"internal/dev/devpg", "internal/iam", "internal/postgres", "migrations"},
	"internal/clients/rauth/rauthtest": {"internal/clients", "internal/iam"},
	"internal/dev/await":               {},
	"internal/dev/logbuffer":           {},
	"internal/dev/world": {
		"internal/decisions", "internal/dev/devrauth", "internal/dev/devstack", "internal/dev/logbuffer", "internal/dev/pgtest", "internal/directory", "internal/enrich",
		"internal/directory/feed", "internal/gateway", "internal/iam", "internal/policy", "internal/postgres", "internal/token", "policies", "internal/problem",
	},
	"internal/dev/bench/figures":     {},
	"internal/dev/manifests":         {},
	"internal/dev/manifests/cluster": {"internal/dev/freeport"},
	"internal/dev/scripttest":        {"internal/dev/await", "internal/dev/freeport"},
	"cmd/iam-dev":                    {"internal/dev/devstack", "internal/iam", "internal/policy", "internal/postgres", "internal/server", "internal/telemetry"},
	"cmd/iam-bench":                  {"internal/dev/devstack", "internal/dev/freeport", "internal/iam", "internal/policy", "internal/postgres"},
}

// mayKnow says who may use a library that others must not know.
var mayKnow = map[string][]string{
	"github.com/jackc/pgx":             {"internal/postgres", "internal/server", "internal/dev/devpg", "internal/dev/pgtest", "cmd/iam-bench"},
	"github.com/open-policy-agent/opa": {"internal/policy", "internal/policy/plan", "internal/policy/authoring", "internal/directory", "internal/decisions", "internal/enrich", "internal/enrich/pdp", "internal/policyops/explain", "internal/policyops/playground", "internal/token", "internal/token/projection"},
	"github.com/nats-io":               {"internal/events/natsbus", "internal/dev/devstack"},
	"github.com/envoyproxy":            {"internal/gateway"},
	"google.golang.org/grpc":           {"internal/gateway", "internal/server"},
	"github.com/scim2":                 {"internal/adminapi/scim"},
	"github.com/coreos/go-oidc":        {"internal/console"},
}

func TestDependencyDirection(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for pkg, imports := range importsOf(t) {
		seen[pkg] = true
		allowed, known := mayImport[pkg]
		if !known {
			t.Errorf("%s is new: say what it may import", pkg)
			continue
		}
		for _, imp := range imports {
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
	for pkg := range mayImport {
		if !seen[pkg] {
			t.Errorf("%s is in the table and nowhere else", pkg)
		}
	}
}

// root is the repository's, from here.
const root = "../../.."

// importsOf reads the files themselves, tests left out, so that a cached result of
// this test is given up when one of them changes.
func importsOf(t *testing.T) map[string][]string {
	t.Helper()
	imports := map[string][]string{}
	for _, top := range []string{"cmd", "internal", "migrations", "pkg", "policies"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			pkg := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(name)), root+"/")
			imports[pkg] = append(imports[pkg], nil...) // known also without imports
			for _, i := range f.Imports {
				imports[pkg] = append(imports[pkg], strings.Trim(i.Path.Value, `"`))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return imports
}

// A backend that imports a package of ours gets one library with it, and nothing of the service.
func TestWhatBackendsImportIsSmall(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "iam-service/pkg/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		if !strings.HasPrefix(dep, "iam-service/pkg/") && !strings.HasPrefix(dep, "github.com/go-jose/go-jose/v4") {
			t.Errorf("pkg carries %s", dep)
		}
	}
}

// What goes to production carries nothing of the development stack, and the time zones, which its
// image has no files of.
func TestTheProductionProgramHasNoDevelopmentParts(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "iam-service/cmd/iam-service").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "time/tzdata\n") {
		t.Error("cmd/iam-service carries no time zones")
	}
	for dep := range strings.Lines(string(out)) {
		for _, no := range []string{"iam-service/internal/dev/", "nats-server", "embedded-postgres", "testscript"} {
			if strings.Contains(dep, no) {
				t.Errorf("cmd/iam-service carries %s", dep)
			}
		}
	}
}

// A file reads top to bottom. One that is longer than a reader holds says why, in a comment before its package clause.
func TestALongFileSaysWhyItIsOneFile(t *testing.T) {
	t.Parallel()
	const most = 500 // lines
	long := 0
	err := filepath.WalkDir("../../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "web"}, d.Name()):
			return fs.SkipDir
		case filepath.Ext(path) != ".go":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil || bytes.Count(text, []byte("\n")) <= most {
			return err
		}
		long++
		if before, _, _ := strings.Cut(string(text), "\npackage "); !strings.Contains(before, "one file") {
			t.Errorf("%s has more than %d lines: split it, or say before its package clause why it is one file", path, most)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if long == 0 {
		t.Error("no file is long: the test finds none")
	}
}
