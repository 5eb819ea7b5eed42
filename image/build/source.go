package build

import (
	"archive/tar"
	"context"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// source is where files are copied from. Names are relative and clean.
type source interface {
	// expand checks names and replaces patterns by what they match, sorted.
	expand(list []string) ([]string, error)
	// stat tells kind, mode, owner and link; another kind is 0. Only with
	// follow it follows a link in the last place.
	stat(name string, follow bool) (*node, error)
	// list gives what is in a directory, sorted.
	list(dir string) ([]string, error)
	// skips tells what is passed over, and whether something in it may not be.
	skips(name string) (skip, look bool, err error)
	// collect is told all entries that will be opened.
	collect(ctx context.Context, list []item) error
	open(ctx context.Context, i item) (*content, error)
	close() error
}

// content is what an entry's header says besides the node, and a file's bytes.
type content struct {
	io.ReadCloser
	size  int64
	mtime time.Time // zero: the image's time
	flags string    // file flags, as in SCHILY.fflags
	// verify tells, when all is read, whether it was what is expected; it may be
	// nil.
	verify func() error
}

func (c *content) verified() error {
	if c.verify == nil {
		return nil
	}
	return c.verify()
}

// item is one entry to be written, at a path of the image without links.
type item struct {
	node *node                    // as it will be
	name string                   // in the source; empty: the entry is not from there
	from place                    // in the source
	open func() (*content, error) // what is in no source; nil: it is in one
}

// glob gives the names that match a pattern, sorted. What of it has no *, ? or [
// is not looked for.
func glob(from source, pattern string) ([]string, error) {
	found := []string{"."}
	for _, part := range components(pattern) {
		var next []string
		for _, dir := range found {
			more, err := globIn(from, dir, part)
			if err != nil {
				return nil, err
			}
			next = append(next, more...)
		}
		found = next
	}
	slices.Sort(found)
	return found, nil
}

func globIn(from source, dir, part string) (out []string, err error) {
	if n, err := from.stat(dir, true); err != nil || n.kind != tar.TypeDir {
		return nil, nil // a pattern looks for what is there
	}
	if !strings.ContainsAny(part, `*?[\`) {
		if _, err := from.stat(path.Join(dir, part), false); err == nil {
			out = append(out, path.Join(dir, part))
		}
		return out, nil
	}
	names, err := from.list(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		ok, err := path.Match(part, name)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, path.Join(dir, name))
		}
	}
	return out, nil
}
