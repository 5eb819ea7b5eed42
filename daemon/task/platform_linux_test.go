package task

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A task's output has room for what a busy one writes before its reader runs.
func TestOutputsAreWide(t *testing.T) {
	name := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := openOutputAt(unix.AT_FDCWD, name, outputFlags)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := unix.FcntlInt(f.Fd(), unix.F_GETPIPE_SZ, 0); err != nil || n < pipeSize {
		t.Errorf("the FIFO has room for %d bytes: %v", n, err)
	}
}
