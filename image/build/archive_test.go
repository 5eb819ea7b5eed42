package build

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const versionScript = "#!/bin/sh\nset -e\nUSERLAND_VERSION=\"14.2-RELEASE-p1\"\necho x\n"

// setsIn writes distribution sets and their MANIFEST as FreeBSD's are.
func setsIn(t *testing.T, dir string) []Set {
	t.Helper()
	base := tarOf(t, tar.Header{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./bin/freebsd-version", Mode: 0o555, Linkname: versionScript})
	lib32 := tarOf(t, tar.Header{Name: "./usr/lib32/libc.so", Mode: 0o444, Linkname: "lib"})
	files{"base.txz": base, "lib32.txz": lib32, "kernel.txz": base}.write(t, dir)
	manifest := ""
	for name, text := range map[string]string{"base.txz": base, "lib32.txz": lib32, "kernel.txz": base} {
		manifest += fmt.Sprintf("%s\t%x\t2\t%s\t\"A set\"\ton\n", name, sha256.Sum256([]byte(text)),
			strings.TrimSuffix(name, ".txz"))
	}
	check(t, os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte(manifest), 0o644))
	return []Set{{File: filepath.Join(dir, "base.txz")}, {File: filepath.Join(dir, "lib32.txz")}}
}

func TestDistributionSets(t *testing.T) {
	dir := t.TempDir()
	sets := setsIn(t, dir)
	check(t, ReadManifest(filepath.Join(dir, "MANIFEST"), sets))
	m := &made{T: t, path: filepath.Join(t.TempDir(), "base.tar")}
	img, err := Archive(t.Context(), sets, Options{Output: m.path, Tag: "base", Cache: t.TempDir()})
	check(t, err)
	m.take(img)
	m.has("bin/freebsd-version", versionScript)
	m.has("usr/lib32/libc.so", "lib")
	if m.img.Config.OSVersion != "14.2" || len(m.img.Layers) != 2 ||
		m.img.Config.History[1].CreatedBy != "ADD lib32.txz /" {
		t.Errorf("%+v", m.img.Config)
	}
	// What is built on it is for that version too.
	child := make1(t, files{}, "FROM "+m.path+"\nENV A=b\n")
	if child.img.Config.OSVersion != "14.2" {
		t.Errorf("%+v", child.img.Config.Platform)
	}
}

func TestDistributionSetsAreVerified(t *testing.T) {
	dir := t.TempDir()
	manifest := filepath.Join(dir, "MANIFEST")
	sets := setsIn(t, dir)
	check(t, ReadManifest(manifest, sets))
	check(t, os.WriteFile(sets[1].File, []byte(tarOf(t, tar.Header{Name: "evil", Linkname: "x"})), 0o644))
	out := filepath.Join(t.TempDir(), "base.tar")
	if _, err := Archive(t.Context(), sets, Options{Output: out}); err == nil ||
		!strings.Contains(err.Error(), "lib32.txz has the digest") {
		t.Error(err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("there is an image")
	}
	if _, err := Archive(t.Context(), []Set{{File: filepath.Join(dir, "kernel.txz")}},
		Options{Output: out}); err == nil || !strings.Contains(err.Error(), "host's kernel") {
		t.Error(err)
	}
	for text, want := range map[string]string{
		"base.txz\tzz\n": "MANIFEST:1: \"zz\" is not a valid SHA-256",
		"base.txz\n":     "MANIFEST:1: want a name",
		"other.txz\t" + strings.Repeat("a", 64) + "\n": "does not name base.txz",
	} {
		check(t, os.WriteFile(manifest, []byte(text), 0o644))
		if err := ReadManifest(manifest, []Set{{File: "base.txz"}}); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	check(t, os.WriteFile(manifest, []byte("base.txz\t"+strings.Repeat("a", 64)+"\n"), 0o644))
	err := ReadManifest(manifest, []Set{{File: "base.txz",
		Digest: digest.NewDigestFromEncoded(digest.SHA256, strings.Repeat("b", 64))}})
	if err == nil || !strings.Contains(err.Error(), "by what is asked for") {
		t.Error(err)
	}
}
