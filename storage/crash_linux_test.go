package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/freejail/freejail/internal/testcrash"
)

// Whenever the power is cut, a chain is there whole in the next boot, or not at all.
func TestPowerCuts(t *testing.T) {
	fill := func(dir string) error {
		return errors.Join(os.Mkdir(filepath.Join(dir, "etc"), 0o755),
			os.WriteFile(filepath.Join(dir, "etc", "a"), []byte("one"), 0o600),
			os.WriteFile(filepath.Join(dir, "b"), []byte("two"), 0o600))
	}
	do := func(dir string, ack func(string)) {
		d, err := makeDirs(filepath.Join(dir, "storage"))
		if err != nil {
			t.Fatal(err)
		}
		for _, settle := range []time.Duration{time.Hour, time.Nanosecond} {
			d.fresh.after = settle
			if err := d.makeChain(t.Context(), "chain", fill); err != nil {
				t.Fatal(err)
			}
			ack("made")
			if settle == time.Nanosecond {
				if err := waitForNotes(d, 0); err != nil {
					t.Fatal(err)
				}
				ack("settled")
			}
			if err := d.RemoveChain(t.Context(), "chain"); err != nil {
				t.Fatal(err)
			}
			ack("removed")
		}
	}
	now := bootID
	t.Cleanup(func() { bootID = now })
	testcrash.Run(t, do, func(dir string, acked []string) {
		bootID = func() (string, error) { return "the next", nil }
		d, err := makeDirs(filepath.Join(dir, "storage"))
		if err != nil {
			t.Errorf("after %v: %v", acked, err)
			return
		}
		chains, err := d.Chains(t.Context())
		if err != nil {
			t.Error(err)
		}
		for _, c := range chains {
			a, err1 := os.ReadFile(d.path("chains", c, "etc", "a"))
			b, err2 := os.ReadFile(d.path("chains", c, "b"))
			if err := errors.Join(err1, err2); err != nil || string(a) != "one" || string(b) != "two" {
				t.Errorf("a damaged root after %v: %q %q: %v", acked, a, b, err)
			}
		}
	})
}
