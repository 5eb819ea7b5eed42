package jail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/ktrace"
)

// straceOptions choose calls. Strings are left out but for paths: what is read, written and sent has secrets.
var straceOptions = map[ktrace.What][]string{
	ktrace.Calls: {"-s", "0"},
	ktrace.Files: {"-s", "0", "-e", "trace=%file"},
	ktrace.Net:   {"-s", "0", "-e", "trace=%network"},
}

// Trace shows what the processes of a jail do, by strace(1).
func (m *Manager) Trace(ctx context.Context, name string, t Trace) (out TraceEnd, err error) {
	if t.Script != "" || t.Ready != "" {
		return out, fmt.Errorf("%w: scripts for dtrace(1) are for FreeBSD; on Linux use bpftrace(8) on the host, "+
			"which has a language of its own", ErrNoTracer)
	}
	program, err := exec.LookPath("strace")
	if err != nil {
		return out, fmt.Errorf("%w: there is no strace(1): apt-get install strace", ErrNoTracer)
	}
	f, err := traceFile(m.traces)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name()), f.Close()) }()
	s := &straces{program: program, jail: name, file: f.Name(), options: straceOptions[t.What], size: t.Size,
		tried: map[string]bool{}}
	to := &lines{tell: t.Line}
	out, err = t.into(ctx, s, f, to)
	return out, errors.Join(err, to.close())
}

// straces are programs that trace: one for the processes that there were, others for those that were started in
// the jail from outside since.
type straces struct {
	program, jail, file string
	options             []string
	size                int64
	tried               map[string]bool // processes, each with its start
	running             []*strace
}

type strace struct {
	*exec.Cmd
	said bytes.Buffer
	over chan struct{}
}

// maxStraces bounds them: each that was started from outside has one.
const maxStraces = 64

func (s *straces) follow() (processes int, err error) {
	all := pidsOf(s.jail)
	var fresh []int
	for _, pid := range all {
		f, err := procStat(pid)
		if err != nil || f[0] == "Z" || tracedBy(pid) != 0 {
			continue // it ended, or is traced: by its parent's strace, or by someone else's
		}
		key := fmt.Sprint(pid, " ", f[19])
		if s.tried[key] {
			continue
		}
		s.tried[key] = true
		fresh = append(fresh, pid)
	}
	s.running = slices.DeleteFunc(s.running, (*strace).hasEnded)
	if len(fresh) > 0 && len(s.running) == maxStraces {
		return 0, fmt.Errorf("more than %d processes were started from outside during the trace", maxStraces)
	}
	if len(fresh) > 0 {
		err = s.begin(fresh)
	}
	if err == nil && len(all) > 0 && len(s.tried) == 0 {
		err = errors.New("all processes are traced by another program already")
	}
	return len(all), err
}

func (s *straces) begin(pids []int) error {
	args := append([]string{"-f", "-q", "-A", "-o", s.file}, s.options...)
	for _, pid := range pids {
		args = append(args, "-p", strconv.Itoa(pid))
	}
	x := &strace{Cmd: exec.Command(s.program, args...), over: make(chan struct{})}
	x.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	x.Stderr = &x.said
	x.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := x.start(); err != nil {
		return fmt.Errorf("strace: %w", err)
	}
	s.running = append(s.running, x)
	limit := unix.Rlimit{Cur: uint64(s.size), Max: uint64(s.size)}
	if err := unix.Prlimit(x.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("strace: limit of its file: %w", err)
	}
	return s.attached(x, pids)
}

// start has a thread of its own for the parent: the kernel takes that thread's end for the daemon's.
func (x *strace) start() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := x.Start()
		started <- err
		if err == nil {
			_ = x.Wait() // what it said is asked for where it matters
			close(x.over)
		}
	}()
	return <-started
}

func (x *strace) hasEnded() bool {
	select {
	case <-x.over:
		return true
	default:
		return false
	}
}

// attachTime is how long strace may take to attach to what is not stopped.
const attachTime = 5 * time.Second

// attached waits until all processes are traced or have ended.
func (s *straces) attached(x *strace, pids []int) error {
	begun := time.Now()
	for _, pid := range pids {
		for tracedBy(pid) == 0 && !x.hasEnded() && time.Since(begun) < attachTime {
			if err := unix.Kill(pid, 0); err != nil {
				break // it has ended
			}
			time.Sleep(time.Millisecond)
		}
	}
	if x.hasEnded() && len(pidsOf(s.jail)) > 0 && !x.ProcessState.Success() {
		return toolEnded("strace", errors.New(x.ProcessState.String()), x.said.Bytes())
	}
	return nil
}

// end has them detach. One that does not is killed, which the kernel takes for that.
func (s *straces) end() error {
	for _, x := range s.running {
		if !x.hasEnded() {
			_ = x.Process.Signal(syscall.SIGTERM) // it may end just now
		}
	}
	for _, x := range s.running {
		select {
		case <-x.over:
		case <-time.After(attachTime):
			_ = x.Process.Kill()
			<-x.over
		}
	}
	s.running = nil
	return nil
}

// pidsOf are the processes of a jail.
func pidsOf(jail string) (pids []int) {
	dir, _ := cgroup("memory", jail)
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil // the jail is gone
	}
	for text := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(text); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// tracedBy is the process that traces one, 0 for none.
func tracedBy(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "TracerPid:")
	line, _, _ := strings.Cut(rest, "\n")
	n, _ := strconv.Atoi(strings.TrimSpace(line)) // the kernel writes a number
	return n
}

// sweepTraces removes the files that a daemon has left which was killed; who traced into them ended with it.
func sweepTraces(dir string) error { return os.RemoveAll(dir) }
