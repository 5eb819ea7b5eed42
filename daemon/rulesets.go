package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/freejail/freejail/devfs"
)

// rulesetHolders are the rulesets of the tasks, as their journals have them.
func (d *Daemon) rulesetHolders() map[string]uint16 {
	out := map[string]uint16{}
	for _, t := range d.list() {
		t.mu.Lock()
		if t.began("ruleset") {
			out[t.id()] = uint16(t.info.Ruleset)
		}
		t.mu.Unlock()
	}
	return out
}

// rulesetStore is the file that keeps the registry of rulesets. It is not
// synced: it has to outlive the daemon, not the host, with which the rulesets
// go too.
type rulesetStore string

// Load takes a file that cannot be read for one that a crash of the host cut
// off: the kernel has no rulesets of ours then.
func (s rulesetStore) Load() ([]devfs.Set, error) {
	b, err := os.ReadFile(string(s))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("rulesets: %w", err)
	}
	var sets []devfs.Set
	if json.Unmarshal(b, &sets) != nil {
		return nil, nil
	}
	return sets, nil
}

// Save replaces the file as a whole.
func (s rulesetStore) Save(sets []devfs.Set) error {
	b, err := json.Marshal(sets)
	if err == nil {
		err = os.WriteFile(string(s)+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(string(s)+".new", string(s))
	}
	if err != nil {
		return fmt.Errorf("rulesets: %w", err)
	}
	return nil
}
