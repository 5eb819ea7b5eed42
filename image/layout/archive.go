package layout

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/internal/regular"
)

// WriteArchive writes a layout's files as an oci-archive, every blob with its digest
// verified. Files that are no part of a layout are left out.
func (l *Layout) WriteArchive(ctx context.Context, w io.Writer) error {
	blobs, err := l.Blobs()
	if err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	names := []string{ocispec.ImageLayoutFile, indexFile}
	for _, fi := range blobs {
		if name := blobDir + "/" + fi.Name(); layoutFile(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names[2:])
	tw := tar.NewWriter(w)
	for _, name := range names {
		if err := archiveFile(ctx, tw, l.root, name); err != nil {
			return fmt.Errorf("%s: %s: %w", l.name, name, err)
		}
	}
	return tw.Close()
}

func archiveFile(ctx context.Context, tw *tar.Writer, root *os.Root, name string) error {
	f, fi, err := regular.OpenIn(root, name)
	if err != nil {
		return err
	}
	defer f.Close()
	var r io.Reader = blob.WithContext(ctx, f)
	if d := blobDigest(name); d != "" {
		r = blob.Verify(r, ocispec.Descriptor{Digest: d, Size: fi.Size()})
	}
	return tarFile(tw, name, fi.Size(), r)
}

func tarFile(tw *tar.Writer, name string, size int64, r io.Reader) error {
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0),
		Format: tar.FormatPAX}
	if size < 1<<33 {
		h.Format = tar.FormatUSTAR
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	n, err := blob.Copy(tw, r)
	if err == nil && n != size {
		err = fmt.Errorf("it has %d bytes, expected %d", n, size)
	}
	return err
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
	if err := os.MkdirAll(filepath.Join(dir, blobDir), 0o755); err != nil {
		return err
	}
	return s.WriteLayoutTo(ctx, ref, func(name string) (io.WriteCloser, error) {
		return os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
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
		_, err = blob.Copy(f, r)
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
	img, m, err := image.Read(s.ReadBlob, d)
	if err != nil {
		return err
	}
	d.Platform = &ocispec.Platform{OS: img.Config.OS, Architecture: img.Config.Architecture,
		OSVersion: img.Config.OSVersion, Variant: img.Config.Variant}
	idx, err := json.Marshal(newIndex(d))
	if err != nil {
		return err
	}
	if err := put(ocispec.ImageLayoutFile, int64(len(versionText)), strings.NewReader(versionText)); err != nil {
		return err
	}
	if err := put(indexFile, int64(len(idx)), bytes.NewReader(idx)); err != nil {
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
	f, err := s.OpenBlob(b.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	return put(blobName(b.Digest), b.Size, blob.Verify(blob.WithContext(ctx, f), b))
}
