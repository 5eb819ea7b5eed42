// Command portnomad makes a copy of the pinned nomad module that compiles for FreeBSD, and a go.mod that builds it.
//
//	go run ./portnomad -mod nomad -o DIR
//
// DIR/src is the copy with our lines in it; DIR/go.mod is the pinned module's go.mod with nomad replaced by the copy,
// to
// be given to go build by -modfile. The module cache cannot be overlaid, hence the copy.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const nomadModule = "github.com/hashicorp/nomad"

// added maps a file of ours, under the pinned module's freebsd directory, to its place in nomad's source.
var added = map[string]string{
	"host_freebsd.go.txt":   "command/agent/host/host_freebsd.go",
	"docker_freebsd.go.txt": "drivers/docker/driver_freebsd.go",
}

// edit is one line of nomad's source that has to read differently on FreeBSD.
type edit struct{ file, old, new string }

// Bavail is signed on FreeBSD, and negative where root has used up the reserve.
var edits = []edit{{
	file: "command/agent/host/unix.go",
	old:  "return d.s.Bavail * uint64(d.s.Bsize)",
	new:  "return uint64(max(d.s.Bavail, 0)) * uint64(d.s.Bsize)",
}}

// unneeded are directories of nomad's repository that no Go package of the agent reads.
var unneeded = map[string]bool{"ui": true, "website": true, "e2e": true, "demo": true, "terraform": true}

func main() {
	modDir := flag.String("mod", "", "directory of the module that pins nomad")
	out := flag.String("o", "", "directory to write to; it is replaced")
	flag.Parse()
	if *modDir == "" || *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := port(*modDir, *out); err != nil {
		fmt.Fprintln(os.Stderr, "portnomad:", err)
		os.Exit(1)
	}
}

func port(modDir, out string) error {
	source, err := moduleDir(modDir)
	if err != nil {
		return err
	}
	out, err = filepath.Abs(out)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	src := filepath.Join(out, "src")
	if err := copySource(source, src); err != nil {
		return fmt.Errorf("copy nomad's source: %w", err)
	}
	for from, to := range added {
		if err := addFile(filepath.Join(modDir, "freebsd", from), filepath.Join(src, to)); err != nil {
			return err
		}
	}
	for _, e := range edits {
		if err := e.apply(src); err != nil {
			return err
		}
	}
	return writeModFile(modDir, out, src)
}

// moduleDir asks the go command where the pinned nomad lies, downloading it if need be.
func moduleDir(modDir string) (string, error) {
	cmd := exec.Command("go", "mod", "download", "-json", nomadModule)
	cmd.Dir = modDir
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go mod download %s: %w", nomadModule, err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(text, &module); err != nil {
		return "", fmt.Errorf("go mod download %s: %w", nomadModule, err)
	}
	if module.Dir == "" {
		return "", fmt.Errorf("go mod download %s: no directory in its answer", nomadModule)
	}
	return module.Dir, nil
}

// copySource copies what go build needs. The module cache is read-only, the copy is not.
func copySource(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if unneeded[rel] || entry.Name() == "testdata" || entry.Name() == "test-resources" {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !entry.Type().IsRegular() || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o644)
	})
}

// addFile adds a file that nomad lacks. Where nomad has it by now, the pin has moved and ours is to be dropped.
func addFile(from, to string) error {
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists in this nomad: remove it from the list of added files", to)
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

func (e edit) apply(src string) error {
	path := filepath.Join(src, e.file)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := strings.Count(string(data), e.old); n != 1 {
		return fmt.Errorf("%s: %d lines %q, want 1: this nomad needs another edit", e.file, n, e.old)
	}
	return os.WriteFile(path, []byte(strings.Replace(string(data), e.old, e.new, 1)), 0o644)
}

func writeModFile(modDir, out, src string) error {
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(modDir, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, name), data, 0o644); err != nil {
			return err
		}
	}
	cmd := exec.Command("go", "mod", "edit", "-replace", nomadModule+"="+src, filepath.Join(out, "go.mod"))
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go mod edit: %w", err)
	}
	return nil
}
