package blob

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// Compression finds out by its first bytes whether a stream is gzip, bzip2, zstd or xz;
// empty is none of them.
func Compression(r io.Reader) (string, error) {
	head, err := Buffered(r).Peek(10)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	switch begins := func(magic string) bool { return strings.HasPrefix(string(head), magic) }; {
	case begins(gzipMagic):
		return "gzip", nil
	case begins("BZh") && strings.HasSuffix(string(head), "1AY&SY"):
		return "bzip2", nil
	case begins(zstdMagic), len(head) > 3 && head[0]>>4 == 5 && string(head[1:4]) == skippable:
		return "zstd", nil
	case begins(xzMagic):
		return "xz", nil
	}
	return "", nil
}

// Decompress gives what a stream holds that is compressed in one of the ways which
// Compression knows; anything else is given as it is.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	br := Buffered(r)
	how, err := Compression(br)
	if err != nil {
		return nil, err
	}
	switch how {
	case "gzip":
		return gzip.NewReader(br)
	case "bzip2":
		return io.NopCloser(bzip2.NewReader(br)), nil
	case "zstd":
		return newZstd(br)
	case "xz":
		x, err := xz.NewReader(br, xzDictionary)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	}
	return io.NopCloser(br), nil
}

// What streams begin with: RFC 1952, RFC 8878, and the .xz file format.
const (
	gzipMagic = "\x1f\x8b"
	zstdMagic = "\x28\xb5\x2f\xfd"
	skippable = "\x2a\x4d\x18" // of zstd, behind a byte from 0x50 to 0x5f
	xzMagic   = "\xfd7zXZ\x00"
)

// newZstd takes windows as its first frame has one, or usual ones in later frames.
func newZstd(r io.Reader) (io.ReadCloser, error) {
	br := Buffered(r)
	window, err := zstdWindow(br)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(br, zstd.WithDecoderMaxMemory(uint64(window)), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return &zstdReader{z.IOReadCloser(), window}, nil
}

type zstdReader struct {
	io.ReadCloser
	window int64
}

func (z *zstdReader) Read(b []byte) (int, error) {
	n, err := z.ReadCloser.Read(b)
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		err = fmt.Errorf("zstd: a frame that is not the first has a window of more than %d bytes: compress it with "+
			"zstd -19 or less, without --long", z.window)
	}
	return n, err
}

// Buffered reads ahead.
func Buffered(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, 1<<18) }

// Windows of zstd, in bytes.
const (
	usualWindow = 32 << 20  // of zstd:chunked: every file is a frame, small ones with small windows
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
		return 0, fmt.Errorf("zstd window of %d bytes is over the limit of %d: compress it with zstd -19 or less",
			window, maxWindow)
	}
	return max(int64(window), usualWindow), nil
}

// CutOff names what an unexpected end is.
func CutOff(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("truncated: %w", err)
	}
	return err
}
