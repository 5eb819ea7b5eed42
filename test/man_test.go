package test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// manPages are the manual pages, by NAME.SECTION.
func manPages(t *testing.T) map[string]string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command")
	}
	dir := t.TempDir()
	cmd := exec.Command("go", "run", "./man", "-root", "..", "-o", dir, "-date", "2026-01-31")
	cmd.Dir = "../tools"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	check(t, err)
	pages := map[string]string{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		check(t, err)
		pages[filepath.Base(f)] = strings.NewReplacer(`\-`, "-", `\fB`, "", `\fP`, "", `\~`, " ").Replace(string(text))
		lint(t, f)
	}
	return pages
}

// lint has mandoc(1) read a page. That a manual of FreeBSD's is not on this host is no fault of it.
func lint(t *testing.T, file string) {
	t.Helper()
	if _, err := exec.LookPath("mandoc"); err != nil {
		t.Log("not linted: there is no mandoc")
		return
	}
	out, err := exec.Command("mandoc", "-T", "lint", file).Output()
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "referenced manual not found") {
			t.Error(line)
		}
	}
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Error(err)
	}
}

// tags are the keys of HCL in the structs of a directory's files.
func tags(t *testing.T, dir string) map[string]bool {
	t.Helper()
	keys := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	check(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		check(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			field, ok := n.(*ast.Field)
			if !ok || field.Tag == nil {
				return true
			}
			tag, err := strconv.Unquote(field.Tag.Value)
			check(t, err)
			key, kind, _ := strings.Cut(reflect.StructTag(tag).Get("hcl"), ",")
			if key != "" && kind != "label" {
				keys[key] = true
			}
			return true
		})
	}
	return keys
}

var verb = regexp.MustCompile(`(?m)^\t\t"([A-Z]+)": +\{usage`)

// What an operator can write is in the manual pages: every command and flag, as the command line's page has them all,
// every key of the configuration and the policy, every instruction, and every key of a manifest.
func TestManualPages(t *testing.T) {
	pages := manPages(t)
	has := func(page, what string) {
		t.Helper()
		if !regexp.MustCompile(`(^|[^\w])` + regexp.QuoteMeta(what) + `($|[^\w])`).MatchString(pages[page]) {
			t.Errorf("%s says nothing of %s", page, what)
		}
	}
	configuration := tags(t, "../daemon/host")
	instructions := verb.FindAllStringSubmatch(read(t, "../image/build/verbs.go"), -1)
	if len(configuration) < 50 || len(instructions) < 30 {
		t.Fatalf("%d keys and %d instructions were found", len(configuration), len(instructions))
	}
	for _, key := range slices.Sorted(maps.Keys(configuration)) {
		has("freejail.hcl.5", key)
	}
	for _, m := range instructions {
		has("Jailfile.5", m[1])
	}
	for _, block := range []string{"permit", "deny", "require", "test"} {
		has("freejail-policy.5", block)
	}
	for _, key := range manifestKeys(t) {
		has("Jailfile.5", key)
	}
	for line := range strings.Lines(read(t, "../docs/cli.md")) {
		command, is := strings.CutPrefix(strings.TrimSpace(line), "### ")
		if name, _, _ := strings.Cut(command, " "); is {
			has(map[string]string{"freejail": "freejail.8", "freejail-build": "freejail-build.1"}[name], command)
		}
	}
}

// manifestKeys are those of the schema, at every depth.
func manifestKeys(t *testing.T) (keys []string) {
	t.Helper()
	out, err := exec.Command(program(t, "FREEJAIL_BUILD_BIN"), "schema").Output()
	check(t, err)
	var schema any
	check(t, json.Unmarshal(out, &schema))
	var walk func(v any)
	walk = func(v any) {
		m, ok := v.(map[string]any)
		if !ok {
			return
		}
		properties, _ := m["properties"].(map[string]any)
		keys = slices.AppendSeq(keys, maps.Keys(properties))
		for _, v := range m {
			walk(v)
		}
	}
	walk(schema)
	if len(keys) < 20 {
		t.Fatalf("the schema has the keys %v", keys)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	check(t, err)
	return string(text)
}
