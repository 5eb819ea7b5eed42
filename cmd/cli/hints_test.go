package cli

import (
	"os"
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
		at := strings.LastIndex(key, " ")
		name, flag := key[:at], key[at+1:]
		c, _, err := root.Find(strings.Fields(name))
		if err != nil || c == root {
			t.Errorf("%q: there is no such command", key)
			continue
		}
		if c.Flags().Lookup(flag) != nil || len(flag) == 1 && c.Flags().ShorthandLookup(flag) != nil {
			t.Errorf("%q has a hint, and is a flag", key)
		}
	}
	for _, hint := range imagesInstead {
		texts = append(texts, hint)
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

// A word behind --pull is its value where it can be one; what is behind IMAGE, or of another command, stays as it is.
func TestWordsOfFlags(t *testing.T) {
	for line, want := range map[string]string{
		"run --pull always x":                "run --pull=always x",
		"run --name a --pull never --rm x y": "run --name a --pull=never --rm x y",
		"--socket s run --pull missing x":    "--socket s run --pull=missing x",
		"run --pull --rm always":             "run --pull --rm always",
		"run --pull=always always":           "run --pull=always always",
		"run --name --pull always":           "run --name --pull always",
		"run x y --pull always -policy z":    "run x y --pull always -policy z",
		"run --no-such --pull always":        "run --no-such --pull always",
		"exec x y --pull always -policy z":   "exec x y --pull always -policy z",
		"policy check x --pull always":       "policy check x --pull=always",
		"policy check -policy=y x":           "policy check --policy=y x",
		"policy check -- -policy":            "policy check -- -policy",
		"no-such --pull always -policy z":    "no-such --pull always -policy z",
	} {
		if got := strings.Join(longFlags(strings.Fields(line)), " "); got != want {
			t.Errorf("%s: %s", line, got)
		}
	}
}

// An error tells what the words that led to it may have been meant as.
func TestMeantOtherwise(t *testing.T) {
	h := newHost(t, "")
	dir := t.TempDir()
	t.Chdir(dir)
	check(t, os.WriteFile("box.tar", nil, 0o600))
	for line, want := range map[string]string{
		"run --pull sometimes prog":           "sometimes was taken for IMAGE: it is --pull=WHEN",
		"run --entrypoint /nothere prog --rm": "flags of freejail run come before IMAGE",
		"run box.tar":                         "there is a file: ./box.tar",
		"policy check box.tar":                "there is a file: ./box.tar",
		"images box.tar":                      "there is a file: ./box.tar",
		"images prune":                        "use freejail gc",
	} {
		if r := h.freejail(strings.Fields(line)...); r.code == 0 || !strings.Contains(r.errout, want) {
			t.Errorf("%s: %+v, want %q", line, r, want)
		}
	}
	h.gives(0, nil, "run", "-d", "--name", "one", "prog", "wait")
	if r := h.freejail("export", "one"); r.code == 0 || !strings.Contains(r.errout, "use freejail cp") {
		t.Errorf("export of a task: %+v", r)
	}
}

// What users of other tools type is answered with what does the same here.
func TestHints(t *testing.T) {
	h := away(t)
	for line, want := range map[string]string{"diff x": "freejail cp", "ls": "use freejail ps", "console x": "exec -it",
		"logs --since 5m x": "no times", "run --label a=b x": "--name", "stop --time 3 x": "--timeout",
		"exec -d x y": "a task of its own", "export x -o y": "freejail save", "gc -f": "asks nothing",
		"pkg install nginx": "PKG", "events --since 5m": "log has older ones", "run -h": "needs an argument",
		"images inspect x": "freejail images IMAGE", "images tag x y": "use freejail tag", "images rm -f x": "go at once",
		"inspect x y": "one task at a time", "run --pull newer x": "expected always, missing or never",
		"stats --format table":            "a line each",
		`stats --format table\t{{.task}}`: "a line each"} {
		h.gives(app.Usage, []string{want}, strings.Fields(line)...)
	}
	if r := h.freejail("xy"); strings.Contains(r.errout, "did you mean") {
		t.Errorf("two letters are like others: %s", r.errout)
	}
}
