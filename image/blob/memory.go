package blob

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"

	"golang.org/x/sync/semaphore"
)

// Memory that reading takes, in bytes. Who comes when too much is taken already
// waits.
const (
	MaxMemory    = 768 << 20 // of all unpackings and imports of this process
	xzDictionary = 128 << 20
)

var memory = semaphore.NewWeighted(MaxMemory)

// Reserve waits for the memory to decompress a stream, and for more beside it.
// It must not be called again before release.
func Reserve(ctx context.Context, br *bufio.Reader, more int64) (release func(), err error) {
	n, err := decoderMemory(br)
	if err != nil {
		return nil, err
	}
	if n += more; n == 0 {
		return func() {}, nil
	}
	if err := memory.Acquire(ctx, n); err != nil {
		return nil, err
	}
	return func() { memory.Release(n) }, nil
}

// decoderMemory is what the decoder of a stream will take, by what it begins
// with. Where that is little it is 0.
func decoderMemory(br *bufio.Reader) (int64, error) {
	head, err := br.Peek(6)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return 0, err
	case bytes.HasPrefix(head, []byte(zstdMagic)):
		window, err := zstdWindow(br)
		return 2 * window, err // the decoder keeps as much again, to move it seldom
	case string(head) == xzMagic:
		return xzDictionary, nil
	}
	return 0, nil
}
