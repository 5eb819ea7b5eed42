package build

import (
	"context"
	"io"
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
	open(i item) (*content, error)
	close() error
}

// content is what an entry's header says besides the node, and a file's bytes.
type content struct {
	io.ReadCloser
	size  int64
	mtime time.Time // zero: the image's time
	flags string    // file flags, as in SCHILY.fflags
}

// item is one entry to be written, at a path of the image without links.
type item struct {
	node *node  // as it will be
	name string // in the source; empty: the entry is not from there
	from place  // in the source
}
