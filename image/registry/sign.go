package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/imagename"
	"github.com/freejail/freejail/internal/regular"
)

// Sign signs an image where it lies, and each image of an index too, as others
// verify the one that they have chosen. The signatures are put beside it, with
// those that are there. identity is the repository that is stated; empty means
// the image's own. It returns what was stated. The error is an *Error.
func (c *Client) Sign(ctx context.Context, at Location, key *sign.PrivateKey, identity string,
	limits image.Limits) (done []sign.Statement, err error) {
	defer func() {
		if err != nil {
			err = &Error{"sign", at.String(), err}
		}
	}()
	src, name, err := c.source(ctx, at, CopyOptions{Limits: limits})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	root, err := src.resolve(ctx, name, nil)
	if err != nil {
		return nil, err
	}
	if identity, err = identityOf(at, src, root, identity); err != nil {
		return nil, err
	}
	dst, err := c.beside(src, at)
	if err != nil {
		return nil, err
	}
	list, err := manifestsOf(ctx, src, root)
	for _, d := range list {
		if err != nil {
			break
		}
		st := sign.Statement{Identity: identity, Digest: d.Digest}
		if err = attachSignature(ctx, src, dst, key, st); err == nil {
			done = append(done, st)
		}
	}
	return done, dst.finish(ctx, err)
}

// identityOf is what is stated of an image whose caller says nothing.
func identityOf(at Location, src source, root ocispec.Descriptor, identity string) (string, error) {
	if at.Kind == Remote && identity == "" {
		return at.Ref.Identity(), nil
	}
	if identity == "" {
		identity = at.Name
		if l, ok := src.(*local); ok && identity == "" {
			identity = l.nameOf(root)
		}
	}
	identity = imagename.Canonical(imagename.Repository(identity))
	if identity == "" {
		return "", errors.New("the image has no name: give its repository with --identity")
	}
	return identity, nil
}

// nameOf is an entry's name in the index.
func (l *local) nameOf(d ocispec.Descriptor) string {
	idx, err := l.Index()
	if err != nil {
		return ""
	}
	for _, m := range idx.Manifests {
		if m.Digest == d.Digest {
			return nameOf(m)
		}
	}
	return ""
}

// beside is where what belongs to an image is put.
func (c *Client) beside(src source, at Location) (target, error) {
	l, here := src.(*local)
	switch {
	case at.Kind == Store:
		return nil, errors.New("sign the image before it goes into a store")
	case at.Kind == DockerArchive || at.Kind == Dir || here && l.Converted():
		return nil, fmt.Errorf("%s has no place for signatures: copy the image to oci-archive:FILE or oci:DIR first",
			at)
	case at.Kind == Archive: // the unpacked one becomes the new archive
		if err := regular.CheckOutput(at.Path, false); err != nil {
			return nil, err
		}
		to, err := layout.Make(l.Dir())
		return &repacked{local{Layout: to, at: at}}, err
	}
	return c.target(at, nil)
}

// repacked is an archive's layout, written back as the archive.
type repacked struct{ local }

func (r *repacked) finish(ctx context.Context, err error) error {
	if err == nil {
		err = (&archive{r.local, r.Dir(), nil}).write(ctx)
	}
	return errors.Join(err, r.Close())
}

// maxSigned bounds an index and its images.
const maxSigned = 1001

// manifestsOf are a manifest and, of an index, those in it. One that could be read
// in two ways is an error.
func manifestsOf(ctx context.Context, src content.Fetcher, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	list := []ocispec.Descriptor{d}
	b, err := readManifest(ctx, src, d)
	if err != nil || !document.IsIndex(d.MediaType) {
		return list, err
	}
	idx, err := document.ReadIndex(b, d.MediaType)
	if err != nil {
		return nil, fmt.Errorf("image index: %w", err)
	}
	for _, m := range idx.Manifests {
		if document.IsIndex(m.MediaType) {
			return nil, fmt.Errorf("image index: %s in it is an index too, whose images would stay unsigned: "+
				"sign that one by itself first, and these images by their digests", m.Digest)
		}
		if !document.IsManifest(m.MediaType) {
			continue
		}
		if len(list) == maxSigned {
			return nil, fmt.Errorf("image index: it names more than the %d manifests that are signed at once",
				maxSigned-1)
		}
		if _, err := readManifest(ctx, src, m); err != nil && !errors.Is(err, errdef.ErrNotFound) {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

func attachSignature(ctx context.Context, src source, dst target, key *sign.PrivateKey, st sign.Statement) error {
	old, err := signaturesAt(ctx, src, st.Digest)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(old, func(s sign.Signature) bool {
		have, err := key.Public().Verify(s)
		return err == nil && have == st
	}) {
		return nil
	}
	s, err := key.Sign(st)
	if err != nil {
		return err
	}
	blobs, err := sign.Manifest(append(old, s))
	if err != nil {
		return err
	}
	if t, ok := dst.(*remoteTarget); ok {
		t.src = memory(blobs)
	}
	for _, b := range blobs {
		if there, err := dst.Exists(ctx, b.Descriptor); err != nil {
			return err
		} else if there {
			continue
		}
		if err := dst.Push(ctx, b.Descriptor, bytes.NewReader(b.Content)); err != nil {
			return err
		}
	}
	return dst.attach(ctx, blobs[len(blobs)-1].Descriptor, sign.Tag(st.Digest))
}

// memory are blobs that were just made.
type memory []sign.Blob

func (m memory) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	for _, b := range m {
		if b.Descriptor.Digest == d.Digest {
			return io.NopCloser(bytes.NewReader(b.Content)), nil
		}
	}
	return nil, fmt.Errorf("blob %s: %w", d.Digest, errdef.ErrNotFound)
}

// signaturesOf are those of an image and of the indexes that led to it. Those
// that could be read are returned beside an error.
func signaturesOf(ctx context.Context, src source, d digest.Digest, indexes [][]byte) (sign.Record, error) {
	if l, ok := src.(*local); ok && l.at.Kind == Store {
		return l.Signatures(d)
	}
	r := sign.Record{Indexes: indexes}
	digests := []digest.Digest{d}
	for _, b := range indexes {
		digests = append(digests, digest.FromBytes(b))
	}
	var errs []error
	for _, d := range digests {
		list, err := signaturesAt(ctx, src, d)
		r.Signatures, errs = append(r.Signatures, list...), append(errs, err)
	}
	return r, errors.Join(errs...)
}

// signaturesAt are those that lie beside an image.
func signaturesAt(ctx context.Context, src source, signed digest.Digest) ([]sign.Signature, error) {
	d, err := src.attached(ctx, sign.Tag(signed))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := readManifest(ctx, src, d)
	if err != nil {
		return nil, err
	}
	return sign.Parse(b, d.MediaType, func(d ocispec.Descriptor) ([]byte, error) {
		r, err := src.Fetch(ctx, d)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return io.ReadAll(r)
	})
}

// Verify looks for a signature by one of the keys that states that an image is
// of its repository, or of identity where that is not empty. The error is an
// *Error, also where there is none.
func (c *Client) Verify(ctx context.Context, at Location, key *sign.PublicKey, identity string,
	limits image.Limits) (st sign.Statement, err error) {
	defer func() {
		if err != nil {
			err = &Error{"verify", at.String(), err}
		}
	}()
	src, name, err := c.source(ctx, at, CopyOptions{Limits: limits})
	if err != nil {
		return st, err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	root, err := src.resolve(ctx, name, image.Platforms(ocispec.Platform{})) // as an import does
	if err != nil {
		return st, err
	}
	if identity, err = identityOf(at, src, root, identity); err != nil {
		return st, err
	}
	if _, err := readManifest(ctx, src, root); err != nil {
		return st, err
	}
	st = sign.Statement{Identity: identity, Digest: root.Digest}
	list, err := signaturesAt(ctx, src, st.Digest)
	if err != nil {
		return st, err
	}
	why := []error{fmt.Errorf("none of the %d signatures of %s is valid for %s", len(list), root.Digest, identity)}
	for _, s := range list {
		switch have, err := key.Verify(s); {
		case err != nil:
			why = append(why, err)
		case have == st:
			return st, nil
		default:
			why = append(why, fmt.Errorf("one is for %s %s", have.Identity, have.Digest))
		}
	}
	return st, errors.Join(why...)
}
