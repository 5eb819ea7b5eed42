package jail

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// StartTTY is Start with a new terminal, whose master it returns.
func (m *Manager) StartTTY(ctx context.Context, name string, p Process) (int, *os.File, error) {
	return withConsole(p, func(p Process, option ...string) (int, error) {
		return m.start(ctx, name, p, true, option...)
	})
}

// ExecTTY is Exec with a new terminal, whose master it returns.
func (m *Manager) ExecTTY(ctx context.Context, name string, p Process) (int, *os.File, error) {
	return withConsole(p, func(p Process, option ...string) (int, error) {
		return m.exec(ctx, name, p, true, option...)
	})
}

// withConsole gives begin the option by which runc sends the master of a terminal.
func withConsole(p Process, begin func(p Process, option ...string) (int, error)) (int, *os.File, error) {
	dir, err := os.MkdirTemp("", "fj") // a socket's path has room for 107 characters
	if err != nil {
		return 0, nil, err
	}
	defer os.RemoveAll(dir)
	sock := filepath.Join(dir, "tty")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
	if err != nil {
		return 0, nil, err
	}
	defer l.Close()
	type result struct {
		f   *os.File
		err error
	}
	got := make(chan result, 1)
	go func() {
		f, err := receiveFile(l)
		got <- result{f, err}
	}()
	p.Stdin, p.Stdout, p.Stderr = nil, nil, nil
	pid, err := begin(p, "--console-socket", sock)
	if err != nil {
		l.Close() // what waits for the master ends
		if r := <-got; r.f != nil {
			r.f.Close()
		}
		return 0, nil, err
	}
	r := <-got
	return pid, r.f, r.err
}

func receiveFile(l *net.UnixListener) (*os.File, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("no terminal came: %v", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("no terminal came: %v", err)
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "tty"), nil
}
