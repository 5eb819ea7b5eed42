package build

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	"github.com/freejail/freejail/internal/regular"
)

// IgnoreFile names what COPY and ADD pass over in a context: patterns as
// .dockerignore has them, one a line, # for comments, ! for exceptions. A
// Containerfile has that of other builders.
const IgnoreFile = ".jailignore"

const (
	maxIgnore        = 256 << 10 // bytes
	maxIgnored       = 4096      // patterns
	maxIgnorePattern = 256       // bytes
	maxIgnorePath    = 4096      // bytes of what is matched
)

// ignorer tells what is passed over.
type ignorer struct {
	ctx      context.Context
	patterns []ignored
	exact    []string // the build's own output
	file     string   // that the patterns are of
}

// ignored is one pattern; !pattern takes back what one before it has said.
type ignored struct {
	m    *patternmatcher.PatternMatcher
	text string
	back bool
}

// ignoreFiles are looked for in this order. For a Containerfile its own goes first.
func (b *builder) ignoreFiles(container bool) []string {
	if !container {
		return []string{IgnoreFile}
	}
	names := []string{".containerignore", ".dockerignore", IgnoreFile}
	if at, ok := b.inContext(b.recipe); ok && b.recipe != Stdin {
		names = append([]string{at + ".containerignore", at + ".dockerignore"}, names...)
	}
	return names
}

func (b *builder) readIgnore(ctx context.Context, container bool, exact ...string) (*ignorer, error) {
	ig := &ignorer{ctx: ctx, exact: exact, file: IgnoreFile}
	for _, name := range b.ignoreFiles(container) {
		f, _, err := b.openFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		ig.file = name
		return ig, ig.read(f)
	}
	return ig, nil
}

func (ig *ignorer) read(f *os.File) error {
	text, err := regular.Read(f, ig.file, maxIgnore)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := ig.add(line); err != nil {
			return fmt.Errorf("%s:%d: %w", ig.file, n, err)
		}
	}
	return nil
}

func (ig *ignorer) add(line string) error {
	text, back := strings.CutPrefix(line, "!")
	if len(text) > maxIgnorePattern {
		return fmt.Errorf("the pattern has more than %d bytes", maxIgnorePattern)
	}
	if len(ig.patterns) == maxIgnored {
		return fmt.Errorf("there are more than %d patterns", maxIgnored)
	}
	text = strings.TrimPrefix(path.Clean("/"+strings.TrimSpace(text)), "/")
	m, err := patternmatcher.New([]string{text})
	ig.patterns = append(ig.patterns, ignored{m, text, back})
	return err
}

// match goes by the last pattern that matches.
func (ig *ignorer) match(name string) (skip bool, err error) {
	if slices.Contains(ig.exact, name) {
		return true, nil
	}
	if len(ig.patterns) > 0 && len(name) > maxIgnorePath {
		return false, fmt.Errorf("%.40s... in the context: the path has more than %d bytes", name, maxIgnorePath)
	}
	for _, p := range ig.patterns {
		if err := ig.ctx.Err(); err != nil {
			return false, err
		}
		if p.back != skip {
			continue
		}
		found, err := p.m.MatchesOrParentMatches(filepath.FromSlash(name))
		if err != nil {
			return false, err
		}
		if found {
			skip = !p.back
		}
	}
	return skip, nil
}

// mayKeep tells whether an exception is perhaps of something in a directory.
func (ig *ignorer) mayKeep(dir string) bool {
	return slices.ContainsFunc(ig.patterns, func(p ignored) bool {
		return p.back && (strings.HasPrefix(p.text, dir+"/") || strings.HasPrefix(p.text, "*"))
	})
}

func (ig *ignorer) exceptions() bool {
	return slices.ContainsFunc(ig.patterns, func(p ignored) bool { return p.back })
}

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
			return nil, fmt.Errorf("%s is absolute: sources are relative to the context: write %s", s,
				strings.TrimLeft(s, "/"))
		case name == ".." || strings.HasPrefix(name, "../"):
			return nil, fmt.Errorf("%s leads out of the context: give a directory above as the context, or copy the "+
				"file into it", s)
		case !strings.ContainsAny(name, "*?["):
			if skip, look, err := c.skips(name); skip && !(look && c.ignore.mayKeep(name)) || err != nil {
				return nil, errors.Join(fmt.Errorf("%s is excluded by %s, or is the build's own output", s,
					c.ignore.file), err)
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
	found, err := glob(c, pattern)
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
	return out, nil
}

func (c contextSource) skips(name string) (skip, look bool, err error) {
	if name == "." {
		return false, false, nil // patterns are of what is in it
	}
	if skip, err = c.ignore.match(name); !skip || err != nil || !c.ignore.exceptions() {
		return skip, false, err
	}
	n, err := c.stat(name, false)
	return true, err == nil && n.kind == tar.TypeDir, err
}

// looks are what was found in the context. The first look counts for the whole
// build: so what a step's key tells of is what its layer has.
type looks struct {
	nodes map[look]*node
	lists map[string][]string
	names int // in lists
}

type look struct {
	name   string
	follow bool
}

func newLooks() *looks { return &looks{nodes: map[look]*node{}, lists: map[string][]string{}} }

func (c contextSource) list(dir string) ([]string, error) {
	if names, seen := c.seen.lists[dir]; seen {
		return names, nil
	}
	if len(components(dir)) > maxDepth {
		return nil, fmt.Errorf("%s in the context: directories are more than %d deep", dir, maxDepth)
	}
	// What takes a directory's place meanwhile must not make us wait.
	f, err := c.context.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, contextError(dir, err)
	}
	names, err := c.seen.read(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, contextError(dir, err)
	}
	c.seen.lists[dir] = names
	return names, nil
}

func (l *looks) read(dir *os.File) (names []string, err error) {
	for err == nil {
		var more []string
		more, err = dir.Readdirnames(4096)
		names = append(names, more...)
		if l.names += len(more); l.names > maxEntries {
			return nil, fmt.Errorf("there are more than %d files and directories to copy", maxEntries)
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

func (c contextSource) stat(name string, follow bool) (*node, error) {
	at := look{name, follow}
	if n := c.seen.nodes[at]; n != nil {
		return n, nil
	}
	n, err := c.look(at)
	if err == nil {
		c.seen.nodes[at] = n
	}
	return n, err
}

// look gives everything to root, with modes that do not come from a checkout.
func (c contextSource) look(at look) (*node, error) {
	stat := c.context.Lstat
	if at.follow {
		stat = c.context.Stat
	}
	fi, err := stat(at.name)
	if err != nil {
		return nil, contextError(at.name, err)
	}
	n := &node{mode: 0o644}
	switch {
	case fi.IsDir():
		n.kind, n.mode = tar.TypeDir, 0o755
	case fi.Mode()&fs.ModeSymlink != 0:
		n.kind, n.mode = tar.TypeSymlink, 0o777
		if n.link, err = c.context.Readlink(at.name); err != nil {
			return nil, contextError(at.name, err)
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

func (c contextSource) open(ctx context.Context, i item) (*content, error) {
	if i.node.kind != tar.TypeReg {
		return &content{ReadCloser: io.NopCloser(bytes.NewReader(nil))}, nil
	}
	return c.openHashed(ctx, i.name)
}

func (c contextSource) close() error { return nil }

// openHashed opens a file whose bytes must be those that its digest was made of.
func (b *builder) openHashed(ctx context.Context, name string) (*content, error) {
	f, fi, err := b.openFile(name)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	c := &content{ReadCloser: readCloser{readerOf(ctx, io.TeeReader(f, sum)), f}, size: fi.Size()}
	c.verify = func() error { return b.hashes.verify(name, hex.EncodeToString(sum.Sum(nil))) }
	return c, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

// openFile opens a regular file of the context for reading.
func (b *builder) openFile(name string) (*os.File, fs.FileInfo, error) {
	f, fi, err := b.openOurs(name)
	if err != nil {
		return nil, nil, contextError(name, err)
	}
	return f, fi, nil
}

func (b *builder) openOurs(name string) (*os.File, fs.FileInfo, error) {
	f, fi, way, err := regular.OpenWay(b.context, name)
	if err == nil && !b.anywhere {
		if err = mayBeOurs(fi, way); err != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return f, fi, err
}

func contextError(name string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	if err.Error() == "path escapes from parent" { // of os.Root
		err = fmt.Errorf("%w: a link leads out of the context", err)
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
