package docs_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// goSource is the production code, parsed.
type goSource struct {
	fset   *token.FileSet
	files  []*goFile
	consts map[string]map[string]string // package → name → its text
	calls  map[string][]call            // by name of what is called
	funcs  map[string]scope             // by package and name; methods are left out
}

type goFile struct {
	pkg     string            // its import path within the module
	imports map[string]string // name → import path; "" for packages of others
	ast     *ast.File
}

// scope is where an expression stands.
type scope struct {
	file *goFile
	fn   *ast.FuncDecl // nil: outside of functions
}

type call struct {
	scope
	*ast.CallExpr
}

func readSource(t *testing.T, roots ...string) *goSource {
	t.Helper()
	s := &goSource{fset: token.NewFileSet(), consts: map[string]map[string]string{}, calls: map[string][]call{}, funcs: map[string]scope{}}
	for _, root := range roots {
		err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			pkg := strings.TrimPrefix(path.Dir(filepath.ToSlash(name)), "../")
			if development.MatchString(pkg) {
				return nil
			}
			f, err := parser.ParseFile(s.fset, name, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			s.add(pkg, f)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *goSource) add(pkg string, f *ast.File) {
	file := &goFile{pkg: pkg, imports: map[string]string{}, ast: f}
	for _, i := range f.Imports {
		target, _ := strconv.Unquote(i.Path.Value)
		name := path.Base(target)
		if i.Name != nil {
			name = i.Name.Name
		}
		ours, ok := strings.CutPrefix(target, "iam-service/")
		if !ok {
			ours = ""
		}
		file.imports[name] = ours
	}
	s.files = append(s.files, file)
	if s.consts[pkg] == nil {
		s.consts[pkg] = map[string]string{}
	}
	for _, d := range f.Decls {
		if g, ok := d.(*ast.GenDecl); ok && (g.Tok == token.CONST || g.Tok == token.VAR) {
			for _, spec := range g.Specs {
				v := spec.(*ast.ValueSpec)
				for i, name := range v.Names {
					if i < len(v.Values) {
						if text, ok := literal(v.Values[i]); ok {
							s.consts[pkg][name.Name] = text
						}
					}
				}
			}
		}
	}
	eachExpr(file, func(in scope, n ast.Node) {
		if n == in.fn && in.fn != nil && in.fn.Recv == nil {
			s.funcs[pkg+"."+in.fn.Name.Name] = in
		}
		if c, ok := n.(*ast.CallExpr); ok {
			switch f := c.Fun.(type) {
			case *ast.Ident:
				s.calls[f.Name] = append(s.calls[f.Name], call{in, c})
			case *ast.SelectorExpr:
				s.calls[f.Sel.Name] = append(s.calls[f.Sel.Name], call{in, c})
			}
		}
	})
}

// eachExpr visits every node of a file with the function that it stands in.
func eachExpr(file *goFile, visit func(scope, ast.Node)) {
	for _, d := range file.ast.Decls {
		in := scope{file: file}
		in.fn, _ = d.(*ast.FuncDecl)
		ast.Inspect(d, func(n ast.Node) bool {
			visit(in, n)
			return true
		})
	}
}

// foreign reports whether a type is another module's, such as storage.Error of OPA.
func (f *goFile) foreign(typ ast.Expr) bool {
	sel, ok := typ.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && f.imports[pkg.Name] == ""
}

// copied reports whether e is the code of another error or decision, which is found where that is
// created, or of a policy's METADATA.
func copied(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		return e.Sel.Name == "Code"
	case *ast.TypeAssertExpr:
		return true
	case *ast.CallExpr:
		sel, ok := e.Fun.(*ast.SelectorExpr)
		return ok && sel.Sel.Name == "CodeOf"
	}
	return false
}

// values are the texts that e can be, but for those that are copied. A text that ends with … has an
// end that is not known.
func (s *goSource) values(in scope, e ast.Expr, depth int) (values []string, known bool) {
	if text, ok := literal(e); ok {
		return []string{text}, true
	}
	if copied(e) {
		return nil, true
	}
	if depth > 5 {
		return nil, false
	}
	switch e := e.(type) {
	case *ast.ParenExpr:
		return s.values(in, e.X, depth+1)
	case *ast.BinaryExpr:
		begins, known := s.values(in, e.X, depth+1)
		ends, endKnown := s.values(in, e.Y, depth+1)
		if !endKnown && len(ends) == 0 {
			ends = []string{"…"}
		}
		for _, a := range begins {
			for _, b := range ends {
				values = append(values, a+b)
			}
		}
		return values, known && e.Op == token.ADD
	case *ast.CallExpr:
		if f, ok := e.Fun.(*ast.Ident); ok {
			if f.Name == "string" {
				return s.values(in, e.Args[0], depth+1)
			}
			if f, ok := s.funcs[in.file.pkg+"."+f.Name]; ok {
				return s.returned(f, depth)
			}
		}
	case *ast.SelectorExpr:
		if pkg, ok := e.X.(*ast.Ident); ok {
			text, ok := s.consts[in.file.imports[pkg.Name]][e.Sel.Name]
			return one(text, ok)
		}
	case *ast.Ident:
		if in.fn != nil {
			if at := parameter(in.fn.Type, e.Name); at >= 0 {
				return s.arguments(in, at, depth)
			}
			if values, known, found := s.assigned(in, e.Name, depth); found {
				return values, known
			}
		}
		text, ok := s.consts[in.file.pkg][e.Name]
		return one(text, ok)
	}
	return nil, false
}

func one(text string, ok bool) ([]string, bool) {
	if !ok {
		return nil, false
	}
	return []string{text}, true
}

// arguments are what the function of a scope is called with, as its parameter at.
func (s *goSource) arguments(in scope, at, depth int) (values []string, known bool) {
	known = true
	for _, c := range s.calls[in.fn.Name.Name] {
		if mayCall(c, in) && at < len(c.Args) {
			more, ok := s.values(c.scope, c.Args[at], depth+1)
			values, known = append(values, more...), known && ok
		}
	}
	return values, known
}

// mayCall reports whether c can be a call of the function of a scope, by the names and the number of arguments alone.
func mayCall(c call, in scope) bool {
	params := in.fn.Type.Params
	last := params.List[len(params.List)-1]
	if _, variadic := last.Type.(*ast.Ellipsis); !variadic && len(c.Args) != params.NumFields() {
		return false
	}
	sel, selected := c.Fun.(*ast.SelectorExpr)
	if !selected {
		return in.fn.Recv == nil && c.file.pkg == in.file.pkg
	}
	if x, ok := sel.X.(*ast.Ident); ok {
		if pkg, imported := c.file.imports[x.Name]; imported {
			return in.fn.Recv == nil && pkg == in.file.pkg
		}
	}
	return in.fn.Recv != nil && (in.fn.Name.IsExported() || c.file.pkg == in.file.pkg)
}

// returned are the texts that a function returns, as its first result.
func (s *goSource) returned(f scope, depth int) (values []string, known bool) {
	known = true
	ast.Inspect(f.fn.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return false
		case *ast.ReturnStmt:
			if len(n.Results) == 0 {
				known = false
				return true
			}
			more, ok := s.values(f, n.Results[0], depth+1)
			values, known = append(values, more...), known && ok
		}
		return true
	})
	return values, known
}

// assigned are the texts that a variable of a function is given; found: there is such a variable.
func (s *goSource) assigned(in scope, name string, depth int) (values []string, known, found bool) {
	known = true
	give := func(names []ast.Expr, from []ast.Expr) {
		for i, left := range names {
			if id, ok := left.(*ast.Ident); !ok || id.Name != name {
				continue
			}
			found = true
			if len(names) != len(from) {
				known = known && copied(from[0])
				continue
			}
			more, ok := s.values(in, from[i], depth+1)
			values, known = append(values, more...), known && ok
		}
	}
	ast.Inspect(in.fn.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			give(n.Lhs, n.Rhs)
		case *ast.ValueSpec:
			if len(n.Values) > 0 {
				var names []ast.Expr
				for _, id := range n.Names {
					names = append(names, id)
				}
				give(names, n.Values)
			}
		}
		return true
	})
	return values, known, found
}

// parameter is the place of a parameter; -1: it is none.
func parameter(f *ast.FuncType, name string) int {
	at := 0
	for _, field := range f.Params.List {
		for _, id := range field.Names {
			if id.Name == name {
				return at
			}
			at++
		}
	}
	return -1
}

func literal(e ast.Expr) (string, bool) {
	b, ok := e.(*ast.BasicLit)
	if !ok || b.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(b.Value)
	return text, err == nil
}

func (s *goSource) at(e ast.Expr) string { return s.fset.Position(e.Pos()).String() }

func (s *goSource) text(e ast.Expr) string {
	var b strings.Builder
	if err := printer.Fprint(&b, s.fset, e); err != nil {
		return fmt.Sprint(err)
	}
	return b.String()
}
