package task

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/works"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/strictjson"
	"github.com/freejail/freejail/jail"
)

// Exec runs one command, on the connection that connect makes of a client's when the
// command has begun. It ends with the daemon, be it for an upgrade: the next one knows
// nothing of it, and on Linux a task does not end before all that were started in it
// are waited for.
func (m *Manager) Exec(ctx context.Context, id string, spec client.ExecSpec,
	connect func() (net.Conn, io.Reader, error)) error {
	t, err := m.find(id)
	if err != nil {
		return err
	}
	ctx, job, err := m.Works.Begin(ctx)
	if err != nil {
		return err
	}
	end := sync.OnceFunc(job.End)
	defer end()
	x, err := m.beginExec(ctx, t, spec)
	if err != nil {
		return works.Ended(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() {
		x.kill()
		time.AfterFunc(awayTime, end) // what does not die keeps the daemon from nothing
	})
	defer stop()
	conn, in, err := connect()
	if err != nil {
		x.drop()
		return err
	}
	defer conn.Close()
	if err := x.serve(ctx, conn, in); err != nil {
		m.Log.Debug("exec session", "task", t.id(), "error", err)
	}
	return nil
}

// serve speaks the protocol of exec until the command has ended.
func (x *execSession) serve(ctx context.Context, conn net.Conn, in io.Reader) error {
	out := client.NewFrameWriter(conn)
	go x.readFrames(conn, in)
	x.copyOutput(out)
	kind, last := client.ExitFrame, any(x.exit)
	if why := context.Cause(ctx); why != nil && x.exit.Signal == int(syscall.SIGKILL) {
		kind, last = client.FailFrame, client.Unavailable("the command was ended: %v", why)
	}
	b, err := json.Marshal(last)
	if err != nil {
		return err
	}
	return out.Write(kind, b)
}

// execSession is one command in a jail with its ends of the pipes, or the
// terminal's master in their place.
type execSession struct {
	m      *Manager
	jail   string
	system string // for which the image is
	pid    int
	exits  <-chan jail.Exit
	exit   client.Exit
	master *os.File
	in     *os.File
	out    [2]*os.File
}

// beginExec waits for a command to begin as long as a root on a server may take.
func (m *Manager) beginExec(ctx context.Context, t *task, spec client.ExecSpec) (*execSession, error) {
	if why := t.root.trouble(); why != "" {
		return nil, client.Unavailable("task %s: %s", t.id(), why)
	}
	var x *execSession // that may begin later than anybody waits for it
	err := bounded(ctx, t.root.command(t.id()), func(ctx context.Context) (err error) {
		x, err = m.startExec(ctx, t, spec)
		return err
	})
	var stuck *heldError
	switch {
	case errors.As(err, &stuck):
		go func() {
			if <-stuck.done == nil {
				x.drop()
			}
		}()
		return nil, err
	case err != nil && x != nil: // it began too late
		x.drop()
		return nil, err
	}
	return x, err
}

func (m *Manager) startExec(ctx context.Context, t *task, spec client.ExecSpec) (*execSession, error) {
	info := t.snapshot()
	if info.State != client.Running {
		return nil, client.Conflict("task %s is not running (%s)", t.id(), info.State)
	}
	if len(spec.Args) == 0 {
		return nil, client.Invalid("exec: no command given")
	}
	size, err := winsize(spec.Rows, spec.Cols)
	if err != nil {
		return nil, err
	}
	img, err := t.root.image(info)
	if err != nil {
		return nil, err
	}
	env, err := execEnv(info, img, spec)
	if err != nil {
		return nil, err
	}
	user, err := m.execUser(t, img, spec.User)
	if err != nil {
		return nil, err
	}
	if spec.WorkDir != "" {
		info.Spec.WorkDir = spec.WorkDir
	}
	p, err := process(info, img, user, spec.Args, env)
	if err != nil {
		return nil, err
	}
	p.NoCore, p.Rows, p.Cols = !t.root.takesCore(), size.Rows, size.Cols
	x := &execSession{m: m, jail: info.Jail, system: img.Config.OS}
	if spec.TTY {
		x.pid, x.master, err = m.Jails.ExecTTY(ctx, info.Jail, p)
	} else {
		err = x.startPiped(ctx, p)
	}
	if err != nil {
		return nil, notExecuted(err)
	}
	x.exits = m.Jails.Wait(x.pid)
	return x, nil
}

// Exit codes by which shells tell that a program was not executed.
const (
	cannotExecute = 126
	noProgram     = 127
)

// notExecuted tells of a program that is not there, or cannot be executed, by the exit
// code of that.
func notExecuted(err error) error {
	code := 0
	switch {
	case errors.Is(err, jail.ErrNoProgram):
		code = noProgram
	case errors.Is(err, jail.ErrNotExecutable):
		code = cannotExecute
	default:
		return err
	}
	out := client.Errorf(client.CodeInvalid, "%v", err)
	out.Exit = code
	return out
}

// execUser is whom the task was started as, whatever its files say by now. A
// user that is named is looked up in them, and the policy decides as at a start.
func (m *Manager) execUser(t *task, img *image.Image, name string) (image.Creds, error) {
	info, started := t.startedAs()
	if name == "" && started != nil {
		return *started, nil
	}
	if name != "" {
		info.Spec.User = name
	}
	p := &plan{image: img}
	p.askUser(info.Spec)
	if err := m.Judge.Decide(info.Spec, img, p.requests); err != nil {
		return image.Creds{}, err
	}
	creds, err := lookUp(info.Root, img, info.Spec)
	if err != nil {
		return creds, err
	}
	number, _, _ := strings.Cut(name, ":")
	if n, err := strconv.ParseUint(number, 10, 32); err == nil && uint32(n) != creds.UID {
		return creds, client.Invalid("user %q: the task's /etc/passwd has this number as the name of uid %d", name,
			creds.UID)
	}
	return creds, m.checkUser(info.Spec, p, creds)
}

// execEnv is the task's environment with the command's own on top.
func execEnv(info client.Task, img *image.Image, spec client.ExecSpec) ([]string, error) {
	env := map[string]string{}
	if spec.TTY {
		env["TERM"] = defaultTerm
	}
	maps.Copy(env, info.Spec.Env)
	maps.Copy(env, spec.Env)
	info.Spec.Env = env
	p := plan{image: img, ports: info.Ports}
	err := p.addEnv(info.Spec)
	return p.env, err
}

func (x *execSession) startPiped(ctx context.Context, p jail.Process) (err error) {
	var theirs [3]*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
		if err != nil {
			x.close()
		}
	}()
	if theirs[0], x.in, err = os.Pipe(); err != nil {
		return err
	}
	for i := range x.out {
		if x.out[i], theirs[i+1], err = os.Pipe(); err != nil {
			return err
		}
	}
	p.Stdin, p.Stdout, p.Stderr = theirs[0], theirs[1], theirs[2]
	x.pid, err = x.m.Jails.Exec(ctx, x.jail, p)
	return err
}

func (x *execSession) close() {
	for _, f := range []*os.File{x.master, x.in, x.out[0], x.out[1]} {
		f.Close() // nil and closed files only return an error
	}
}

// kill ends the command. What it wrote is still copied: it may have ended by itself.
func (x *execSession) kill() {
	if err := x.m.Jails.Signal(x.jail, x.pid, 9); err != nil {
		x.m.Log.Debug("exec: kill", "jail", x.jail, "error", err)
	}
	x.in.Close() // nil, of a terminal, and closed ones only return an error
}

// drop ends a command whose output nobody copies.
func (x *execSession) drop() {
	x.kill()
	x.close()
}

// maxInput is how many frames of input wait for a command that does not read.
const maxInput = 32

// readFrames takes what the client sends; when the client goes, so does the
// command, whether it reads its input or not.
func (x *execSession) readFrames(conn net.Conn, r io.Reader) {
	defer x.kill()
	takeFrames(conn, r, x, x.m.Log.With("jail", x.jail))
}

// frameTaker is for what a client sends on a stream.
type frameTaker interface {
	input(p []byte) error // nothing is the end of it; it may take its time
	resize(p []byte) error
	signal(name string) error
	leave()
}

// takeFrames returns when the client has gone, whether its input was taken or not.
func takeFrames(conn net.Conn, r io.Reader, to frameTaker, log hclog.Logger) {
	input := make(chan []byte, maxInput)
	defer close(input)
	go func() {
		for p := range input {
			if err := to.input(p); err != nil {
				log.Debug("input", "error", err)
			}
		}
	}()
	for {
		t, p, err := client.ReadFrame(r)
		if err != nil {
			return
		}
		switch t {
		case client.Stdin:
			if !offer(conn, input, p) {
				return
			}
		case client.Resize:
			err = to.resize(p)
		case client.SignalFrame:
			err = to.signal(string(p))
		case client.LeaveFrame:
			to.leave()
		default: // who sends it expects something that is not done here
			log.Warn("a frame of an unknown type ends the session", "type", t)
			return
		}
		if err != nil {
			log.Debug("a frame", "error", err)
		}
	}
}

func (x *execSession) signal(name string) error {
	sig, err := parseSignal(name, x.system)
	if err != nil {
		return err
	}
	return x.m.Jails.Signal(x.jail, x.pid, sig)
}

// leave ends no command that goes on.
func (x *execSession) leave() {}

// lookEvery is the time between two looks for a client from which nothing is read.
const lookEvery = 200 * time.Millisecond

// offer waits for room; it is false where the client went meanwhile.
func offer(conn net.Conn, input chan<- []byte, p []byte) bool {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case input <- p:
			return true
		case <-tick.C:
			if hungUp(conn) {
				return false
			}
		}
	}
}

// hungUp tells that nobody has the other end of a connection any more, whatever
// of it is not read yet.
func hungUp(conn net.Conn) bool {
	s, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return true // closed here
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP needs no asking for
		n, perr := unix.Poll(p, 0)
		gone = perr == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
	})
	return gone || err != nil
}

// resize has no effect without a terminal.
func (x *execSession) resize(p []byte) error { return setSize(x.master, p) }

// setSize gives a terminal the size that a frame tells of.
func setSize(master *os.File, p []byte) error {
	var ws client.WindowSize
	if err := strictjson.Unmarshal(p, &ws, strictjson.Rules{Bytes: 1000, Values: 10}); err != nil {
		return err
	}
	size, err := winsize(ws.Rows, ws.Cols)
	if err != nil || master == nil {
		return err
	}
	return pty.Setsize(master, size)
}

func winsize(rows, cols int) (*pty.Winsize, error) {
	if rows < 0 || rows > math.MaxUint16 || cols < 0 || cols > math.MaxUint16 {
		return nil, client.Invalid("invalid terminal size: %d rows, %d columns", rows, cols)
	}
	return &pty.Winsize{Rows: uint16(rows), Cols: uint16(cols)}, nil
}

func (x *execSession) input(p []byte) error {
	switch {
	case x.master != nil:
		return typeIn(x.master, p)
	case len(p) == 0:
		return x.in.Close()
	}
	_, err := x.in.Write(p)
	return err
}

// endOfFile is the character that ends a terminal's input.
const endOfFile = 4

// typeIn writes to a terminal; nothing is the end of input.
func typeIn(master *os.File, p []byte) error {
	if len(p) == 0 {
		p = []byte{endOfFile}
	}
	_, err := master.Write(p)
	return err
}

// drainTime is how long output may still come after the command's end, from
// children that keep its pipes open.
const drainTime = time.Second

func (x *execSession) copyOutput(w *client.FrameWriter) {
	var wg sync.WaitGroup
	drained := make(chan struct{})
	copyOne := func(t client.FrameType, f *os.File) {
		wg.Go(func() {
			// A terminal's master ends with EIO when the last slave is closed.
			if _, err := io.Copy(w.Stream(t), f); err != nil {
				x.m.Log.Trace("exec: output", "error", err)
			}
		})
	}
	if x.master != nil {
		copyOne(client.Stdout, x.master)
	} else {
		copyOne(client.Stdout, x.out[0])
		copyOne(client.Stderr, x.out[1])
	}
	go func() { wg.Wait(); close(drained) }()
	e := <-x.exits
	select {
	case <-drained:
	case <-time.After(drainTime):
	}
	x.close()
	<-drained
	x.exit = client.Exit{Code: e.Code, Signal: e.Signal, Known: e.Known, OOM: e.OOM, Message: e.Reason, At: e.At}
}
