package jail

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/creack/pty"
	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// Start runs a jail's first process and returns its pid.
func (m *Manager) Start(ctx context.Context, name string, p Process) (int, error) {
	return m.spawn(ctx, "start", name, p, nil)
}

// Exec runs one more process in a jail and returns its pid.
func (m *Manager) Exec(ctx context.Context, name string, p Process) (int, error) {
	return m.spawn(ctx, "exec", name, p, nil)
}

// StartTTY is Start with a new terminal, whose master it returns.
func (m *Manager) StartTTY(ctx context.Context, name string, p Process) (int, *os.File, error) {
	return m.spawnTTY(ctx, "start", name, p)
}

// ExecTTY is Exec with a new terminal, whose master it returns.
func (m *Manager) ExecTTY(ctx context.Context, name string, p Process) (int, *os.File, error) {
	return m.spawnTTY(ctx, "exec", name, p)
}

func (m *Manager) spawnTTY(ctx context.Context, op, name string, p Process) (int, *os.File, error) {
	master, slave, err := openTerminal()
	if err != nil {
		return 0, nil, &Error{Op: op, Jail: name, Err: fmt.Errorf("terminal: %w", err)}
	}
	defer slave.Close() // if it was not reached
	if p.Rows > 0 && p.Cols > 0 {
		if err := pty.Setsize(slave, &pty.Winsize{Rows: p.Rows, Cols: p.Cols}); err != nil {
			return 0, nil, &Error{Op: op, Jail: name, Err: errors.Join(fmt.Errorf("terminal: %w", err), master.Close())}
		}
	}
	p.Stdin, p.Stdout, p.Stderr = slave, slave, slave
	pid, err := m.spawn(ctx, op, name, p, slave)
	if err != nil {
		master.Close()
		return 0, nil, err
	}
	return pid, master, nil
}

// openTerminal returns a master whose reads end when it is closed: for that it
// has to be non-blocking.
func openTerminal() (master, slave *os.File, err error) {
	blocking, slave, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer blocking.Close()
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		slave.Close()
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), "terminal"), slave, nil
}

// spawn runs a process in a session of its own; tty is the terminal that its
// files are, if they are one, and is closed.
func (m *Manager) spawn(ctx context.Context, op, name string, p Process, tty *os.File) (int, error) {
	fail := func(message string, err error) (int, error) {
		return 0, &Error{Op: op, Jail: name, Message: message, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail("", err)
	}
	s, err := m.find(op, name)
	if err != nil {
		return 0, err
	}
	if s.gone {
		return fail("", ErrNotFound)
	}
	prog, err := lookProgram(s.root, p)
	if err != nil {
		return fail("", err)
	}
	files, err := m.stdio(p)
	if err != nil {
		return fail("", err)
	}
	b, err := newBirth(s.jid, prog, tty, p)
	if err != nil {
		return fail("", err)
	}
	b.inherited, b.normal = m.inherited, rtprio{class: rtpNormal}
	if b.processors, err = processors(s.jid); err != nil {
		return fail("", err)
	}
	if s.OpenFiles > 0 {
		b.limits = append(b.limits, limit{unix.RLIMIT_NOFILE, unix.Rlimit{Cur: s.OpenFiles, Max: s.OpenFiles}})
	}
	if p.NoCore {
		b.limits = append(b.limits, limit{unix.RLIMIT_CORE, unix.Rlimit{}})
	}
	m.starting.RLock()
	defer m.starting.RUnlock()
	pid, err := b.forkExec(files, tty, &m.unborn)
	if err != nil {
		return fail(explainStart(prog, p.Dir, err))
	}
	m.procs.add(pid, proc{jail: name})
	return pid, nil
}

func newBirth(jid int, prog string, tty *os.File, p Process) (*birth, error) {
	b := &birth{jid: jid, uid: p.UID, gid: p.GID, groups: append([]uint32{p.GID}, p.Groups...)}
	var errs [5]error
	b.prog, errs[0] = syscall.BytePtrFromString(prog)
	b.dir, errs[1] = syscall.BytePtrFromString(cmp.Or(p.Dir, "/"))
	b.argv, errs[2] = syscall.SlicePtrFromStrings(p.Args)
	b.envv, errs[3] = syscall.SlicePtrFromStrings(p.Env)
	if tty != nil {
		b.tty, errs[4] = syscall.BytePtrFromString(tty.Name())
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("NUL byte in the program, its directory, arguments or environment: %w", err)
	}
	return b, nil
}

// stdio returns the files of the process. It expects them to block.
func (m *Manager) stdio(p Process) (out [3]*os.File, err error) {
	for i, f := range []*os.File{p.Stdin, p.Stdout, p.Stderr} {
		if f == nil {
			f = m.null
		}
		if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
			return out, fmt.Errorf("%s: %w", f.Name(), err)
		}
		out[i] = f
	}
	return out, nil
}

// explainStart puts the kernel's answer into words.
func explainStart(prog, dir string, err error) (string, error) {
	var b *birthError
	if !errors.As(err, &b) {
		return "", err
	}
	switch b.step {
	case stepAttach:
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return "attach", ErrNotFound
		}
		return "attach", err
	case stepTerminal:
		return "session and terminal", err
	case stepUser:
		return "user and groups", err
	case stepDir:
		return fmt.Sprintf("working directory %q", dir), err
	case stepLimit:
		return "limits of the process", err
	case stepOrdinary:
		return "priority, limits and signals", err
	case stepProcessors:
		return "processors", err
	case stepExec:
	default:
		return "files of the process", err
	}
	message := fmt.Sprintf("%q", prog)
	switch {
	case errors.Is(err, unix.ENOENT):
		return message + ": the interpreter that its #! line names, or its dynamic loader, is missing", ErrNoProgram
	case errors.Is(err, unix.ENOEXEC):
		return message + ": not an executable format of this kernel " +
			"(a static Linux program needs kern.elf64.fallback_brand=3)", fmt.Errorf("%w: %w", ErrNotExecutable, err)
	case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EISDIR):
		return message, fmt.Errorf("%w: %w", ErrNotExecutable, err)
	}
	return message, err
}

// inRoot looks at a path as a process in the jail would see it. The answer is
// for an error's text: the jail may change it at any time, and the kernel
// resolves the path itself, in the jail.
func inRoot(root, path string) (fs.FileInfo, error) {
	real, err := securejoin.SecureJoin(root, path)
	if err != nil {
		return nil, err
	}
	return os.Lstat(real)
}

const defaultPath = "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"

// lookProgram finds Args[0] as execvp would in the jail.
func lookProgram(root string, p Process) (string, error) {
	if len(p.Args) == 0 || p.Args[0] == "" {
		return "", fmt.Errorf("no program given: %w", ErrNoProgram)
	}
	name := p.Args[0]
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		path := defaultPath
		for _, e := range p.Env {
			if v, ok := strings.CutPrefix(e, "PATH="); ok {
				path = v
			}
		}
		candidates = nil
		for _, dir := range filepath.SplitList(path) {
			candidates = append(candidates, filepath.Join(dir, name))
		}
	}
	var reason error
	for _, c := range candidates {
		if !filepath.IsAbs(c) {
			c = filepath.Join("/", p.Dir, c)
		}
		i, err := inRoot(root, c)
		switch {
		case err != nil:
		case !i.Mode().IsRegular() || i.Mode().Perm()&0o111 == 0:
			reason = fmt.Errorf("%q: %w: %w", c, ErrNotExecutable, fs.ErrPermission)
		default:
			return c, nil
		}
	}
	if reason != nil {
		return "", reason
	}
	return "", fmt.Errorf("%q: %w", name, ErrNoProgram)
}
