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

// readyScript is one of them.
func readyScript(name string) (string, error) {
	if !slices.Contains(ReadyScripts(), name) {
		return "", fmt.Errorf("%w %q: there are %s, or a file with a path", ErrNoScript, name,
			strings.Join(ReadyScripts(), ", "))
	}
	b, err := scripts.ReadFile("dtrace/" + name + ".d")
	return string(b), err
}

// ofOlderDtrace is a script for a version that has no variable for jails.
func ofOlderDtrace(script string) string {
	return strings.ReplaceAll(script, "jid == $1", "curpsinfo->pr_jailid == $1")
}

// dtraceKnowsJails reads what dtrace -V says: the variable jid came with version 1.13.
func dtraceKnowsJails(said string) bool {
	_, version, _ := strings.Cut(said, "Sun D ")
	var major, minor int
	_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return err == nil && (major > 1 || major == 1 && minor >= 13)
}

// endOfText is how %S prints the NUL at the end of a text; no text has a backslash that is not printed as two.
var endOfText = strings.NewReplacer(`\\`, `\\`, `\0 `, "   ")

// withoutNULs is a line that a ready script has printed, whose texts end at a space or at the line's end.
func withoutNULs(line string) string { return strings.TrimRight(endOfText.Replace(line+" "), " ") }
