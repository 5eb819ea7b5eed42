package layout

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/sign"
)

// ErrPin means that the digest in an image's name is another image's.
var ErrPin = errors.New("it would name another image than its digest says")

// indexMark is the index's annotation of a name with the digest of an index that led to the image.
const indexMark = "org.freejail.index"

// pin is the digest in an image's name where that is not the image's own; empty is none.
func pin(name string, own digest.Digest) string {
	_, d, _ := strings.Cut(name, "@")
	if d == own.String() {
		return ""
	}
	return d
}

// entry is that of an image under a name, of which a digest must be the image's, or that of an index that led to it:
// one of those that are given, or that the store knows to do so.
func (s *Store) entry(d ocispec.Descriptor, name string, indexes [][]byte) (ocispec.Descriptor, error) {
	if err := image.CheckName(name); err != nil {
		return ocispec.Descriptor{}, err
	}
	e, want := named(d, name), pin(name, d.Digest)
	if want == "" {
		return e, nil
	}
	given := sign.Record{Indexes: indexes}
	if !given.Leads(digest.Digest(want), d.Digest) {
		known, err := s.ledBy(d.Digest, want)
		if err == nil && !known {
			err = fmt.Errorf("image name %q: %w: that has %s, and no index of the digest in the name has led to it",
				name, ErrPin, d.Digest)
		}
		if err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	e.Annotations[indexMark] = want
	return e, nil
}

// ledBy tells whether the store knows that an index has led to an image.
func (s *Store) ledBy(d digest.Digest, index string) (bool, error) {
	idx, err := s.Index()
	if err != nil {
		return false, err
	}
	for _, m := range idx.Manifests {
		if m.Digest == d && m.Annotations[indexMark] == index {
			return true, nil
		}
	}
	r, err := s.Signatures(d)
	return err == nil && r.Leads(digest.Digest(index), d), nil // a damaged record tells nothing
}

// checkPin refuses a name of the store with a digest that is not the image's, as others could give it before.
func (s *Store) checkPin(d ocispec.Descriptor) error {
	name := d.Annotations[refName]
	want := pin(name, d.Digest)
	if want == "" || want == d.Annotations[indexMark] {
		return nil
	}
	if r, err := s.Signatures(d.Digest); err == nil && r.Leads(digest.Digest(want), d.Digest) {
		return nil
	}
	return fmt.Errorf("%w by that digest: %q is %s here, to which no index that is known leads",
		image.ErrNotFound, name, d.Digest)
}

// load reads an image's manifest and config, unless its name says that it is another image.
func (s *Store) load(d ocispec.Descriptor) (*image.Image, error) {
	if err := s.checkPin(d); err != nil {
		return nil, err
	}
	img, err := s.describe(d)
	if err != nil {
		return nil, err
	}
	return asNamed(img, d), nil
}
