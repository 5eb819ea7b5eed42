package unpack

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// writers fill files while the archive is read on. They only know open files,
// and never a name: whatever later entries do to names is no concern of theirs.
type writers struct {
	free chan []byte // the blocks that are not in use: all there is in memory
	jobs chan piece
	work sync.WaitGroup
	err  atomic.Pointer[error] // the first
}

// outFile is a file that gets its content, and at last all else. Whoever puts
// refs to zero closes it.
type outFile struct {
	fd       int
	name     string // as the archive has it
	mode     uint32
	chown    bool
	uid, gid int
	times    [2]unix.Timespec
	refs     atomic.Int32
}

type piece struct {
	file   *outFile
	block  []byte
	offset int64
}

const (
	blockSize  = 1 << 17
	blocks     = 16
	maxWriters = 4
)

func newWriters() *writers {
	w := &writers{free: make(chan []byte, blocks), jobs: make(chan piece, blocks)}
	for range blocks {
		w.free <- make([]byte, blockSize)
	}
	for range min(runtime.GOMAXPROCS(0), maxWriters) {
		w.work.Go(w.run)
	}
	return w
}

// write takes a file's content from an archive. It returns before that is on
// the disk; the file is closed in any case.
func (w *writers) write(f *outFile, r io.Reader, size int64) error {
	f.refs.Store(1)
	var err error
	for at := int64(0); at < size && err == nil && !w.failed(); at += blockSize {
		block := (<-w.free)[:min(blockSize, size-at)]
		if _, err = io.ReadFull(r, block); err != nil {
			w.free <- block[:blockSize]
			break
		}
		f.refs.Add(1)
		w.jobs <- piece{f, block, at} // as many places as blocks: never waits
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	w.release(f)
	return err
}

func (w *writers) run() {
	for p := range w.jobs {
		if err := writeAt(p.file.fd, p.block, p.offset); err != nil {
			w.fail(p.file, err)
		}
		w.free <- p.block[:blockSize]
		w.release(p.file)
	}
}

func (w *writers) release(f *outFile) {
	if f.refs.Add(-1) > 0 {
		return
	}
	if err := errors.Join(f.finish(), unix.Close(f.fd)); err != nil {
		w.fail(f, err)
	}
}

func (f *outFile) finish() error {
	if f.chown {
		if err := unix.Fchown(f.fd, f.uid, f.gid); err != nil {
			return err
		}
	}
	// After the owner: changing that takes setuid bits away.
	if err := unix.Fchmod(f.fd, f.mode); err != nil {
		return err
	}
	return setTimes(f.fd, &f.times)
}

func (w *writers) fail(f *outFile, err error) {
	err = fmt.Errorf("entry %q: %w", f.name, err)
	w.err.CompareAndSwap(nil, &err)
}

func (w *writers) failed() bool { return w.err.Load() != nil }

// wait returns the first error when all is written. After it write must not be
// called any more.
func (w *writers) wait() error {
	close(w.jobs)
	w.work.Wait()
	if err := w.err.Load(); err != nil {
		return *err
	}
	return nil
}

func writeAt(fd int, b []byte, offset int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, offset)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		n = max(n, 0)
		b, offset = b[n:], offset+int64(n)
	}
	return nil
}
