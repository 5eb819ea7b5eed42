package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/term"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// rawTerminal is the client's terminal while a task has the one behind it: what is typed
// goes to the task as it is, Ctrl-C too.
type rawTerminal struct {
	fd      int
	signals chan os.Signal
	restore func()
}

// makeRaw changes standard input's terminal until restore, which every way out of the
// process calls.
func makeRaw(fd int) (*rawTerminal, error) {
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	t := &rawTerminal{fd: fd, signals: make(chan os.Signal, 1)}
	t.restore = sync.OnceFunc(func() {
		if err := term.Restore(fd, old); err != nil {
			printable.Fprintln(os.Stderr, "freejail: terminal:", err)
		}
	})
	app.AtExit(t.restore)
	// Output that nobody reads is an error of writing, not the end of the process.
	signal.Notify(t.signals, syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGQUIT)
	go func() {
		for s := range t.signals {
			if s != syscall.SIGPIPE {
				app.Die(s.(syscall.Signal))
			}
		}
	}()
	return t, nil
}

// Close gives the terminal back.
func (t *rawTerminal) Close() {
	if t == nil {
		return
	}
	t.restore()
	app.AtExit(nil)
	signal.Stop(t.signals)
	close(t.signals)
}

// say says something beside the output of a task: at the beginning of a line, also where
// the terminal is raw; t is nil where it is not.
func (t *rawTerminal) say(format string, args ...any) {
	text := printable.Sprintf("freejail: "+format, args...) + "\n"
	if t != nil {
		text = "\r\n" + text + "\r"
	}
	_, _ = os.Stderr.WriteString(text) // nobody is left to be told
}

// windowSize is that of the client's terminal, none where it has none.
func windowSize() (size client.WindowSize, is bool) {
	for _, f := range []*os.File{os.Stdin, os.Stdout} {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil {
			return client.WindowSize{Rows: h, Cols: w}, true
		}
	}
	return size, false
}

// resizes tells each new size of the client's terminal until stop is called.
func resizes() (sizes <-chan client.WindowSize, stop func()) {
	sig, out, done := make(chan os.Signal, 1), make(chan client.WindowSize), make(chan struct{})
	signal.Notify(sig, syscall.SIGWINCH)
	go func() {
		for {
			select {
			case <-sig:
			case <-done:
				return
			}
			size, is := windowSize()
			if !is {
				continue
			}
			select {
			case out <- size:
			case <-done:
				return
			}
		}
	}()
	return out, sync.OnceFunc(func() { signal.Stop(sig); close(done) })
}

// errDetached is what a detacher returns for the keys.
var errDetached = errors.New("detached")

// defaultDetachKeys leave a task that has a terminal.
const defaultDetachKeys = "ctrl-p,ctrl-q"

// parseKeys reads keys such as ctrl-p,ctrl-q or ctrl-],d as the bytes that they send; an
// empty text is no keys.
func parseKeys(text string) (keys []byte, err error) {
	if text == "" {
		return nil, nil
	}
	for key := range strings.SplitSeq(text, ",") {
		c, ctrl := strings.CutPrefix(key, "ctrl-")
		switch {
		case len(c) == 1 && !ctrl && c[0] < 0x80:
			keys = append(keys, c[0])
		case len(c) == 1 && ctrl && (c[0] >= 'a' && c[0] <= 'z' || strings.ContainsAny(c, `@[\]^_`)):
			keys = append(keys, c[0]&0x1f)
		default:
			return nil, fmt.Errorf("%q is not a key: a character, or ctrl- and one of a-z @ [ \\ ] ^ _", key)
		}
	}
	return keys, nil
}

// detacher reads until the keys are typed. What may be their beginning is held back
// until it is known.
type detacher struct {
	io.Reader
	keys []byte
	n    int // of the keys that were typed
}

func (d *detacher) Read(p []byte) (int, error) {
	if len(d.keys) == 0 {
		return d.Reader.Read(p)
	}
	in := make([]byte, max(1, len(p)-len(d.keys)))
	n, err := d.Reader.Read(in)
	out := bytes.NewBuffer(p[:0])
	for _, c := range in[:n] {
		if c == d.keys[d.n] {
			if d.n++; d.n == len(d.keys) {
				return out.Len(), errDetached
			}
			continue
		}
		out.Write(d.keys[:d.n])
		if d.n = 0; c == d.keys[0] {
			d.n = 1
			continue
		}
		out.WriteByte(c)
	}
	if err != nil {
		out.Write(d.keys[:d.n])
		d.n = 0
	}
	return out.Len(), err
}
