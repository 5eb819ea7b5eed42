package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEdit(t *testing.T) {
	e := edit{file: "a.go", old: "return 1", new: "return 2"}
	for _, c := range []struct{ name, text, want, failure string }{
		{"one line", "x\nreturn 1\n", "x\nreturn 2\n", ""},
		{"another nomad", "return one\n", "return one\n", "0 lines"},
		{"ambiguous", "return 1\nreturn 1\n", "return 1\nreturn 1\n", "2 lines"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "a.go")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			err := e.apply(dir)
			if (err == nil) != (c.failure == "") || err != nil && !strings.Contains(err.Error(), c.failure) {
				t.Errorf("error %v, want %q", err, c.failure)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != c.want {
				t.Errorf("file is %q, want %q", got, c.want)
			}
		})
	}
}

func TestAddFileKeepsAnotherNomadsFile(t *testing.T) {
	dir := t.TempDir()
	theirs, ours := filepath.Join(dir, "theirs.go"), filepath.Join(dir, "ours.go")
	for _, path := range []string{theirs, ours} {
		if err := os.WriteFile(path, []byte(path), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := addFile(ours, theirs); err == nil {
		t.Error("a file that nomad has was replaced")
	}
	if err := addFile(ours, filepath.Join(dir, "new.go")); err != nil {
		t.Error(err)
	}
}
