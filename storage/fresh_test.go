package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A crash of the host may leave a chain whose files never reached the disk.
func TestChainsThatACrashMayHaveTorn(t *testing.T) {
	now := bootID
	t.Cleanup(func() { bootID = now })
	boot := func(name string) { bootID = func() (string, error) { return name, nil } }
	boot("one")
	base := t.TempDir()
	d, err := makeDirs(base)
	if err != nil {
		t.Fatal(err)
	}
	d.fresh.after = time.Nanosecond
	if err := errors.Join(d.makeChain(t.Context(), "settled", fill), waitForNotes(d, 0)); err != nil {
		t.Fatal(err)
	}
	d.fresh.after = time.Hour
	if err := d.makeChain(t.Context(), "fresh", fill); err != nil {
		t.Fatal(err)
	}
	expect := func(what string, notes int, want ...string) {
		t.Helper()
		if d, err = makeDirs(base); err != nil {
			t.Fatal(err)
		}
		for _, c := range want {
			if _, err := os.Stat(d.path("chains", c, "etc", "a")); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		chains, err := d.Chains(t.Context())
		if err != nil || len(chains) != len(want) {
			t.Errorf("%s: there are %v, want %v: %v", what, chains, want, err)
		}
		if list, err := d.names("fresh"); err != nil || len(list) != notes {
			t.Errorf("%s: the notes %v, want %d: %v", what, list, notes, err)
		}
	}
	expect("the daemon restarted", 1, "fresh", "settled")
	boot("two")
	expect("the host restarted", 0, "settled")
	d.fresh.after = time.Hour
	if err := d.makeChain(t.Context(), "fresh", fill); err != nil {
		t.Fatal(err)
	}
	if err := d.RemoveChain(t.Context(), "fresh"); err != nil {
		t.Fatal(err)
	}
	expect("one was removed", 0, "settled")
	// The name was noted, and then the power went.
	if err := d.noteFresh("never"); err != nil {
		t.Fatal(err)
	}
	boot("three")
	expect("the host crashed before the rename", 0, "settled")
}

// A note that cannot be read is that of another boot.
func TestDamagedNotes(t *testing.T) {
	base := t.TempDir()
	d, err := makeDirs(base)
	if err != nil {
		t.Fatal(err)
	}
	d.fresh.after = time.Hour
	for name, note := range map[string]func(string) error{
		"empty":     func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"zeros":     func(p string) error { return os.WriteFile(p, make([]byte, 36), 0o600) },
		"large":     func(p string) error { return os.WriteFile(p, make([]byte, 1<<20), 0o600) },
		"fifo":      func(p string) error { return unix.Mkfifo(p, 0o600) },
		"directory": func(p string) error { return os.MkdirAll(filepath.Join(p, "x"), 0o700) },
		"nowhere":   func(p string) error { return os.Symlink("/nowhere", p) },
	} {
		if err := d.makeChain(t.Context(), name, fill); err != nil {
			t.Fatal(err)
		}
		path := d.path("fresh", name)
		if err := errors.Join(os.Remove(path), note(path)); err != nil {
			t.Fatal(err)
		}
	}
	if d, err = makeDirs(base); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"chains", "fresh"} {
		if list, err := d.names(sub); err != nil || len(list) != 0 {
			t.Errorf("%s: %v are left: %v", sub, list, err)
		}
	}
}

func waitForNotes(d *dirs, want int) error {
	for range 1000 {
		list, err := d.names("fresh")
		if err != nil || len(list) == want {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("the chain is not settled after ten seconds")
}
