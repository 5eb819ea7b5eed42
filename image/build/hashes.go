package build

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/gob"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/internal/durable"
)

// hashes are the digests of the context's files. What did not change since an
// earlier build by device, inode, size and both times is not read again.
type hashes struct {
	root    *os.Root
	file    string // in the cache; empty: nowhere
	known   map[string]hashed
	used    map[string]hashed
	sums    map[string]string // what this build goes by
	count   func(int)         // bytes read; nil at first
	changed bool
}

type hashed struct {
	Dev, Ino       uint64
	Size           int64
	Mtime, Changed int64 // nanoseconds
	Sum            [sha256.Size]byte
}

// settled is how long ago a file must have changed for its times to tell of the
// next change: the coarsest clock of a file system counts two seconds.
const settled = 2 * time.Second

func newHashes(root *os.Root, c *cache, dir string) *hashes {
	h := &hashes{root: root, known: map[string]hashed{}, used: map[string]hashed{}, sums: map[string]string{}}
	abs, err := filepath.Abs(dir)
	if c == nil || err != nil {
		return h
	}
	h.file = c.contextFile(abs)
	f, err := os.Open(h.file)
	if err != nil {
		return h // the first build
	}
	defer f.Close()
	if err := gob.NewDecoder(f).Decode(&h.known); err != nil {
		h.known = map[string]hashed{}
	}
	return h
}

// keep writes what the next build can use.
func (h *hashes) keep() error {
	if h.file == "" || !h.changed && len(h.used) == len(h.known) {
		return nil
	}
	return durable.Replace(h.file, 0o600, func(w io.Writer) error { return gob.NewEncoder(w).Encode(h.used) })
}

// sum reads a file once in a build: verify makes sure that what is copied later
// is the same.
func (h *hashes) sum(ctx context.Context, b *builder, name string) (sum string, err error) {
	if sum = h.sums[name]; sum == "" {
		if sum, err = h.read(ctx, b, name); err == nil {
			h.sums[name] = sum
		}
	}
	return sum, err
}

// verify compares what was copied with what was hashed.
func (h *hashes) verify(name, got string) error {
	want := h.sums[name]
	if want == "" || want == got {
		return nil
	}
	err := fmt.Errorf("%s in the context changed while the image was built: build again, or name it in %s",
		name, IgnoreFile)
	delete(h.used, name) // it may have changed without its times
	h.changed = true
	return errors.Join(err, h.keep())
}

func (h *hashes) read(ctx context.Context, b *builder, name string) (string, error) {
	f, fi, err := b.openFile(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("%s: inode numbers are not supported on this system", name)
	}
	id := hashed{Dev: uint64(st.Dev), Ino: st.Ino, Size: fi.Size(), Mtime: fi.ModTime().UnixNano(),
		Changed: changeTime(st).UnixNano()}
	have := h.known[name]
	id.Sum = have.Sum
	if have != id {
		now := time.Now()
		sum := sha256.New()
		if h.count == nil {
			h.count = b.meter("reading the context", 0)
		}
		if _, err := io.Copy(sum, blob.Count(readerOf(ctx, f), h.count)); err != nil {
			return "", contextError(name, err)
		}
		sum.Sum(id.Sum[:0])
		if now.Sub(time.Unix(0, max(id.Mtime, id.Changed))) < settled {
			return hex.EncodeToString(id.Sum[:]), nil
		}
		h.changed = true
	}
	h.used[name] = id
	return hex.EncodeToString(id.Sum[:]), nil
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func readerOf(ctx context.Context, r io.Reader) io.Reader { return contextReader{ctx, r} }

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// describe lists all that COPY would take from the context: names, kinds,
// modes, links and digests, so that equal lists give equal layers.
func (b *work) describe(ctx context.Context, sources []string) ([]string, error) {
	src := contextSource{b.builder}
	list, err := src.expand(sources)
	if err != nil {
		return nil, err
	}
	var out []string
	var add func(name string, follow bool) error
	add = func(name string, follow bool) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := src.stat(name, follow)
		if err != nil {
			return err
		}
		sum := ""
		if n.kind == tar.TypeReg {
			if sum, err = b.hashes.sum(ctx, b.builder, name); err != nil {
				return err
			}
		}
		out = append(out, fmt.Sprintf("%q %c %o %q %s", name, n.kind, n.mode, n.link, sum))
		if n.kind != tar.TypeDir {
			return nil
		}
		names, err := src.list(name)
		for _, base := range names {
			child := path.Join(name, base)
			skip, look, serr := src.skips(child)
			if err = errors.Join(err, serr); err == nil && (!skip || look) {
				err = add(child, false)
			}
		}
		return err
	}
	for _, name := range list {
		if err := add(name, true); err != nil {
			return nil, err
		}
	}
	return out, nil
}
