package test

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pathsFile lists every function that goes by a path, and whose the path is.
const pathsFile = "paths.txt"

// followers are the calls that have the kernel walk a path.
var followers = map[string][]string{
	"os": strings.Fields(`Open OpenFile OpenRoot OpenInRoot Create CreateTemp ReadFile WriteFile Stat Lstat ReadDir DirFS CopyFS
		Mkdir MkdirAll MkdirTemp Remove RemoveAll Rename Symlink Link Readlink Chmod Chown Lchown Chtimes Truncate`),
	"filepath": strings.Fields(`Walk WalkDir Glob EvalSymlinks`),
	"unix": strings.Fields(`Open Openat Openat2 Stat Lstat Fstatat Statx Statfs Access Faccessat Truncate Readlinkat
		Mount Unmount OpenTree MoveMount Mknod Mknodat Mkfifo Mkdir Mkdirat Unlink Unlinkat Undelete
		Rename Renameat Renameat2 Link Linkat Symlink Symlinkat Chmod Fchmodat Chown Lchown Fchownat Chflags
		UtimesNanoAt Lsetxattr Lgetxattr Llistxattr Lremovexattr`),
	"syscall":    strings.Fields(`Open Stat Lstat Mkfifo Mknod Exec Chroot`),
	"securejoin": strings.Fields(`SecureJoin`),
}

// owners of a path who do not have to be feared.
var trusted = map[string]string{
	"own":      "freejail's own directory, in which nobody else can write",
	"operator": "the host's configuration, or a command line of whoever may do as much without freejail",
	"dead":     "a tree of freejail's own directory in which nobody runs any more",
	"kernel":   "the kernel's own file systems and devices",
	"held":     "a name in a directory that is open, where no link is followed and nothing blocks",
}

// known is one line of the list.
type known struct{ owner, calls, test string }

// Every place that goes by a path is known, with whose the path is. If it is
// anybody's who is not trusted, a test has tried to lead it elsewhere.
func TestPathsAreKnown(t *testing.T) {
	if _, err := os.Stat("../go.mod"); err != nil {
		t.Skip("the source is not here")
	}
	found, err := findFollowers("..")
	if err != nil {
		t.Fatal(err)
	}
	list, err := readPaths(pathsFile)
	if err != nil {
		t.Fatal(err)
	}
	tests, err := findTests("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, place := range slices.Sorted(maps.Keys(found)) {
		k, ok := list[place]
		if !ok {
			t.Errorf("%s goes by a path (%s): add it to %s with whose the path is and which test leads it elsewhere",
				place, found[place], pathsFile)
			continue
		}
		if k.calls != found[place] {
			t.Errorf("%s calls %s; %s says %s: look again whose the paths are", place, found[place], pathsFile, k.calls)
		}
		if _, ok := trusted[k.owner]; !ok && !tests[k.test] {
			t.Errorf("%s: its path is of a %s, and %q is no test", place, k.owner, k.test)
		}
	}
	for _, place := range slices.Sorted(maps.Keys(list)) {
		if _, ok := found[place]; !ok {
			t.Errorf("%s names %s, which goes by no path any more", pathsFile, place)
		}
	}
}

// findFollowers tells by function which calls it has, sorted.
func findFollowers(root string) (map[string]string, error) {
	out := map[string]string{}
	err := eachFile(root, func(name string, f *ast.File) {
		if strings.HasSuffix(name, "_test.go") {
			return
		}
		for _, decl := range f.Decls {
			if calls := followed(decl); len(calls) > 0 {
				place := filepath.ToSlash(filepath.Dir(name)) + " " + declName(decl)
				all := append(strings.Fields(out[place]), calls...)
				slices.Sort(all)
				out[place] = strings.Join(slices.Compact(all), " ")
			}
		}
	})
	return out, err
}

func followed(decl ast.Decl) (calls []string) {
	ast.Inspect(decl, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := sel.X.(*ast.Ident); ok && slices.Contains(followers[pkg.Name], sel.Sel.Name) {
			calls = append(calls, pkg.Name+"."+sel.Sel.Name)
		}
		return true
	})
	return calls
}

func declName(decl ast.Decl) string {
	f, ok := decl.(*ast.FuncDecl)
	if !ok {
		return "(declarations)"
	}
	if f.Recv == nil {
		return f.Name.Name
	}
	typ := f.Recv.List[0].Type
	if p, ok := typ.(*ast.StarExpr); ok {
		typ = p.X
	}
	return fmt.Sprintf("%s.%s", typ, f.Name.Name)
}

func findTests(root string) (map[string]bool, error) {
	out := map[string]bool{}
	err := eachFile(root, func(_ string, f *ast.File) {
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil {
				out[fn.Name.Name] = strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Fuzz")
			}
		}
	})
	return out, err
}

// eachFile parses the product's files of all systems, and their tests.
func eachFile(root string, do func(name string, f *ast.File)) error {
	return filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		rel, rerr := filepath.Rel(root, p)
		if err != nil || rerr != nil {
			return fmt.Errorf("%w %w", err, rerr)
		}
		if e.IsDir() && (slices.Contains([]string{"build", "tools", "example", "test/bench", "test/fleet", ".git"}, rel) ||
			strings.HasPrefix(rel, "internal/test")) {
			return fs.SkipDir
		}
		if e.IsDir() || !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
		if err == nil {
			do(rel, f)
		}
		return err
	})
}

// readPaths reads lines of "package function: owner [test]: calls"; # begins a
// comment.
func readPaths(name string) (map[string]known, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]known{}
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		parts := strings.Split(line, ": ")
		if len(parts) != 3 {
			return nil, fmt.Errorf("%s line %d: want PACKAGE FUNCTION: OWNER [TEST]: CALLS", name, n)
		}
		owner, test, _ := strings.Cut(parts[1], " ")
		out[parts[0]] = known{owner: owner, test: test, calls: parts[2]}
	}
	return out, sc.Err()
}
