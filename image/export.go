package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/internal/regular"
)

// Add stores a blob, such as a layer that is being built, and returns its
// descriptor. GC spares it until Put names an image that has it, or the process
// ends.
func (s *Store) Add(ctx context.Context, mediaType string, r io.Reader) (ocispec.Descriptor, error) {
	f, err := os.CreateTemp(s.tmpDir(), "blob-")
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	h := sha256.New()
	n, err := copyAll(io.MultiWriter(f, h), ctxReader{ctx, r})
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.NewDigest(digest.SHA256, h), Size: n}
	s.mu.Lock()
	s.added[d.Digest] = true
	s.mu.Unlock()
	return d, s.keep(f, d.Digest, err)
}

// Put makes an image of a config and of layers that are in the store (by Add or
// by Import), under a name; annotations are the manifest's and may be nil.
// cfg.RootFS.DiffIDs must name the layers' uncompressed digests in order.
func (s *Store) Put(ctx context.Context, name string, cfg ocispec.Image, layers []ocispec.Descriptor, annotations map[string]string) (*Image, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers: append([]ocispec.Descriptor{}, layers...), Annotations: annotations}
	for i, l := range layers {
		if fi, err := os.Stat(s.blobPath(l.Digest)); err != nil {
			return nil, fmt.Errorf("layer %d is not in the store: %w", i+1, err)
		} else if fi.Size() != l.Size {
			return nil, fmt.Errorf("layer %d (%s) has %d bytes, its descriptor says %d", i+1, l.Digest, fi.Size(), l.Size)
		}
	}
	var err error
	if m.Config, err = s.addJSON(ctx, ocispec.MediaTypeImageConfig, cfg); err != nil {
		return nil, err
	}
	d, err := s.addJSON(ctx, m.MediaType, m)
	if err != nil {
		return nil, err
	}
	d.Annotations = map[string]string{refName: name}
	img, err := s.load(d)
	if err != nil {
		return nil, err
	}
	if err := s.setName(d); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range append([]ocispec.Descriptor{d, m.Config}, layers...) {
		delete(s.added, b.Digest)
	}
	return img, nil
}

func (s *Store) addJSON(ctx context.Context, mediaType string, v any) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return s.Add(ctx, mediaType, bytes.NewReader(b))
}

// Export writes an image as an oci-archive (a plain tar of an OCI layout). The
// same image gives the same bytes.
func (s *Store) Export(ctx context.Context, ref string, w io.Writer) error {
	tw := tar.NewWriter(w)
	put := func(name string, size int64, r io.Reader) error { return tarFile(tw, name, size, r) }
	if err := s.export(ctx, ref, put); err != nil {
		return fmt.Errorf("export %s: %w", ref, err)
	}
	return tw.Close()
}

// WriteLayout writes an image as an OCI layout into a directory, which is made
// where it is missing and must otherwise be empty.
func (s *Store) WriteLayout(ctx context.Context, ref, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	return s.WriteLayoutTo(ctx, ref, func(name string) (io.WriteCloser, error) {
		return os.OpenFile(filepath.Join(dir, filepath.FromSlash(name)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	})
}

// Maker makes a file of a layout, of which the directories are there.
type Maker func(name string) (io.WriteCloser, error)

// WriteLayoutTo is WriteLayout for who makes the files himself.
func (s *Store) WriteLayoutTo(ctx context.Context, ref string, make Maker) error {
	put := func(name string, size int64, r io.Reader) error {
		f, err := make(name)
		if err != nil {
			return err
		}
		_, err = copyAll(f, r)
		return errors.Join(err, f.Close())
	}
	if err := s.export(ctx, ref, put); err != nil {
		return fmt.Errorf("export %s: %w", ref, err)
	}
	return nil
}

func (s *Store) export(ctx context.Context, ref string, put func(name string, size int64, r io.Reader) error) error {
	d, err := s.find(ref)
	if err != nil {
		return err
	}
	img, err := s.load(d)
	if err != nil {
		return err
	}
	m, err := s.manifestOf(d)
	if err != nil {
		return err
	}
	d.Platform = &ocispec.Platform{OS: img.Config.OS, Architecture: img.Config.Architecture,
		OSVersion: img.Config.OSVersion, Variant: img.Config.Variant}
	idx, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d}})
	if err != nil {
		return err
	}
	if err := put(ocispec.ImageLayoutFile, int64(len(layoutText)), strings.NewReader(layoutText)); err != nil {
		return err
	}
	if err := put(ocispec.ImageIndexFile, int64(len(idx)), bytes.NewReader(idx)); err != nil {
		return err
	}
	done := map[digest.Digest]bool{}
	for _, b := range append([]ocispec.Descriptor{d, m.Config}, m.Layers...) {
		if done[b.Digest] {
			continue // two equal layers are one blob
		}
		done[b.Digest] = true
		if err := s.exportBlob(ctx, b, put); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) exportBlob(ctx context.Context, b ocispec.Descriptor, put func(string, int64, io.Reader) error) error {
	f, err := s.openBlob(b.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	return put(blobName(b.Digest), b.Size, newVerifier(ctxReader{ctx, f}, b))
}

// WriteArchive writes the files of an OCI layout directory as an oci-archive,
// every blob with its digest verified. Files that are no part of a layout are
// left out.
func WriteArchive(ctx context.Context, w io.Writer, layoutDir string) error {
	root, err := regular.Root(layoutDir)
	if err != nil {
		return err
	}
	defer root.Close()
	names := []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile}
	entries, err := os.ReadDir(filepath.Join(layoutDir, "blobs", "sha256"))
	if err != nil {
		return fmt.Errorf("%s is no OCI layout: %w", layoutDir, err)
	}
	for _, e := range entries { // sorted by name
		if name := "blobs/sha256/" + e.Name(); layoutFile(name) {
			names = append(names, name)
		}
	}
	tw := tar.NewWriter(w)
	for _, name := range names {
		if err := archiveFile(ctx, tw, root, name); err != nil {
			return fmt.Errorf("%s: %s: %w", layoutDir, name, err)
		}
	}
	return tw.Close()
}

func archiveFile(ctx context.Context, tw *tar.Writer, root *os.Root, name string) error {
	f, size, err := openRegular(root, name)
	if err != nil {
		return err
	}
	defer f.Close()
	var r io.Reader = ctxReader{ctx, f}
	if d := blobDigest(name); d != "" {
		r = newVerifier(r, ocispec.Descriptor{Digest: d, Size: size})
	}
	return tarFile(tw, name, size, r)
}

func tarFile(tw *tar.Writer, name string, size int64, r io.Reader) error {
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	if size < 1<<33 {
		h.Format = tar.FormatUSTAR
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	n, err := copyAll(tw, r)
	if err == nil && n != size {
		err = fmt.Errorf("it has %d bytes, expected %d", n, size)
	}
	return err
}

// checkName keeps names usable as references and harmless on a terminal.
func checkName(name string) error {
	if strings.HasPrefix(name, "sha256:") {
		return fmt.Errorf("image name %q: what begins so is a digest", name)
	}
	plain, hex, pinned := strings.Cut(name, "@sha256:")
	if !imageName.MatchString(plain) || pinned && digest.NewDigestFromEncoded(digest.SHA256, hex).Validate() != nil {
		return fmt.Errorf("image name %q: want up to 255 letters, digits and . _ / : + -, beginning with a letter or digit, and at most a digest behind an @", name)
	}
	return nil
}
