package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/freejail/freejail/image"
)

// Runner executes the commands of RUN.
type Runner interface {
	// Run executes one command on a root and returns when it and all that it
	// started have ended; a failed command is an error. The runner may mount
	// over the root's /dev and /proc, which exist, and has unmounted them when
	// it returns. What else it puts into the root becomes part of the image.
	Run(ctx context.Context, c Command) error
}

// Command is what a RUN executes.
type Command struct {
	Root      string // absolute path on the host
	Args, Env []string
	Dir       string // in the root
	User      string // as USER has it; empty is root
	Linux     bool   // the image is Linux's
	Output    io.Writer
}

// runStep is RUN: what the command changes in the image's files is the layer.
type runStep struct {
	argv, env []string
	dir, user string
}

// mountPoints are where a runner may mount.
var mountPoints = []string{"dev", "proc"}

func (s *runStep) run(ctx context.Context, b *builder) error {
	if err := b.unpack(ctx); err != nil {
		return err
	}
	root, err := os.OpenRoot(b.root.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range mountPoints {
		if err := root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	before, err := record(ctx, root)
	if err != nil {
		return err
	}
	out := b.opts.Log
	if out == nil {
		out = io.Discard
	}
	dir := s.dir
	if dir == "" {
		dir = "/"
	}
	err = b.runner.Run(ctx, Command{Root: b.root.dir, Args: s.argv, Env: s.env, Dir: dir, User: s.user,
		Linux: b.config.OS == "linux", Output: out})
	if err != nil {
		return err
	}
	after, err := record(ctx, root)
	if err != nil {
		return err
	}
	if d := diff(before, after); len(d) > 0 {
		if err := b.layer(ctx, func(w *writer) error { return w.changes(ctx, root, d, after) }); err != nil {
			return err
		}
	}
	b.root.layers = len(b.layers) // they are what the root has
	return nil
}

// openRunner tells before anything is done whether RUN can work at all.
func (b *builder) openRunner(p *planner) error {
	i := slices.IndexFunc(p.planned, func(s planned) bool { _, run := s.step.(*runStep); return run })
	if i < 0 {
		return nil
	}
	err := b.mayRun(p)
	if err == nil {
		b.runner, err = b.opts.Runner()
	}
	if err != nil {
		return p.file.fault(p.planned[i].in, err)
	}
	return nil
}

func (b *builder) mayRun(p *planner) error {
	switch {
	case b.opts.Runner == nil:
		return errors.New("nothing here executes commands: build with freejail-build, or give a Runner")
	case os.Geteuid() != 0:
		return errors.New("RUN needs root: it makes a jail, and files with their owners")
	case p.config.Architecture != runtime.GOARCH:
		return fmt.Errorf("the image is for %s and this host is %s, which cannot run its programs: build it on such a host", p.config.Architecture, runtime.GOARCH)
	case p.config.OS != runtime.GOOS && (p.config.OS != "linux" || runtime.GOOS != "freebsd"):
		return fmt.Errorf("the image is for %s and this host is %s, which cannot run its programs: build it on such a host", p.config.OS, runtime.GOOS)
	}
	return nil
}

// rootfs is the image's files on the disk, as RUN needs them.
type rootfs struct {
	dir    string
	layers int // it has the first so many
}

// unpack brings the root up to date with the layers.
func (b *builder) unpack(ctx context.Context) error {
	if b.root == nil {
		b.root = &rootfs{dir: filepath.Join(b.dir, "root")}
		if err := os.Mkdir(b.root.dir, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(b.root.dir, 0o755); err != nil { // whatever the umask is
			return err
		}
	}
	img := &image.Image{Config: b.config, Layers: b.layers}
	if err := b.store.UnpackFrom(ctx, img, b.root.layers, b.root.dir, nil); err != nil {
		return err
	}
	b.root.layers = len(b.layers)
	return nil
}
