package main

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// packageIn writes a package of the base system; pkg(8) reads plain archives too.
func packageIn(t *testing.T, dir, manifest string, files map[string]string) string {
	t.Helper()
	path := filepath.Join(dir, "FreeBSD-runtime-15.0.pkg")
	f, err := os.Create(path)
	check(t, err)
	w := tar.NewWriter(f)
	add := func(name, text string) {
		check(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o555, Size: int64(len(text)), Uname: "root", Gname: "wheel"}))
		_, err := w.Write([]byte(text))
		check(t, err)
	}
	add("+MANIFEST", manifest)
	for name, text := range files {
		add(name, text)
	}
	check(t, w.Close())
	check(t, f.Close())
	return path
}

const runtimeManifest = `{"name":"FreeBSD-runtime","version":"15.0","abi":"FreeBSD:15:*","scripts":{"post-install":"x"},
"files":{"/bin/freebsd-version":{"sum":"-"}}}`

// Packages make an image with the version of the system that they have, and what is not done is said.
func TestImportOfPackages(t *testing.T) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "base.tar")
	t.Setenv("TMPDIR", t.TempDir())
	file := packageIn(t, dir, runtimeManifest, map[string]string{
		"/bin/freebsd-version": "#!/bin/sh\nUSERLAND_VERSION=\"15.0-RELEASE-p3\"\n"})
	for _, args := range [][]string{{file}, {"--packages", "FreeBSD-runtime", dir}} {
		code, _, messages := call(t, append([]string{"import", "-o", out}, args...)...)
		for _, want := range []string{"scripts of packages are not run", "FreeBSD-runtime (post-install)",
			"no signature was verified", "1 packages: FreeBSD-runtime-15.0"} {
			if code != 0 || !strings.Contains(messages, want) {
				t.Errorf("%q: %d, want %q: %s", args, code, want, messages)
			}
		}
		if text := ok(t, "inspect", "--json", out); !strings.Contains(text, `"15.0"`) {
			t.Errorf("the version is not in %s", text)
		}
	}
	for want, args := range map[string][]string{
		"no packages were named":              {dir},
		"has no package \"x\"":                {"--packages", "x", dir},
		"there is no packagesite.pkg":         {"--packages", "x", "--fingerprints", dir, dir},
		"and " + file + " is a package":       {"--packages", "x", file},
		"from one repository":                 {"--packages", "x", dir, dir},
		"--manifest and --digest are of dist": {"--manifest", file, file},
	} {
		if code, _, messages := call(t, append([]string{"import", "-o", out}, args...)...); code == 0 ||
			!strings.Contains(messages, want) {
			t.Errorf("%q: %d %s", args, code, messages)
		}
	}
	if list, err := filepath.Glob(filepath.Join(os.TempDir(), "packages-*")); err != nil || len(list) > 0 {
		t.Errorf("left behind: %q %v", list, err)
	}
}
