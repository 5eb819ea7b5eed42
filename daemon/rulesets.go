package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/internal/aside"
	"github.com/freejail/freejail/internal/regular"
)

// rulesetStore is the file that keeps the registry of rulesets. It is not
// synced: it has to outlive the daemon, not the host, with which the rulesets
// go too.
type rulesetStore struct {
	path      string
	restarted bool // the host was, since the file was written
	damaged   func(*aside.Moved, string)
}

// maxRulesets is more than rulesets with all the rules that the kernel takes have.
const maxRulesets = 64 << 20

// Load sets aside a file that cannot be read, unless that is no news: a crash of the
// host cuts it off, and then the kernel has no rulesets of ours. Those that it has and
// nobody knows are in nobody's way, as a number that is taken is passed over.
func (s rulesetStore) Load() ([]devfs.Set, error) {
	sets, err := readRulesets(s.path)
	if err == nil || errors.Is(err, fs.ErrPermission) {
		return sets, err
	}
	if s.restarted && os.Remove(s.path) == nil {
		return nil, nil
	}
	moved, err := aside.Move(s.path, err)
	if err != nil {
		return nil, fmt.Errorf("rulesets: %w", err)
	}
	s.damaged(moved, "rulesets that nobody holds stay in the kernel until the host is restarted")
	return nil, nil
}

func readRulesets(path string) (sets []devfs.Set, err error) {
	f, _, err := regular.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := regular.Read(f, path, maxRulesets)
	if err = errors.Join(err, f.Close()); err == nil {
		err = json.Unmarshal(b, &sets)
	}
	if err != nil {
		return nil, err
	}
	seen := map[uint16]bool{}
	for _, set := range sets {
		if set.ID == 0 || seen[set.ID] {
			return nil, fmt.Errorf("invalid ruleset %d: zero, or listed twice", set.ID)
		}
		seen[set.ID] = true
	}
	return sets, nil
}

// Save replaces the file as a whole.
func (s rulesetStore) Save(sets []devfs.Set) error {
	b, err := json.Marshal(sets)
	if err != nil {
		return fmt.Errorf("rulesets: %w", err)
	}
	if err := os.WriteFile(s.path+".new", b, 0o600); err != nil {
		return fmt.Errorf("rulesets: %w", err)
	}
	if err := os.Rename(s.path+".new", s.path); err != nil {
		return fmt.Errorf("rulesets: %w", err)
	}
	return nil
}
