package storage

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// InodeBytes is what a file or directory counts at the least, be it empty: 4 KiB,
// the fragment of UFS and the block of ext4. So a limit in bytes limits the
// number of files too.
const InodeBytes = 4096

// MinDisk is the least Options.DiskBytes: a ZFS clone takes some KiB by itself.
const MinDisk = 1 << 20

// ErrUncountable means that a task made a tree which cannot be measured.
var ErrUncountable = errors.New("directories are nested too deep to be measured")

const (
	// meterDepth is how many directories a measurement holds open at once. Trees
	// that are deeper are gone through in pieces, by file handles.
	meterDepth = 64
	// meterPieces bounds the handles that are kept.
	meterPieces = 1 << 16
	// meterBatch is how many entries are looked at between two pauses.
	meterBatch = 1024
)

// written are the directories of a root that hold what its task wrote.
var written = []string{"upper", "work", "own"}

// Meter measures what one task has written to its root, for the drivers whose
// file system has no limit for it. It follows neither links nor paths: a
// directory is opened within the one that lists it. Its methods are for one
// goroutine.
type Meter struct {
	dir *os.File
	dev uint64
}

// Meter opens the directory of a task that has a root.
func (d *dirs) Meter(task string) (*Meter, error) {
	if err := checkName("task", task); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(d.path("roots", task), unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("storage: root: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(fmt.Errorf("storage: root: %w", err), f.Close())
	}
	return &Meter{dir: f, dev: uint64(st.Dev)}, nil
}

// Close lets go of the directory.
func (m *Meter) Close() error { return m.dir.Close() }

// Free tells how many bytes the file system has left, InodeBytes for each free
// inode included. It costs one system call; as long as it does not fall, nobody
// writes.
func (m *Meter) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(m.dir.Fd()), &st); err != nil {
		return 0, fmt.Errorf("storage: statfs: %w", err)
	}
	return int64(st.Bfree)*int64(st.Bsize) + int64(st.Ffree)*InodeBytes, nil
}

// Measure adds up, in bytes, the blocks that are allocated to what the task wrote,
// each inode once and with InodeBytes at the least. Over the limit it ends early.
// It calls pause with the number of entries since the last pause, a thousand at the
// most, and ends with its error. What the task moves meanwhile may be missed; what
// has no name any more is not found.
func (m *Meter) Measure(limit int64, pause func(entries int) error) (int64, error) {
	w := &measuring{dev: m.dev, limit: limit, pause: pause}
	for _, name := range written {
		if err := w.entry(m.dir, name, -1); err != nil {
			return w.sum, err
		}
	}
	for len(w.deep) > 0 && w.sum <= limit {
		h := w.deep[len(w.deep)-1]
		w.deep = w.deep[:len(w.deep)-1]
		f, err := h.open(m.dir)
		if gone(err) {
			continue
		}
		if err == nil {
			err = w.walk(f, 0)
		}
		if err != nil {
			return w.sum, err
		}
	}
	if w.sum > limit {
		return w.sum, nil
	}
	return w.sum, pause(w.seen)
}

// measuring is one measurement.
type measuring struct {
	dev        uint64
	limit, sum int64
	seen       int // entries since the last pause
	pause      func(int) error
	deep       []dirHandle // what is left to be gone through
}

// walk goes through a directory, which it closes.
func (w *measuring) walk(dir *os.File, depth int) (err error) {
	defer func() { err = errors.Join(err, dir.Close()) }()
	for w.sum <= w.limit {
		names, err := dir.Readdirnames(256)
		if errors.Is(err, io.EOF) || gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := w.entry(dir, name, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *measuring) entry(dir *os.File, name string, depth int) error {
	if w.seen++; w.seen == meterBatch {
		w.seen = 0
		if err := w.pause(meterBatch); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if gone(err) {
		return nil // or the whiteout of a union
	}
	if err != nil {
		return &os.PathError{Op: "fstatat", Path: name, Err: err}
	}
	if uint64(st.Dev) != w.dev {
		return nil
	}
	w.sum += allocated(&st)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || w.sum > w.limit {
		return nil
	}
	return w.below(dir, name, depth+1)
}

// below goes through a directory in another one, now or later.
func (w *measuring) below(dir *os.File, name string, depth int) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if gone(err) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "openat", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	if depth < meterDepth {
		return w.walk(f, depth)
	}
	h, err := handleOf(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%w: %w", ErrUncountable, err)
	}
	if len(w.deep) >= meterPieces {
		return ErrUncountable
	}
	w.deep = append(w.deep, h)
	return nil
}

// allocated is a name's share of its inode: all of them together have it once.
func allocated(st *unix.Stat_t) int64 {
	n := max(int64(st.Blocks)*512, InodeBytes)
	links := int64(st.Nlink)
	if links < 2 || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return n
	}
	return (n + links - 1) / links
}

// gone tells that a name is no directory of the tree any more.
func gone(err error) bool {
	for _, e := range []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EMLINK, unix.ESTALE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
