package test

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var testName = regexp.MustCompile("`([A-Za-z0-9_/.-]+)/((?:Test|Fuzz)[A-Za-z0-9_]+)`")

// Each promise of SECURITY.md has tests, and they are there.
func TestPromisesAreTested(t *testing.T) {
	text, err := os.ReadFile("../SECURITY.md")
	if os.IsNotExist(err) {
		t.Skip("the source is not here")
	}
	check(t, err)
	promises, _, found := strings.Cut(string(text), "## What it does not promise")
	if !found {
		t.Fatal("SECURITY.md does not say what is not promised")
	}
	rows := 0
	for _, line := range strings.Split(promises, "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || strings.HasSuffix(line, "| tests |") {
			continue
		}
		rows++
		names := testName.FindAllStringSubmatch(line, -1)
		if len(names) == 0 {
			t.Errorf("a promise without a test: %s", line)
		}
		for _, n := range names {
			if !hasTest(t, n[1], n[2]) {
				t.Errorf("there is no %s in %s: %s", n[2], n[1], line)
			}
		}
	}
	if rows < 30 {
		t.Errorf("only %d promises were read", rows)
	}
}

func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.FromSlash(path.Join("..", dir, "*_test.go")))
	check(t, err)
	for _, file := range files {
		b, err := os.ReadFile(file)
		check(t, err)
		if strings.Contains(string(b), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
