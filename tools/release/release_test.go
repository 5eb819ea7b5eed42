package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// make1 makes a release of a clone in dir, by a user with a strict umask and another time zone.
func make1(t *testing.T, dir, umask string) string {
	t.Helper()
	script := fmt.Sprintf(`umask %s && git clone -q --no-hardlinks "$1" "$2" && cd "$2/tools" && touch ../example/untracked &&
exec go run ./release -root .. -version 1.2.3-test -epoch 1767225600 -platforms "$3" -o "$2/out"`, umask)
	root, err := filepath.Abs("../..")
	check(t, err)
	cmd := exec.Command("sh", "-c", script, "sh", root, dir, runtime.GOOS+"-"+runtime.GOARCH)
	cmd.Env = append(os.Environ(), "TZ=Asia/Tokyo", "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, "out")
}

// What is released of a commit does not depend on where, when and by whom it is made.
func TestTwoReleasesAreEqual(t *testing.T) {
	if exec.Command("git", "-C", "../..", "rev-parse", "HEAD").Run() != nil {
		t.Skip("this is no clone")
	}
	one := make1(t, filepath.Join(t.TempDir(), "one"), "022")
	two := make1(t, filepath.Join(t.TempDir(), "another", "place"), "077")
	files, err := os.ReadDir(one)
	check(t, err)
	if len(files) != 6 {
		t.Errorf("there are %v", files)
	}
	for _, f := range files {
		a, err := os.ReadFile(filepath.Join(one, f.Name()))
		check(t, err)
		b, err := os.ReadFile(filepath.Join(two, f.Name()))
		check(t, err)
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs", f.Name())
		}
	}
	name := "freejail-1.2.3-test-" + runtime.GOOS + "-" + runtime.GOARCH
	installed := unpack(t, filepath.Join(one, name+".tar.gz"), name+"/")
	t.Run("installed", func(t *testing.T) { isInstalled(t, installed) })
	t.Run("bill of materials", func(t *testing.T) {
		billIsComplete(t, filepath.Join(one, name+".spdx.json"), filepath.Join(installed, "bin", "freejail"))
	})
	t.Run("source", func(t *testing.T) { sourceBuilds(t, filepath.Join(one, "freejail-1.2.3-test.tar.gz")) })
	t.Run("port", func(t *testing.T) { portOf(t, one) })
	if sums, err := exec.LookPath("sha256sum"); err == nil {
		cmd := exec.Command(sums, "--check", "--quiet", sumsFile)
		cmd.Dir = one
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// unpack checks an archive's headers on the way.
func unpack(t *testing.T, archive, top string) string {
	t.Helper()
	dir, last := t.TempDir(), ""
	for _, h := range headers(t, archive) {
		name, ok := strings.CutPrefix(h.Name, top)
		if !ok || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != 1767225600 {
			t.Errorf("%+v", h)
		}
		if mode := h.FileInfo().Mode().Perm(); mode != 0o644 && mode != 0o755 {
			t.Errorf("%s has the mode %v", h.Name, mode)
		}
		if h.Typeflag != tar.TypeDir {
			if name <= last {
				t.Errorf("%s comes after %s", name, last)
			}
			last = name
		} else if !strings.HasPrefix(name, docs) {
			t.Errorf("%s would change a directory of the host", h.Name)
		}
	}
	cmd := exec.Command("tar", "-C", dir, "--strip-components", "1", "-xf", archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

func headers(t *testing.T, archive string) (list []*tar.Header) {
	t.Helper()
	f, err := os.Open(archive)
	check(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	check(t, err)
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("the gzip header has %v %q", z.ModTime, z.Name)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		check(t, err)
		list = append(list, h)
	}
}

// isInstalled looks at what an archive brings to a host.
func isInstalled(t *testing.T, prefix string) {
	for path, want := range map[string]string{
		"bin/freejail":                   "freejail 1.2.3-test\n",
		"bin/freejail-build":             "freejail-build 1.2.3-test\n",
		"libexec/nomad/plugins/freejail": "freejail 1.2.3-test\n", // a link within the prefix
	} {
		out, err := exec.Command(filepath.Join(prefix, path), "version").CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("%s: %v: %s", path, err, out)
		}
	}
	for _, path := range []string{"etc/freejail.hcl.sample", "share/man/man8/freejail.8", docs + "LICENSE",
		"share/bash-completion/completions/freejail", "share/examples/freejail/jobs/web.nomad.hcl",
		docs + "docs/operations.md", docs + "example/web.tar"} {
		if _, err := os.Stat(filepath.Join(prefix, path)); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{docs + "example/untracked", "etc/freejail.hcl", docs + "example/web/main.go"} {
		if _, err := os.Lstat(filepath.Join(prefix, path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there: %v", path, err)
		}
	}
}

// billIsComplete compares an SBOM with what a program says of itself.
func billIsComplete(t *testing.T, file, program string) {
	f, err := os.Open(file)
	check(t, err)
	defer f.Close()
	doc, err := spdxjson.Read(f)
	check(t, err)
	info, err := buildinfo.ReadFile(program)
	check(t, err)
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		if !slices.ContainsFunc(doc.Packages, func(p *spdx.Package) bool {
			return p.PackageName == m.Path && p.PackageVersion == m.Version &&
				p.PackageExternalReferences[0].Locator == "pkg:golang/"+m.Path+"@"+strings.ReplaceAll(m.Version, "+", "%2B")
		}) {
			t.Errorf("%s %s is missing", m.Path, m.Version)
		}
	}
	if len(doc.Packages) < len(info.Deps)+4 || len(info.Deps) < 10 { // the archive, two programs, Go's library
		t.Errorf("%d packages of %d modules", len(doc.Packages), len(info.Deps))
	}
}

// sourceBuilds builds the source without a network, as a port does.
func sourceBuilds(t *testing.T, archive string) {
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", `tar -xf "$1" && cd freejail-1.2.3-test && test -f man/freejail.8 &&
exec go vet -mod=vendor ./cmd/freejail-build`, "sh", archive)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOPROXY=off", "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestOnlyOwnDirectoriesHaveEntries(t *testing.T) {
	for name, want := range map[string]int{"bin/freejail": 0, "etc/rc.d/freejail": 0, docs + "LICENSE": 1,
		docs + "docs/cli.md": 2, "share/docs": 0} {
		if got := ownDirs(name); len(got) != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestNotes(t *testing.T) {
	const text = "# Changelog\n\n## Unreleased\n\n- new\n\n## 1.10.0 - 2026-05-01\n\n- ten\n\n## [1.1.0]\n\n- one\n"
	for version, want := range map[string]string{"1.10.0": "- ten\n", "1.1.0": "- one\n", "1.1.0-3-gabc": "- new\n",
		"0.0.0-gabcdef": "- new\n", "1.1": "- new\n"} {
		if got, err := changes(text, version); err != nil || got != want {
			t.Errorf("%s: %q %v", version, got, err)
		}
	}
	for _, version := range []string{"1.10.1", "1.1.1", "11.0.0", "1.1.10"} {
		if got, err := changes(text, version); err == nil {
			t.Errorf("%s: %q", version, got)
		}
	}
}

// The time of an archive is that of the commit, whatever its files have.
func TestArchivesHaveTheTimeOfTheCommit(t *testing.T) {
	dir := t.TempDir()
	var sums []string
	for i, mode := range []os.FileMode{0o600, 0o664} {
		file := filepath.Join(dir, fmt.Sprint("file", i))
		check(t, os.WriteFile(file, []byte("x"), mode))
		out := filepath.Join(dir, fmt.Sprint(i, ".tar.gz"))
		check(t, writeArchive(out, "top", time.Unix(1767225600, 0).UTC(), []entry{{name: "a", from: file}}))
		sum, _, err := fileSum(out)
		check(t, err)
		sums = append(sums, sum)
	}
	if sums[0] != sums[1] {
		t.Error("modes and times of files are in the archive")
	}
}

var installedPath = regexp.MustCompile(`/usr/local/((?:bin|etc|libexec|share)/[\w./-]*\w)`)

// What docs/install.md names is in the archive, or made of its samples.
func TestInstallPageIsTrue(t *testing.T) {
	r := &release{root: filepath.Join("..", "..")}
	list, err := r.layout(platform{"freebsd", "amd64"})
	check(t, err)
	there := map[string]bool{"share/doc/freejail": true, "share/man": true}
	for _, e := range list {
		there[strings.TrimSuffix(e.name, samples)] = true
		there[e.name] = true
		if example, ok := strings.CutPrefix(e.name, docs+"example/"); ok {
			for dir := "share/examples/freejail/" + example; strings.Contains(dir, "freejail"); dir = path.Dir(dir) {
				there[dir] = true
			}
		}
	}
	paths := installedPath.FindAllStringSubmatch(read(t, "../../docs/install.md"), -1)
	for _, m := range paths {
		if !there[m[1]] {
			t.Errorf("docs/install.md names %s, which is not installed", m[0])
		}
	}
	if len(paths) < 8 {
		t.Errorf("docs/install.md names only %q", paths)
	}
}
