package layout

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/testoci"
)

// place is an Origin in memory that can fail, and lie until it is refused.
type place struct {
	*testoci.Layout
	breakAt int64 // the first reading of a layer breaks off there
	lies    bool
	asked   []int64 // offsets of layers
	small   int     // how often another blob was asked for
}

var errBroken = errors.New("broken off")

func (p *place) Open(_ context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	b, ok := p.Files[path.Join(blobDir, d.Digest.Encoded())]
	if !ok {
		return nil, 0, fs.ErrNotExist
	}
	var r io.Reader = bytes.NewReader(b[offset:])
	if !strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer") {
		p.small++
	}
	if strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer") {
		p.asked = append(p.asked, offset)
		if p.breakAt > 0 {
			r = io.MultiReader(io.LimitReader(r, p.breakAt), broken{})
			p.breakAt = 0
		}
		if p.lies {
			r = bytes.NewReader(bytes.Repeat([]byte("x"), len(b)))
		}
	}
	return io.NopCloser(r), offset, nil
}

// Refuse has the next Open tell the truth.
func (p *place) Refuse(digest.Digest) bool {
	lied := p.lies
	p.lies = false
	return lied
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errBroken }

// origin has an image of one layer, and gives the descriptor of its manifest.
func origin(t *testing.T) (*place, ocispec.Descriptor) {
	t.Helper()
	p := &place{Layout: newLayout(layerOf(t, file("f", strings.Repeat("text", 1000)))).Seal(t)}
	return p, p.Index.Manifests[0]
}

// A download that broke goes on where it was, and what was fetched is not fetched again.
func TestFetchGoesOn(t *testing.T) {
	s := newStore(t, image.Limits{})
	p, d := origin(t)
	p.breakAt = 1000
	if _, err := s.Fetch(ctx, p, d, "web:1", FetchOptions{}); !errors.Is(err, errBroken) {
		t.Errorf("the first: %v", err)
	}
	img, err := s.Fetch(ctx, p, d, "web:1", FetchOptions{})
	if err != nil || img.Digest != d.Digest {
		t.Fatalf("the second: %v", err)
	}
	if _, err := s.Fetch(ctx, p, d, "web:2", FetchOptions{}); err != nil {
		t.Errorf("under another name: %v", err)
	}
	if len(p.asked) != 2 || p.asked[0] != 0 || p.asked[1] != 1000 {
		t.Errorf("the layer was asked for from %v on", p.asked)
	}
	if p.small != 2 {
		t.Errorf("manifest and config were asked for %d times together", p.small)
	}
}

// What a place gives for something else is not kept, and asked for elsewhere.
func TestFetchOfALie(t *testing.T) {
	s := newStore(t, image.Limits{})
	p, d := origin(t)
	p.lies = true
	if _, err := s.Fetch(ctx, p, d, "web:1", FetchOptions{}); err != nil {
		t.Error(err)
	}
	if len(p.asked) != 2 {
		t.Errorf("the layer was asked for from %v on", p.asked)
	}
}

// A layout is an origin as another: what it lacks is missing, though the store has it.
func TestFetchFromALayout(t *testing.T) {
	s := newStore(t, image.Limits{})
	p, d := origin(t)
	if _, err := s.Fetch(ctx, p, d, "web:1", FetchOptions{}); err != nil {
		t.Fatal(err)
	}
	delete(p.Files, path.Join(blobDir, p.Manifest.Layers[0].Digest.Encoded()))
	l, err := Open(p.Dir(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = s.Fetch(ctx, l, d, "web:2", FetchOptions{})
	wantError(t, err, "layer 1", "is missing")
	if _, err := s.Get("web:1"); err != nil {
		t.Errorf("what was there: %v", err)
	}
}

// An archive is looked at whole: one that was cut off is no image.
func TestArchiveThatLacksALayer(t *testing.T) {
	whole := func() *testoci.Layout { return newLayout(layerOf(t, file("f", "text")), layerOf(t, file("g", "text"))) }
	cut := whole()
	delete(cut.Files, path.Join(blobDir, cut.Manifest.Layers[1].Digest.Encoded()))
	longer := whole()
	longer.Manifest.Layers[1].Size++
	for want, l := range map[string]*testoci.Layout{"": whole(), "layer 2 is missing": cut, "its descriptor says": longer} {
		got, _, err := OpenImage(ctx, testoci.WriteTemp(t, l.Seal(t).Tar(t)), ocispec.Platform{}, image.Limits{}, nil)
		if want == "" && err == nil {
			err = got.Close()
		} else if err != nil && strings.Contains(err.Error(), want) && want != "" {
			err = nil
		} else if err == nil {
			err = errors.Join(errors.New("it was opened"), got.Close())
		}
		if err != nil {
			t.Errorf("want %q: %v", want, err)
		}
	}
}
