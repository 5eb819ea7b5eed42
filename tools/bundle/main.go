// Command bundle completes the bundle for a FreeBSD host: it compiles the tests of every package and packs everything
// that lies in the bundle's directory.
//
//	go run ./bundle -root .. -arch amd64 -dir ../build/freebsd-bundle -o ../build/freebsd-bundle.tar
//
// The tests of package a/b become tests/a-b/pkg.test, with the package's testdata beside it, so that a test finds the
// same files there as under go test.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	var b bundle
	var tarball string
	flag.StringVar(&b.root, "root", "", "root of freejail's source")
	flag.StringVar(&b.arch, "arch", "amd64", "architecture of the FreeBSD host")
	flag.StringVar(&b.dir, "dir", "", "directory of the bundle, made beforehand")
	flag.StringVar(&tarball, "o", "", "archive to write")
	flag.Parse()
	if b.root == "" || b.dir == "" || tarball == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := b.make(tarball); err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

type bundle struct {
	root, arch, dir string
}

// required is what run-tests cannot do without; a bundle that lacks one would pass by testing less.
var required = []string{
	"run-tests", "bin/freejail", "bin/freejail-build", "bin/nomad", "bin/consul", "bin/demo", "bin/bench",
	"bin/caddy", "bin/nats-server", "bin/nats", "bin/coredns",
	"images/web.tar", "images/greedy.tar", "images/linux/web.tar", "example", "docs", "README.md",
}

func (b bundle) make(tarball string) error {
	for _, name := range required {
		if _, err := os.Stat(filepath.Join(b.dir, name)); err != nil {
			return fmt.Errorf("the bundle is incomplete: %w", err)
		}
	}
	packages, err := b.testedPackages()
	if err != nil {
		return err
	}
	for _, p := range packages {
		if err := b.addTests(p); err != nil {
			return fmt.Errorf("tests of %s: %w", p.ImportPath, err)
		}
	}
	if err := copyIfThere(filepath.Join(b.root, "test", "fixtures"), filepath.Join(b.dir, "fixtures")); err != nil {
		return err
	}
	if err := writeTar(b.dir, tarball); err != nil {
		return fmt.Errorf("%s: %w", tarball, err)
	}
	fmt.Printf("%s: the tests of %d packages\n", tarball, len(packages))
	return nil
}

// goPackage is what this needs of go list's answer.
type goPackage struct {
	Dir, ImportPath           string
	Module                    struct{ Path string }
	TestGoFiles, XTestGoFiles []string
}

// place is where the package's tests lie in the bundle.
func (p goPackage) place() string {
	rel := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, p.Module.Path), "/")
	if rel == "" {
		rel = "main"
	}
	return filepath.Join("tests", strings.ReplaceAll(rel, "/", "-"))
}

func (b bundle) command(args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(), "GOOS=freebsd", "GOARCH="+b.arch, "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return cmd
}

func (b bundle) testedPackages() ([]goPackage, error) {
	text, err := b.command("list", "-json=Dir,ImportPath,Module,TestGoFiles,XTestGoFiles", "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var tested []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(text)); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		if len(p.TestGoFiles)+len(p.XTestGoFiles) > 0 {
			tested = append(tested, p)
		}
	}
	if len(tested) == 0 {
		return nil, fmt.Errorf("go list: no package with tests under %s", b.root)
	}
	return tested, nil
}

func (b bundle) addTests(p goPackage) error {
	place, err := filepath.Abs(filepath.Join(b.dir, p.place()))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(place, 0o755); err != nil {
		return err
	}
	build := b.command("test", "-c", "-trimpath", "-buildvcs=false", "-ldflags=-s -w",
		"-o", filepath.Join(place, "pkg.test"), p.ImportPath)
	if err := build.Run(); err != nil {
		return fmt.Errorf("go test -c: %w", err)
	}
	return copyIfThere(filepath.Join(p.Dir, "testdata"), filepath.Join(place, "testdata"))
}
