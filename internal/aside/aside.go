// Package aside moves away what cannot be used, so that whoever needs its name
// goes on without it and somebody can look at it.
package aside

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// mark is between the name that something had and a number.
const mark = ".damaged-"

// Moved tells what was moved, where it is, and why.
type Moved struct {
	From, To string
	Err      error
}

func (m *Moved) Error() string { return fmt.Sprintf("%s is set aside as %s: %v", m.From, m.To, m.Err) }

// Unwrap gives the reason.
func (m *Moved) Unwrap() error { return m.Err }

// Move gives what is at a path a name beside it that nothing has. The path must
// be one that only the caller writes to. The last error is of the move itself.
func Move(path string, why error) (*Moved, error) {
	for n := 1; ; n++ {
		to := fmt.Sprintf("%s%s%d", path, mark, n)
		if _, err := os.Lstat(to); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(why, err)
		}
		if err := os.Rename(path, to); err != nil {
			return nil, errors.Join(why, err)
		}
		return &Moved{From: path, To: to, Err: why}, nil
	}
}

// Is tells whether a name is one that Move gave.
func Is(name string) bool { return strings.Contains(name, mark) }

// In lists what Move left in a directory, by path. No directory has nothing.
func In(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if Is(e.Name()) {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, err
}
