package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/freejail/freejail/image/document"
)

// Origin is where Fetch takes an image from. Nothing that it gives is trusted.
type Origin interface {
	// Open reads a manifest, a config or a layer from an offset on, or from the
	// beginning where it cannot do that; at tells which.
	Open(ctx context.Context, d ocispec.Descriptor, offset int64) (r io.ReadCloser, at int64, err error)
}

// Fallback is an Origin that knows several places.
type Fallback interface {
	// Refuse tells that what Open gave was not the blob of a digest, so that the
	// next Open asks elsewhere. It is false where no other place is left.
	Refuse(d digest.Digest) bool
}

// elsewhere tells whether a blob that was not what it should be may be so at
// another place of its origin.
func elsewhere(from Origin, d ocispec.Descriptor, err error) bool {
	var wrong *ContentError
	f, ok := from.(Fallback)
	return ok && errors.As(err, &wrong) && f.Refuse(d.Digest)
}

// FetchOptions say which image is taken and how.
type FetchOptions struct {
	Wanted   []ocispec.Platform // what the image must be for; nil is HostPlatforms
	Progress func(Progress)     // called often, by one goroutine at a time; may be nil
	// Pulled marks a name that nobody on this host has chosen, so that it can
	// be forgotten when it was not used for long. A name that is there without
	// the mark stays without.
	Pulled bool
	// Private marks an image that was had with credentials which are not this
	// host's, so that it is not everybody's here. What has its name already
	// without the mark stays without.
	Private bool
}

// Progress is how far a Fetch has come. Sizes are in bytes, as the layers are
// stored; what was there already counts as done.
type Progress struct {
	Layers, LayersDone int
	Size, Done         int64
}

// parallel is how many blobs of an image are fetched at once.
const parallel = 4

// pulledMark is the index's annotation of a name by FetchOptions.Pulled.
const pulledMark = "org.freejail.pulled"

// privateMark is that of FetchOptions.Private.
const privateMark = "org.freejail.private"

// Fetch takes an image by its manifest's descriptor from elsewhere into the
// store, under a name. Only blobs that are missing are fetched, several at
// once; every one is verified. A blob that another Fetch is just getting is
// waited for. What a broken download has got is kept for the next one, of this
// process or of a later one, until GC.
func (s *Store) Fetch(ctx context.Context, from Origin, d ocispec.Descriptor, name string, o FetchOptions) (img *Image, err error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if o.Wanted == nil {
		o.Wanted = HostPlatforms()
	}
	small := func(d ocispec.Descriptor) ([]byte, error) { return s.fetchSmall(ctx, from, d) }
	m, err := examine(small, d, o.Wanted, s.limits)
	if err != nil {
		return nil, err
	}
	blobs := append([]ocispec.Descriptor{d, m.Config}, m.Layers...)
	s.pin(blobs)
	defer func() { err = errors.Join(err, s.unpin(blobs, false)) }() // layers that came are kept for another try
	for _, b := range blobs[:2] {
		if err := s.storeSmall(ctx, from, b); err != nil {
			return nil, err
		}
	}
	if err := s.fetchLayers(ctx, from, m.Layers, o.Progress); err != nil {
		return nil, err
	}
	named := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size,
		Annotations: map[string]string{refName: name}}
	old, ferr := s.find(name)
	if o.Pulled && (ferr != nil || old.Annotations[pulledMark] != "") {
		named.Annotations[pulledMark] = "true"
	}
	if o.Private && (ferr != nil || old.Digest != d.Digest || private(old)) {
		named.Annotations[privateMark] = "true"
	}
	if img, err = s.load(named); err != nil {
		return nil, err
	}
	return img, s.setName(named)
}

func private(d ocispec.Descriptor) bool { return d.Annotations[privateMark] != "" }

// fetchSmall reads what is held in memory, from the store where it is there.
func (s *Store) fetchSmall(ctx context.Context, from Origin, d ocispec.Descriptor) ([]byte, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	if d.Size < 0 || d.Size > document.MaxBytes {
		return nil, fmt.Errorf("blob %s: %d bytes are over the limit of %d", d.Digest, d.Size, document.MaxBytes)
	}
	if s.has(d) {
		return s.smallBlob(d)
	}
	return ReadBlob(ctx, from, d)
}

// ReadBlob reads a blob, whose size the caller has found to be small, and
// verifies it.
func ReadBlob(ctx context.Context, from Origin, d ocispec.Descriptor) ([]byte, error) {
	for {
		b, err := readOnce(ctx, from, d)
		if err == nil || !elsewhere(from, d, err) {
			return b, err
		}
	}
}

func readOnce(ctx context.Context, from Origin, d ocispec.Descriptor) ([]byte, error) {
	r, at, err := from.Open(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if at != 0 {
		return nil, fmt.Errorf("blob %s begins at byte %d", d.Digest, at)
	}
	return io.ReadAll(newVerifier(ctxReader{ctx, r}, d))
}

func (s *Store) storeSmall(ctx context.Context, from Origin, d ocispec.Descriptor) error {
	if s.has(d) {
		return nil
	}
	b, err := s.fetchSmall(ctx, from, d)
	if err != nil {
		return err
	}
	return s.putBlob(ctx, bytes.NewReader(b), d)
}

func (s *Store) fetchLayers(ctx context.Context, from Origin, layers []ocispec.Descriptor, tell func(Progress)) error {
	c := &counter{tell: tell}
	distinct := map[digest.Digest]bool{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	c.begin(layers)
	for i, l := range layers {
		if distinct[l.Digest] {
			continue
		}
		distinct[l.Digest] = true
		g.Go(func() error {
			if err := s.fetchBlob(ctx, from, l, c.add); err != nil {
				return fmt.Errorf("layer %d: %w", i+1, err)
			}
			c.finish()
			return nil
		})
	}
	return g.Wait()
}

// counter adds up what several downloads have got.
type counter struct {
	mu   sync.Mutex
	tell func(Progress)
	p    Progress
}

func (c *counter) change(f func(*Progress)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.p)
	if c.tell != nil {
		c.tell(c.p)
	}
}

func (c *counter) begin(layers []ocispec.Descriptor) {
	seen := map[digest.Digest]bool{}
	c.change(func(p *Progress) {
		for _, l := range layers {
			if !seen[l.Digest] {
				seen[l.Digest] = true
				p.Layers++
				p.Size += l.Size
			}
		}
	})
}

func (c *counter) add(n int64) { c.change(func(p *Progress) { p.Done += n }) }

func (c *counter) finish() { c.change(func(p *Progress) { p.LayersDone++ }) }
