package task

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/jail"
)

func (s *start) startProcess(ctx context.Context) error {
	m, t, p, spec := s.m, s.t, s.plan, s.t.info.Spec
	user, err := lookUp(t.info.Root, p.image, spec)
	if err != nil {
		return err
	}
	if err := m.checkUser(spec, p, user); err != nil {
		return err
	}
	proc, err := process(t.info, p.image, user, p.args, p.env)
	if err != nil {
		return err
	}
	proc.NoCore = !t.root.takesCore()
	for _, dir := range p.dirs {
		if dir.Private {
			if err := giveTo(p.sources[dir.Source], proc); err != nil {
				return fmt.Errorf("%s: %w", dir.Target, err)
			}
		}
	}
	pid, err := s.spawn(ctx, proc)
	if err != nil {
		return notExecuted(err)
	}
	start, err := jail.StartTime(pid)
	if err != nil {
		m.Log.Debug("the process ended at once", "task", t.id(), "error", err)
	}
	t.mu.Lock()
	t.pidStart, t.user = start, &user
	t.mu.Unlock()
	return t.update(func(i *client.Task) { i.PID, i.State, i.StartedAt = pid, client.Running, time.Now() })
}

// spawn runs the process with the streams, or the terminal, that the task is to have.
func (s *start) spawn(ctx context.Context, proc jail.Process) (pid int, err error) {
	m, t := s.m, s.t
	if t.info.Spec.TTY {
		return m.startInTerminal(ctx, t, proc)
	}
	if proc.Stdin, err = m.openInput(t); err != nil {
		return 0, fmt.Errorf("stdin: %w", err)
	}
	defer proc.Stdin.Close()
	if proc.Stdout, err = m.openStream(t, "stdout"); err != nil {
		return 0, fmt.Errorf("stdout: %w", err)
	}
	// The daemon must not hold the task's end: a reader waits for the last writer.
	defer proc.Stdout.Close()
	if proc.Stderr, err = m.openStream(t, "stderr"); err != nil {
		return 0, fmt.Errorf("stderr: %w", err)
	}
	defer proc.Stderr.Close()
	return m.Jails.Start(ctx, t.info.Jail, proc)
}

// userOf is whom a task runs as, by name or number: the job's user, else the image's, else the client's.
func userOf(spec client.TaskSpec, img *image.Image) string {
	return cmp.Or(spec.User, img.Config.Config.User, spec.DefaultUser)
}

// lookUp finds a task's user in the files of a root.
func lookUp(root string, img *image.Image, spec client.TaskSpec) (image.Creds, error) {
	user := userOf(spec, img)
	creds, err := image.ResolveUser(root, user)
	if err != nil {
		return creds, client.Invalid("user %q: %v", user, err)
	}
	return creds, nil
}

// process is a command in a task. What the task does not say, the image does.
func process(info client.Task, img *image.Image, creds image.Creds, args, env []string) (jail.Process, error) {
	dir := cmp.Or(info.Spec.WorkDir, img.Config.Config.WorkingDir, "/")
	if creds.Home != "" && !hasEnv(env, "HOME") {
		env = append(env, "HOME="+creds.Home)
	}
	if !filepath.IsAbs(dir) {
		return jail.Process{}, client.Invalid("work_dir %q is not an absolute path", dir)
	}
	return jail.Process{Args: args, Env: env, Dir: dir, UID: creds.UID, GID: creds.GID, Groups: creds.Groups}, nil
}

// giveTo makes an opened directory its process's alone.
func giveTo(place *os.File, p jail.Process) error {
	fd, err := unix.Openat(int(place.Fd()), ".", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: place.Name(), Err: err}
	}
	f := os.NewFile(uintptr(fd), place.Name())
	return errors.Join(f.Chown(int(p.UID), int(p.GID)), f.Chmod(0o700), f.Close())
}

// outputFlags open a FIFO for reading too, so that the task never gets SIGPIPE
// while its reader restarts. A link in its place is not followed.
const outputFlags = unix.O_RDWR | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openStream opens what a task's process writes to: what its client names, or a
// FIFO of the daemon's own.
func (m *Manager) openStream(t *task, stream string) (*os.File, error) {
	path := t.streamPath(stream)
	if path == "" {
		return m.newOutput(t, stream)
	}
	dir, _, err := Confined(t.info.Spec, filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	f, err := openOutputAt(int(dir.Fd()), filepath.Base(path), outputFlags)
	return f, errors.Join(err, dir.Close())
}

func openOutputAt(dir int, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(dir, name, flags, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if m := st.Mode & unix.S_IFMT; m != unix.S_IFIFO && m != unix.S_IFREG && m != unix.S_IFCHR {
		return nil, errors.Join(fmt.Errorf("%s is neither a FIFO nor a file", name), f.Close())
	}
	// The process inherits the description: it must block as others do.
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
