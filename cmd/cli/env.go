package cli

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/internal/regular"
)

const (
	envUsage     = "`NAME=VALUE` in the environment; NAME alone takes the value from this one, if it has one"
	envFileUsage = "variables of this `FILE`, a line each as of --env, which is more; repeatable, a later one is more"
)

// maxEnvFile bounds a file of variables, in bytes.
const maxEnvFile = 1 << 20

// environment is what files say, a later one more than an earlier, and then own. Nil is nothing.
func environment(files []string, own map[string]string) (env map[string]string, err error) {
	for _, name := range files {
		if err := readEnv(name, func(text string) error { return variable(&env)(text) }); err != nil {
			return nil, app.UsageError{Err: err}
		}
	}
	if env == nil {
		return own, nil
	}
	maps.Copy(env, own)
	return env, nil
}

// readEnv reads a file in the format of docker's: lines of # are comments, blanks before a name are none of it, and
// all behind the = is the value, quotes and blanks too.
func readEnv(name string, add func(string) error) error {
	f, _, err := regular.Open(name)
	if err != nil {
		return fmt.Errorf("--env-file: %w", err)
	}
	text, err := regular.Read(f, name, maxEnvFile)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("--env-file: %w", err)
	}
	n := 0
	for line := range bytes.Lines(bytes.TrimPrefix(text, []byte("\ufeff"))) {
		n++
		one := strings.TrimLeftFunc(strings.TrimRight(string(line), "\r\n"), unicode.IsSpace)
		if one == "" || one[0] == '#' {
			continue
		}
		err := add(one)
		if !utf8.ValidString(one) {
			err = errors.New("not valid UTF-8")
		}
		if err != nil {
			return fmt.Errorf("--env-file: %s:%d: %w", name, n, err)
		}
	}
	return nil
}

// variable reads NAME=VALUE, or NAME with the value that this process has. A NAME that it has not is left out, as the
// image may have it.
func variable(m *map[string]string) func(string) error {
	return func(text string) error {
		name, value, given := strings.Cut(text, "=")
		switch {
		case name == "" || strings.ContainsFunc(name, unicode.IsSpace) || strings.Contains(text, "\x00"):
			return errors.New("expected NAME=VALUE or NAME, without blanks in the name")
		case !given:
			if value, given = os.LookupEnv(name); !given {
				return nil
			}
		}
		return pair(m)(name + "=" + value)
	}
}
