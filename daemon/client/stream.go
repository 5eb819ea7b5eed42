package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// ExecProtocol is the Upgrade token of the exec stream: after the switch both
// sides send frames of one type byte, a big-endian 32-bit length and that many
// bytes of payload.
const ExecProtocol = "freejail-exec-1"

// FrameType says what a frame of the exec stream carries.
type FrameType byte

// Frames to the daemon: Stdin (empty: end of input), Resize (JSON WindowSize),
// SignalFrame (a signal's name), LeaveFrame (the client goes, and a task that would be
// removed for that is kept). Frames from it: Stdout, Stderr, ExitFrame (JSON Exit, the last),
// FailFrame (JSON Error, the last), Stdin (empty: the end of input was passed on).
const (
	Stdin FrameType = iota + 1
	Stdout
	Stderr
	Resize
	SignalFrame
	ExitFrame
	FailFrame
	LeaveFrame
)

// maxFrame bounds what a peer can make the other side allocate.
const maxFrame = 1 << 20

// WindowSize of a terminal, in characters.
type WindowSize struct {
	Rows int `json:"rows"`
	Cols int `json:"cols"`
}

// FrameWriter writes frames; it may be used from several goroutines.
type FrameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// NewFrameWriter returns a writer of frames on w.
func NewFrameWriter(w io.Writer) *FrameWriter { return &FrameWriter{w: w} }

// Write sends one frame.
func (f *FrameWriter) Write(t FrameType, p []byte) error {
	buf := make([]byte, 5, 5+len(p))
	buf[0] = byte(t)
	binary.BigEndian.PutUint32(buf[1:], uint32(len(p)))
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.w.Write(append(buf, p...))
	return err
}

// Stream returns an io.Writer whose writes become frames of type t.
func (f *FrameWriter) Stream(t FrameType) io.Writer { return frameStream{f, t} }

type frameStream struct {
	f *FrameWriter
	t FrameType
}

func (s frameStream) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		k := min(len(p), maxFrame)
		if err := s.f.Write(s.t, p[:k]); err != nil {
			return n, err
		}
		n, p = n+k, p[k:]
	}
	return n, nil
}

// ReadFrame reads one frame. A frame over 1 MiB is an error.
func ReadFrame(r io.Reader) (FrameType, []byte, error) {
	var h [5]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(h[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("exec stream: a frame of %d bytes is over the limit of %d", n, maxFrame)
	}
	p := make([]byte, n)
	_, err := io.ReadFull(r, p)
	return FrameType(h[0]), p, err
}

// ExecIO is what an exec session reads from and writes to. Resize and Signals
// may be nil.
type ExecIO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan WindowSize
	Signals        <-chan string
}

// Exec runs a command in a task's jail and returns how it ended.
func (c *Client) Exec(ctx context.Context, id string, spec ExecSpec, xio ExecIO) (*Exit, error) {
	conn, br, err := c.upgrade(ctx, taskPath(id)+"/exec", spec)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	done := make(chan struct{})
	defer close(done)
	w := NewFrameWriter(conn)
	go sendInput(w, xio.Stdin)
	go sendControl(w, xio, done)
	for {
		t, p, err := ReadFrame(br)
		if err != nil {
			if err = brokenOff(err); ctx.Err() != nil {
				err = ctx.Err()
			}
			return nil, fmt.Errorf("the exec session is over: %w", err)
		}
		switch t {
		case Stdout:
			_, err = xio.Stdout.Write(p)
		case Stderr:
			_, err = xio.Stderr.Write(p)
		case ExitFrame:
			e := &Exit{}
			return e, json.Unmarshal(p, e)
		case FailFrame:
			e := &Error{}
			return nil, errors.Join(json.Unmarshal(p, e), e)
		}
		if err != nil {
			return nil, err
		}
	}
}

// sendInput ends with the session: a write to the closed connection fails.
func sendInput(w *FrameWriter, in io.Reader) {
	if in != nil {
		if _, err := io.Copy(w.Stream(Stdin), in); err != nil {
			return
		}
	}
	_ = w.Write(Stdin, nil) // the reader sees a broken connection itself
}

func sendControl(w *FrameWriter, xio ExecIO, done <-chan struct{}) {
	for {
		var err error
		select {
		case <-done:
			return
		case ws, ok := <-xio.Resize:
			if !ok {
				xio.Resize = nil
				continue
			}
			b, merr := json.Marshal(ws)
			err = errors.Join(merr, w.Write(Resize, b))
		case s, ok := <-xio.Signals:
			if !ok {
				xio.Signals = nil
				continue
			}
			err = w.Write(SignalFrame, []byte(s))
		}
		if err != nil {
			return
		}
	}
}

// CopyIO has the archive of a copy: From is copied in, To gets what is copied out. Problem is told what was left out,
// or is not as it was.
type CopyIO struct {
	From    io.Reader
	To      io.Writer
	Problem func(text string)
}

// Copy copies between a task's root and an archive.
func (c *Client) Copy(ctx context.Context, id string, spec CopySpec, xio CopyIO) error {
	conn, br, err := c.upgrade(ctx, taskPath(id)+"/copy", spec)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	unread := make(chan error, 1)
	if spec.In {
		go func() {
			w := NewFrameWriter(conn)
			_, err := io.Copy(w.Stream(Stdin), reading{xio.From, unread})
			if err != nil || w.Write(Stdin, nil) != nil {
				_ = conn.CloseWrite() // the daemon is to wait for nothing more; what it says yet is read
			}
		}()
	}
	err = copyFrames(br, xio)
	select {
	case err = <-unread:
	default:
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Save writes images of the store as one oci-archive. Note is told what of them cannot be in it.
func (c *Client) Save(ctx context.Context, r SaveRequest, to io.Writer, note func(text string)) error {
	conn, br, err := c.upgrade(ctx, "/v1/images/save", r)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	err = copyFrames(br, CopyIO{To: to, Problem: note})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// copyFrames takes what the daemon sends, to the end.
func copyFrames(br io.Reader, xio CopyIO) error {
	for {
		t, p, err := ReadFrame(br)
		if err != nil {
			return fmt.Errorf("the copy is not complete: %w", brokenOff(err))
		}
		switch t {
		case Stdout:
			_, err = xio.To.Write(p)
		case Stderr:
			xio.Problem(string(p))
		case ExitFrame:
			return nil
		case FailFrame:
			e := &Error{}
			return errors.Join(json.Unmarshal(p, e), e)
		}
		if err != nil {
			return err
		}
	}
}

// reading tells an error of what is read.
type reading struct {
	io.Reader
	failed chan<- error
}

func (r reading) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		r.failed <- err // once: nothing is read after it
	}
	return n, err
}

// Attachment is a client's connection to the input of a task, whose output is its log.
type Attachment struct {
	conn net.Conn
	w    *FrameWriter
	gone chan struct{} // closed when the connection has ended

	passed chan struct{} // closed when the daemon has passed on the end of input
}

// Attach connects to the input of a task. The daemon keeps a task with Remove as long
// as a client is attached.
func (c *Client) Attach(ctx context.Context, id string) (*Attachment, error) {
	conn, br, err := c.upgrade(ctx, taskPath(id)+"/attach", struct{}{})
	if err != nil {
		return nil, err
	}
	a := &Attachment{conn: conn, w: NewFrameWriter(conn), gone: make(chan struct{}), passed: make(chan struct{})}
	go func() {
		defer close(a.gone)
		for passed := false; ; {
			t, _, err := ReadFrame(br)
			if err != nil {
				return
			}
			if t == Stdin && !passed {
				passed = true
				close(a.passed)
			}
		}
	}()
	return a, nil
}

// Gone is closed when the daemon has gone.
func (a *Attachment) Gone() <-chan struct{} { return a.gone }

// HasGone tells whether the daemon has gone.
func (a *Attachment) HasGone() bool {
	select {
	case <-a.gone:
		return true
	default:
		return false
	}
}

// Passed is closed when all input, and its end, has been passed on to the task.
func (a *Attachment) Passed() <-chan struct{} { return a.passed }

// Input sends input; none is its end.
func (a *Attachment) Input(p []byte) error { return a.w.Write(Stdin, p) }

// Resize sends the size of the client's terminal.
func (a *Attachment) Resize(size WindowSize) error {
	b, err := json.Marshal(size)
	if err != nil {
		return err
	}
	return a.w.Write(Resize, b)
}

// Interrupt ends what is being sent.
func (a *Attachment) Interrupt() {
	_ = a.conn.SetWriteDeadline(time.Unix(1, 0)) // of a closed connection there is none
}

// leaveTime is how long a daemon has to take the last frame.
const leaveTime = time.Second

// Close ends the attachment, not the task. With keep a task with Remove is not removed
// for that the client has gone.
func (a *Attachment) Close(keep bool) error {
	var err error
	if keep {
		err = errors.Join(a.conn.SetWriteDeadline(time.Now().Add(leaveTime)), a.w.Write(LeaveFrame, nil))
	}
	return errors.Join(err, a.conn.Close())
}

func (c *Client) upgrade(ctx context.Context, path string, in any) (*net.UnixConn, *bufio.Reader, error) {
	for {
		conn, br, err := c.upgradeOnce(ctx, path, in)
		switch {
		case hasCode(err, CodeUpgrading) && ctx.Err() == nil: // nothing was begun
			time.Sleep(50 * time.Millisecond)
		case !c.isRecovering(ctx, err):
			return conn, br, err
		}
	}
}

func (c *Client) upgradeOnce(ctx context.Context, path string, in any) (*net.UnixConn, *bufio.Reader, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, nil, err
	}
	var d net.Dialer
	conn, err := d.DialUnix(ctx, "unix", nil, &net.UnixAddr{Net: "unix", Name: c.socket})
	if err != nil {
		return nil, nil, c.noDaemon(err)
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://freejail"+path, bytes.NewReader(body))
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", ExecProtocol)
	if err := req.Write(conn); err != nil {
		conn.Close()
		return nil, nil, err
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		conn.Close()
		return nil, nil, brokenOff(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		return nil, nil, readError(resp)
	}
	return conn, br, nil
}
