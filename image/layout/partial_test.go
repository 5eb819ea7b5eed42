package layout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// source is an Origin with a name. A stuck one gives the beginning of a layer, and then nothing.
type source struct {
	*place
	name  string
	stuck chan struct{} // closed when the beginning was read; nil is not stuck
}

func (o *source) Source() string { return o.name }

func (o *source) Open(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	r, at, err := o.place.Open(ctx, d, offset)
	if err != nil || o.stuck == nil || d.MediaType != o.Manifest.Layers[0].MediaType {
		return r, at, err
	}
	wait := readerFunc(func([]byte) (int, error) { close(o.stuck); <-ctx.Done(); return 0, ctx.Err() })
	return io.NopCloser(io.MultiReader(io.LimitReader(r, 100), wait)), at, nil
}

// A source that gives a layer slowly keeps nobody from having it elsewhere, and has it when others have.
func TestASlowSourceKeepsNoLayer(t *testing.T) {
	for name, fetch := range map[string]func(s *Store, d ocispec.Descriptor) error{
		"another source": func(s *Store, d ocispec.Descriptor) error {
			p, _ := origin(t)
			_, err := s.Fetch(ctx, &source{place: p, name: "good.example"}, d, "good:1", FetchOptions{})
			return err
		},
		"an archive": func(s *Store, d ocispec.Descriptor) error {
			p, _ := origin(t)
			l, err := Open(p.Dir(t))
			if err != nil {
				return err
			}
			_, err = s.Fetch(ctx, l, d, "good:1", FetchOptions{})
			return errors.Join(err, l.Close())
		},
	} {
		s := newStore(t, image.Limits{})
		p, d := origin(t)
		slow := &source{p, "slow.example", make(chan struct{})}
		ended, read := make(chan error, 1), make(chan error, 1)
		go func() {
			layer := p.Manifest.Layers[0]
			_, err := s.Fetch(ctx, slow, d, "slow:1", FetchOptions{Arriving: func(_ *image.Image, a *Arriving) {
				go func() {
					r, _, err := a.Open(ctx, layer, 0)
					if err != nil {
						read <- err
						return
					}
					b, err := io.ReadAll(r)
					if !bytes.Equal(b, p.Files[path.Join(blobDir, layer.Digest.Encoded())]) {
						err = errors.Join(err, fmt.Errorf("%d bytes are not the layer's", len(b)))
					}
					read <- errors.Join(err, r.Close(), a.Whole(ctx, layer.Digest))
				}()
			}})
			ended <- err
		}()
		<-slow.stuck
		if err := errors.Join(fetch(s, d), <-ended, <-read); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(filepath.Join(s.dir, partialDir)); err != nil || len(left) != 0 {
			t.Errorf("%s: partial downloads are left: %v, %v", name, left, err)
		}
	}
}

// What broken downloads leave is bounded together, the oldest goes first, and what is under way stays.
func TestPartialsAreBounded(t *testing.T) {
	s := newStore(t, image.Limits{LayerBytes: 10000})
	dir := filepath.Join(s.dir, partialDir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"new", "old", "older", "written"} {
		at := time.Now().Add(-time.Duration(i+1) * time.Minute)
		file := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(file, make([]byte, 4000), 0o600), os.Chtimes(file, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	_, end := s.writes(ctx, path.Join(partialDir, "written"), "")
	defer end()
	left := func() (out string) {
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			out += e.Name()[:min(7, len(e.Name()))] + " "
		}
		return out
	}
	p, d := origin(t)
	p.breakAt = 1000
	if _, err := s.Fetch(ctx, p, d, "web:1", FetchOptions{}); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	if got, want := left(), p.Manifest.Layers[0].Digest.Encoded()[:7]+" new old written "; got != want {
		t.Errorf("left %q, want %q", got, want)
	}
	if _, err := s.GC(ctx); err != nil || left() != "written " {
		t.Errorf("after a collection: %q, %v", left(), err)
	}
	gone := fmt.Errorf("layer: %w", ErrNoBlob)
	missing := &failing{p, gone}
	if _, err := s.Fetch(ctx, missing, d, "web:1", FetchOptions{}); !errors.Is(err, gone) || left() != "written " {
		t.Errorf("of one that is not there any more: %q, %v", left(), err)
	}
}

// failing gives the beginning of a layer, and then an error.
type failing struct {
	*place
	err error
}

func (f *failing) Open(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	r, at, err := f.place.Open(ctx, d, offset)
	if err != nil || !strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer") {
		return r, at, err
	}
	fail := readerFunc(func([]byte) (int, error) { return 0, f.err })
	return io.NopCloser(io.MultiReader(io.LimitReader(r, 100), fail)), at, nil
}
