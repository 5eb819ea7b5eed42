package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// PullOptions say which image of a reference is taken and how.
type PullOptions struct {
	image.FetchOptions
	// Credential is for the reference's own registry, instead of what the
	// configuration says.
	Credential *Credential
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
	places, err := c.places(ref, o.Credential)
	if err != nil {
		return nil, err
	}
	from := &origin{places: places, known: map[string][]byte{}}
	if o.Wanted == nil {
		o.Wanted = image.HostPlatforms()
	}
	d, b, err := from.manifest(ctx, ref.version())
	if err != nil {
		return nil, err
	}
	for n := 0; isIndex(d.MediaType); n++ {
		if n == maxIndexes {
			return nil, errors.New("too many indexes within each other")
		}
		child, err := choose(b, o.Wanted)
		if err != nil {
			return nil, err
		}
		if d, b, err = from.manifest(ctx, child.Digest.String()); err != nil {
			return nil, err
		}
	}
	return s.Fetch(ctx, from, d, ref.Name(), o.FetchOptions)
}

// choose takes one image of an index.
func choose(index []byte, wanted []ocispec.Platform) (ocispec.Descriptor, error) {
	var idx ocispec.Index
	if err := json.Unmarshal(index, &idx); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("image index: %w", err)
	}
	return image.Choose(idx.Manifests, wanted)
}
