package image

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/therootcompany/xz"
)

// Import takes an image from an OCI layout directory or an oci-archive (tar,
// also in gzip, zstd or xz) into the store, under a name or the archive's own.
// Every blob's digest and size is verified; on error the store is as before.
func (s *Store) Import(ctx context.Context, path, name string, progress func(stage string)) (*Image, error) {
	if progress == nil {
		progress = func(string) {}
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	layout := path
	if !fi.IsDir() {
		progress("reading " + path)
		if layout, err = os.MkdirTemp(filepath.Join(s.dir, "tmp"), "import-"); err != nil {
			return nil, err
		}
		defer os.RemoveAll(layout)
		if err := extractLayout(ctx, path, layout, s.limits.ImageBytes); err != nil {
			return nil, err
		}
	}
	r, err := os.OpenRoot(layout)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	d, own, err := findManifest(r)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = own
	}
	if name == "" {
		name = d.Digest.Encoded()[:12]
	}
	progress("verifying " + name)
	if err := s.copyImage(ctx, r, d); err != nil {
		return nil, err
	}
	d.Annotations = map[string]string{refName: name}
	d.Platform = nil
	img, err := s.load(d)
	if err != nil {
		return nil, err
	}
	return img, s.setName(d)
}

// setName makes a name mean an image, and no other any more.
func (s *Store) setName(d ocispec.Descriptor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	idx, err := s.readIndex()
	if err != nil {
		return err
	}
	kept := []ocispec.Descriptor{d}
	for _, m := range idx.Manifests {
		if m.Annotations[refName] != d.Annotations[refName] {
			kept = append(kept, m)
		}
	}
	idx.Manifests = kept
	return s.writeIndex(idx)
}

// decompress finds out by its first bytes how a stream is compressed.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 1<<17)
	head, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case strings.HasPrefix(string(head), "\x1f\x8b"):
		return gzip.NewReader(br)
	case strings.HasPrefix(string(head), "\x28\xb5\x2f\xfd"):
		return newZstd(br)
	case string(head) == "\xfd7zXZ\x00":
		x, err := xz.NewReader(br, 128<<20) // dictionary: bounded memory
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	}
	return io.NopCloser(br), nil
}

func newZstd(r io.Reader) (io.ReadCloser, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}

// extractLayout unpacks what belongs to an OCI layout, and nothing else, from
// an archive; names are checked against the layout's own.
func extractLayout(ctx context.Context, archive, dir string, limit int64) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := decompress(f)
	if err != nil {
		return fmt.Errorf("archive %s: %w", archive, err)
	}
	defer z.Close()
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700); err != nil {
		return err
	}
	tr := tar.NewReader(ctxReader{ctx, z})
	left := limit
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return fmt.Errorf("%s is no archive of an image: it is empty", archive)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("archive %s: %w", archive, err)
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if h.Typeflag != tar.TypeReg || !layoutFile(name) {
			continue
		}
		if left -= h.Size; left < 0 {
			return fmt.Errorf("archive %s: over the limit of %d bytes (limits { image_size })", archive, limit)
		}
		if err := writeEntry(filepath.Join(dir, filepath.FromSlash(name)), tr); err != nil {
			return fmt.Errorf("archive %s: %s: %w", archive, name, err)
		}
	}
}

// layoutFile knows the names that an OCI layout can have; none leaves it.
func layoutFile(name string) bool {
	if name == ocispec.ImageIndexFile || name == ocispec.ImageLayoutFile {
		return true
	}
	hex, ok := strings.CutPrefix(name, "blobs/sha256/")
	return ok && digest.NewDigestFromEncoded(digest.SHA256, hex).Validate() == nil
}

func writeEntry(p string, r io.Reader) error {
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// findManifest goes from a layout's index to the one image for this host.
func findManifest(r *os.Root) (d ocispec.Descriptor, name string, err error) {
	b, err := readSmall(r, ocispec.ImageIndexFile)
	if err != nil {
		return d, "", fmt.Errorf("this is no OCI layout: %w", err)
	}
	for depth := 0; depth < 4; depth++ {
		var idx ocispec.Index
		if err := json.Unmarshal(b, &idx); err != nil {
			return d, "", fmt.Errorf("image index: %w", err)
		}
		if d, err = choose(idx.Manifests); err != nil {
			return d, "", err
		}
		if name == "" {
			name = d.Annotations[refName]
		}
		switch d.MediaType {
		case ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json":
			return d, name, nil
		case ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json":
			if b, err = verifiedSmall(r, d); err != nil {
				return d, "", err
			}
		default:
			return d, "", fmt.Errorf("image index: %q is neither an image manifest nor an index", d.MediaType)
		}
	}
	return d, "", errors.New("image index: too many indexes within each other")
}

func choose(list []ocispec.Descriptor) (ocispec.Descriptor, error) {
	for _, goos := range []string{runtime.GOOS, "linux"} {
		for _, d := range list {
			if fits(d.Platform, goos) {
				return d, nil
			}
		}
	}
	var have []string
	for _, d := range list {
		if d.Platform != nil {
			have = append(have, d.Platform.OS+"/"+d.Platform.Architecture)
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("there is no image for %s/%s; there are: %s", runtime.GOOS, runtime.GOARCH, strings.Join(have, ", "))
}

func readSmall(r *os.Root, name string) ([]byte, error) {
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSmallBlob+1))
	if err == nil && len(b) > maxSmallBlob {
		err = fmt.Errorf("%s is over the limit of %d bytes", name, maxSmallBlob)
	}
	return b, err
}

func verifiedSmall(r *os.Root, d ocispec.Descriptor) ([]byte, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	b, err := readSmall(r, "blobs/sha256/"+d.Digest.Encoded())
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != d.Size {
		return nil, fmt.Errorf("blob %s has %d bytes, its descriptor says %d", d.Digest, len(b), d.Size)
	}
	if got := digest.FromBytes(b); got != d.Digest {
		return nil, fmt.Errorf("blob %s has another content: its digest is %s", d.Digest, got)
	}
	return b, nil
}

// copyImage verifies and stores the manifest, the config and the layers. What
// cannot be unpacked later is refused before any layer is copied.
func (s *Store) copyImage(ctx context.Context, r *os.Root, d ocispec.Descriptor) error {
	b, err := verifiedSmall(r, d)
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("image manifest: %w", err)
	}
	cfg, err := verifiedSmall(r, m.Config)
	if err != nil {
		return fmt.Errorf("image config: %w", err)
	}
	if err := checkConfig(cfg, len(m.Layers)); err != nil {
		return err
	}
	var total int64
	for i, l := range m.Layers {
		if _, err := decompressorFor(l.MediaType); err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
		if total += l.Size; l.Size < 0 || total > s.limits.ImageBytes {
			return fmt.Errorf("layer %d: the image is over the limit of %d bytes (limits { image_size })", i+1, s.limits.ImageBytes)
		}
	}
	for i, blob := range append([]ocispec.Descriptor{d, m.Config}, m.Layers...) {
		if err := s.copyBlob(ctx, r, blob); err != nil {
			if i >= 2 {
				err = fmt.Errorf("layer %d: %w", i-1, err)
			}
			return err
		}
	}
	return nil
}

func checkConfig(b []byte, layers int) error {
	var c ocispec.Image
	if err := json.Unmarshal(b, &c); err != nil {
		return fmt.Errorf("image config: %w", err)
	}
	if n := len(c.RootFS.DiffIDs); n != layers {
		return fmt.Errorf("the image has %d layers, its config names %d", layers, n)
	}
	if text, ok := c.Config.Labels[ManifestLabel]; ok {
		if _, err := ParseManifest([]byte(text)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) copyBlob(ctx context.Context, r *os.Root, d ocispec.Descriptor) error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	// A blob of the store was verified when it came; its size is cheap to see.
	if fi, err := os.Stat(s.blobPath(d.Digest)); err == nil && fi.Size() == d.Size {
		return nil
	}
	f, err := r.Open("blobs/sha256/" + d.Digest.Encoded())
	if err != nil {
		return fmt.Errorf("blob %s is missing: %w", d.Digest, err)
	}
	defer f.Close()
	return s.putBlob(ctx, f, d)
}

// decompressorFor knows the layer types of OCI and of Docker's manifests.
func decompressorFor(mediaType string) (func(io.Reader) (io.ReadCloser, error), error) {
	switch mediaType {
	case ocispec.MediaTypeImageLayer:
		return func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(r), nil }, nil
	case ocispec.MediaTypeImageLayerGzip, "application/vnd.docker.image.rootfs.diff.tar.gzip":
		return func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }, nil
	case ocispec.MediaTypeImageLayerZstd:
		return newZstd, nil
	}
	return nil, fmt.Errorf("the layer type %q is not known: want tar, tar+gzip or tar+zstd", mediaType)
}
