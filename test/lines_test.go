package test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

const columns = 120

// Code and prose fit a window of 120 columns, tabs of four. A table's row and a test's
// literal are as long as they are.
func TestLinesFit(t *testing.T) {
	if _, err := os.Stat("../go.mod"); err != nil {
		t.Skip("the source is not here")
	}
	seen := 0
	check(t, filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if err == nil && (d.Name() == ".git" || d.Name() == "testdata" || p == "../build" || p == "../tools") {
				return fs.SkipDir
			}
			return err
		}
		ext := filepath.Ext(p)
		if ext != ".md" && ext != ".hcl" && (ext != ".go" || strings.HasSuffix(p, "_test.go")) && d.Name() != "GNUmakefile" {
			return nil
		}
		b, err := os.ReadFile(p)
		seen++
		for i, line := range strings.Split(string(b), "\n") {
			wide := utf8.RuneCountInString(line) + 3*strings.Count(line, "\t")
			if wide > columns && !strings.HasPrefix(line, "|") {
				t.Errorf("%s:%d: %d columns", p, i+1, wide)
			}
		}
		return err
	}))
	if seen < 300 {
		t.Errorf("only %d files were seen", seen)
	}
}
