package main

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// What is unpacked lies in one directory, and all can read it: tests run as others than root too.
func TestTarHasOneDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "freebsd-bundle")
	for name, mode := range map[string]os.FileMode{"bin/prog": 0o700, "example/a.hcl": 0o600} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("prog", filepath.Join(dir, "bin", "link")); err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{"freebsd-bundle/": 0o755, "freebsd-bundle/bin/": 0o755, "freebsd-bundle/bin/prog": 0o755,
		"freebsd-bundle/bin/link": 0o755, "freebsd-bundle/example/": 0o755, "freebsd-bundle/example/a.hcl": 0o644}
	tarball := dir + ".tar"
	if err := writeTar(dir, tarball); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(tarball)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if mode, is := want[h.Name]; !is || h.Mode != mode || h.Uid != 0 {
			t.Errorf("%s has the mode %#o, want %#o (%v)", h.Name, h.Mode, mode, is)
		}
		delete(want, h.Name)
	}
	if len(want) > 0 {
		t.Errorf("not there: %v", want)
	}
}
