package testmanual

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// CheckCommands has a program read each command line of its own that the documentation and the examples show: the
// subcommand and its flags are there, and, but for those within a sentence, its arguments are as many as it takes.
func CheckCommands(t *testing.T, root string, newRoot func() *cobra.Command) {
	t.Helper()
	name, seen := newRoot().Name(), 0
	try := func(at, line string, whole bool) {
		for _, part := range separator.Split(line, -1) {
			words := words(part)
			for len(words) > 0 && assignment.MatchString(words[0]) {
				words = words[1:]
			}
			if len(words) < 2 || words[0] != name {
				continue
			}
			seen++
			if err := reads(newRoot(), words[1:], whole); err != nil {
				t.Errorf("%s: %s: %v", at, line, err)
			}
		}
	}
	for _, page := range Pages(t, root) {
		for _, b := range Blocks(t, page) {
			for _, line := range b.Commands() {
				if !strings.Contains(line, "--->") { // a diagram
					try(b.Page, line, true)
				}
			}
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range span.FindAllStringSubmatch(string(text), -1) {
			try(page, m[1], false)
		}
	}
	for at, lines := range shown(t, filepath.Join(root, "example")) {
		for _, line := range lines {
			try(at, line, true)
		}
	}
	if seen < 20 {
		t.Errorf("only %d commands were seen", seen)
	}
}

var (
	separator  = regexp.MustCompile(` (?:&&|\|\||\||;|&|>>?|<) `)
	assignment = regexp.MustCompile(`^[A-Za-z_]+=`)
	span       = regexp.MustCompile("`([^`]+)`")
	inComment  = regexp.MustCompile(`(?m)^#   ((?:freejail|freejail-build) .*)$`)
	quoted     = regexp.MustCompile(`'[^']*'|"[^"]*"|[^\s'"]+`)
)

// shown are the commands in the comments of the examples.
func shown(t *testing.T, dir string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || filepath.Ext(path) == ".md" {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range inComment.FindAllStringSubmatch(string(text), -1) {
			out[path] = append(out[path], m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// words are those of a shell, without the brackets of what may be left out. A word in which only a part is quoted
// counts as several, which no page has.
func words(line string) []string {
	out := quoted.FindAllString(strings.NewReplacer("[", "", "]", "").Replace(line), -1)
	for i, w := range out {
		out[i] = strings.Trim(w, `'"`)
	}
	return out
}

func reads(root *cobra.Command, args []string, whole bool) error {
	c, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if c == root && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return errors.New("no such command")
	}
	// Within a sentence a flag may stand without its value.
	if err := c.ParseFlags(rest); err != nil && (whole || !strings.Contains(err.Error(), "needs an argument")) {
		return err
	}
	if whole {
		return c.ValidateArgs(c.Flags().Args())
	}
	return nil
}
