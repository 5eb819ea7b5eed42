package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What people read is written through package printable alone: a Fprintf of fmt
// in a command would let a name begin a line of its own.
func TestCommandsWriteThroughPrintable(t *testing.T) {
	if _, err := os.Stat("../go.mod"); err != nil {
		t.Skip("the source is not here")
	}
	seen := 0
	for _, dir := range []string{"../cmd/freejail-build", "../cmd/cli", "../cmd/internal/app"} {
		files, err := filepath.Glob(dir + "/*.go")
		check(t, err)
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, path, nil, 0)
			check(t, err)
			seen++
			ast.Inspect(f, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if pkg, is := ast.Unparen(selected(s)).(*ast.Ident); ok && is && writesUnquoted(pkg.Name, s.Sel.Name) {
					t.Errorf("%s: %s.%s: use package printable", set.Position(s.Pos()), pkg.Name, s.Sel.Name)
				}
				return true
			})
		}
	}
	if seen < 15 {
		t.Errorf("only %d files were seen", seen)
	}
}

func selected(s *ast.SelectorExpr) ast.Expr {
	if s == nil {
		return nil
	}
	return s.X
}

func writesUnquoted(pkg, name string) bool {
	return pkg == "fmt" && (strings.HasPrefix(name, "Fprint") || strings.HasPrefix(name, "Print")) ||
		pkg == "io" && name == "WriteString" || pkg == "log"
}
