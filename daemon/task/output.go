package task

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/readable"
	"github.com/freejail/freejail/internal/regular"
	"github.com/freejail/freejail/internal/remove"
)

// output keeps what a task writes to one of its streams, where the task's client
// names no file for it. The task writes into a FIFO, which both ends of the
// daemon's life leave alone: it is opened by the task for reading too, so that the
// task gets no SIGPIPE and what is in the FIFO stays while no daemon is there. The
// daemon copies it to STREAM.log as it comes. At half of the limit the file becomes
// STREAM.log.1 and a new one begins: the two never hold more than the limit, and
// always the last half of it.
type output struct {
	path string // of STREAM.log
	half int64
	tell func(kind, message string)
	fd   int          // of the FIFO, or of the master of a terminal
	shut func() error // closes it
	tty  bool

	stop, stopped chan struct{} // of the copying that runs
	eof           bool

	mu       sync.Mutex
	file     *os.File // nil where it could not be opened yet
	size     int64
	number   uint64 // of the file that is written: the one before it is STREAM.log.1
	lost     int64  // bytes that found no room since the last that did
	told     time.Time
	ending   bool                   // what is left is being taken
	ended    bool                   // and was
	readers  map[*outputReader]bool // nil before the first
	changed  chan struct{}          // closed when there is more; nil while nobody waits
	advanced chan struct{}          // closed when a reader goes on or leaves
}

// outputReader is where a client's reading of an output has come.
type outputReader struct {
	number uint64
	file   *os.File // nil where the log has no file yet
	at     atomic.Int64
	late   bool  // nobody waits for it any more
	start  int64 // where it began in all that was written; below 0 is not known
}

// readerTime is how long a task waits for a client that follows its output and
// takes nothing of it, where otherwise some would be lost to that client.
const readerTime = 5 * time.Second

// maxPipe is the most that a FIFO holds: what /proc/sys/fs/pipe-max-size allows by
// default on Linux. FreeBSD's hold 64 KiB.
const maxPipe = 1 << 20

// buffers are only in use while there is something to copy, as tasks are many.
var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// fifoOf is beside the log.
func fifoOf(log string) string { return log + ".fifo" }

// newOutput makes a FIFO and returns the task's end too.
func (m *Manager) newOutput(t *task, stream string) (theirs *os.File, err error) {
	path := t.logFile(stream)
	if err := unix.Mkfifo(fifoOf(path), 0o600); err != nil {
		return nil, &fs.PathError{Op: "mkfifo", Path: fifoOf(path), Err: err}
	}
	if theirs, err = openOutputAt(unix.AT_FDCWD, fifoOf(path), outputFlags); err != nil {
		return nil, err
	}
	if err := m.openOutput(t, stream); err != nil {
		return nil, errors.Join(err, theirs.Close())
	}
	return theirs, nil
}

// openOutput begins to copy a stream of a task. Without a FIFO it does nothing: the
// client has given the task a file, or an older version started it.
func (m *Manager) openOutput(t *task, stream string) error {
	path := t.logFile(stream)
	fd, err := unix.Open(fifoOf(path), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: fifoOf(path), Err: err}
	}
	m.keepOutput(t, stream, &output{path: path, fd: fd, shut: func() error { return unix.Close(fd) }})
	return nil
}

// keepTerminal begins to copy what comes from a terminal's master.
func (m *Manager) keepTerminal(t *task, master *os.File) error {
	raw, err := master.SyscallConn()
	if err != nil {
		return err
	}
	o := &output{path: t.logFile("stdout"), shut: master.Close, tty: true}
	if err := raw.Control(func(fd uintptr) { o.fd = int(fd) }); err != nil {
		return err
	}
	m.keepOutput(t, "stdout", o)
	return nil
}

// keepOutput begins to copy what comes from a FIFO or a terminal.
func (m *Manager) keepOutput(t *task, stream string, o *output) {
	o.half, o.number = max(m.Config.Limits.LogSize/2, 512), 1
	o.tell = func(kind, message string) { m.Event(t.id(), kind, stream+": "+message) }
	o.start()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.outputs[slices.Index(streams, stream)] = o
}

// outputFDs names the environment variable that carries the outputs of tasks over an upgrade, as numbers of descriptors
// in no order. They are only held: what a FIFO has goes with the last that has it open, and a task can end while
// the next daemon has not opened it yet.
const outputFDs = "FREEJAIL_OUTPUT_FDS"

// maxOutputFDs bounds that variable, of which Linux passes on 128 KiB: it is enough for 5,000 tasks.
const maxOutputFDs = 64 << 10

// keepOutputs runs what executes another program, with the environment that leaves it the outputs of tasks.
func (m *Manager) keepOutputs(env []string, replace func(env []string) error) error {
	text := []byte(outputFDs + "=")
	for _, t := range m.list() {
		for _, o := range t.allOutputs() {
			fd, err := o.dup()
			if err == nil && len(text) > maxOutputFDs {
				err = errors.Join(errors.New("there are too many tasks"), unix.Close(fd))
			}
			if err != nil {
				m.Log.Warn("what a task writes is lost if it ends before the next daemon is there", "task", t.id(),
					"error", err)
				continue
			}
			if fd >= 0 {
				defer unix.Close(fd)
				text = append(strconv.AppendInt(text, int64(fd), 10), ',')
			}
		}
	}
	return replace(append(env, strings.TrimSuffix(string(text), ",")))
}

// dup returns a descriptor of the FIFO that another program inherits; -1 of a terminal, which goes with the inputs, and
// of an output that has ended.
func (o *output) dup() (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tty || o.ending {
		return -1, nil
	}
	return unix.FcntlInt(uintptr(o.fd), unix.F_DUPFD, 3)
}

// inheritOutputs are the outputs that an upgraded daemon has left.
func inheritOutputs() (out []*os.File, err error) {
	text := os.Getenv(outputFDs)
	if err := os.Unsetenv(outputFDs); err != nil || text == "" {
		return nil, err
	}
	for number := range strings.SplitSeq(text, ",") {
		fd, err := strconv.Atoi(number)
		if err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
		}
		if err != nil {
			return out, fmt.Errorf("%s: %s: %w", outputFDs, number, err)
		}
		out = append(out, os.NewFile(uintptr(fd), "output"))
	}
	return out, nil
}

// reopenOutputs goes on with the outputs of a task of an earlier daemon.
func (m *Manager) reopenOutputs(t *task) {
	for _, stream := range streams {
		if err := m.openOutput(t, stream); err != nil {
			m.Log.Error("the output of a task is not kept", "task", t.id(), "error", err)
		}
	}
}

var streams = []string{"stdout", "stderr"}

func (t *task) allOutputs() (out []*output) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.outputs {
		if o != nil {
			out = append(out, o)
		}
	}
	return out
}

func (t *task) output(stream string) *output {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(streams, stream); i >= 0 {
		return t.outputs[i]
	}
	return nil
}

// pauseOutputs stops all copying, so that nothing is under way when the daemon ends
// or is replaced.
func (m *Manager) pauseOutputs() {
	for _, t := range m.list() {
		for _, o := range t.allOutputs() {
			o.pause()
		}
	}
}

func (m *Manager) resumeOutputs() {
	for _, t := range m.list() {
		for _, o := range t.allOutputs() {
			o.start()
		}
	}
}

// start copies until the output is paused or everyone who could write is gone.
func (o *output) start() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ending || o.stop != nil {
		return
	}
	o.stop, o.stopped = make(chan struct{}), make(chan struct{})
	go o.copy(o.stop, o.stopped)
}

func (o *output) pause() {
	o.mu.Lock()
	stop, stopped := o.stop, o.stopped
	o.stop = nil
	o.mu.Unlock()
	if stop != nil {
		close(stop)
		if readable.Cancel(o.fd) {
			close(stopped)
		}
	}
	<-stopped
}

// copy takes what there is. When there is more it is called again: until then a task that writes nothing has no
// goroutine.
func (o *output) copy(stop <-chan struct{}, stopped chan<- struct{}) {
	for !o.eof && !isClosed(stop) {
		if o.take(stop, 1<<62) {
			continue
		}
		if err := readable.Next(o.fd, func() { o.copy(stop, stopped) }); err != nil {
			o.tell("log", fmt.Sprintf("its output is not kept any more: %v", err))
			break
		}
		if isClosed(stop) && readable.Cancel(o.fd) { // else pause has cancelled it, or it is called
			break
		}
		return
	}
	close(stopped)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// take copies what there is, of most bytes. It is false where more may come.
func (o *output) take(stop <-chan struct{}, most int64) bool {
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	for most > 0 && !isClosed(stop) {
		n, err := unix.Read(o.fd, *b)
		switch {
		case n > 0:
			o.write((*b)[:n], stop)
			most -= int64(n)
		case o.tty && (err == nil || errors.Is(err, unix.EIO)):
			return o.unopened(stop)
		case err == nil:
			o.eof = true
			return true
		case errors.Is(err, unix.EAGAIN):
			return false
		case !errors.Is(err, unix.EINTR):
			o.tell("log", fmt.Sprintf("its output is not kept any more: %v", err))
			o.eof = true
			return true
		}
	}
	return true
}

// unopened is for a terminal that no process has open, which one may open again until
// what is left is taken.
func (o *output) unopened(stop <-chan struct{}) bool {
	if stop == nil {
		o.eof = true
		return true
	}
	select {
	case <-stop:
	case <-time.After(reopenTime):
	}
	return true
}

// reopenTime is the time between two looks for a process that opens a terminal again.
const reopenTime = 100 * time.Millisecond

// end takes what is left when the task's processes are gone, and removes the FIFO.
// Who got hold of it nevertheless can keep neither open nor busy.
func (o *output) end() error {
	o.mu.Lock()
	again := o.ending
	o.ending = true
	o.mu.Unlock()
	if again {
		return nil
	}
	o.pause()
	if !o.eof {
		o.take(nil, maxPipe)
	}
	err := errors.Join(o.shut(), remove.Tree(fifoOf(o.path))) // its task can set flags on it
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	if o.lost > 0 {
		_, merr := o.append(o.lostText(), nil)
		err = errors.Join(err, merr)
	}
	if o.file != nil {
		err = errors.Join(err, o.file.Close())
		o.file = nil
	}
	wake(&o.changed)
	return err
}

// endOutputs is for a task whose processes are gone.
func (m *Manager) endOutputs(t *task) {
	for _, o := range t.allOutputs() {
		if err := o.end(); err != nil {
			m.Log.Warn("log", "task", t.id(), "error", err)
		}
	}
}

// write keeps p, or tells that there is no room for it: a task does not stand still
// because its log cannot be written.
func (o *output) write(p []byte, stop <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lost > 0 {
		if _, err := o.append(o.lostText(), stop); err != nil {
			o.lost += int64(len(p))
			return
		}
		o.lost = 0
	}
	n, err := o.append(p, stop)
	if err != nil {
		o.lost = int64(len(p) - n)
		if time.Since(o.told) > time.Minute {
			o.told = time.Now()
			o.tell("log", fmt.Sprintf("its output is lost until there is space for it: %v", err))
		}
	}
	wake(&o.changed)
}

func (o *output) lostText() []byte {
	return fmt.Appendf(nil, "\nfreejail: %d bytes that the task wrote here are lost: there was no room for them\n",
		o.lost)
}

func (o *output) append(p []byte, stop <-chan struct{}) (done int, err error) {
	for done < len(p) {
		if err := o.openFile(); err != nil {
			return done, err
		}
		if o.size >= o.half {
			if err := o.rotate(stop); err != nil {
				return done, err
			}
			continue
		}
		n, err := o.file.Write(p[done:min(len(p), done+int(o.half-o.size))])
		done += n
		o.size += int64(n)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

func (o *output) openFile() error {
	if o.file != nil {
		return nil
	}
	const flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND | unix.O_NONBLOCK // whatever it is, nobody waits for it
	f, err := os.OpenFile(o.path, flags, 0o600)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	o.file, o.size = f, fi.Size()
	return nil
}

func (o *output) rotate(stop <-chan struct{}) error {
	o.awaitReaders(stop)
	if err := os.Rename(o.path, o.path+".1"); err != nil {
		return err
	}
	err := o.file.Close()
	o.file, o.size = nil, 0
	o.number++
	return err
}

// awaitReaders gives readers of the file that is to go the time to read it.
func (o *output) awaitReaders(stop <-chan struct{}) {
	wake(&o.changed) // whoever waits for more has the end of its file to read
	for !isClosed(stop) {
		before := map[*outputReader]int64{}
		for r := range o.readers {
			if r.number < o.number && !r.late {
				before[r] = r.at.Load()
			}
		}
		if len(before) == 0 {
			return
		}
		o.advanced = make(chan struct{})
		advanced, timer := o.advanced, time.NewTimer(readerTime)
		o.mu.Unlock()
		over := false
		select {
		case <-advanced:
		case <-stop:
		case <-timer.C:
			over = true
		}
		timer.Stop()
		o.mu.Lock()
		for r, at := range before {
			r.late = over && r.at.Load() == at
		}
	}
}

// wake closes a channel on which somebody may wait. The caller holds the lock.
func wake(c *chan struct{}) {
	if *c != nil {
		close(*c)
		*c = nil
	}
}

// endedOutput is an output of which all was written by an earlier daemon.
func endedOutput(path string) *output {
	return &output{path: path, number: 1, ended: true}
}

// reader begins before the last lines, or at the beginning where tail is negative.
func (o *output) reader(tail int) (*outputReader, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := &outputReader{start: -1}
	old, err := openLog(o.path + ".1")
	if err != nil {
		return nil, err
	}
	now, err := openLog(o.path)
	if err != nil {
		return nil, errors.Join(err, closeAll(old))
	}
	i, at, err := tailOf([]*os.File{old, now}, tail)
	if err != nil {
		return nil, errors.Join(err, closeAll(old, now))
	}
	files := []*os.File{old, now}
	r.number, r.file = o.number-1+uint64(i), files[i]
	err = closeAll(files[1-i])
	if r.file != nil && err == nil {
		_, err = r.file.Seek(at, io.SeekStart)
	}
	if old == nil { // nothing was removed yet
		r.start = at
	}
	if o.readers == nil {
		o.readers = map[*outputReader]bool{}
	}
	o.readers[r] = true
	return r, err
}

// openLog is nil where there is none.
func openLog(path string) (*os.File, error) {
	f, _, err := regular.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

func closeAll(files ...*os.File) error {
	var errs []error
	for _, f := range files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

func (o *output) leave(r *outputReader) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.readers, r)
	wake(&o.advanced)
	_ = closeAll(r.file) // it was read
}

// state tells whether the file that r reads will grow no more, whether it is the
// last, and what closes when there is more. It is asked before the file is read.
func (o *output) state(r *outputReader) (complete, last bool, more <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed == nil {
		o.changed = make(chan struct{})
	}
	if r.file == nil && r.number == o.number { // not there when it was to be opened
		if f, err := openLog(o.path); err == nil {
			r.file = f
		}
	}
	return r.number < o.number || o.ended, r.number == o.number, o.changed
}

// next goes on to the next file. Skipped are those that were away before r came to them.
func (o *output) next(r *outputReader) (skipped uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	err = closeAll(r.file)
	r.number, r.file, r.late = r.number+1, nil, false
	if r.number < o.number-1 {
		skipped = o.number - 1 - r.number
		r.number = o.number - 1
	}
	path := o.path
	if r.number < o.number {
		path += ".1"
	}
	f, oerr := openLog(path)
	r.file = f
	wake(&o.advanced)
	return skipped, errors.Join(err, oerr)
}

// logFile is where what a task writes to a stream is kept.
func (t *task) logFile(stream string) string { return filepath.Join(t.journal.dir, stream+".log") }
