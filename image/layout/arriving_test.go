package layout

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// gated gives the first bytes of a layer, and the rest when it is opened.
type gated struct {
	*place
	first int64
	open  chan struct{}
}

func (g *gated) Open(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	r, at, err := g.place.Open(ctx, d, offset)
	if err != nil || d.MediaType != g.Manifest.Layers[0].MediaType {
		return r, at, err
	}
	wait := readerFunc(func([]byte) (int, error) { <-g.open; return 0, io.EOF })
	return io.NopCloser(io.MultiReader(io.LimitReader(r, g.first), wait, r)), at, nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// fetchArriving fetches an image while its layer is read, and tells how the reading ended.
func fetchArriving(t *testing.T, s *Store, from Origin, d, layer ocispec.Descriptor,
	read func(io.Reader) error) (fetched, ended error) {
	t.Helper()
	done := make(chan error, 1)
	_, fetched = s.Fetch(t.Context(), from, d, "web:1", FetchOptions{Arriving: func(img *image.Image, a *Arriving) {
		if img.Name != "web:1" || img.Digest != d.Digest {
			t.Errorf("the image that arrives is %q, %s", img.Name, img.Digest)
		}
		go func() {
			r, at, err := a.Open(t.Context(), layer, 0)
			if err != nil || at != 0 {
				done <- errors.Join(err, errors.New("not from its beginning"))
				return
			}
			done <- errors.Join(read(r), r.Close())
		}()
	}})
	return fetched, <-done
}

// A layer can be read while it arrives, and to its end after that.
func TestLayersAreReadAsTheyArrive(t *testing.T) {
	s := newStore(t, image.Limits{})
	p, d := origin(t)
	layer := p.Manifest.Layers[0]
	want := p.Files[path.Join(blobDir, layer.Digest.Encoded())]
	g := &gated{p, 100, make(chan struct{})}
	read := func(r io.Reader) error {
		head := make([]byte, 100)
		_, err := io.ReadFull(r, head)
		close(g.open) // not before: the rest has not arrived
		rest, rerr := io.ReadAll(r)
		if !bytes.Equal(append(head, rest...), want) {
			t.Errorf("%d bytes are not the layer's %d", len(head)+len(rest), len(want))
		}
		return errors.Join(err, rerr)
	}
	if fetched, ended := fetchArriving(t, s, g, d, layer, read); fetched != nil || ended != nil {
		t.Errorf("fetched: %v, read: %v", fetched, ended)
	}
	g.open = make(chan struct{}) // it is here: nothing has to arrive
	if fetched, ended := fetchArriving(t, s, g, d, layer, read); fetched != nil || ended != nil {
		t.Errorf("of a layer that is here: fetched: %v, read: %v", fetched, ended)
	}
}

// Of a layer that does not arrive, or that is got anew as what came was another, the reader hears before its end.
func TestReadersOfLayersThatDoNotArrive(t *testing.T) {
	all := func(r io.Reader) error { _, err := io.ReadAll(r); return err }
	s := newStore(t, image.Limits{})
	p, d := origin(t)
	p.breakAt = 1000
	if fetched, ended := fetchArriving(t, s, p, d, p.Manifest.Layers[0], all); !errors.Is(fetched, errBroken) ||
		!errors.Is(ended, errBroken) {
		t.Errorf("broken off: fetched: %v, read: %v", fetched, ended)
	}
	s = newStore(t, image.Limits{})
	p.lies = true
	if fetched, ended := fetchArriving(t, s, p, d, p.Manifest.Layers[0], all); fetched != nil ||
		!errors.Is(ended, errBegunAnew) {
		t.Errorf("a lie: fetched: %v, read: %v", fetched, ended)
	}
}
