package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/patternmatcher"

	"github.com/freejail/freejail/image"
)

// IgnoreFile names what COPY and ADD pass over in a context: patterns as
// .dockerignore has them, one a line, # for comments, ! for exceptions.
const IgnoreFile = ".jailignore"

const maxIgnore = 1 << 20

// ignorer tells what is passed over.
type ignorer struct {
	m     *patternmatcher.PatternMatcher
	exact []string // the build's own output
}

func readIgnore(root *os.Root, exact ...string) (*ignorer, error) {
	ig := &ignorer{exact: exact}
	f, err := root.Open(IgnoreFile)
	if errors.Is(err, fs.ErrNotExist) {
		return ig, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxIgnore+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(text) > maxIgnore {
		return nil, fmt.Errorf("%s has more than %d bytes", IgnoreFile, maxIgnore)
	}
	var patterns []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		not := strings.HasPrefix(line, "!")
		p := strings.TrimPrefix(path.Clean("/"+strings.TrimSpace(strings.TrimPrefix(line, "!"))), "/")
		if not {
			p = "!" + p
		}
		patterns = append(patterns, p)
	}
	if ig.m, err = patternmatcher.New(patterns); err != nil {
		return nil, fmt.Errorf("%s: %w", IgnoreFile, err)
	}
	return ig, nil
}

func (ig *ignorer) match(name string) (bool, error) {
	if slices.Contains(ig.exact, name) {
		return true, nil
	}
	if ig.m == nil {
		return false, nil
	}
	return ig.m.MatchesOrParentMatches(filepath.FromSlash(name))
}

func (ig *ignorer) exceptions() bool { return ig.m != nil && ig.m.Exclusions() }

// contextSource is the context as COPY sees it.
type contextSource struct{ *builder }

func (c contextSource) expand(sources []string) ([]string, error) {
	var out []string
	for _, s := range sources {
		name := path.Clean(s)
		switch {
		case strings.Contains(s, "://"):
			return nil, fmt.Errorf("%s: nothing is fetched over the network: put the file into the context", s)
		case path.IsAbs(s):
			return nil, fmt.Errorf("%s is absolute: sources are relative to the context: write %s", s, strings.TrimLeft(s, "/"))
		case name == ".." || strings.HasPrefix(name, "../"):
			return nil, fmt.Errorf("%s leads out of the context: give a directory above as the context, or copy the file into it", s)
		case !strings.ContainsAny(name, "*?["):
			if skip, err := c.ignore.match(name); skip || err != nil {
				return nil, errors.Join(fmt.Errorf("%s is excluded by %s, or is the build's own output", s, IgnoreFile), err)
			}
			out = append(out, name)
			continue
		}
		found, err := c.glob(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
		out = append(out, found...)
	}
	return out, nil
}

func (c contextSource) glob(pattern string) (out []string, err error) {
	found, err := fs.Glob(c.context.FS(), pattern)
	if err != nil {
		return nil, err
	}
	for _, name := range found {
		skip, err := c.ignore.match(name)
		if err != nil {
			return nil, err
		}
		if !skip {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("nothing in the context matches")
	}
	slices.Sort(out)
	return out, nil
}

func (c contextSource) skips(name string) (skip, look bool, err error) {
	if skip, err = c.ignore.match(name); !skip || err != nil || !c.ignore.exceptions() {
		return skip, false, err
	}
	fi, err := c.context.Lstat(name)
	return true, err == nil && fi.IsDir(), err
}

func (c contextSource) list(dir string) ([]string, error) {
	entries, err := fs.ReadDir(c.context.FS(), dir)
	if err != nil {
		return nil, contextError(dir, err)
	}
	out := make([]string, 0, len(entries))
	for _, e := range entries { // sorted by name
		out = append(out, e.Name())
	}
	return out, nil
}

// stat gives everything to root, with modes that do not come from a checkout.
func (c contextSource) stat(name string, follow bool) (*node, error) {
	look := c.context.Lstat
	if follow {
		look = c.context.Stat
	}
	fi, err := look(name)
	if err != nil {
		return nil, contextError(name, err)
	}
	n := &node{mode: 0o644}
	switch {
	case fi.IsDir():
		n.kind, n.mode = tar.TypeDir, 0o755
	case fi.Mode()&fs.ModeSymlink != 0:
		n.kind, n.mode = tar.TypeSymlink, 0o777
		if n.link, err = c.context.Readlink(name); err != nil {
			return nil, contextError(name, err)
		}
	case fi.Mode().IsRegular():
		n.kind = tar.TypeReg
		if fi.Mode()&0o100 != 0 {
			n.mode = 0o755
		}
	}
	return n, nil
}

func (c contextSource) collect(context.Context, []item) error { return nil }

func (c contextSource) open(i item) (*content, error) {
	if i.node.kind != tar.TypeReg {
		return &content{ReadCloser: io.NopCloser(bytes.NewReader(nil))}, nil
	}
	f, size, err := c.openFile(i.name)
	return &content{ReadCloser: f, size: size}, err
}

func (c contextSource) close() error { return nil }

// openFile opens a file of the context for reading.
func (b *builder) openFile(name string) (*os.File, int64, error) {
	// A FIFO put there in the meantime must not make us wait.
	f, err := b.context.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, contextError(name, err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		return nil, 0, errors.Join(contextError(name, err), f.Close())
	}
	return f, fi.Size(), nil
}

func contextError(name string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("%s in the context: %w", name, err)
}

// owner finds USER or USER:GROUP in the image's own passwd and group; none is
// root. It works in a directory below temp.
func (v *view) owner(temp, spec string) (uid, gid int, err error) {
	if spec == "" {
		return 0, 0, nil
	}
	dir, err := os.MkdirTemp(temp, "users-")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o700); err != nil {
		return 0, 0, err
	}
	for name, text := range v.users() {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), text, 0o600); err != nil {
			return 0, 0, err
		}
	}
	c, err := image.ResolveUser(dir, spec)
	if err != nil {
		return 0, 0, err
	}
	if c.Name == "" && !strings.Contains(spec, ":") {
		c.GID = c.UID // a number that passwd does not have is its own group, as in other builders
	}
	return int(c.UID), int(c.GID), nil
}
