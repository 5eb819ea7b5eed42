package unpack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/layout"
)

// slow is a Source of layers of which a part arrives, and the rest later; nil is at once.
type slow struct {
	*layout.Store
	wrong   error // why it does not arrive whole
	part    int64
	arrived chan struct{}
}

func (s *slow) Open(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	r, at, err := s.Store.Open(ctx, d, offset)
	if err != nil || s.arrived == nil {
		return r, at, err
	}
	wait := readerFunc(func([]byte) (int, error) {
		<-s.arrived
		return 0, io.EOF
	})
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(r, s.part), wait, r), r}, at, nil
}

func (s *slow) Whole(context.Context, digest.Digest) error { return s.wrong }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// putWide makes an image of a layer in a zstd stream with a window of 128 MiB.
func putWide(t *testing.T, s *layout.Store, layer []byte) *image.Image {
	n := len(layer)<<3 | 1 // the last block, as it is
	b := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, (27 - 10) << 3, byte(n), byte(n >> 8), byte(n >> 16)}, layer...)
	return put(t, s, ocispec.MediaTypeImageLayerZstd, b, layer)
}

func put(t *testing.T, s *layout.Store, mediaType string, b, layer []byte) *image.Image {
	t.Helper()
	d, err := s.Add(ctx, mediaType, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Put(ctx, "test", hostConfig(digest.FromBytes(layer)), []ocispec.Descriptor{d}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// An image that arrives slowly holds no memory that others wait for, and does not wait for any.
func TestWhatArrivesTakesNoMemoryOfOthers(t *testing.T) {
	s := newStore(t, image.Limits{})
	large := putWide(t, s, layerOf(t, file("f", "x")))
	layer := layerOf(t, file("f", strings.Repeat("x", 4*chunkSize)))
	usual := putLayers(t, s, "usual", layer)
	if err := Image(ctx, s, large, t.TempDir(), nil); err != nil {
		t.Errorf("one that is here, with a large window: %v", err)
	}
	late := &slow{s, nil, int64(len(layer) / 2), make(chan struct{})}
	const fit = blob.MaxEarlyMemory / memory
	ended := make(chan error, fit)
	for range fit {
		dir := t.TempDir()
		go func() { ended <- Image(ctx, late, usual, dir, nil) }()
		for checkEmpty(dir) == nil && len(ended) == 0 { // what it unpacks first tells that it has its memory
			time.Sleep(time.Millisecond)
		}
	}
	if err := Image(ctx, &slow{Store: s}, large, t.TempDir(), nil); !errors.Is(err, blob.ErrNoMemory) {
		t.Errorf("one that arrives, with a large window: %v", err)
	}
	more := t.TempDir()
	for err := error(nil); !errors.Is(err, blob.ErrNoMemory); time.Sleep(time.Millisecond) {
		err = New(&slow{Store: s}, usual, nil).Apply(ctx, more, 0, 1)
	}
	take(t, blob.MaxMemory)() // nothing of it is held
	close(late.arrived)
	for range fit {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if err := Image(ctx, &slow{Store: s}, usual, t.TempDir(), nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// What a mirror gives instead of a layer does not fill the disk before that is known. Others wait for nothing.
func TestBombsThatArrive(t *testing.T) {
	s := newStore(t, image.Limits{})
	usual := layerOf(t, file("f", "x"))
	// Its size is declared large: of that little has come when it unpacks.
	padding := make([]byte, maxMore)
	rand.NewChaCha8([32]byte{}).Read(padding)
	bomb := layerOf(t, file("f", strings.Repeat("x", 2*maxMore)), file("padding", string(padding)))
	small, large := put(t, s, ocispec.MediaTypeImageLayerGzip, gz(t, usual), usual),
		put(t, s, ocispec.MediaTypeImageLayerGzip, gz(t, bomb), bomb)
	wrong := errors.New("it is another")
	if err := Image(ctx, &slow{Store: s, wrong: wrong}, small, t.TempDir(), nil); err != nil {
		t.Errorf("a usual layer: %v", err)
	}
	dir := t.TempDir()
	if err := Image(ctx, &slow{Store: s, wrong: wrong}, large, dir, nil); !errors.Is(err, wrong) {
		t.Errorf("a bomb: %v", err)
	}
	const ahead = 2 * chunks * chunkSize // is read before it is unpacked
	if fi, err := os.Stat(filepath.Join(dir, "f")); err != nil || fi.Size() > maxMore+maxRatio*ahead {
		t.Errorf("of a bomb was unpacked: %v, %v", fi, err)
	}
	if err := Image(ctx, &slow{Store: s}, large, t.TempDir(), nil); err != nil {
		t.Errorf("a layer that unpacks to much, and is verified: %v", err)
	}
}

var _ Arriving = (*layout.Arriving)(nil)
