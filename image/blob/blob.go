// Package blob reads blobs, such as an image's layers, that somebody else has
// made: verified, decompressed, and bounded in bytes and in memory.
package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// verifier passes a blob on and ends with an error instead of io.EOF if it was
// not what its descriptor says.
type verifier struct {
	r    io.Reader
	d    ocispec.Descriptor
	hash hash.Hash
	n    int64
}

// Verify gives a blob's content, and an error instead of io.EOF if that was not
// what its descriptor says: a *ContentError.
func Verify(r io.Reader, d ocispec.Descriptor) io.Reader {
	return &verifier{r: r, d: d, hash: sha256.New()}
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.n += int64(n)
	v.hash.Write(p[:n])
	if v.n > v.d.Size {
		return 0, Compare(v.d, v.n, v.hash)
	}
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if err := Compare(v.d, v.n, v.hash); err != nil {
		return n, err
	}
	return n, io.EOF
}

// ContentError is a blob that is not what its descriptor says.
type ContentError struct{ error }

// Compare tells whether n bytes of a SHA-256 hash are what a descriptor says: a
// *ContentError.
func Compare(d ocispec.Descriptor, n int64, h hash.Hash) error {
	switch got := digest.NewDigest(digest.SHA256, h); {
	case n > d.Size:
		return &ContentError{fmt.Errorf("blob %s is longer than the %d bytes that its descriptor says",
			d.Digest, d.Size)}
	case n < d.Size:
		return &ContentError{fmt.Errorf("blob %s has %d bytes, its descriptor says %d", d.Digest, n, d.Size)}
	case got != d.Digest:
		return Mismatch(d.Digest, got)
	}
	return nil
}

// Mismatch is the error of a blob whose content has another digest.
func Mismatch(want, got digest.Digest) error {
	return &ContentError{fmt.Errorf("blob %s: digest mismatch: its content has %s", want, got)}
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

// WithContext ends reading with ctx.
func WithContext(ctx context.Context, r io.Reader) io.Reader { return ctxReader{ctx, r} }

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

type limited struct {
	r     io.Reader
	used  *int64
	limit int64
	what  string
}

// Limit ends reading with an error once more than limit bytes, those that used
// counts already among them, were read. what is the setting that makes the limit.
func Limit(r io.Reader, used *int64, limit int64, what string) io.Reader {
	return &limited{r, used, limit, what}
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if *l.used += int64(n); *l.used > l.limit {
		return 0, fmt.Errorf("it unpacks to more than the limit of %d bytes (limits { %s })", l.limit, l.what)
	}
	return n, err
}

type counted struct {
	io.Reader
	tell func(n int)
}

// Count tells how many bytes each Read gave; tell may be nil.
func Count(r io.Reader, tell func(n int)) io.Reader {
	if tell == nil {
		return r
	}
	return counted{r, tell}
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.tell(n)
	return n, err
}

// Copy copies through a large buffer.
func Copy(w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 1<<18))
}

// ExplainNoSpace says what to do about a full disk.
func ExplainNoSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("no space left: free some, or remove images that are not needed and run `freejail gc`: %w",
			err)
	}
	return err
}
