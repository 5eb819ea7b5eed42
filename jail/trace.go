package jail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/freejail/freejail/internal/ktrace"
)

// Trace is what is to be seen of the processes of a jail, those to come too.
type Trace struct {
	What ktrace.What
	// Script is one for dtrace(1), instead: text, or the name of one that comes with freejail.
	Script, Ready string
	Limit         time.Duration
	Size          int64 // bytes of the trace as the system writes it
	// Began is called once something is traced, Line for each line, without its end. An error of them ends the
	// trace. A Line that waits holds up no process of the jail.
	Began func(processes int) error
	Line  func(text string) error
}

// Why a trace ended.
const (
	TraceTime   = "time"   // its time was over
	TraceSize   = "size"   // it had its size
	TraceTask   = "task"   // no process is left
	TraceSpace  = "space"  // the kernel could not write it any more
	TraceScript = "script" // the script has ended by itself
)

// ErrNoTracer means that the host lacks the program by which a jail is traced.
var ErrNoTracer = errors.New("this host cannot trace it")

// TraceEnd is how a trace ended, and how much it was.
type TraceEnd struct {
	Why   string
	Bytes int64
}

// lookForNew is the time between two looks for processes that are not traced yet. What a process starts is traced
// from its beginning; what is started in the jail from outside is found by that.
const lookForNew = 100 * time.Millisecond

// tracer is one way to trace into a file.
type tracer interface {
	// follow traces the processes that are not, and returns how many there are. An error is for who asked.
	follow() (processes int, err error)
	// end returns when none is traced any more.
	end() error
}

// errNoSpace is follow's where the kernel has ended the trace of a process.
var errNoSpace = errors.New("the trace can not be written any more")

// traceDir has the files of traces: a system that traces into them knows them by their path.
func traceDir(state string) string { return filepath.Join(state, "trace") }

// traceFile makes a file for a trace. Nobody but root finds it, and it is nobody's link: its name is new.
func traceFile(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return os.CreateTemp(dir, "trace-")
}

// into traces until the trace has to end, and writes what there is in the file to a writer meanwhile.
func (t Trace) into(ctx context.Context, x tracer, file *os.File, to io.Writer) (out TraceEnd, err error) {
	defer func() { err = errors.Join(err, x.end()) }()
	n, err := x.follow()
	if err != nil {
		return out, err
	}
	if err := t.Began(n); err != nil {
		return out, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	over, copied := make(chan struct{}), make(chan error, 1)
	go func() { copied <- follow(ctx, file, over, to) }()
	out.Why, err = t.watch(ctx, x, file, copied)
	// What was written is told to the end; nothing is added any more.
	if err = errors.Join(err, x.end()); err != nil {
		stop()
	}
	if st, serr := file.Stat(); serr == nil {
		out.Bytes = st.Size()
	}
	close(over)
	return out, errors.Join(err, <-copied)
}

// watch returns why the trace has to end.
func (t Trace) watch(ctx context.Context, x tracer, file *os.File, copied chan error) (why string, err error) {
	tick, over := time.NewTicker(lookForNew), time.After(t.Limit)
	defer tick.Stop()
	for none := 0; none < 2; { // a process may be between two
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case err := <-copied:
			copied <- nil
			return "", err
		case <-over:
			return TraceTime, nil
		case <-tick.C:
		}
		st, err := file.Stat()
		if err != nil {
			return "", err
		}
		if st.Size() > t.Size-sizeMargin {
			return TraceSize, nil
		}
		switch n, err := x.follow(); {
		case errors.Is(err, errNoSpace):
			return TraceSpace, nil
		case err != nil:
			return "", err
		case n > 0:
			none = 0
		default:
			none++
		}
	}
	return TraceTask, nil
}

// sizeMargin is for a record that has no room any more.
const sizeMargin = 8 << 10

// follow copies a file that grows until it is over. It reads what fstat(2) says that there is, and no more:
// FreeBSD's kernel lets read(2) have what is just being written into a trace, which is zeros then (ktr_writerequest
// holds the vnode's lock, as fstat does, and vn_read of UFS and tmpfs does not).
func follow(ctx context.Context, file *os.File, over <-chan struct{}, to io.Writer) error {
	for ended, done := false, int64(0); ; {
		st, err := file.Stat()
		if err != nil {
			return err
		}
		n, err := io.Copy(to, io.NewSectionReader(file, done, st.Size()-done))
		if done += n; err != nil || n == 0 && ended {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-over:
			ended = true // once more, to the end
		case <-time.After(lookForNew / 2):
		}
	}
}

// maxLine bounds a line that is told; longer ones are told in pieces.
const maxLine = 16 << 10

// lines calls a function for each line that is written.
type lines struct {
	tell func(string) error
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		n, line, ok := firstLine(l.rest)
		if !ok {
			return len(p), nil
		}
		if err := l.tell(line); err != nil {
			return 0, err
		}
		l.rest = append(l.rest[:0], l.rest[n:]...)
	}
}

func firstLine(b []byte) (n int, line string, ok bool) {
	for i, c := range b {
		if c == '\n' {
			return i + 1, string(b[:i]), true
		}
		if i == maxLine {
			return i, string(b[:i]), true
		}
	}
	return 0, "", false
}

// close tells a line that has no end.
func (l *lines) close() error {
	if len(l.rest) == 0 {
		return nil
	}
	return l.tell(string(l.rest))
}

// toolEnded is the error of a program that is to show a trace, with the first of what it said.
func toolEnded(name string, err error, said []byte) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(said[:min(len(said), 2000)]))
}
