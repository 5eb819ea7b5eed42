package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/storage"
)

// confined resolves a path that a client gives for a task. A link that the
// task's own user may have made, in a directory of Confined, must not lead out
// of that directory: the daemon opens and mounts as root.
func confined(spec client.TaskSpec, path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", invalid("%q is not an absolute path on the host", path)
	}
	path = filepath.Clean(path)
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", invalid("%v", err)
	}
	base := ""
	for _, dir := range spec.Confined {
		if dir = filepath.Clean(dir); within(dir, path) && len(dir) > len(base) {
			base = dir
		}
	}
	if base == "" {
		return real, nil
	}
	realBase, err := filepath.EvalSymlinks(base)
	if err != nil {
		return "", invalid("%v", err)
	}
	if !within(realBase, real) {
		return "", invalid("%s leads by a symbolic link to %s, which is outside of the task's directory", path, real)
	}
	return real, nil
}

func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// source resolves what is to be mounted from the host, and remembers which
// directory or file it is: mounted is that or nothing.
func (p *plan) source(spec client.TaskSpec, path string) (string, error) {
	real, err := confined(spec, path)
	if err != nil {
		return "", err
	}
	id, err := mount.Identify(real)
	if err != nil {
		return "", invalid("%v", err)
	}
	if p.sources == nil {
		p.sources = map[string]mount.Identity{}
	}
	p.sources[real] = id
	return real, nil
}

// addDirs resolves the task's own directories.
func (p *plan) addDirs(spec client.TaskSpec) error {
	for _, m := range spec.Dirs {
		real, err := p.source(spec, m.Source)
		if err != nil {
			return invalid("directory %s of the task: %v", m.Target, err)
		}
		m.Type, m.Source, m.Options = "nullfs", real, "nosuid"
		p.dirs = append(p.dirs, m)
	}
	return nil
}

// rootOptions tells the storage driver what a root has to have.
func (p *plan) rootOptions() storage.Options {
	o := storage.Options{Writable: p.image.Manifest.Writable, Dirs: platformDirs()}
	all := slices.Concat(p.mounts, p.dirs)
	for _, m := range all {
		// What is mounted within something else is not the root's.
		if slices.ContainsFunc(all, func(outer client.Mount) bool {
			return outer.Target != m.Target && within(filepath.Clean(outer.Target), filepath.Clean(m.Target))
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

// isFile tells what a source is; the mount finds out if it is no more.
func (p *plan) isFile(m client.Mount) bool {
	fi, err := os.Lstat(m.Source)
	return m.Type == "nullfs" && err == nil && !fi.IsDir()
}

// mountOne mounts something of a plan below a root.
func (p *plan) mountOne(root string, m client.Mount) error {
	resolve := mount.Resolve
	if p.isFile(m) {
		resolve = mount.ResolveFile
	}
	target, err := resolve(root, m.Target)
	if err != nil {
		return err
	}
	opts := splitOptions(m.Options)
	if m.ReadOnly {
		opts = append(opts, "ro")
	}
	what := mount.Mount{Type: m.Type, Source: m.Source, Target: target, Options: opts}
	if m.Type == "nullfs" {
		return mount.DoSame(what, p.sources[m.Source])
	}
	return mountPlatform(what)
}
