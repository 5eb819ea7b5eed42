package task

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/policy"
	"github.com/freejail/freejail/storage"
)

// Confined opens what a path names that a client gives for a task, and tells
// where it really is. A link that the task's own user may have made, in a
// directory of Confined, must not lead out of that directory: the daemon opens
// and mounts as root. Whatever becomes of the path, the descriptor stays what was
// judged. It is one for a place only: it cannot be read from.
func Confined(spec client.TaskSpec, path string) (*os.File, string, error) {
	if !filepath.IsAbs(path) {
		return nil, "", client.Invalid("%q is not an absolute path on the host", path)
	}
	path = filepath.Clean(path)
	base := ""
	for _, dir := range spec.Confined {
		if dir = filepath.Clean(dir); Within(dir, path) && len(dir) > len(base) {
			base = dir
		}
	}
	f, real, err := openReal(cmp.Or(base, path))
	if err != nil || base == "" {
		return f, real, err
	}
	defer f.Close()
	in, rel, err := mount.OpenIn(f, strings.TrimPrefix(path, base))
	if errors.Is(err, mount.ErrOut) {
		return nil, "", client.Invalid("%s leads outside of the task's directory %s: %v", path, base, err)
	}
	if err != nil {
		return nil, "", client.Invalid("%s: %v", path, err)
	}
	return in, filepath.Join(real, rel), nil
}

// openReal opens what a path of the host's names. Who changes it in between has
// it refused.
func openReal(path string) (*os.File, string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, "", client.Invalid("%v", err)
	}
	f, err := mount.OpenPath(real)
	if err != nil {
		return nil, "", client.Invalid("%v", err)
	}
	return f, real, nil
}

// Within tells whether a path is in a directory, by their names.
func Within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// source opens what is to be mounted from the host: mounted is that or nothing.
func (p *plan) source(spec client.TaskSpec, path string) (string, error) {
	f, real, err := Confined(spec, path)
	if err != nil {
		return "", err
	}
	if Within(p.stateDir, real) {
		return "", errors.Join(client.Invalid("%s lies in the state directory %s, which is closed to tasks",
			path, p.stateDir), f.Close())
	}
	if p.sources == nil {
		p.sources = map[string]*os.File{}
	}
	if _, twice := p.sources[real]; twice { // one decision, one thing
		return real, f.Close()
	}
	p.sources[real] = f
	return real, nil
}

// close lets go of what is to be mounted.
func (p *plan) close() error {
	var errs []error
	for _, f := range p.sources {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// addDirs resolves the task's own directories.
func (p *plan) addDirs(spec client.TaskSpec) error {
	for _, m := range spec.Dirs {
		real, err := p.source(spec, m.Source)
		if err != nil {
			return client.Invalid("directory %s of the task: %v", m.Target, err)
		}
		m.Type, m.Source, m.Options = "nullfs", real, "nosuid"
		m.ReadOnly = m.ReadOnly || p.readOnly(m.Target)
		p.dirs = append(p.dirs, m)
	}
	return nil
}

// rootOptions tells the storage driver what a root has to have.
func (p *plan) rootOptions() storage.Options {
	// Linux's programs would see each copied link twice in its directory.
	o := storage.Options{Writable: p.image.Manifest.Writable, Dirs: platformDirs(), Links: !p.linuxulator(), Own: p.own}
	all := slices.Concat(p.mounts, p.dirs)
	for _, v := range p.volumes { // what the job mounts there, or above, takes precedence
		if !slices.ContainsFunc(all, func(m client.Mount) bool { return Within(filepath.Clean(m.Target), v) }) {
			o.Volumes = append(o.Volumes, v)
		}
	}
	for _, m := range all {
		// What is mounted within something else is not the root's.
		if slices.ContainsFunc(all, func(outer client.Mount) bool {
			return outer.Target != m.Target && Within(filepath.Clean(outer.Target), filepath.Clean(m.Target))
		}) {
			continue
		}
		if p.isFile(m) {
			o.Files = append(o.Files, m.Target)
		} else {
			o.Dirs = append(o.Dirs, m.Target)
		}
	}
	return o
}

// isFile tells what a source is that was opened.
func (p *plan) isFile(m client.Mount) bool {
	f, ok := p.sources[m.Source]
	if !ok || m.Type != "nullfs" {
		return false
	}
	fi, err := f.Stat()
	return err == nil && !fi.IsDir()
}

// mounter mounts what a plan names in a task's root.
type mounter struct {
	judge func(policy.Request) error
	path  string // of the root
	root  *mount.Root
	dirs  Mounter // for mounts on directories
	files Mounter // for mounts on files; nil without any

	inMemory [][]byte // handles of what lies in memory
}

// mountOne mounts something of a plan.
func (m *mounter) mountOne(p *plan, what client.Mount) error {
	open, by := m.root.Dir, m.dirs
	if p.isFile(what) {
		open, by = m.root.File, m.files
	}
	opts := splitOptions(what.Options)
	if what.ReadOnly {
		opts = append(opts, "ro")
	}
	fs := mount.Mount{Type: what.Type, Source: what.Source, Options: opts}
	if what.Type == "nullfs" {
		fs.From = p.sources[what.Source]
	}
	if leftOut(what.Type) {
		return nil
	}
	at, err := open(what.Target)
	if err != nil {
		return err
	}
	if err = m.judgeAgain(p, what.Target, at); err == nil {
		err = by.On(at, fs)
	}
	if err == nil {
		err = m.count(what, at)
	}
	return errors.Join(err, at.Close())
}

// judgeAgain has the policy decide about where a target really is, if a link of
// the image has led elsewhere than what was asked for.
func (m *mounter) judgeAgain(p *plan, target string, at *mount.Point) error {
	asked, real := path.Clean("/"+target), strings.TrimPrefix(at.Path(), m.path)
	if asked == real {
		return nil
	}
	for _, r := range p.requests {
		if what, is := r.Privilege.(policy.Mount); is && what.Target == asked {
			what.Target = real
			return m.judge(policy.Request{Privilege: what, Source: r.Source})
		}
	}
	return nil
}

// inOrder are all mounts of a plan, outer ones before those in them.
func (p *plan) inOrder() []client.Mount {
	all := slices.Concat(p.mounts, p.dirs)
	depth := func(m client.Mount) int { return strings.Count(path.Clean("/"+m.Target), "/") }
	slices.SortStableFunc(all, func(a, b client.Mount) int { return depth(a) - depth(b) })
	return all
}

// filesDir is where descriptors of a task's files that are mounted over lie.
func (t *task) filesDir() string { return filepath.Join(t.journal.dir, "fd") }

// mountAll mounts everything below the root. One undo serves all: unmount
// whatever is below it.
func (s *start) mountAll(ctx context.Context) (err error) {
	t, p := s.t, s.plan
	_, local := t.root.(localRoot)
	if !local || len(p.mounts)+len(p.dirs) > 0 { // else nothing is mounted by it
		release, err := s.m.Mounter.Use()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	m := &mounter{dirs: s.m.Mounter, path: t.info.Root, judge: func(r policy.Request) error {
		return s.m.Judge.Decide(t.info.Spec, p.image, []policy.Request{r})
	}}
	if m.root, err = mount.OpenRoot(t.info.Root); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.root.Close()) }()
	if local {
		if err := m.root.Alone(); err != nil {
			return err
		}
	}
	own := s.toMount()
	if len(own) > 0 || slices.ContainsFunc(slices.Concat(p.mounts, p.dirs), p.isFile) {
		var files *mount.Descriptors
		if files, err = mount.OpenDescriptors(t.filesDir()); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, files.Close()) }()
		m.files = files
	}
	for _, f := range own { // before anything that hides them, or what they are mounted on
		if err := s.mountOwn(m, f); err != nil {
			return fmt.Errorf("mount %s: %w", f.Path, err)
		}
	}
	if err := m.mountDev(t.info.Ruleset, s.rules, p.devices, p.linuxulator()); err != nil {
		return err
	}
	for _, what := range p.inOrder() {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := m.mountOne(p, what); err != nil {
			return fmt.Errorf("mount %s: %w", what.Target, err)
		}
	}
	p.inMemory = m.inMemory
	return nil
}
