package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
)

// Log is what a task writes to one of its streams.
type Log struct {
	t      *task
	stream string
}

// LogWriter takes a log.
type LogWriter interface {
	io.Writer
	// Flush has everything that was written sent.
	Flush()
	// Start is told, before the first byte, where it is in all that was written.
	Start(offset int64)
}

// Logs finds a task's log.
func (m *Manager) Logs(id, stream string) (*Log, error) {
	t, err := m.find(id)
	if err == nil && !slices.Contains(streams, stream) {
		err = client.Invalid("stream %q is neither stdout nor stderr", stream)
	}
	return &Log{t, stream}, err
}

// Copy copies the last lines, or all where tail is negative; following, it goes on
// until the task has ended.
func (l *Log) Copy(ctx context.Context, w LogWriter, tail int, follow bool) error {
	t, stream := l.t, l.stream
	if follow {
		defer t.attend(true)()
	}
	o := t.output(stream)
	if o == nil && t.ownLog(stream) && t.state() == client.Exited {
		o = endedOutput(t.logFile(stream))
	}
	if o != nil {
		return o.copyTo(ctx, w, tail, follow)
	}
	files, err := t.logDir(stream)
	if err != nil {
		return err
	}
	err = files.copyTo(ctx, w, tail, follow, t.done)
	return errors.Join(err, files.close())
}

// copyTo copies what is kept, and following, what comes until the task ends: all of
// it, as the task waits for who reads. Who stands still for readerTime loses what is
// moved away meanwhile, and is told.
func (o *output) copyTo(ctx context.Context, w LogWriter, tail int, follow bool) error {
	r, err := o.reader(tail)
	if err != nil {
		return err
	}
	defer o.leave(r)
	if r.start >= 0 {
		w.Start(r.start)
	}
	until := o.current()
	for {
		complete, last, more := o.state(r)
		if err := r.copy(w); err != nil {
			return err
		}
		switch {
		case complete && last || !follow && r.number >= until:
			return nil
		case complete:
			skipped, err := o.next(r)
			if skipped > 0 {
				// The copying sees a broken connection.
				fmt.Fprintf(w, "\nfreejail: of the log %d files were gone before they were read\n", skipped)
			}
			if err != nil {
				return err
			}
			continue
		}
		w.Flush()
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

func (o *output) current() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.number
}

// copy copies what there is of a file.
func (r *outputReader) copy(w io.Writer) error {
	if r.file == nil {
		return nil
	}
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	for {
		n, err := r.file.Read(*b)
		if n > 0 {
			if _, err := w.Write((*b)[:n]); err != nil {
				return err
			}
			r.at.Add(int64(n))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// ownLog tells whether the daemon keeps what the task writes to a stream.
func (t *task) ownLog(stream string) bool { return t.streamPath(stream) == "" }

func (t *task) streamPath(stream string) string {
	if stream == "stderr" {
		return t.info.Spec.Stderr
	}
	return t.info.Spec.Stdout
}

// logDir is a directory with files of a log that others write: Nomad beside its
// FIFO .TASK.STREAM.fifo, where the task too may write, or a task of an earlier
// version of the daemon. Files are opened in it by their names alone.
type logDir struct {
	dir   *os.File
	names func() ([]string, error) // oldest first
}

func (t *task) logDir(stream string) (*logDir, error) {
	path := t.streamPath(stream)
	if path == "" {
		dir, err := os.Open(t.journal.dir)
		name := filepath.Base(t.logFile(stream))
		return &logDir{dir, func() ([]string, error) { return []string{name + ".1", name}, nil }}, err
	}
	dir, _, err := Confined(t.info.Spec, filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	l := &logDir{dir: dir}
	name, isFifo := strings.CutSuffix(filepath.Base(path), ".fifo")
	l.names = func() ([]string, error) { return []string{name}, nil }
	if isFifo {
		prefix := strings.TrimPrefix(name, ".") + "."
		l.names = func() ([]string, error) { return l.numbered(prefix) }
	}
	return l, nil
}

func (l *logDir) close() error { return l.dir.Close() }

// numbered are the files PREFIX0, PREFIX1, ... in their order.
func (l *logDir) numbered(prefix string) ([]string, error) {
	fd, err := unix.Openat(int(l.dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: l.dir.Name(), Err: err}
	}
	f := os.NewFile(uintptr(fd), l.dir.Name())
	all, err := f.Readdirnames(-1)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	number := func(name string) int {
		n, err := strconv.ParseUint(strings.TrimPrefix(name, prefix), 10, 31)
		if !strings.HasPrefix(name, prefix) || err != nil {
			return -1
		}
		return int(n)
	}
	all = slices.DeleteFunc(all, func(name string) bool { return number(name) < 0 })
	slices.SortFunc(all, func(a, b string) int { return number(a) - number(b) })
	return all, nil
}

// open is nil where there is no such file. What is no file is an error: a task may
// have put it there.
func (l *logDir) open(name string) (*os.File, error) {
	fd, err := unix.Openat(int(l.dir.Fd()), name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is not a regular file", name), err, f.Close())
	}
	return f, nil
}

// copyTo copies file after file; following, it looks for more until the task has
// ended and nothing is left.
func (l *logDir) copyTo(ctx context.Context, w LogWriter, tail int, follow bool,
	ended <-chan struct{}) error {
	r, err := l.begin(tail)
	if err != nil {
		return err
	}
	defer func() { _ = closeAll(r.file) }() // it was read
	for over := false; ; {
		if err := r.copyAll(w); err != nil || over || !follow {
			return err
		}
		w.Flush()
		select {
		case <-ended:
			over = true
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// dirReader is where a reading of a logDir has come.
type dirReader struct {
	outputReader
	l    *logDir
	name string // of the file
}

func (l *logDir) begin(tail int) (*dirReader, error) {
	r := &dirReader{l: l}
	names, err := l.names()
	if err != nil || len(names) == 0 {
		return r, err
	}
	if tail < 0 {
		r.name = names[0]
		r.file, err = l.open(r.name)
		return r, err
	}
	names = names[max(0, len(names)-2):]
	files := make([]*os.File, len(names))
	for i, name := range names {
		if files[i], err = l.open(name); err != nil {
			return nil, errors.Join(err, closeAll(files...))
		}
	}
	i, at, err := tailOf(files, tail)
	r.name, r.file = names[i], files[i]
	files[i] = nil
	err = errors.Join(err, closeAll(files...))
	if r.file != nil && err == nil {
		_, err = r.file.Seek(at, io.SeekStart)
	}
	return r, err
}

// copyAll goes on through all files that there are.
func (r *dirReader) copyAll(w io.Writer) error {
	for {
		names, err := r.l.names() // before the file is read: it ends where the next begins
		if err != nil {
			return err
		}
		if err := r.cutShort(); err != nil {
			return err
		}
		if err := r.copy(w); err != nil {
			return err
		}
		i := slices.Index(names, r.name)
		if i == len(names)-1 && r.file != nil || len(names) == 0 {
			return nil
		}
		next := names[min(i+1, len(names)-1)] // the first, where ours has gone
		f, err := r.l.open(next)
		if err != nil || f == nil && next == names[len(names)-1] {
			return err
		}
		err = closeAll(r.file)
		if r.name, r.file = next, f; err != nil {
			return err
		}
	}
}

// cutShort begins anew where a file has been.
func (r *dirReader) cutShort() error {
	if r.file == nil {
		return nil
	}
	at, err := r.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if fi, err := r.file.Stat(); err == nil && fi.Size() < at {
		_, err = r.file.Seek(0, io.SeekStart)
		return err
	}
	return nil
}

// tailOf tells in which of files, of which some may be nil, and where the last n
// lines of all begin, looking at 1 MiB at the most; n below 0 is for all.
func tailOf(files []*os.File, n int) (int, int64, error) {
	if n < 0 {
		return max(0, slices.IndexFunc(files, func(f *os.File) bool { return f != nil })), 0, nil
	}
	var b []byte
	sizes := make([]int64, len(files))
	for i := len(files) - 1; i >= 0 && len(b) < 1<<20; i-- {
		if files[i] == nil {
			continue
		}
		fi, err := files[i].Stat()
		if err != nil {
			return 0, 0, err
		}
		sizes[i] = fi.Size()
		part := make([]byte, min(sizes[i], int64(1<<20-len(b))))
		got, err := files[i].ReadAt(part, sizes[i]-int64(len(part)))
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		b = append(part[:got], b...)
	}
	left := int64(len(b) - lastLines(b, n)) // bytes from there to the end
	for i := len(files) - 1; ; i-- {
		if left <= sizes[i] || i == 0 {
			return i, max(0, sizes[i]-left), nil
		}
		left -= sizes[i]
	}
}

// lastLines is where the last n lines begin.
func lastLines(b []byte, n int) int {
	if n == 0 {
		return len(b)
	}
	end := len(bytes.TrimSuffix(b, []byte("\n")))
	for i := 0; i < n && end >= 0; i++ {
		end = bytes.LastIndexByte(b[:end], '\n')
	}
	return end + 1
}

// trimLogs keeps the log of a task that an earlier version of the daemon started to
// two files of log_size: the file is copied and cut, since the process holds it open.
func (m *Manager) trimLogs(t *task) error {
	if t.state() == client.Exited {
		return nil
	}
	for _, stream := range streams {
		path := t.logFile(stream)
		fi, err := os.Stat(path)
		if err != nil || fi.Size() <= m.Config.Limits.LogSize || t.output(stream) != nil {
			continue
		}
		if err := copyFile(path, path+".1"); err != nil {
			return err
		}
		if err := os.Truncate(path, 0); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
