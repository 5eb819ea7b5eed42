package cli

import (
	"regexp"
	"strings"
	"testing"

	"github.com/freejail/freejail/cmd/internal/app"
)

var namedCommand = regexp.MustCompile(`\bfreejail ((?:[a-z]+ ?)+)`)

// A hint is for a word or a flag that is not there, and names commands that are.
func TestHintsAreNeeded(t *testing.T) {
	root := newCommands("").root()
	var texts []string
	for word, hint := range instead {
		texts = append(texts, hint)
		if c, _, err := root.Find([]string{word}); err == nil && c != root {
			t.Errorf("%q has a hint, and is a command", word)
		}
	}
	for key, hint := range flagInstead {
		texts = append(texts, hint)
		name, flag, _ := strings.Cut(key, " ")
		c, _, err := root.Find([]string{name})
		if err != nil || c == root {
			t.Errorf("%q: there is no such command", key)
			continue
		}
		if c.Flags().Lookup(flag) != nil || len(flag) == 1 && c.Flags().ShorthandLookup(flag) != nil {
			t.Errorf("%q has a hint, and is a flag", key)
		}
	}
	for _, text := range texts {
		for _, m := range namedCommand.FindAllStringSubmatch(text, -1) {
			words := strings.Fields(m[1])
			c, _, err := root.Find(words[:1])
			if err != nil || c == root {
				t.Errorf("%q names no command", text)
			}
		}
	}
}

// What users of other tools type is answered with what does the same here.
func TestHints(t *testing.T) {
	h := away(t)
	for line, want := range map[string]string{"diff x": "freejail cp", "ls": "use freejail ps", "console x": "exec -it",
		"logs --since 5m x": "no times", "run --label a=b x": "--name", "stop --time 3 x": "--timeout",
		"exec -d x y": "a task of its own", "export x -o y": "freejail save", "gc -f": "asks nothing",
		"pkg install nginx": "PKG", "events --since 5m": "log has older ones", "run -h": "needs an argument",
		"stats --format table":            "a line each",
		`stats --format table\t{{.task}}`: "a line each"} {
		h.gives(app.Usage, []string{want}, strings.Fields(line)...)
	}
	if r := h.freejail("xy"); strings.Contains(r.errout, "did you mean") {
		t.Errorf("two letters are like others: %s", r.errout)
	}
}
