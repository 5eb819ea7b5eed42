package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// CleanUp ends what still runs in a directory of a build that was killed, and
// unmounts what is mounted below it. State is where its Runner had its own, if
// that is known. The path has no links.
type CleanUp func(ctx context.Context, dir, state string) error

// runnerState is the Runner's in a build's directory.
const runnerState = "run"

// Runner executes the commands of RUN.
type Runner interface {
	// Run executes one command on a root and returns when it and all that it
	// started have ended; a failed command is an error. The runner may mount
	// over the root's /dev and /proc, which exist, and has unmounted them when
	// it returns. What else it puts into the root becomes part of the image.
	Run(ctx context.Context, c Command) error
}

// Networks of RUN.
const (
	NetworkHost = "host"
	NetworkNone = "none"
)

// Command is what a RUN executes.
type Command struct {
	Root      string // absolute path on the host
	Args, Env []string
	Dir       string // in the root
	User      string // as USER has it; empty is root
	// Login gives the command what a login gives its user, as `jexec -l` does: the
	// home directory in the place of Dir, HOME, USER, SHELL, TERM, and what else
	// Env has not.
	Login   bool
	Network string // NetworkHost or NetworkNone
	Linux   bool   // the image is Linux's
	// Params are jail parameters beside the runner's own, which a build policy
	// has permitted: "allow.raw_sockets": "true", "sysvshm": "new".
	Params map[string]string
	// Secrets are files that the command finds and that are gone, from the
	// root too, when Run returns.
	Secrets []SecretFile
	Mounts  []Mount // that are gone as well; those in others behind them
	Output  io.Writer
}

// runStep is RUN: what the command changes in the image's files is the layer.
type runStep struct {
	argv, env []string
	proxies   []string // more of env that changes nothing
	then      []string // another command after it, for the same layer
	dir, user string
	login     bool
	mayNeed   bool   // a command of the author's, which may need the services that were started
	network   string // empty: the build's
	secrets   []secretMount
	mounts    []runMount
	script    string            // what stands at scriptPath while it runs
	params    map[string]string // privileges that a policy has permitted
}

func (s *runStep) key(ctx context.Context, b *work) (any, error) {
	mounts, err := s.mountKeys(ctx, b)
	return struct {
		Args, Then, Env    []string
		Dir, User, Network string
		Params             map[string]string
		Secrets            []secretMount // names and places; a secret's value changes nothing
		Login              bool          `json:",omitempty"`
		Mounts             []mountKey    `json:",omitempty"`
		Script             string        `json:",omitempty"`
	}{s.argv, s.then, s.env, s.dir, s.user, s.on(b), s.params, s.secrets, s.login, mounts, s.script}, err
}

// on is the command's network: none of the build is none of all its commands.
func (s *runStep) on(b *work) string {
	if b.network == NetworkNone {
		return NetworkNone
	}
	return cmp.Or(s.network, b.network)
}

func (s *runStep) run(ctx context.Context, b *work) error {
	return b.inTree(ctx, func(dir string) (err error) {
		mounts, undo, err := s.lend(ctx, b)
		defer func() { err = errors.Join(err, undo()) }()
		for _, argv := range s.all() {
			if err == nil {
				err = s.command(ctx, b, dir, argv, mounts)
			}
		}
		return err
	})
}

// inTree makes a layer of what change does to the image's files.
func (b *work) inTree(ctx context.Context, change func(dir string) error) error {
	if b.tree == nil {
		b.tree = b.newTree()
	}
	dir, err := b.tree.open(ctx, b)
	if err != nil {
		return err
	}
	if err := change(dir); err != nil {
		return err
	}
	d, after, err := b.tree.changes(ctx, b)
	if err != nil {
		return err
	}
	if len(d) > 0 {
		if err := b.layerOf(ctx, dir, d, after); err != nil {
			return err
		}
	}
	return b.tree.keep(ctx, b)
}

func (s *runStep) command(ctx context.Context, b *work, dir string, argv []string, mounts []Mount) error {
	c := s.asCommand(b, dir)
	c.Args, c.Mounts = argv, mounts
	for _, m := range s.secrets {
		c.Secrets = append(c.Secrets, SecretFile{Target: m.Target, Value: b.opts.Secrets[m.ID], Mode: m.Mode,
			UID: m.UID, GID: m.GID})
	}
	if len(c.Secrets) == 0 {
		return b.runner.Run(ctx, c)
	}
	out := newMasker(c.Output, c.Secrets)
	c.Output = out
	return errors.Join(b.runner.Run(ctx, c), out.Flush())
}

// layerOf makes a layer of what is different in a root.
func (b *work) layerOf(ctx context.Context, dir string, d []change, after map[string]state) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return b.layer(ctx, nil, func(w *writer) error { return w.changes(ctx, root, d, after) })
}

// openRunner tells before anything is done whether RUN can work at all.
func (b *builder) openRunner(p *planner) error {
	for _, s := range p.needed {
		i := slices.IndexFunc(s.planned, func(s planned) bool { return inJail(s.step) })
		if i < 0 {
			continue
		}
		err := b.mayRun(s)
		if err == nil && b.runner == nil {
			b.runner, err = b.opts.Runner(filepath.Join(b.dir, runnerState))
		}
		if err != nil {
			return p.file.fault(s.planned[i].in, err)
		}
	}
	return nil
}

func inJail(s step) bool {
	switch s.(type) {
	case *runStep, *servedStep:
		return true
	}
	return false
}

func (b *builder) mayRun(s *stage) error {
	switch {
	case b.opts.Runner == nil:
		return errors.New("RUN is not supported here: build with freejail-build, or give a Runner")
	case os.Geteuid() != 0:
		return errors.New("RUN needs root: it makes a jail, and files with their owners")
	case s.config.Architecture != runtime.GOARCH:
		return fmt.Errorf("the image is for %s and this host is %s, which cannot run its programs: build it on such "+
			"a host", s.config.Architecture, runtime.GOARCH)
	case s.config.OS != runtime.GOOS && (s.config.OS != "linux" || runtime.GOOS != "freebsd"):
		return fmt.Errorf("the image is for %s and this host is %s, which cannot run its programs: build it on such "+
			"a host", s.config.OS, runtime.GOOS)
	}
	return nil
}
