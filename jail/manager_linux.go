package jail

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Manager runs containers by runc. It becomes the parent of their processes: as
// the subreaper it inherits them when runc ends.
type Manager struct {
	dir    string
	traces string // directory
	runc   string
	watch  *watcher

	mu    sync.Mutex
	specs map[string]Spec // made, not started
}

// Open finds runc and makes this process the one that inherits orphans.
func Open(cfg Config) (*Manager, error) {
	m := &Manager{dir: filepath.Join(cfg.StateDir, "runc"), traces: traceDir(cfg.StateDir), specs: map[string]Spec{}}
	err := sweepTraces(m.traces)
	if err != nil {
		return nil, err
	}
	if m.runc, err = Runtime(cfg.Runc); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(m.path("state"), 0o700); err != nil {
		return nil, err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become subreaper: %w", err)
	}
	m.watch, err = newWatcher(m.oomKilled)
	return m, err
}

// Runtime is the program that makes containers: what the configuration names, $RUNC_BIN, or runc or crun of PATH.
func Runtime(named string) (string, error) {
	if named = cmp.Or(named, os.Getenv("RUNC_BIN")); named != "" {
		return exec.LookPath(named)
	}
	for _, name := range []string{"runc", "crun"} {
		if p, err := exec.LookPath(name); err == nil {
			return p, nil
		}
	}
	return "", errors.New("a development host needs runc or crun: install one, or name it in the host configuration " +
		"(runc = \"/path\")")
}

func (m *Manager) path(elem ...string) string {
	return filepath.Join(append([]string{m.dir}, elem...)...)
}

// Features tells what this backend can do.
func (m *Manager) Features() map[string]string {
	return map[string]string{"backend": "runc", "racct": "1", "vnet": "1", "linux": "1"}
}

// Create keeps the spec: runc makes the container with its first process. There
// are no jail ids here; it returns 0.
func (m *Manager) Create(_ context.Context, s Spec) (int, error) {
	if err := s.check(); err != nil {
		return 0, err
	}
	if _, err := confinementOf(s); err != nil {
		return 0, &Error{Op: "create", Jail: s.Name, Err: err}
	}
	if err := os.Mkdir(m.path(s.Name), 0o700); err != nil {
		return 0, &Error{Op: "create", Jail: s.Name, Err: err}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.specs[s.Name] = s
	return 0, nil
}

// Start runs a jail's first process and returns its pid.
func (m *Manager) Start(ctx context.Context, name string, p Process) (int, error) {
	return m.start(ctx, name, p, false)
}

func (m *Manager) start(ctx context.Context, name string, p Process, tty bool, option ...string) (int, error) {
	m.mu.Lock()
	s, ok := m.specs[name]
	delete(m.specs, name)
	m.mu.Unlock()
	if !ok {
		return 0, &Error{Op: "start", Jail: name, Err: ErrNotFound}
	}
	b, err := json.Marshal(containerSpec(s, p, tty))
	if err == nil {
		err = os.WriteFile(m.path(name, "config.json"), b, 0o600)
	}
	if err != nil {
		return 0, &Error{Op: "start", Jail: name, Err: err}
	}
	claim, err := m.claim(ctx, name)
	if err != nil {
		return 0, &Error{Op: "start", Jail: name, Err: err}
	}
	defer claim.Close()
	pidFile := m.path(name, "pid")
	// A runc that is killed leaves its cgroups and its child: it ends by itself.
	args := append([]string{"--bundle", m.path(name), "--pid-file", pidFile}, option...)
	if err := m.runWith(context.WithoutCancel(ctx), claim, "create", name, &p, append(args, name)...); err != nil {
		return 0, err
	}
	pid, err := readPID(pidFile)
	if err != nil {
		return 0, &Error{Op: "start", Jail: name, Err: err}
	}
	// Watched before it runs: no exit is missed.
	if err := m.watch.add(pid, name); err != nil {
		return 0, &Error{Op: "start", Jail: name, Err: err}
	}
	if err := confine(name, pid, s); err != nil {
		return 0, &Error{Op: "start", Jail: name, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return 0, &Error{Op: "start", Jail: name, Err: err}
	}
	return pid, m.run(context.WithoutCancel(ctx), "start", name, nil, name)
}

// run calls runc. Its log goes to a file of its own, not to the task's stderr.
func (m *Manager) run(ctx context.Context, op, name string, p *Process, args ...string) error {
	return m.runWith(ctx, nil, op, name, p, args...)
}

// runWith is run of a runc that holds a file for as long as it runs; nil is none.
func (m *Manager) runWith(ctx context.Context, hold *os.File, op, name string, p *Process, args ...string) error {
	log, err := newLog()
	if err != nil {
		return &Error{Op: op, Jail: name, Err: err}
	}
	defer log.Close()
	files := []*os.File{log}
	if hold != nil {
		files = []*os.File{hold, log}
	}
	cmd := exec.CommandContext(ctx, m.runc, append([]string{"--root", m.path("state"),
		"--log", fmt.Sprintf("/proc/self/fd/%d", 2+len(files)), "--log-format", "json", op}, args...)...)
	// a terminal's signals are for this process, which ends the container
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.ExtraFiles = files
	var out bytes.Buffer
	if p != nil && p.Stdout != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, p.Stdout, p.Stderr
	} else {
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.WaitDelay = time.Second // a detached process may hold the pipe
	}
	if err = cmd.Run(); errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	msg := lastLogMessage(log)
	if msg == "" {
		msg = strings.TrimSpace(out.String())
	}
	switch {
	case err == nil:
		return nil
	case p != nil && strings.Contains(msg, "exec: "):
		return &Error{Op: op, Jail: name, Message: fmt.Sprintf("%q", p.Args[0]), Err: whyNotExecuted(msg)}
	}
	return &Error{Op: op, Jail: name, Message: msg, Err: err}
}

// whyNotExecuted reads runc's words: it looks for the program as exec.LookPath does.
func whyNotExecuted(msg string) error {
	for _, there := range []string{"permission denied", "is a directory", "exec format error"} {
		if strings.Contains(msg, there) {
			return fmt.Errorf("%w: %s", ErrNotExecutable, there)
		}
	}
	return ErrNoProgram
}

// newLog is for runc's own words. It is in memory: on a full disk they say what there was no room for.
func newLog() (*os.File, error) {
	fd, err := unix.MemfdCreate("runc.log", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	return os.NewFile(uintptr(fd), "runc.log"), nil
}

func lastLogMessage(log *os.File) string {
	b, err := io.ReadAll(io.NewSectionReader(log, 0, 1<<20))
	if err != nil {
		return ""
	}
	msg := ""
	for line := range bytes.Lines(b) {
		var l struct{ Level, Msg string }
		if json.Unmarshal(line, &l) == nil && l.Level == "error" {
			msg = l.Msg
		}
	}
	return msg
}

func readPID(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// Exec runs one more process in a jail and returns its pid.
func (m *Manager) Exec(ctx context.Context, name string, p Process) (int, error) {
	return m.exec(ctx, name, p, false)
}

func (m *Manager) exec(ctx context.Context, name string, p Process, tty bool, extra ...string) (int, error) {
	dir, err := os.MkdirTemp(m.path(name), "exec-")
	if err != nil {
		return 0, &Error{Op: "exec", Jail: name, Err: err}
	}
	defer os.RemoveAll(dir)
	var b []byte
	first, err := m.firstProcess(name)
	if err == nil {
		b, err = json.Marshal(processSpec(p, first.Capabilities.Bounding, first.Rlimits, tty))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "process.json"), b, 0o600)
	}
	if err != nil {
		return 0, &Error{Op: "exec", Jail: name, Err: err}
	}
	args := append([]string{"--detach", "--process", filepath.Join(dir, "process.json"),
		"--pid-file", filepath.Join(dir, "pid")}, extra...)
	if err := m.run(context.WithoutCancel(ctx), "exec", name, &p, append(args, name)...); err != nil {
		return 0, err
	}
	pid, err := readPID(filepath.Join(dir, "pid"))
	if err == nil {
		err = m.watch.add(pid, "")
	}
	if err != nil {
		return 0, &Error{Op: "exec", Jail: name, Err: err}
	}
	return pid, nil
}

// firstProcess is what the first process of a jail was given: the others have
// no more and no less.
func (m *Manager) firstProcess(name string) (*specs.Process, error) {
	b, err := os.ReadFile(m.path(name, "config.json"))
	if err != nil {
		return nil, err
	}
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	if s.Process == nil || s.Process.Capabilities == nil {
		return nil, errors.New("config.json holds no process")
	}
	return s.Process, nil
}

// SetCPUs has a jail's processes run on these processors alone.
func (m *Manager) SetCPUs(ctx context.Context, name, list string) error {
	if mask, err := cpuMask(list); err != nil || mask == nil {
		return &Error{Op: "set processors", Jail: name, Err: fmt.Errorf("%q is no list of processors: %w", list, err)}
	}
	return m.run(ctx, "update", name, nil, "--cpuset-cpus", list, name)
}

// Unenforced names the limits that this host does not put into force: none.
func (m *Manager) Unenforced(Limits) []string { return nil }

// Wait returns a channel that tells the end of a process once.
func (m *Manager) Wait(pid int) <-chan Exit { return m.watch.procs.wait(pid) }

// OnExit has f called once, when a process has ended: no goroutine waits for that. f is to return at once.
func (m *Manager) OnExit(pid int, f func(Exit)) { m.watch.procs.onExit(pid, f) }

// Still waits for ends that are being told. None is told until undo is called, nor is a child collected: a program
// that replaces this one in the same process finds how each has ended.
func (m *Manager) Still() (undo func()) {
	m.watch.procs.still.Lock()
	return m.watch.procs.still.Unlock
}

// WaitEmpty returns when no process is left: here they end with the first.
func (m *Manager) WaitEmpty(string) {}

// Removed never tells anything here.
func (m *Manager) Removed() <-chan string { return nil }

// Adopt watches the first process of a jail that an earlier daemon started.
func (m *Manager) Adopt(name string, pid int, start string) error {
	// A child that ended during an upgrade in place still has its exit code.
	f, err := procStat(pid)
	if err != nil {
		return fmt.Errorf("process %d has ended", pid)
	}
	if f[19] != start {
		return fmt.Errorf("process %d is not the one that was started: its number was used again", pid)
	}
	return m.watch.add(pid, name)
}

// Signal sends a signal to a process; pid 0 means all of the jail, which takes
// SIGKILL alone.
func (m *Manager) Signal(name string, pid int, sig syscall.Signal) error {
	if pid == 0 {
		init, err := m.initPID(name)
		if err != nil {
			return err
		}
		pid = init
	}
	if _, ok := m.watch.procs.get(pid); !ok {
		return &Error{Op: "signal", Jail: name, Err: unix.ESRCH}
	}
	if err := unix.Kill(pid, sig); err != nil {
		return &Error{Op: "signal", Jail: name, Err: err}
	}
	return nil
}

// Kill kills all processes of a jail: the kernel ends them with the first, and has
// none forked from then on.
func (m *Manager) Kill(name string) error {
	err := m.Signal(name, 0, unix.SIGKILL)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist) { // it has ended
		return nil
	}
	return err
}

func (m *Manager) initPID(name string) (int, error) {
	pid, err := readPID(m.path(name, "pid"))
	if err != nil {
		return 0, &Error{Op: "signal", Jail: name, Err: err}
	}
	return pid, nil
}

// Remove kills and removes a jail. No jail is no error.
func (m *Manager) Remove(ctx context.Context, name string) error {
	m.mu.Lock()
	delete(m.specs, name)
	m.mu.Unlock()
	if _, err := os.Stat(m.path(name)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := m.removeContainer(ctx, name); err != nil {
		return err
	}
	return os.RemoveAll(m.path(name))
}

// Find returns a jail that was not removed, its processes alive or not; else ErrNotFound.
func (m *Manager) Find(name string) (Info, error) {
	if _, err := os.Stat(m.path(name)); err != nil || !validName.MatchString(name) {
		return Info{}, &Error{Op: "find", Jail: name, Err: ErrNotFound}
	}
	i := Info{Name: name, Root: m.dir}
	if pid, err := readPID(m.path(name, "pid")); err == nil {
		i.PID = pid
	}
	return i, nil
}

// List returns those that Find finds.
func (m *Manager) List() ([]Info, error) {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, err
	}
	var out []Info
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), namePrefix) {
			continue
		}
		if i, err := m.Find(e.Name()); err == nil { // else it was removed meanwhile
			out = append(out, i)
		}
	}
	return out, nil
}

// Notes are none: what is noted of a jail makes it one of List.
func (m *Manager) Notes() ([]string, error) { return nil, nil }

// StartTime tells processes apart that had the same pid one after another:
// field 22 of /proc/PID/stat. One that has ended has it until it is collected.
func StartTime(pid int) (string, error) {
	f, err := procStat(pid)
	if err != nil {
		return "", err
	}
	return strings.Clone(f[19]), nil // not all of the file with it
}

// procStat returns the fields of /proc/PID/stat from the state on, the third.
func procStat(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	_, rest, ok := strings.Cut(string(b[max(0, bytes.LastIndexByte(b, ')')):]), " ")
	f := strings.Fields(rest)
	if !ok || len(f) < 22 {
		return nil, fmt.Errorf("/proc/%d/stat: invalid format", pid)
	}
	return f, nil
}
