package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/therootcompany/xz"
)

// decompress finds out by its first bytes how a stream is compressed.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := buffered(r)
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
		x, err := xz.NewReader(br, xzDictionary)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	}
	return io.NopCloser(br), nil
}

// newZstd takes windows as its first frame has one, or usual ones.
func newZstd(r io.Reader) (io.ReadCloser, error) {
	br := buffered(r)
	window, err := zstdWindow(br)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(br, zstd.WithDecoderMaxMemory(uint64(window)), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}

func buffered(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, 1<<18) }

// Windows of zstd, in bytes.
const (
	usualWindow = 8 << 20   // which every decoder should have: RFC 8878, 3.1.1.1.2
	maxWindow   = 128 << 20 // of zstd --ultra -22
)

func zstdWindow(br *bufio.Reader) (int64, error) {
	head, err := br.Peek(zstd.HeaderMaxSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	var h zstd.Header
	if h.Decode(head) != nil || h.Skippable {
		return usualWindow, nil // the decoder will tell
	}
	window := h.WindowSize
	if h.SingleSegment {
		window = h.FrameContentSize
	}
	if window > maxWindow {
		return 0, fmt.Errorf("to decompress it takes a window of %d bytes, more than the limit of %d: compress it with zstd -19 or less", window, maxWindow)
	}
	return max(int64(window), usualWindow), nil
}

// decompressorFor knows the layer types of OCI and of Docker's manifests.
func decompressorFor(mediaType string) (func(io.Reader) (io.ReadCloser, error), error) {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, "application/vnd.docker.image.rootfs.diff.tar":
		return func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(r), nil }, nil
	case ocispec.MediaTypeImageLayerGzip, "application/vnd.docker.image.rootfs.diff.tar.gzip":
		return func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(buffered(r)) }, nil
	case ocispec.MediaTypeImageLayerZstd:
		return newZstd, nil
	}
	return nil, fmt.Errorf("the layer type %q is not known: want tar, tar+gzip or tar+zstd", mediaType)
}

// bounded ends a decompression that goes over a limit.
type bounded struct {
	r     io.Reader
	used  *int64
	limit int64
	what  string // the setting that makes the limit
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if *b.used += int64(n); *b.used > b.limit {
		return 0, fmt.Errorf("it unpacks to more than the limit of %d bytes (limits { %s })", b.limit, b.what)
	}
	return n, err
}

// heard tells of what is read.
type heard struct {
	io.Reader
	tell func(n int) // may be nil
}

func (h heard) Read(b []byte) (int, error) {
	n, err := h.Reader.Read(b)
	if h.tell != nil {
		h.tell(n)
	}
	return n, err
}

// extractFile is extractLayout from a file.
func extractFile(ctx context.Context, archive, dir string, l Limits, verify bool) (err error) {
	in, err := OpenInput(archive, archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	if in.root != nil {
		return fmt.Errorf("%s is a directory, not an archive", archive)
	}
	return extractLayout(ctx, in.file, archive, dir, l, verify, nil)
}

// extractLayout unpacks what belongs to an OCI layout, and nothing else, from
// an archive; names are checked against the layout's own and, with verify,
// blobs against theirs, which are digests.
func extractLayout(ctx context.Context, from io.Reader, archive, dir string, l Limits, verify bool, read func(n int)) error {
	br := buffered(heard{ctxReader{ctx, from}, read})
	release, err := reserve(ctx, br, 0)
	if err != nil {
		return fmt.Errorf("archive %s: %w", archive, err)
	}
	defer release()
	z, err := decompress(br)
	if err != nil {
		return fmt.Errorf("archive %s: %w", archive, err)
	}
	defer z.Close()
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700); err != nil {
		return err
	}
	var used int64
	left := l.ImageBytes
	tr := tar.NewReader(&bounded{r: ctxReader{ctx, z}, used: &used, limit: l.ImageBytes, what: "image_size"})
	for n := int64(0); ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return fmt.Errorf("%s is no archive of an image: it is empty", archive)
			}
			return nil
		}
		if err == nil && n >= l.Entries {
			err = fmt.Errorf("it has more than the limit of %d entries (limits { entries })", l.Entries)
		}
		if err != nil {
			return fmt.Errorf("archive %s: %w", archive, err)
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if h.Typeflag != tar.TypeReg || !layoutFile(name) {
			continue
		}
		// A sparse file unpacks to more than the archive has of it.
		if left -= h.Size; left < 0 {
			return fmt.Errorf("archive %s: %s: over the limit of %d bytes (limits { image_size })", archive, name, l.ImageBytes)
		}
		if err := writeEntry(filepath.Join(dir, filepath.FromSlash(name)), name, h.Size, tr, verify); err != nil {
			return fmt.Errorf("archive %s: %s: %w", archive, name, err)
		}
	}
}

// layoutFile knows the names that an OCI layout can have; none leaves it.
func layoutFile(name string) bool {
	return name == ocispec.ImageIndexFile || name == ocispec.ImageLayoutFile || blobDigest(name) != ""
}

// blobDigest is empty where a name is not that of a blob.
func blobDigest(name string) digest.Digest {
	hex, ok := strings.CutPrefix(name, "blobs/sha256/")
	d := digest.NewDigestFromEncoded(digest.SHA256, hex)
	if !ok || d.Validate() != nil {
		return ""
	}
	return d
}

func writeEntry(p, name string, size int64, r io.Reader, verify bool) error {
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return errors.New("it is there twice")
	}
	if err != nil {
		return err
	}
	if d := blobDigest(name); d != "" && verify {
		r = newVerifier(r, ocispec.Descriptor{Digest: d, Size: size})
	}
	_, err = copyAll(f, r)
	return errors.Join(err, f.Close())
}
