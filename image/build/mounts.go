package build

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/docker/go-units"

	"github.com/freejail/freejail/internal/remove"
)

// Mount is what a command finds at a place of its root, and what is gone from
// there when Run returns.
type Mount struct {
	Source   string // a directory or a file of the host; empty: a tmpfs
	Target   string // absolute path in the root
	ReadOnly bool
	Size     int64 // of a tmpfs, in bytes
}

// runMount is a RUN --mount that is no secret.
type runMount struct {
	Kind     string // bind, cache or tmpfs
	Target   string
	Source   string `json:",omitempty"` // in the context, or in from
	ID       string `json:",omitempty"` // of a cache
	ReadOnly bool   `json:",omitempty"`
	Size     int64  `json:",omitempty"` // of a tmpfs
	UID, GID int    // of a new cache
	Mode     uint32

	from  *origin // nil: the context
	alone bool    // nobody else uses the cache meanwhile
}

// defaultTmpfs bounds a tmpfs that says nothing of its size, in bytes.
const defaultTmpfs = 1 << 30

// maxMounts bounds those of one command.
const maxMounts = 64

// mountFlag reads a --mount.
func (p *planner) mountFlag(s *runStep, text string) error {
	opts, err := readMountOptions(text)
	if err != nil {
		return err
	}
	if len(s.mounts)+len(s.secrets) >= maxMounts {
		return fmt.Errorf("more than %d mounts", maxMounts)
	}
	m := runMount{Kind: cmp.Or(opts["type"], "bind"), Mode: 0o755}
	keys := []string{"type", "target"}
	switch m.Kind {
	case "secret":
		return p.secretFlag(s, text)
	case "bind":
		keys = append(keys, "from", "source", "readonly")
		m.ReadOnly = true
		m.Source = path.Clean("/" + opts["source"])[1:]
	case "cache":
		keys = append(keys, "id", "sharing", "readonly", "mode", "uid", "gid")
	case "tmpfs":
		keys = append(keys, "size")
		m.Size = defaultTmpfs
	case "ssh":
		return errors.New("type=ssh is not supported: give a key as a secret, or clone into the context")
	default:
		return fmt.Errorf("type=%s is not supported: there are bind, cache, secret and tmpfs", m.Kind)
	}
	for _, key := range slices.Sorted(maps.Keys(opts)) {
		if !slices.Contains(keys, key) {
			return fmt.Errorf("%s is not supported for type=%s: there are %s", key, m.Kind, strings.Join(keys, ", "))
		}
		if err := p.mountOption(&m, key, opts[key]); err != nil {
			return fmt.Errorf("%s=%s: %w", key, opts[key], err)
		}
	}
	if m.Target = path.Clean(p.inWorkdir(opts["target"])); opts["target"] == "" || m.Target == "/" {
		return errors.New("it needs target=PATH, below /")
	}
	if m.ID = cmp.Or(opts["id"], m.Target); m.Kind != "cache" {
		m.ID = ""
	}
	if slices.ContainsFunc(s.mounts, func(o runMount) bool { return o.Target == m.Target }) {
		return fmt.Errorf("%s has a mount already", m.Target)
	}
	s.mounts = append(s.mounts, m)
	return nil
}

// mountNames are the names of one option.
var mountNames = map[string]string{"dst": "target", "destination": "target", "src": "source", "ro": "readonly",
	"rw": "readwrite", "tmpfs-size": "size"}

// readMountOptions gives the key=value of a --mount, under one name each. What SELinux
// alone needs is left out.
func readMountOptions(text string) (map[string]string, error) {
	out := map[string]string{}
	for word := range strings.SplitSeq(text, ",") {
		key, value, has := strings.Cut(word, "=")
		key = cmp.Or(mountNames[key], key)
		switch {
		case key == "z" || key == "Z" || key == "relabel":
			continue
		case key == "readwrite":
			on, err := strconv.ParseBool(cmp.Or(value, "true"))
			if err != nil {
				return nil, fmt.Errorf("%s: want true or false", word)
			}
			key, value = "readonly", strconv.FormatBool(!on)
		case !has && key != "readonly" && key != "required" || has && value == "":
			return nil, fmt.Errorf("%q has no value", key)
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("%s is given twice", key)
		}
		out[key] = value
	}
	return out, nil
}

func (p *planner) mountOption(m *runMount, key, value string) (err error) {
	switch key {
	case "from":
		m.from, err = p.origin(value)
	case "readonly":
		m.ReadOnly, err = strconv.ParseBool(cmp.Or(value, "true"))
	case "size":
		m.Size, err = units.RAMInBytes(value)
		if err == nil && m.Size <= 0 {
			err = errors.New("not a valid size (for example 64m)")
		}
	case "sharing":
		if m.alone = value != "shared"; m.alone && value != "locked" && value != "private" {
			err = errors.New("there are shared, locked and private")
		}
	case "mode":
		var n uint64
		n, err = strconv.ParseUint(value, 8, 12)
		m.Mode = uint32(n)
	case "uid":
		m.UID, err = number(value)
	case "gid":
		m.GID, err = number(value)
	}
	return err
}

// mountKey is what a mount means for the layer: what is in a cache changes nothing.
type mountKey struct {
	runMount
	Content []string `json:",omitempty"`
}

func (s *runStep) mountKeys(ctx context.Context, b *work) (out []mountKey, err error) {
	for _, m := range s.mounts {
		k := mountKey{runMount: m}
		switch {
		case m.Kind != "bind":
		case m.from != nil:
			k.Content = []string{m.from.state(b.builder)}
		default:
			if k.Content, err = b.describe(ctx, []string{escapeGlob(cmp.Or(m.Source, "."))}); err != nil {
				return nil, err
			}
		}
		out = append(out, k)
	}
	return out, nil
}

// lend makes what a command's mounts show. The undo is never nil.
func (s *runStep) lend(ctx context.Context, b *work) (list []Mount, undo func() error, err error) {
	var undos []func() error
	undo = func() error {
		var errs []error
		for _, f := range undos {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	give, err := s.lockCaches(ctx, b)
	undos = append(undos, give)
	if err != nil {
		return nil, undo, err
	}
	for _, m := range s.mounts {
		out := Mount{Target: m.Target, ReadOnly: m.ReadOnly, Size: m.Size}
		switch m.Kind {
		case "bind":
			out.Source, err = b.lay(ctx, m)
			undos = append(undos, func() error { return b.takeAway(out.Source) })
		case "cache":
			out.Source, err = b.cacheMount(m)
		}
		if err != nil {
			return nil, undo, fmt.Errorf("mount at %s: %w", m.Target, err)
		}
		list = append(list, out)
	}
	if s.script != "" {
		file := filepath.Join(b.dir, "script")
		err := os.WriteFile(file, []byte(s.script), 0o500)
		err = errors.Join(err, os.Chmod(file, 0o555))
		undos = append(undos, func() error { return os.Remove(file) })
		list = append(list, Mount{Source: file, Target: scriptPath, ReadOnly: true})
		return list, undo, err
	}
	return list, undo, nil
}

// scriptPath is where a RUN <<EOF that begins with #! stands while it runs.
const scriptPath = "/.freejail-run"

// lockCaches takes each cache that nobody else may use meanwhile once, and all in
// one order, so that no two commands wait for each other. The unlock is never nil.
func (s *runStep) lockCaches(ctx context.Context, b *work) (unlock func() error, err error) {
	dirs := map[string]bool{}
	for _, m := range s.mounts {
		if m.Kind == "cache" && m.alone {
			dirs[b.cacheDir(m)] = true
		}
	}
	var locks []*os.File
	unlock = func() error {
		var errs []error
		for _, l := range locks {
			errs = append(errs, l.Close())
		}
		return errors.Join(errs...)
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return unlock, err
		}
		lock, err := lockFile(ctx, filepath.Join(dir, "lock"), syscall.LOCK_EX)
		if err != nil {
			return unlock, err
		}
		locks = append(locks, lock)
	}
	return unlock, nil
}

// cacheDir is where a cache mount's data and lock are: without a cache they last as
// long as the build.
func (b *work) cacheDir(m runMount) string {
	above := b.dir
	if b.cache != nil {
		above = b.cache.dir
	}
	return filepath.Join(above, "mounts", keyOf("mount", m.ID))
}

// cacheMount is a directory that later builds find again.
func (b *work) cacheMount(m runMount) (dir string, err error) {
	at := b.cacheDir(m)
	if err := os.MkdirAll(at, 0o700); err != nil {
		return "", err
	}
	now := time.Now()
	if err := os.Chtimes(at, now, now); err != nil {
		return "", err
	}
	dir = filepath.Join(at, "data")
	switch err := os.Mkdir(dir, 0o700); {
	case errors.Is(err, os.ErrExist):
		return dir, nil
	case err != nil:
		return "", err
	}
	return dir, errors.Join(os.Chown(dir, m.UID, m.GID), os.Chmod(dir, os.FileMode(m.Mode)))
}

// laid is one entry of what is copied for a bind mount.
type laid struct {
	at   string
	item item
}

// lay copies what a bind mount shows: the command may change it, and nothing
// else does. A path that is returned with an error is for takeAway too.
func (b *work) lay(ctx context.Context, m runMount) (_ string, err error) {
	var from source = contextSource{b.builder}
	if m.from != nil {
		if from, err = m.from.open(ctx, b.builder); err != nil {
			return "", err
		}
	}
	defer func() { err = errors.Join(err, from.close()) }()
	name := cmp.Or(m.Source, ".")
	if _, err := from.expand([]string{escapeGlob(name)}); err != nil { // one that is ignored
		return "", err
	}
	dir, err := os.MkdirTemp(b.dir, "bind-")
	if err != nil {
		return "", err
	}
	root := filepath.Join(dir, "root")
	var list []laid
	if err := gather(ctx, from, name, "root", true, &list); err != nil {
		return root, err
	}
	items := make([]item, 0, len(list))
	for _, l := range list {
		items = append(items, l.item)
	}
	if err := from.collect(ctx, items); err != nil {
		return root, err
	}
	top, err := os.OpenRoot(dir)
	if err != nil {
		return root, err
	}
	for _, l := range list {
		if err == nil {
			err = l.write(ctx, top, from)
		}
	}
	return root, errors.Join(err, top.Close())
}

// takeAway removes what lay has made.
func (b *work) takeAway(root string) error {
	if root == "" {
		return nil
	}
	return remove.Tree(filepath.Dir(root))
}

func gather(ctx context.Context, from source, name, at string, follow bool, out *[]laid) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := from.stat(name, follow)
	if err != nil {
		return err
	}
	*out = append(*out, laid{at, item{node: n, name: name, from: n.from}})
	if n.kind != tar.TypeDir {
		return nil
	}
	names, err := from.list(name)
	for _, base := range names {
		child := path.Join(name, base)
		skip, look, serr := from.skips(child)
		if err = errors.Join(err, serr); err == nil && (!skip || look) {
			err = gather(ctx, from, child, path.Join(at, base), false, out)
		}
	}
	return err
}

func (l laid) write(ctx context.Context, root *os.Root, from source) error {
	n := l.item.node
	mode := os.FileMode(n.mode & 0o777)
	switch n.kind {
	case tar.TypeDir:
		if err := root.Mkdir(l.at, 0o700); err != nil {
			return err
		}
	case tar.TypeSymlink:
		return errors.Join(root.Symlink(n.link, l.at), root.Lchown(l.at, n.uid, n.gid))
	case tar.TypeReg:
		if err := l.writeFile(ctx, root, from); err != nil {
			return err
		}
	default:
		return nil // a device or a FIFO of an image is of no use to a command
	}
	return errors.Join(root.Lchown(l.at, n.uid, n.gid), root.Chmod(l.at, mode))
}

func (l laid) writeFile(ctx context.Context, root *os.Root, from source) (err error) {
	r, err := from.open(ctx, l.item)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	f, err := root.OpenFile(l.at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return r.verified()
}
