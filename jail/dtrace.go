package jail

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Scripts for dtrace(1), whose $1 is the jail's id.
//
//go:embed dtrace/*.d
var scripts embed.FS

// ErrNoScript means that no script of a name comes with freejail.
var ErrNoScript = errors.New("freejail has no script")

// ReadyScripts are the names of those that come with freejail.
func ReadyScripts() (names []string) {
	files, err := fs.Glob(scripts, "dtrace/*.d")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(path.Base(f), ".d"))
	}
	slices.Sort(names)
	return names
}

// readyScript is one of them, for a version of dtrace(1) that knows of jails by themselves or not.
func readyScript(name string, knowsJails bool) (string, error) {
	if !slices.Contains(ReadyScripts(), name) {
		return "", fmt.Errorf("%w %q: there are %s, or a file with a path", ErrNoScript, name,
			strings.Join(ReadyScripts(), ", "))
	}
	b, err := scripts.ReadFile("dtrace/" + name + ".d")
	text := string(b)
	if !knowsJails {
		text = strings.ReplaceAll(text, "jid == $1", "curpsinfo->pr_jailid == $1")
	}
	return text, err
}

// dtraceKnowsJails reads what dtrace -V says: the variable jid came with version 1.13.
func dtraceKnowsJails(said string) bool {
	_, version, _ := strings.Cut(said, "Sun D ")
	var major, minor int
	_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return err == nil && (major > 1 || major == 1 && minor >= 13)
}
