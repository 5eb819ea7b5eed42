package layout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
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
	var wrong *blob.ContentError
	f, ok := from.(Fallback)
	return ok && errors.As(err, &wrong) && f.Refuse(d.Digest)
}

// FetchOptions say which image is taken and how.
type FetchOptions struct {
	Wanted   []ocispec.Platform   // what the image must be for; nil is image.HostPlatforms
	Progress func(image.Progress) // called often, by one goroutine at a time; may be nil
	Tell     func(string)         // of what goes otherwise than it might, and is no error; may be nil
	// Pulled marks a name that nobody on this host has chosen, so that it can
	// be forgotten when it was not used for long. A name that is there without
	// the mark stays without.
	Pulled bool
	// Private marks an image that was had with credentials which are not this
	// host's, so that it is not everybody's here. What has its name already
	// without the mark stays without.
	Private bool
	// Named is told the name by which an imported archive or layout calls the image,
	// if it has one; may be nil.
	Named func(name string)
	// Indexes are those that led to the image: a name with a digest may have that of one of them.
	Indexes [][]byte
	// Arriving, if set, is told the image before its layers are got, and whence they can be read meanwhile. Fetch
	// waits for its return.
	Arriving func(img *image.Image, layers *Arriving)
}

// parallel is how many blobs of an image are fetched at once.
const parallel = 4

// pulledMark is the index's annotation of a name by FetchOptions.Pulled.
const pulledMark = "org.freejail.pulled"

// privateMark is that of FetchOptions.Private.
const privateMark = "org.freejail.private"

// Fetch takes an image by its manifest's descriptor from elsewhere into the
// store, under a name. Only blobs that are missing are fetched, several at
// once; every one is verified. A blob that another Fetch is just getting from
// the same source is waited for. What a broken download has got is kept for the
// next one, of this process or of a later one, until GC. A *Layout must have all the blobs itself,
// and after an error with it the store is as before. A digest in the name that is neither
// the image's nor that of an index that led to it is an ErrPin.
func (s *Store) Fetch(ctx context.Context, from Origin, d ocispec.Descriptor, name string,
	o FetchOptions) (img *image.Image, err error) {
	entry, err := s.entry(d, name, o.Indexes)
	if err != nil {
		return nil, err
	}
	if o.Wanted == nil {
		o.Wanted = image.HostPlatforms()
	}
	small := map[digest.Digest][]byte{}
	img, m, err := image.Read(func(d ocispec.Descriptor) (b []byte, err error) {
		b, err = s.fetchSmall(ctx, from, d)
		small[d.Digest] = b
		return b, err
	}, d)
	if err == nil {
		// What cannot be unpacked later is refused before any layer is copied.
		err = img.Check(o.Wanted, s.limits)
	}
	if err != nil {
		return nil, err
	}
	_, local := from.(*Layout)
	blobs := append([]ocispec.Descriptor{d, m.Config}, m.Layers...)
	s.pin(blobs)
	// Layers that came from far are kept for another try.
	defer func() { err = errors.Join(err, s.unpin(blobs, local && err != nil)) }()
	for _, b := range blobs[:2] {
		if s.reuses(from, b) {
			continue
		}
		if err := s.PutBlob(ctx, b, bytes.NewReader(small[b.Digest])); err != nil {
			return nil, err
		}
	}
	var arriving *Arriving
	if o.Arriving != nil {
		arriving = s.arriving(sourceOf(from), m.Layers)
		defer func() { arriving.end(err) }()
		if img, err = s.load(s.marked(entry, o)); err != nil {
			return nil, err
		}
		o.Arriving(img, arriving)
	}
	if err := s.fetchLayers(ctx, from, name, m.Layers, arriving, o); err != nil {
		return nil, err
	}
	entry = s.marked(entry, o)
	if img, err = s.load(entry); err != nil {
		return nil, err
	}
	return img, s.setName(entry)
}

// marked is an image's entry with the marks that it has by now.
func (s *Store) marked(entry ocispec.Descriptor, o FetchOptions) ocispec.Descriptor {
	entry.Annotations = maps.Clone(entry.Annotations)
	old, err := s.find(entry.Annotations[refName])
	if o.Pulled && (err != nil || old.Annotations[pulledMark] != "") {
		entry.Annotations[pulledMark] = "true"
	}
	if o.Private && (err != nil || old.Digest != entry.Digest || private(old)) {
		entry.Annotations[privateMark] = "true"
	}
	return entry
}

func private(d ocispec.Descriptor) bool { return d.Annotations[privateMark] != "" }

// reuses tells whether a blob of the store does for one of an origin. What the
// store has of others' images does not stand in for one that a layout lacks.
func (s *Store) reuses(from Origin, d ocispec.Descriptor) bool {
	_, local := from.(*Layout)
	return !local && s.has(d)
}

// fetchSmall reads what is held in memory, from the store where it is there.
func (s *Store) fetchSmall(ctx context.Context, from Origin, d ocispec.Descriptor) ([]byte, error) {
	if s.reuses(from, d) {
		return s.ReadBlob(d)
	}
	return ReadBlob(ctx, from, d)
}

// ReadBlob reads a manifest or a config, verified. Larger ones than
// document.MaxBytes are an error.
func ReadBlob(ctx context.Context, from Origin, d ocispec.Descriptor) ([]byte, error) {
	if err := document.CheckDigest(d.Digest); err != nil {
		return nil, err
	}
	if d.Size < 0 || d.Size > document.MaxBytes {
		return nil, fmt.Errorf("blob %s: %d bytes are over the limit of %d", d.Digest, d.Size, document.MaxBytes)
	}
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
	return io.ReadAll(blob.Verify(blob.WithContext(ctx, r), d))
}

// blobKey tells blobs apart: a digest with another size is another, and an error.
type blobKey struct {
	digest digest.Digest
	size   int64
}

func key(d ocispec.Descriptor) blobKey { return blobKey{d.Digest, d.Size} }

func (s *Store) fetchLayers(ctx context.Context, from Origin, name string, layers []ocispec.Descriptor,
	arriving *Arriving, o FetchOptions) (err error) {
	c := &counter{tell: o.Progress}
	if r := s.reusing(from, name, layers, o.Tell, c.reuse); r != nil {
		from = r
		defer func() { err = errors.Join(err, r.close()) }()
	}
	seen := map[blobKey]bool{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	c.begin(layers)
	for i, l := range layers {
		if seen[key(l)] {
			continue
		}
		seen[key(l)] = true
		g.Go(func() error {
			to, come := arriving.of(l.Digest), int64(0)
			err := s.fetchBlob(ctx, from, l, func(n int64) { come += n; c.add(n); to.add(n) })
			if err != nil && document.IsForeign(l.MediaType) {
				err = fmt.Errorf("%w (a layer of the type %q is often not copied with its image)", err, l.MediaType)
			}
			if err != nil {
				return fmt.Errorf("layer %d: %w", i+1, err)
			}
			to.arrived()
			c.add(l.Size - come) // it may have come by another way
			c.finish()
			return nil
		})
	}
	return g.Wait()
}

// counter adds up what several downloads have got.
type counter struct {
	mu   sync.Mutex
	tell func(image.Progress)
	p    image.Progress
}

func (c *counter) change(f func(*image.Progress)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.p)
	if c.tell != nil {
		c.tell(c.p)
	}
}

func (c *counter) begin(layers []ocispec.Descriptor) {
	seen := map[blobKey]bool{}
	c.change(func(p *image.Progress) {
		for _, l := range layers {
			if !seen[key(l)] {
				seen[key(l)] = true
				p.Layers++
				p.Size += l.Size
			}
		}
	})
}

func (c *counter) add(n int64) { c.change(func(p *image.Progress) { p.Done += n }) }

func (c *counter) reuse(n int64) { c.change(func(p *image.Progress) { p.Reused += n }) }

func (c *counter) finish() { c.change(func(p *image.Progress) { p.LayersDone++ }) }
