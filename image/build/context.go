package build

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

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

// expand checks sources and replaces patterns by what they match, sorted.
func (b *builder) expand(sources []string) ([]string, error) {
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
			if skip, err := b.ignore.match(name); skip || err != nil {
				return nil, errors.Join(fmt.Errorf("%s is excluded by %s, or is the build's own output", s, IgnoreFile), err)
			}
			out = append(out, name)
			continue
		}
		found, err := b.glob(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
		out = append(out, found...)
	}
	return out, nil
}

func (b *builder) glob(pattern string) (out []string, err error) {
	found, err := fs.Glob(b.context.FS(), pattern)
	if err != nil {
		return nil, err
	}
	for _, name := range found {
		skip, err := b.ignore.match(name)
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

// owner finds USER or USER:GROUP in the image's own passwd and group; none is root.
func (b *builder) owner(spec string) (uid, gid int, err error) {
	if spec == "" {
		return 0, 0, nil
	}
	dir, err := os.MkdirTemp(b.dir, "users-")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o700); err != nil {
		return 0, 0, err
	}
	for name, text := range b.view.users() {
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
