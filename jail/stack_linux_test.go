package jail

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// network tells a network namespace by the file at which it is found.
func network(t *testing.T, file string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(st.Dev, " ", st.Ino)
}

// stack mounts a new network namespace, as package network does, and returns where.
func stack(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "stack")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", file, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(file, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return file
}

func TestJailsShareAStack(t *testing.T) {
	f := setup(t)
	file := stack(t)
	want := network(t, file)
	for range 2 {
		name := f.running(Spec{Stack: file})
		first, err := f.m.initPID(name)
		if err != nil {
			t.Fatal(err)
		}
		p, r := f.process("/bin/prog", "inside-term")
		second, err := f.m.Exec(t.Context(), name, p)
		if err != nil {
			t.Fatal(err)
		}
		f.ready(r)
		for _, pid := range []int{first, second} {
			if got := network(t, fmt.Sprintf("/proc/%d/ns/net", pid)); got != want {
				t.Errorf("process %d has the network namespace %s: want %s", pid, got, want)
			}
		}
	}
}
