package jail

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
	"github.com/freejail/freejail/internal/ktrace"
)

// Of sys/ktrace.h.
const (
	ktropSet       = 0
	ktropClearFile = 2
	ktrfacInherit  = 0x40000000 // what it starts is traced too
)

// Trace shows what the processes of a jail do: by ktrace(2), or a script of dtrace(1).
func (m *Manager) Trace(ctx context.Context, name string, t Trace) (out TraceEnd, err error) {
	m.mu.Lock()
	s, ok := m.jails[name]
	m.mu.Unlock()
	if !ok {
		return out, &Error{Op: "trace", Jail: name, Err: ErrNotFound}
	}
	if t.Script != "" || t.Ready != "" {
		return m.dtrace(ctx, s.jid, t)
	}
	if err := canKtrace(); err != nil {
		return out, err
	}
	f, err := traceFile(m.traces)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name()), f.Close()) }()
	x, err := m.newKtracing(s.jid, f.Name(), t)
	if err != nil {
		return out, err
	}
	k, err := startKdump(t.Line)
	if err != nil {
		return out, err
	}
	out, err = t.into(ctx, x, f, ktrace.NewFilter(k, t.What))
	return out, errors.Join(err, k.close(ctx))
}

// canKtrace refuses a host where the bound of a trace's size would end the task.
func canKtrace() error {
	switch {
	case !bsd.SysctlOn("kern.features.ktrace"):
		return fmt.Errorf("%w: its kernel is built without the option KTRACE", ErrNoTracer)
	case bsd.SysctlOn("kern.ktrace.filesize_limit_signal"):
		return fmt.Errorf("%w: with sysctl kern.ktrace.filesize_limit_signal=1 a trace that has its size would kill "+
			"the task: set it to 0", ErrNoTracer)
	}
	return nil
}

// ktracing has the kernel trace the processes of a jail into a file. The kernel bounds its size itself, by the
// limit of who has asked for it, whatever becomes of this process.
type ktracing struct {
	m     *Manager
	jid   int
	path  string
	mine  int64          // the kernel's name of the file; 0 before it is known
	other map[int64]bool // the files of who traces already
	known map[int]string // the processes that were traced, each with its start
	set   ktraceCall
}

func (m *Manager) newKtracing(jid int, path string, t Trace) (*ktracing, error) {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return nil, err
	}
	x := &ktracing{m: m, jid: jid, path: path, other: map[int64]bool{}, known: map[int]string{}}
	x.set = ktraceCall{path: p, points: uintptr(t.What.Points() | ktrfacInherit),
		size: unix.Rlimit{Cur: t.Size, Max: t.Size}}
	return x, bsd.EachProcess(func(p bsd.Process) {
		if _, file := p.Trace(); file != 0 {
			x.other[file] = true
		}
	})
}

func (x *ktracing) follow() (processes int, err error) {
	var fresh []int32
	elsewhere, lost := 0, false
	err = x.m.eachBorn(func(jid int, p bsd.Process) {
		if jid != x.jid || p.Zombie() {
			return
		}
		processes++
		switch points, file := p.Trace(); {
		case points != 0 && x.other[file]:
			elsewhere++ // it stays whose it is
		case points == 0 && x.known[p.PID()] == startOf(p):
			lost = true
		case points == 0:
			fresh = append(fresh, int32(p.PID()))
		default:
			x.known[p.PID()] = startOf(p)
		}
	})
	switch {
	case err != nil:
		return processes, err
	case lost:
		return processes, errNoSpace
	case processes > 0 && elsewhere == processes:
		return processes, errors.New("all processes are traced by another program already, such as ktrace(1)")
	case len(fresh) == 0:
		return processes, nil
	}
	return processes, x.trace(fresh)
}

// startOf tells a process from a later one with its number.
func startOf(p bsd.Process) string {
	d, err := p.Started()
	return fmt.Sprint(d.Round(10*time.Millisecond), err)
}

// trace is told of an error alone if it is not of a process that just ends, or begins: those are looked for again.
func (x *ktracing) trace(pids []int32) error {
	errno, err := x.set.do(pids)
	if err != nil {
		return fmt.Errorf("ktrace: %w", err)
	}
	if errno != 0 && errno != unix.ESRCH && errno != unix.EPERM {
		return fmt.Errorf("ktrace: %w", errno)
	}
	for _, pid := range pids {
		p, err := bsd.FindProcess(int(pid))
		if err != nil {
			continue // it has ended
		}
		if points, file := p.Trace(); points != 0 && !x.other[file] {
			x.mine, x.known[p.PID()] = file, startOf(p)
		}
	}
	if x.mine == 0 && errno == unix.EPERM {
		return fmt.Errorf("ktrace: %w", errno)
	}
	return nil
}

// endTries bounds how often what was forked meanwhile is looked for; blindTries is how often without the kernel's
// name of the file, as of a daemon before.
const (
	endTries   = 100
	blindTries = 3
)

// end has the kernel forget the file. A process that is just forked or executes may have it still: it is told
// again until a look after that finds none.
func (x *ktracing) end() error {
	for try := range endTries {
		cleared := clearTrace(x.path)
		if cleared != nil && !errors.Is(cleared, unix.EPERM) { // which is for one that executes now
			return cleared
		}
		left := x.mine == 0 && try < blindTries
		err := bsd.EachProcess(func(p bsd.Process) {
			points, file := p.Trace()
			left = left || points != 0 && file == x.mine && x.mine != 0
		})
		if err != nil || cleared == nil && !left {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("ktrace: processes are traced still, as they fork faster than that ends; each of them ends it "+
		"with the file %s full", x.path)
}

// clearTrace ends all tracing into a file.
func clearTrace(path string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(unix.SYS_KTRACE, uintptr(unsafe.Pointer(p)), ktropClearFile, 0, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("ktrace: clear %s: %w", path, errno)
	}
	return nil
}

// sweepTraces ends what a daemon that was killed has had traced.
func sweepTraces(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.Type().IsRegular() && bsd.SysctlOn("kern.features.ktrace") {
			err = errors.Join(err, (&ktracing{path: path}).end())
		}
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// ktraceCall calls ktrace(2) in a process of its own, whose limit of file sizes the trace has from then on.
type ktraceCall struct {
	path   *byte
	points uintptr
	size   unix.Rlimit
	pids   []int32
	report int

	failed uint32 // errno of the last that failed
}

func (c *ktraceCall) do(pids []int32) (errno syscall.Errno, err error) {
	r, w, err := pipe("report of ktrace")
	if err != nil {
		return 0, err
	}
	defer r.Close()
	c.pids, c.report, c.failed = pids, int(w.Fd()), 0
	pid, errno := bsd.Fork(syscall.SYS_FORK, 0, 0, c)
	runtime.KeepAlive(c)
	runtime.KeepAlive(pids)
	if err := w.Close(); err != nil || errno != 0 {
		return 0, errors.Join(err, errno)
	}
	defer wait6(idPID, int(pid), waitExited)
	var said [4]byte
	if _, err := io.ReadFull(r, said[:]); err != nil {
		return 0, err
	}
	return syscall.Errno(binary.NativeEndian.Uint32(said[:])), nil
}

// Run is the child.
//
//go:norace
//go:nosplit
func (c *ktraceCall) Run() {
	_, _, errno := syscall.RawSyscall(syscall.SYS_SETRLIMIT, unix.RLIMIT_FSIZE, uintptr(unsafe.Pointer(&c.size)), 0)
	if errno != 0 {
		c.failed = uint32(errno)
	}
	for i := 0; errno == 0 && i < len(c.pids); i++ {
		_, _, failed := syscall.RawSyscall6(unix.SYS_KTRACE, uintptr(unsafe.Pointer(c.path)), ktropSet, c.points,
			uintptr(c.pids[i]), 0, 0)
		if failed != 0 {
			c.failed = uint32(failed)
		}
	}
	syscall.RawSyscall(syscall.SYS_WRITE, uintptr(c.report), uintptr(unsafe.Pointer(&c.failed)), 4)
}

// kdump is the program that shows a trace. It is nobody's, as what it reads is made by what is traced.
type kdump struct {
	*exec.Cmd
	io.WriteCloser
	said bytes.Buffer
	told chan error
}

// nobody is the user of that name in every FreeBSD.
const nobody = 65534

func startKdump(line func(string) error) (*kdump, error) {
	k := &kdump{Cmd: exec.Command("/usr/bin/stdbuf", "-o", "L", "/usr/bin/kdump", "-f", "-"), told: make(chan error, 1)}
	if _, err := os.Stat("/usr/bin/kdump"); err != nil {
		return nil, fmt.Errorf("%w: kdump(1) of FreeBSD's base is missing: %w", ErrNoTracer, err)
	}
	k.Env, k.Dir, k.Stderr = []string{"LC_ALL=C.UTF-8"}, "/", &k.said
	k.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
		Pdeathsig: syscall.SIGKILL}
	out, err := k.StdoutPipe()
	if err == nil {
		k.WriteCloser, err = k.StdinPipe()
	}
	if err == nil {
		err = k.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("kdump: %w", err)
	}
	go func() {
		err := eachLine(out, line)
		if err != nil {
			_ = k.Process.Kill() // nobody reads what it shows
		}
		k.told <- err
	}()
	return k, nil
}

// close returns when all was told, or nobody is there any more to be told.
func (k *kdump) close(ctx context.Context) error {
	cerr := k.WriteCloser.Close()
	defer context.AfterFunc(ctx, func() { _ = k.Process.Kill() })()
	told := <-k.told
	err := k.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case told != nil:
		return told
	case errors.Is(cerr, os.ErrClosed):
		cerr = nil
	}
	return errors.Join(toolEnded("kdump", err, k.said.Bytes()), cerr)
}

// eachLine calls f until there is nothing more to read.
func eachLine(r io.Reader, f func(string) error) error {
	in := bufio.NewReaderSize(r, maxLine)
	for {
		line, _, err := in.ReadLine()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = f(string(line))
		}
		if err != nil {
			return err
		}
	}
}
