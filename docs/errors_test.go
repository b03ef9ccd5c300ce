package docs_test

import (
	"go/ast"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"iam-service/internal/clients/rauth"
	"iam-service/internal/iam"
	"iam-service/internal/postgres"
	tokens "iam-service/internal/token"
	"iam-service/policies"
)

// open are the codes that begin with a constant and end with a value from elsewhere: the source
// cannot be asked for them.
var open = map[string][]string{
	"client_": {"client_" + iam.ClientBlocked, "client_" + iam.ClientDeleted},
}

// errors.md explains the codes that the code has, and no others.
func TestEveryErrorCodeIsExplained(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("errors.md")
	if err != nil {
		t.Fatal(err)
	}
	source := readSource(t, "../internal", "../cmd/iam-service")
	reasons := func(list []string) map[string]bool {
		set := map[string]bool{}
		for _, s := range list {
			set[s] = true
		}
		return set
	}
	var rejections []string
	for _, r := range tokens.Reasons {
		rejections = append(rejections, string(r))
	}
	for _, table := range []struct {
		header string // of the first column
		source map[string]bool
	}{
		{"code", source.codes(t)},
		{"type", source.kinds()},
		{"token reason", reasons(rejections)},
		{"database reason", reasons(postgres.Reasons)},
		{"provider reason", reasons(rauth.Reasons)},
	} {
		explained := firstColumn(string(page), table.header)
		for _, code := range missing(table.source, explained) {
			t.Errorf("errors.md lacks a row for the %s %q, which the code has", table.header, code)
		}
		for _, code := range missing(explained, table.source) {
			t.Errorf("errors.md explains the %s %q, which the code has not", table.header, code)
		}
	}
}

// missing are the members of a that b lacks.
func missing(a, b map[string]bool) (list []string) {
	for _, s := range slices.Sorted(maps.Keys(a)) {
		if !b[s] {
			list = append(list, s)
		}
	}
	return list
}

// firstColumn returns what stands in backticks in the first column of the tables with this header.
func firstColumn(page, header string) map[string]bool {
	found, inside := map[string]bool{}, false
	for line := range strings.Lines(page) {
		cells := strings.Split(line, "|")
		switch {
		case len(cells) < 3:
			inside = false
		case strings.TrimSpace(cells[1]) == header:
			inside = true
		case inside:
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
				found[m[1]] = true
			}
		}
	}
	return found
}

// development holds what only development and tests run.
var development = regexp.MustCompile(`^internal/(dev|devstack|bench|scripttest)(/|$)|test$`)

// kinds are the types of problems: the constants of iam.Kind.
func (s *goSource) kinds() map[string]bool {
	found := map[string]bool{}
	for _, file := range s.files {
		if file.pkg != "internal/iam" {
			continue
		}
		for _, d := range file.ast.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, spec := range g.Specs {
				v := spec.(*ast.ValueSpec)
				if typ, ok := v.Type.(*ast.Ident); ok && typ.Name == "Kind" {
					text, _ := literal(v.Values[0])
					found["/problems/"+text] = true
				}
			}
		}
	}
	return found
}

// codes are all codes of errors and decisions: what is given to a field Code in Go, and the METADATA
// of the default policy.
func (s *goSource) codes(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	take := func(in scope, e ast.Expr) {
		values, known := s.values(in, e, 0)
		for _, v := range values {
			rest, isOpen := strings.CutSuffix(v, "…")
			switch ends, ok := open[rest]; {
			case v == "": // none
			case !isOpen:
				found[v] = true
			case ok:
				for _, code := range ends {
					found[code] = true
				}
			default:
				t.Errorf("%s: the codes that begin with %q are not known: name them in this test", s.at(e), rest)
			}
		}
		if !known {
			t.Errorf("%s: it cannot be seen which codes %s can be", s.at(e), s.text(e))
		}
	}
	for _, file := range s.files {
		eachExpr(file, func(in scope, n ast.Node) {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if file.foreign(n.Type) {
					return
				}
				for _, element := range n.Elts {
					if kv, ok := element.(*ast.KeyValueExpr); ok {
						if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Code" {
							take(in, kv.Value)
						}
					}
				}
			case *ast.AssignStmt:
				for i, left := range n.Lhs {
					if field, ok := left.(*ast.SelectorExpr); ok && field.Sel.Name == "Code" && len(n.Lhs) == len(n.Rhs) {
						take(in, n.Rhs[i])
					}
				}
			}
		})
	}
	err := fs.WalkDir(policies.FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".rego") || strings.HasSuffix(name, "_test.rego") {
			return err
		}
		text, err := fs.ReadFile(policies.FS, name)
		for _, m := range regexp.MustCompile(`(?m)^#\s+code: (\w+)$`).FindAllStringSubmatch(string(text), -1) {
			found[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 50 {
		t.Errorf("only %d codes were found", len(found))
	}
	return found
}
