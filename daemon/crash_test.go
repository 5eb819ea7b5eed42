package daemon

import (
	"path/filepath"
	"testing"

	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/internal/aside"
	"github.com/freejail/freejail/internal/testcrash"
)

// What is not synced may be lost, but hinders nobody.
func TestPowerCutsOfRulesets(t *testing.T) {
	store := func(dir string) rulesetStore {
		return rulesetStore{filepath.Join(dir, "rulesets.json"), false, func(*aside.Moved, string) {}}
	}
	do := func(dir string, ack func(string)) {
		var sets []devfs.Set
		for i := range 3 {
			if err := store(dir).Save(sets); err != nil {
				t.Fatal(err)
			}
			sets = append(sets, devfs.Set{ID: uint16(i + 1), Hash: "x"})
		}
	}
	testcrash.Run(t, do, func(dir string, _ []string) {
		list, err := store(dir).Load()
		if err != nil || len(list) > 3 {
			t.Errorf("rulesets: %v %v", list, err)
		}
	})
}
