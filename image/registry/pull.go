package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
)

// PullOptions say which image of a reference is taken and how.
type PullOptions struct {
	image.FetchOptions
	// Credential is for the reference's own registry, instead of what the
	// configuration says.
	Credential *Credential
	// Tell hears why signatures could not be read, which is no error: who needs
	// them will not find them.
	Tell func(string)
}

// Pull takes an image from a registry into the store, under the name of its
// reference. Of an index it takes the image that runs best here; see
// image.FetchOptions. The error is an *Error, and ErrNotFound is in it where
// the registry has no such image.
func (c *Client) Pull(ctx context.Context, s *image.Store, ref Reference, o PullOptions) (*image.Image, error) {
	img, err := c.pull(ctx, s, ref, o)
	if err != nil {
		return nil, &Error{"pull", ref.String(), err}
	}
	return img, nil
}

func (c *Client) pull(ctx context.Context, s *image.Store, ref Reference, o PullOptions) (*image.Image, error) {
	release, err := pulls.take(ctx, ref.Host)
	if err != nil {
		return nil, err
	}
	defer release()
	places, err := c.places(ref, o.Credential)
	if err != nil {
		return nil, err
	}
	from := newOrigin(places)
	if o.Wanted == nil {
		o.Wanted = image.HostPlatforms()
	}
	d, _, indexes, err := from.find(ctx, ref, o.Wanted)
	if err != nil {
		return nil, err
	}
	img, err := s.Fetch(ctx, from, d, ref.Name(), o.FetchOptions)
	if err != nil {
		return nil, err
	}
	signed, err := signaturesOf(ctx, &remoteSource{from, ref}, d.Digest, indexes)
	if err != nil && o.Tell != nil {
		o.Tell(bounded("the signatures of " + ref.String() + " could not be read: " + err.Error()))
	}
	return img, s.AddSignatures(img.Digest, signed)
}

// Allow tells whether who has a credential could pull a manifest of a repository:
// nil is that its own registry has given it, byte for byte. Mirrors are not asked,
// as what they give is not theirs to allow. The error is as Pull's.
func (c *Client) Allow(ctx context.Context, ref Reference, d digest.Digest, cred *Credential) error {
	p, err := c.place(ref, cred)
	if err == nil {
		_, _, err = p.manifest(ctx, d.String())
	}
	if err != nil {
		return &Error{"pull", ref.Identity() + "@" + d.String(), err}
	}
	return nil
}

// Describe reads what an image of a registry says of itself, and nothing else of
// it. The error is as Pull's.
func (c *Client) Describe(ctx context.Context, ref Reference, wanted []ocispec.Platform) (*image.Image, error) {
	img, err := c.describe(ctx, ref, wanted)
	if err != nil {
		return nil, &Error{"read", ref.String(), err}
	}
	return img, nil
}

func (c *Client) describe(ctx context.Context, ref Reference, wanted []ocispec.Platform) (*image.Image, error) {
	places, err := c.places(ref, nil)
	if err != nil {
		return nil, err
	}
	from := newOrigin(places)
	d, b, _, err := from.find(ctx, ref, wanted)
	if err != nil {
		return nil, err
	}
	m, err := document.ReadManifest(b, d.MediaType)
	if err != nil {
		return nil, fmt.Errorf("the manifest %s: %w", d.Digest, err)
	}
	if m.Config.Size < 0 || m.Config.Size > maxManifest {
		return nil, fmt.Errorf("the config has %d bytes: %d is the most", m.Config.Size, maxManifest)
	}
	config, err := image.ReadBlob(ctx, from, m.Config)
	if err != nil {
		return nil, err
	}
	return image.Describe(ref.Name(), d.Digest, b, config)
}

// find goes from a reference to one image's manifest, by way of indexes.
func (o *origin) find(ctx context.Context, ref Reference, wanted []ocispec.Platform) (d ocispec.Descriptor, b []byte, indexes [][]byte, err error) {
	left := maxManifest
	d, b, err = o.manifest(ctx, ref.version())
	for n := 0; err == nil && document.IsIndex(d.MediaType); n++ {
		if n == maxIndexes {
			return d, nil, nil, errors.New("too many indexes within each other")
		}
		if left -= len(b); left < 0 {
			return d, nil, nil, fmt.Errorf("the indexes within each other are larger than %d bytes", maxManifest)
		}
		indexes = append(indexes, b)
		var child ocispec.Descriptor
		if child, err = choose(b, d.MediaType, wanted); err == nil {
			d, b, err = o.manifest(ctx, child.Digest.String())
		}
		if err == nil && d.MediaType != child.MediaType {
			err = fmt.Errorf("the manifest %s: %w: the registry says %q, the index %.100q", d.Digest, document.ErrMediaType, d.MediaType, child.MediaType)
		}
	}
	return d, b, indexes, err
}

// choose takes one image of an index.
func choose(index []byte, mediaType string, wanted []ocispec.Platform) (ocispec.Descriptor, error) {
	idx, err := document.ReadIndex(index, mediaType)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("image index: %w", err)
	}
	return image.Choose(idx.Manifests, wanted)
}
