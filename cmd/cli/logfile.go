package cli

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/printable"
)

// logTo makes a file of standard output and error, which what a panic says goes
// to as well. At SIGUSR1 the file is opened anew: newsyslog(8) has moved it. The
// terminal is left, if there is one: at the end of rc(8) the kernel would send
// SIGHUP.
func logTo(path string) error {
	moved := make(chan os.Signal, 1)
	signal.Notify(moved, syscall.SIGUSR1) // before the file is opened, so that none is missed
	if err := openLog(path); err != nil {
		return err
	}
	if _, err := unix.Setsid(); err != nil && !errors.Is(err, unix.EPERM) { // EPERM: a shell's job, or there already
		return err
	}
	go func() {
		for range moved {
			if err := openLog(path); err != nil {
				printable.Fprintln(os.Stderr, "freejail: the log goes on in the old file:", err)
			}
		}
	}()
	return nil
}

func openLog(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(unix.Dup2(int(f.Fd()), unix.Stdout), unix.Dup2(int(f.Fd()), unix.Stderr), f.Close())
}
