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
	"slices"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/durable"
)

// partialDir has what broken downloads have got, by digest and source. Unlike tmp it
// outlives the process.
const partialDir = "partial"

// keepPartial is how long it is of use to a task that is started again.
const keepPartial = time.Hour

// ErrNoBlob is an Origin's that has no such blob: what came of it earlier is of no use.
var ErrNoBlob = errors.New("there is no such blob")

// Sourced is an Origin that tells where it takes blobs from. A slow one keeps none that another source has from coming.
type Sourced interface{ Source() string }

// partialName is the file of a download. Each source has its own of a blob.
func partialName(source string, d digest.Digest) string {
	name := d.Encoded()
	if source != "" {
		sum := sha256.Sum256([]byte(source))
		name += fmt.Sprintf("-%x", sum[:8])
	}
	return path.Join(partialDir, name)
}

func sourceOf(from Origin) string {
	if o, ok := from.(Sourced); ok {
		return o.Source()
	}
	return ""
}

// fetchBlob gets a blob that is not there yet. tell hears of every byte that has come, and of fewer again where a
// download has to begin anew.
func (s *Store) fetchBlob(ctx context.Context, from Origin, d ocispec.Descriptor, tell func(n int64)) error {
	if err := document.CheckDigest(d.Digest); err != nil {
		return err
	}
	if l, ok := from.(*Layout); ok { // it is here: a slow download of the same is not waited for
		err := l.give(ctx, s, d)
		if err == nil {
			s.came(d.Digest)
		}
		return err
	}
	temp := partialName(sourceOf(from), d.Digest)
	release, err := s.fetching.Lock(ctx, temp)
	if err != nil {
		return err
	}
	defer release()
	err = s.fetchTo(ctx, temp, from, d, tell)
	return errors.Join(err, s.wrote(temp, err))
}

func (s *Store) fetchTo(ctx context.Context, temp string, from Origin, d ocispec.Descriptor,
	tell func(n int64)) error {
	for {
		within, end := s.writes(ctx, temp, d.Digest)
		if s.has(d) {
			end()
			return s.dropPartial(temp)
		}
		resumed, err := s.download(within, from, d, temp, tell)
		elseCame := within.Err() != nil && ctx.Err() == nil
		end()
		var wrong *blob.ContentError
		switch {
		case err == nil:
			s.came(d.Digest)
			return nil
		case elseCame: // and is found
		// What an earlier download left may have been damaged, by a crash of
		// the host.
		case resumed && errors.As(err, &wrong) || elsewhere(from, d, err):
		default:
			return err
		}
	}
}

// writes notes that a file is written, for a blob. The context ends where that comes by another way.
func (s *Store) writes(ctx context.Context, temp string, d digest.Digest) (within context.Context, end func()) {
	within, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing[temp] = &writing{d, cancel}
	return within, cancel
}

// writing is a download that is under way.
type writing struct {
	digest digest.Digest
	cancel func()
}

// came ends the downloads of a blob that is there.
func (s *Store) came(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.writing {
		if w.digest == d {
			w.cancel()
		}
	}
}

// wrote notes the end of a download, and bounds what all that have broken leave.
func (s *Store) wrote(temp string, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writing, temp)
	most := s.limits.LayerBytes
	if noSpace(err) {
		most = 0
	}
	_, err = s.sweepPartial(most)
	return err
}

func noSpace(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

func (s *Store) dropPartial(temp string) error {
	if err := s.root.Remove(temp); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *Store) download(ctx context.Context, from Origin, d ocispec.Descriptor, temp string,
	tell func(int64)) (resumed bool, err error) {
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
	if errors.As(err, &wrong) || noSpace(err) || errors.Is(err, ErrNoBlob) || p.n == 0 {
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

// sweepPartial removes what broken downloads have left and nobody came back for, and the oldest of it where all is more
// than so many bytes. The caller holds the lock.
func (s *Store) sweepPartial(most int64) (freed int64, err error) {
	files, err := s.list(partialDir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, fi := range files {
		file := path.Join(partialDir, fi.Name())
		if s.writing[file] != nil {
			continue
		}
		most -= fi.Size()
		if most >= 0 && time.Since(fi.ModTime()).Abs() < keepPartial { // of a clock that was ahead too
			continue
		}
		if rerr := s.root.Remove(file); rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		freed += fi.Size()
	}
	return freed, err
}
