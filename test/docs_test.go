package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/testmanual"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	named   = regexp.MustCompile(`<a id="([^"]+)">`)
	slugged = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

func pages(t *testing.T) []string { return testmanual.Pages(t, "..") }

// anchors are what a link can name in a page: its headings as GitHub has them, and
// names of its own.
func anchors(text string) map[string]bool {
	out := map[string]bool{"": true}
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		out[strings.ReplaceAll(slugged.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		out[m[1]] = true
	}
	return out
}

func TestLinksResolve(t *testing.T) {
	seen := 0
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		check(t, err)
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			u, err := url.Parse(m[1])
			if err != nil || u.Scheme != "" {
				continue
			}
			seen++
			target := page
			if u.Path != "" {
				target = filepath.Join(filepath.Dir(page), u.Path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: %v", page, m[1], err)
				continue
			}
			if !strings.HasSuffix(target, ".md") {
				continue
			}
			other, err := os.ReadFile(target)
			check(t, err)
			if !anchors(string(other))[u.Fragment] {
				t.Errorf("%s: %s: no such heading", page, m[1])
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d links were seen", seen)
	}
}

// README is what one reads first, so it stays short.
func TestReadmeIsShort(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if os.IsNotExist(err) {
		t.Skip("the documentation is not here")
	}
	check(t, err)
	if n := strings.Count(string(text), "\n"); n > 120 {
		t.Errorf("README.md has %d lines: put what has no place in 120 into docs", n)
	}
}

var (
	code    = regexp.MustCompile("`([^`]+)`")
	goFile  = regexp.MustCompile(`^[\w/-]+\.go$`)
	aFolder = regexp.MustCompile(`^[a-z][\w/-]*/$`)
	within  = regexp.MustCompile("`([\\w.]+)` in `([\\w/-]+\\.go)`")
	ident   = regexp.MustCompile(`^(?:[A-Za-z]\w*\.)?[A-Za-z]\w*$`)
)

// What docs/architecture.md names is there: files, folders, and in the tables beside a
// file what that declares.
func TestArchitectureIsAsWritten(t *testing.T) {
	text, err := os.ReadFile("../docs/architecture.md")
	if os.IsNotExist(err) {
		t.Skip("the documentation is not here")
	}
	check(t, err)
	seen := 0
	for line := range strings.Lines(string(text)) {
		for _, m := range within.FindAllStringSubmatch(line, -1) {
			if seen++; !declares(t, "../"+m[2], m[1]) {
				t.Errorf("docs/architecture.md: %s declares no %s", m[2], m[1])
			}
		}
		file := ""
		for i, m := range code.FindAllStringSubmatch(line, -1) {
			name := m[1]
			switch {
			case goFile.MatchString(name) && !strings.HasPrefix(name, "x"), aFolder.MatchString(name):
				if _, err := os.Stat("../" + name); err != nil {
					t.Errorf("docs/architecture.md: %v", err)
				}
				if i == 0 && strings.HasPrefix(line, "| `") && goFile.MatchString(name) {
					file = name
				}
			case file != "" && ident.MatchString(name) && !plainWord[name]:
				seen++
				if !declares(t, "../"+file, name) {
					t.Errorf("docs/architecture.md: %s declares no %s", file, name)
				}
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d names were seen", seen)
	}
}

// plainWord are names in the tables that are none of the code's.
var plainWord = map[string]bool{"do": true, "undo": true, "open": true, "close": true, "cli": true, "New": true,
	"Run": true}

// declares tells whether a file declares a name, or a method as TYPE.METHOD.
func declares(t *testing.T, file, name string) bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	check(t, err)
	for _, decl := range f.Decls {
		if declName(decl) == name {
			return true
		}
		if g, is := decl.(*ast.GenDecl); is {
			for _, s := range g.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					if s.Name.Name == name {
						return true
					}
				case *ast.ValueSpec:
					if s.Names[0].Name == name {
						return true
					}
				}
			}
		}
	}
	return false
}
