package blob

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"

	"github.com/freejail/freejail/image/document"
)

// Decompress finds out by its first bytes whether a stream is gzip, zstd or xz,
// and gives what it holds; anything else is given as it is.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	br := Buffered(r)
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
	br := Buffered(r)
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

// Buffered reads ahead.
func Buffered(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, 1<<18) }

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
		return 0, fmt.Errorf("zstd window of %d bytes is over the limit of %d: compress it with zstd -19 or less",
			window, maxWindow)
	}
	return max(int64(window), usualWindow), nil
}

// Decompressor knows how to read a layer of a type.
func Decompressor(mediaType string) (func(io.Reader) (io.ReadCloser, error), error) {
	how, err := document.LayerCompression(mediaType)
	switch how {
	case document.None:
		return func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(r), nil }, nil
	case document.Gzip:
		return func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(Buffered(r)) }, nil
	case document.Zstd:
		return newZstd, nil
	}
	return nil, err
}

// CutOff names what an unexpected end is.
func CutOff(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("truncated: %w", err)
	}
	return err
}
