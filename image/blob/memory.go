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
	MaxMemory      = 768 << 20 // of all unpackings and imports of this process of what is here
	MaxEarlyMemory = 384 << 20 // of all of what arrives, beside that
	xzDictionary   = 128 << 20
)

var memory, earlyMemory = semaphore.NewWeighted(MaxMemory), semaphore.NewWeighted(MaxEarlyMemory)

// ErrNoMemory is ReserveEarly's where there is too little.
var ErrNoMemory = errors.New("too little memory is left to unpack it while it arrives")

// ReserveEarly is Reserve for a stream that arrives, maybe slowly. It waits for no memory, and takes none that others
// wait for.
func ReserveEarly(br *bufio.Reader, more int64) (release func(), err error) {
	n, err := decoderMemory(br)
	if err != nil {
		return nil, err
	}
	if n += more; !earlyMemory.TryAcquire(n) {
		return nil, ErrNoMemory
	}
	return func() { earlyMemory.Release(n) }, nil
}

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
		return 2 * window, err // as much again is garbage where windows grow from frame to frame
	case string(head) == xzMagic:
		return xzDictionary, nil
	}
	return 0, nil
}
