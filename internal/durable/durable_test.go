package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	check(t, err)
	return string(b)
}

// Errors are of the file by its own name, not by that which it has meanwhile.
func TestErrorsOfReplace(t *testing.T) {
	dir := t.TempDir()
	full := filepath.Join(dir, "directory")
	check(t, os.MkdirAll(filepath.Join(full, "x"), 0o700))
	write := func(w io.Writer) error { _, err := io.WriteString(w, "x"); return err }
	for name, f := range map[string]func(io.Writer) error{filepath.Join(dir, "none", "file"): write, full: write,
		filepath.Join(dir, "file"): func(w io.Writer) error { return errors.Join(w.(to).f.Close(), write(w)) }} {
		err := Replace(name, 0o600, f)
		if err == nil || !strings.Contains(err.Error(), name+": ") || strings.Contains(err.Error(), Unfinished) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What cannot be written leaves what was there, and nothing beside it.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	check(t, WriteFile(name, []byte("old"), 0o640))
	full := errors.New("full")
	err := Replace(name, 0o600, func(w io.Writer) error {
		_, err := io.WriteString(w, "half")
		return errors.Join(err, full)
	})
	if !errors.Is(err, full) {
		t.Errorf("the error is %v", err)
	}
	if got := content(t, name); got != "old" {
		t.Errorf("it has %q", got)
	}
	if fi, err := os.Stat(name); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("its mode is %v: %v", fi.Mode(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("there are %v: %v", left, err)
	}
}

func TestCommit(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	check(t, err)
	defer root.Close()
	check(t, MkdirAllIn(root, "a/b", 0o700))
	check(t, MkdirAllIn(root, "a/b", 0o700))
	for _, failed := range []error{nil, errors.New("full")} {
		f, err := root.Create("temp")
		check(t, err)
		if err := Commit(root, f, "temp", "a/b/file", failed); !errors.Is(err, failed) {
			t.Errorf("the error is %v, want %v", err, failed)
		}
		if _, err := root.Stat("temp"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the temporary file is there: %v", err)
		}
	}
	check(t, SyncIn(root, "a/b"))
	if got := content(t, filepath.Join(dir, "a/b/file")); got != "" {
		t.Errorf("it has %q", got)
	}
}
