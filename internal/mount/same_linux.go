package mount

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Identity tells a file or directory from all others.
type Identity struct{ dev, ino uint64 }

func identity(st *unix.Stat_t) Identity { return Identity{st.Dev, st.Ino} }

// landed makes sure that the target's path led to the target, unless it has
// changed once more since: this system is for development.
func landed(m Mount) error {
	on, err := filepath.EvalSymlinks(m.Target)
	if err != nil || on == m.Target {
		return err
	}
	return errors.Join(fmt.Errorf("the target was exchanged while it was being mounted: it led to %s", on), Unmount(on))
}
