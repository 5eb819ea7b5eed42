package layout

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/durable"
)

// partialDir has what broken downloads have got, by digest. Unlike tmp it
// outlives the process.
const partialDir = "partial"

// keepPartial is how long it is of use to a task that is started again.
const keepPartial = time.Hour

// fetchBlob gets a blob that is not there yet. tell hears of every byte that is
// there, and of fewer again where a download has to begin anew.
func (s *Store) fetchBlob(ctx context.Context, from Origin, d ocispec.Descriptor, tell func(n int64)) error {
	if err := document.CheckDigest(d.Digest); err != nil {
		return err
	}
	if l, ok := from.(*Layout); ok { // it is here: a slow download of the same is not waited for
		err := l.give(ctx, s, d)
		if err == nil {
			tell(d.Size)
		}
		return err
	}
	release, err := s.fetching.Lock(ctx, d.Digest.String())
	if err != nil {
		return err
	}
	defer release()
	if s.has(d) {
		tell(d.Size)
		return nil
	}
	for {
		resumed, err := s.download(ctx, from, d, tell)
		var wrong *blob.ContentError
		// What an earlier download left may have been damaged, by a crash of
		// the host.
		if err == nil || !(resumed && errors.As(err, &wrong)) && !elsewhere(from, d, err) {
			return err
		}
	}
}

func (s *Store) download(ctx context.Context, from Origin, d ocispec.Descriptor,
	tell func(int64)) (resumed bool, err error) {
	temp := path.Join(partialDir, d.Digest.Encoded())
	if err := s.root.MkdirAll(partialDir, 0o700); err != nil {
		return false, blob.ExplainNoSpace(err)
	}
	f, err := s.root.OpenFile(temp, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, blob.ExplainNoSpace(err)
	}
	p := &partial{f: f, d: d, hash: sha256.New(), tell: tell}
	if err := p.recall(ctx); err != nil {
		return false, errors.Join(err, f.Close())
	}
	resumed = p.n > 0
	err = p.rest(ctx, from)
	if err == nil {
		if err = blob.Compare(d, p.n, p.hash); err == nil {
			return resumed, blob.ExplainNoSpace(durable.Commit(s.root, f, temp, blobName(d.Digest), nil))
		}
	}
	var wrong *blob.ContentError
	if errors.As(err, &wrong) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		tell(-p.n)
		err = errors.Join(err, s.root.Remove(temp))
	}
	return resumed, errors.Join(blob.ExplainNoSpace(err), f.Close())
}

// partial is a blob of which the first n bytes are there.
type partial struct {
	f    *os.File
	d    ocispec.Descriptor
	hash hash.Hash
	n    int64
	tell func(int64)
}

// recall takes in what an earlier download left.
func (p *partial) recall(ctx context.Context) error {
	n, err := blob.Copy(p.hash, blob.WithContext(ctx, p.f))
	if err != nil {
		return err
	}
	p.n = n
	p.tell(n)
	if n > p.d.Size {
		return p.restart()
	}
	return nil
}

func (p *partial) restart() error {
	p.tell(-p.n)
	p.n = 0
	p.hash.Reset()
	if _, err := p.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return p.f.Truncate(0)
}

// rest appends what is missing.
func (p *partial) rest(ctx context.Context, from Origin) (err error) {
	if p.n == p.d.Size && p.n > 0 {
		return nil
	}
	r, at, err := from.Open(ctx, p.d, p.n)
	if err != nil {
		return err
	}
	defer r.Close()
	if at != p.n {
		if at != 0 {
			return fmt.Errorf("blob %s: asked for what follows byte %d, got what follows %d", p.d.Digest, p.n, at)
		}
		if err := p.restart(); err != nil {
			return err
		}
	}
	_, err = blob.Copy(p, io.LimitReader(blob.WithContext(ctx, r), p.d.Size-p.n+1))
	return err
}

func (p *partial) Write(b []byte) (int, error) {
	n, err := p.f.Write(b)
	p.hash.Write(b[:n])
	p.n += int64(n)
	p.tell(int64(n))
	return n, err
}

// sweepPartial removes what broken downloads have left and nobody came back
// for.
func (s *Store) sweepPartial() (freed int64, err error) {
	files, err := s.list(partialDir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	for _, fi := range files {
		if time.Since(fi.ModTime()).Abs() < keepPartial { // of a clock that was ahead too
			continue
		}
		if rerr := s.root.Remove(path.Join(partialDir, fi.Name())); rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		freed += fi.Size()
	}
	return freed, err
}
