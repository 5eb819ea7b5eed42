package registry

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/sign"
)

// PullOptions say which image of a reference is taken and how. Tell hears also why signatures and approvals could not
// be read: who needs them will not find them.
type PullOptions struct {
	layout.FetchOptions
	// Credential is for the reference's own registry, instead of what the
	// configuration says.
	Credential *Credential
	// Approvals are those that are looked for beside the image; no keys are none.
	Approvals Wanted
	// Sources hears where the blobs came from, of a registry that has mirrors; may be nil.
	Sources func([]Source)
}

// Keeper keeps what is pulled. It is a *layout.Store, whose methods these are.
type Keeper interface {
	Fetch(ctx context.Context, from layout.Origin, d ocispec.Descriptor, name string,
		o layout.FetchOptions) (*image.Image, error)
	AddSignatures(d digest.Digest, r sign.Record) error
	AddApprovals(d digest.Digest, list sign.Documents) error
}

// Pull takes an image from a registry into the store, under the name of its
// reference. Of an index it takes the image that runs best here; see
// layout.FetchOptions. The error is an *Error, and ErrNotFound is in it where
// the registry has no such image.
func (c *Client) Pull(ctx context.Context, s Keeper, ref Reference, o PullOptions) (*image.Image, error) {
	img, err := c.pull(ctx, s, ref, o)
	if err != nil {
		return nil, &Error{"pull", ref.String(), err}
	}
	return img, nil
}

func (c *Client) pull(ctx context.Context, s Keeper, ref Reference, o PullOptions) (*image.Image, error) {
	_, named := c.hosts[ref.Host]
	release, err := c.turns.take(ctx, ref.Host, o.Pulled, !named)
	if err != nil {
		return nil, err
	}
	defer release()
	places, err := c.places(ref, o.Credential)
	if err != nil {
		return nil, err
	}
	tell := o.Tell
	o.Tell = func(text string) {
		if tell != nil {
			tell(bounded(text))
		}
	}
	from := newOrigin(places)
	from.tell = o.Tell
	if o.Wanted == nil {
		o.Wanted = image.HostPlatforms()
	}
	d, indexes, err := from.find(ctx, ref, o.Wanted)
	if err != nil {
		return nil, err
	}
	o.Indexes = indexes
	// Before the layers, as what is signed and approved says whether they may be unpacked while they arrive.
	var kept error
	arriving := o.Arriving
	o.Arriving = func(img *image.Image, layers *layout.Arriving) {
		if kept = keepBeside(ctx, s, &remoteSource{from, ref}, d, o); kept == nil && arriving != nil {
			arriving(img, layers)
		}
	}
	img, err := s.Fetch(ctx, from, d, ref.Name(), o.FetchOptions)
	if err != nil {
		return nil, err
	}
	if len(places) > 1 {
		o.tellSources(ref, from.sources(places))
	}
	return img, kept
}

func (o PullOptions) tellSources(ref Reference, list []Source) {
	if text := sentBy(list); text != "" {
		o.Tell(ref.String() + ": " + text)
	}
	if o.Sources != nil {
		o.Sources(list)
	}
}

// keepBeside keeps the signatures and approvals that an image has in its registry.
func keepBeside(ctx context.Context, s Keeper, src *remoteSource, d ocispec.Descriptor, o PullOptions) error {
	tell := func(what string, err error) {
		if err != nil {
			o.Tell(what + " of " + src.ref.String() + " could not be read: " + err.Error())
		}
	}
	signed, err := signaturesOf(ctx, src, d.Digest, o.Indexes)
	tell("the signatures", err)
	if err := s.AddSignatures(d.Digest, signed); err != nil || len(o.Approvals.Keys) == 0 {
		return err
	}
	approved, err := documents(ctx, src, d, o.Approvals)
	tell("approvals", err)
	return s.AddApprovals(d.Digest, approved.List)
}

// Allow tells whether who has a credential could pull a manifest of a repository:
// nil is that its own registry has given it, byte for byte. Mirrors are not asked,
// as what they give is not theirs to allow. The error is as Pull's.
func (c *Client) Allow(ctx context.Context, ref Reference, d digest.Digest, cred *Credential) error {
	p, err := c.place(ref, cred)
	if err == nil {
		_, _, err = p.manifest(ctx, d.String(), "")
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
	d, _, err := from.find(ctx, ref, wanted)
	if err != nil {
		return nil, err
	}
	img, _, err := image.Read(func(d ocispec.Descriptor) ([]byte, error) { return layout.ReadBlob(ctx, from, d) }, d)
	if err != nil {
		return nil, err
	}
	img.Name = ref.Name()
	return img, img.Fits(wanted)
}

// find goes from a reference to one image's manifest, by way of the indexes that it
// returns.
func (o *origin) find(ctx context.Context, ref Reference,
	wanted []ocispec.Platform) (d ocispec.Descriptor, indexes [][]byte, err error) {
	root, b, err := o.manifest(ctx, ref.version(), "")
	if err != nil {
		return d, nil, err
	}
	size := root.Size // of the newest; what an index says of it is not relied on
	get := func(d ocispec.Descriptor) ([]byte, error) {
		if d.Digest == root.Digest {
			return b, nil
		}
		got, b, err := o.manifest(ctx, d.Digest.String(), d.MediaType)
		size = got.Size
		if err == nil && got.MediaType != d.MediaType {
			err = fmt.Errorf("the manifest %s: %w: the document says %q, the index %.100q",
				d.Digest, document.ErrMediaType, got.MediaType, d.MediaType)
		}
		return b, err
	}
	if d, _, indexes, err = image.Narrow(image.IndexesOf(get), root, wanted, ""); err == nil {
		_, err = get(d)
		d.Size = size
	}
	return d, indexes, err
}
