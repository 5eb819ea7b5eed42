package layout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
)

// Arriving are the layers of an image while Fetch gets them. Nothing of them is verified: who reads them must
// compare their DiffIDs, and the image is in the store only when Fetch has returned.
type Arriving struct {
	store  *Store
	source string
	layers map[digest.Digest]*arrival
}

func (s *Store) arriving(source string, layers []ocispec.Descriptor) *Arriving {
	a := &Arriving{s, source, map[digest.Digest]*arrival{}}
	for _, l := range layers {
		a.layers[l.Digest] = &arrival{changed: make(chan struct{})}
	}
	return a
}

// Limits are those of the store.
func (a *Arriving) Limits() image.Limits { return a.store.Limits() }

// Open gives a layer from an offset on, as its bytes arrive. Reading waits for them as long as Fetch does; it ends with
// an error where the layer does not arrive, or has to be got from its beginning again.
func (a *Arriving) Open(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	l, ok := a.layers[d.Digest]
	if !ok {
		return nil, 0, fmt.Errorf("blob %s is not one that arrives: %w", d.Digest, fs.ErrNotExist)
	}
	return &arrivingReader{ctx: ctx, store: a.store, source: a.source, d: d.Digest, from: l, at: offset}, offset, nil
}

// Whole waits until a layer has arrived and was verified, or tells why it does not arrive.
func (a *Arriving) Whole(ctx context.Context, d digest.Digest) error {
	l, ok := a.layers[d]
	if !ok {
		return fmt.Errorf("blob %s is not one that arrives: %w", d, fs.ErrNotExist)
	}
	_, _, err := l.state(ctx, math.MaxInt64)
	return err
}

// end tells the readers of layers that have not arrived that they will not.
func (a *Arriving) end(err error) {
	if err == nil {
		err = errors.New("the pull has ended")
	}
	for _, l := range a.layers {
		l.change(func() { l.fail(err) })
	}
}

// of is nil where nobody reads.
func (a *Arriving) of(d digest.Digest) *arrival {
	if a == nil {
		return nil
	}
	return a.layers[d]
}

// arrival is how much of a layer has arrived. A nil one is told in vain.
type arrival struct {
	mu      sync.Mutex
	changed chan struct{} // closed, and another one, at each change
	n       int64         // bytes of the partial file that stay as they are
	whole   bool          // it is a blob of the store
	err     error
}

func (l *arrival) change(f func()) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

// fail is for who holds the lock.
func (l *arrival) fail(err error) {
	if !l.whole && l.err == nil {
		l.err = err
	}
}

var errBegunAnew = errors.New("the layer is got from its beginning again")

// add tells of more bytes, or of fewer: then what was read of them may have been wrong.
func (l *arrival) add(n int64) {
	l.change(func() {
		if l.n += n; n < 0 {
			l.fail(errBegunAnew)
		}
	})
}

func (l *arrival) arrived() { l.change(func() { l.whole = true }) }

// state waits until there is more than at bytes, all, or an error.
func (l *arrival) state(ctx context.Context, at int64) (n int64, whole bool, err error) {
	for {
		l.mu.Lock()
		n, whole, err := l.n, l.whole, l.err
		changed := l.changed
		l.mu.Unlock()
		if whole || err != nil || n > at {
			return n, whole, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, false, ctx.Err()
		}
	}
}

type arrivingReader struct {
	ctx    context.Context
	store  *Store
	source string
	d      digest.Digest
	from   *arrival
	f      *os.File
	whole  bool // f is the blob
	at     int64
}

func (r *arrivingReader) Read(b []byte) (int, error) {
	n, whole, err := r.from.state(r.ctx, r.at)
	if err != nil {
		return 0, err
	}
	if r.f == nil || whole && !r.whole { // which may have come by another way
		f, err := r.open(whole)
		if err != nil {
			return 0, err
		}
		if err := r.Close(); err != nil {
			return 0, errors.Join(err, f.Close())
		}
		r.f, r.whole = f, whole
	}
	if !whole && int64(len(b)) > n-r.at {
		b = b[:n-r.at]
	}
	got, err := r.f.ReadAt(b, r.at)
	r.at += int64(got)
	switch {
	case got > 0:
		err = nil
	case errors.Is(err, io.EOF) && !whole:
		err = errBegunAnew // it was cut just now
	}
	return got, err
}

// open opens the file that the layer is written to, which becomes the blob.
func (r *arrivingReader) open(whole bool) (*os.File, error) {
	if err := document.CheckDigest(r.d); err != nil {
		return nil, err
	}
	if !whole {
		f, err := r.store.root.Open(partialName(r.source, r.d))
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	f, err := r.store.OpenBlob(r.d) // it has just become one
	if !whole && errors.Is(err, fs.ErrNotExist) {
		return nil, errBegunAnew // or what came was another, and is gone
	}
	return f, err
}

func (r *arrivingReader) Close() error {
	if r.f == nil {
		return nil
	}
	return r.f.Close()
}
