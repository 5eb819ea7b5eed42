package image

import (
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/internal/regular"
)

// Layout reads images from an OCI layout directory, which may be a hostile one.
type Layout struct {
	root   *os.Root
	limits Limits
}

// OpenLayout opens a directory to look at one of its images, and to unpack that
// from where it is. Manifest and config are verified at once, layers when they
// are unpacked. The zero platform means any, the host's first.
func OpenLayout(dir string, p ocispec.Platform, limits Limits) (*Layout, *Image, error) {
	root, err := regular.Root(dir)
	if err != nil {
		return nil, nil, err
	}
	l := &Layout{root, limits.withDefaults()}
	img, err := l.pick(dir, p)
	if err != nil {
		return nil, nil, errors.Join(err, root.Close())
	}
	return l, img, nil
}

func (l *Layout) pick(dir string, p ocispec.Platform) (*Image, error) {
	wanted := Platforms(p)
	in := &source{path: dir, root: l.root, limits: l.limits}
	d, own, err := in.find(wanted, "")
	if err != nil {
		return nil, err
	}
	if own != "" {
		if err := checkName(own); err != nil {
			return nil, err
		}
	}
	if _, err := examine(in.smallBlob, d, wanted, l.limits); err != nil {
		return nil, err
	}
	img, err := l.load(d)
	if err == nil {
		img.Name = own
	}
	return img, err
}

// Close must be called when nothing is read any more.
func (l *Layout) Close() error { return l.root.Close() }

func blobName(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

func (l *Layout) openBlob(d digest.Digest) (*os.File, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	f, _, err := openRegular(l.root, blobName(d))
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	return f, nil
}
