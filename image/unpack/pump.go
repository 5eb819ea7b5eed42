package unpack

import (
	"crypto/sha256"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// pump reads ahead, so that reading, decompression, hashing and writing files
// overlap.
type pump struct {
	free chan *chunk
	data chan *chunk // for Read
	sums chan *chunk // for the hash; nil without one
	quit chan struct{}
	work sync.WaitGroup
	hash hash.Hash
	size int64 // of what the source gave
	err  error // how the source ended; set before data is closed
	cur  *chunk
	rest []byte
}

type chunk struct {
	buf  []byte
	n    int
	refs atomic.Int32
}

const (
	chunkSize = 1 << 18
	chunks    = 8
)

// newPump starts to read, and to hash where that is wanted; stop must be called before the source is closed.
func newPump(r io.Reader, hashed bool) *pump {
	p := &pump{free: make(chan *chunk, chunks), data: make(chan *chunk, chunks), quit: make(chan struct{}),
		hash: sha256.New()}
	for range chunks {
		p.free <- &chunk{buf: make([]byte, chunkSize)}
	}
	if hashed {
		p.sums = make(chan *chunk, chunks)
		p.work.Go(p.sum)
	}
	p.work.Go(func() { p.fill(r) })
	return p
}

func (p *pump) fill(r io.Reader) {
	defer close(p.data)
	uses := int32(1)
	if p.sums != nil {
		uses = 2
		defer close(p.sums)
	}
	for p.err == nil {
		var c *chunk
		select {
		case c = <-p.free:
		case <-p.quit:
			return
		}
		// io.ReadFull would hide whether the source itself ended unexpectedly.
		for c.n = 0; c.n < len(c.buf) && p.err == nil; {
			var n int
			n, p.err = r.Read(c.buf[c.n:])
			c.n += n
		}
		p.size += int64(c.n)
		c.refs.Store(uses)
		if p.sums != nil {
			p.sums <- c // as many places as chunks: never waits
		}
		p.data <- c
	}
}

func (p *pump) sum() {
	for c := range p.sums {
		p.hash.Write(c.buf[:c.n])
		p.release(c)
	}
}

func (p *pump) release(c *chunk) {
	if c.refs.Add(-1) == 0 {
		p.free <- c
	}
}

// Read gives what the source gives, and its error.
func (p *pump) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.cur != nil {
			p.release(p.cur)
			p.cur = nil
		}
		c, ok := <-p.data
		if !ok {
			return 0, p.err
		}
		p.cur, p.rest = c, c.buf[:c.n]
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// drain takes what is left of the source, and returns the size of all that it gave.
func (p *pump) drain() (int64, error) {
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{p}); err != nil {
		return 0, err
	}
	p.work.Wait()
	return p.size, nil
}

// digest drains the source, whose padding counts too, and returns the digest of all that it gave, which was hashed.
func (p *pump) digest() (digest.Digest, error) {
	_, err := p.drain()
	return digest.NewDigest(digest.SHA256, p.hash), err
}

// stop ends the reading. After it nothing uses the source.
func (p *pump) stop() {
	close(p.quit)
	p.work.Wait()
}
