// Command release makes what is published of a version: an archive for each system, the source with its dependencies,
// a port of FreeBSD, a software bill of materials (SPDX) for each archive, checksums, and the notes.
//
//	go run ./release -root .. -version 1.2.0 -epoch 1767225600 -o ../build/release
//
// One commit gives the same bytes wherever and whenever they are made by the same version of Go: changes that are not
// committed are not in it, and nothing comes from the file system but content. Names are sorted, owners are root, modes
// are by kind, the time is that of the commit.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	var r release
	var epoch int64
	var platforms string
	flag.StringVar(&r.repository, "root", "..", "the repository, of which HEAD is taken")
	flag.StringVar(&r.version, "version", "", "as git describe tells it, without the v of a tag")
	flag.Int64Var(&epoch, "epoch", 0, "time of the commit, in seconds since 1970")
	flag.StringVar(&platforms, "platforms", "freebsd-amd64 freebsd-arm64 linux-amd64 linux-arm64", "OS-ARCHITECTURE...")
	flag.StringVar(&r.out, "o", "", "directory of the result, which is made anew")
	flag.Parse()
	r.date = time.Unix(epoch, 0).UTC()
	for name := range strings.FieldsSeq(platforms) {
		r.platforms = append(r.platforms, parsePlatform(name))
	}
	if err := r.make(); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

type release struct {
	out, version string
	date         time.Time
	platforms    []platform
	repository   string
	work         string // for what is made on the way
	root         string // in it: the source of the commit
}

type platform struct{ os, arch string }

func parsePlatform(name string) platform {
	system, arch, _ := strings.Cut(name, "-")
	return platform{system, arch}
}

func (p platform) String() string { return p.os + "-" + p.arch }

// name is what files of the release are called.
func (r *release) name(of string) string { return "freejail-" + r.version + of }

func (r *release) make() (err error) {
	if r.version == "" || r.date.Unix() == 0 || r.out == "" || len(r.platforms) == 0 {
		return errors.New("-version, -epoch, -platforms and -o are needed")
	}
	if r.out, err = filepath.Abs(r.out); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(r.out), os.MkdirAll(r.out, 0o755)); err != nil {
		return err
	}
	if r.work, err = os.MkdirTemp("", "release"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.work)) }()
	r.root = filepath.Join(r.work, "source")
	for _, step := range []func() error{r.export, r.notes, r.archives, r.source, r.port, r.sums} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// export takes the commit's files out of git.
func (r *release) export() error {
	if err := os.Mkdir(r.root, 0o755); err != nil {
		return err
	}
	tarball := filepath.Join(r.work, "source.tar")
	git := exec.Command("git", "-C", r.repository, "archive", "--format=tar", "-o", tarball, "HEAD")
	for _, cmd := range []*exec.Cmd{git, exec.Command("tar", "-C", r.root, "-xf", tarball)} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
		}
	}
	return nil
}

// notes are the part of CHANGELOG.md about this version.
func (r *release) notes() error {
	text, err := os.ReadFile(filepath.Join(r.root, "CHANGELOG.md"))
	if err != nil {
		return err
	}
	notes, err := changes(string(text), r.version)
	if err != nil {
		return fmt.Errorf("CHANGELOG.md: %w", err)
	}
	return os.WriteFile(filepath.Join(r.out, r.name("-notes.md")), []byte(notes), 0o644)
}

// changes finds the section of a version, or for what has no tag of its own the one that is not released yet.
func changes(text, version string) (string, error) {
	want := version
	if !tagged(version) {
		want = "Unreleased"
	}
	_, rest, found := strings.Cut(text, "\n## "+want)
	if !found {
		_, rest, found = strings.Cut(text, "\n## ["+want+"]")
	}
	title, body, _ := strings.Cut(rest, "\n")
	if !found || title != "" && !strings.HasPrefix(title, " ") {
		return "", fmt.Errorf("there is no section %q", "## "+want)
	}
	body, _, _ = strings.Cut(body, "\n## ")
	return strings.TrimSpace(body) + "\n", nil
}

// tagged tells of a version that is a tag's, and not of a commit after it.
func tagged(version string) bool {
	parts := strings.Split(version, ".")
	for _, p := range parts {
		if strings.Trim(p, "0123456789") != "" || p == "" {
			return false
		}
	}
	return len(parts) == 3
}
