package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper is a process of the host in the cgroups of a jail, as one of a runc that has not come into it yet.
func sleeper(t *testing.T, dirs []string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // it has ended mostly
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cmd
}

// made are the cgroups of a name, as another runc has left them.
func (f *fixture) made(name string) (dirs []string) {
	f.Helper()
	other := f.create(Limits{})
	f.start(other, "/bin/prog", "inside-term")
	like, err := cgroups(other)
	if err != nil || len(like) == 0 {
		f.Fatalf("%q: %v", like, err)
	}
	for _, dir := range like {
		if strings.Contains(dir, "cpuset") { // where processes need more than a directory
			continue
		}
		dir = filepath.Join(filepath.Dir(dir), name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			f.Fatal(err)
		}
		f.Cleanup(func() {
			for errors.Is(os.Remove(dir), unix.EBUSY) { // until its process has gone
				time.Sleep(time.Millisecond)
			}
		})
		dirs = append(dirs, dir)
	}
	return dirs
}

// again starts a jail of a name that was removed.
func (f *fixture) again(name string) {
	f.Helper()
	if _, err := f.m.Create(f.Context(), Spec{Name: name, Root: f.root, Hostname: "inside"}); err != nil {
		f.Fatal(err)
	}
	f.start(name, "/bin/prog", "inside-term")
	if err := f.m.Remove(f.Context(), name); err != nil {
		f.Error(err)
	}
}

// A process that is in the cgroup of a jail, and not in the jail, ends with that: its name is free at once.
func TestRemoveLeavesNoCgroup(t *testing.T) {
	f := setup(t)
	name := f.create(Limits{})
	f.start(name, "/bin/prog", "inside-term")
	dirs, err := cgroups(name)
	if err != nil || len(dirs) == 0 {
		t.Fatalf("%q: %v", dirs, err)
	}
	cmd := sleeper(t, dirs)
	if err := f.m.Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // which returns as it was killed
	if left, err := cgroups(name); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	f.again(name)
}

// What a daemon has left that was killed while runc made a container goes with the jail, when that runc has ended.
func TestRemoveOfWhatWasNotMade(t *testing.T) {
	f := setup(t)
	name := f.create(Limits{})
	if err := os.MkdirAll(f.m.path("state", name), 0o700); err != nil {
		t.Fatal(err)
	}
	runc, err := f.m.claim(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	cmd := sleeper(t, f.made(name))
	var ended atomic.Bool
	go func() {
		time.Sleep(100 * time.Millisecond)
		ended.Store(true)
		runc.Close()
	}()
	if err := f.m.Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if !ended.Load() {
		t.Error("the jail was removed while runc made it")
	}
	_ = cmd.Wait()
	f.again(name)
}

// The cgroup of another daemon's task, by the same name, is not taken, and its processes are left alone.
func TestCgroupOfAnother(t *testing.T) {
	f := setup(t)
	name := f.create(Limits{})
	cmd := sleeper(t, f.made(name))
	p, _ := f.process("/bin/prog", "inside-term")
	_, err := f.m.Start(t.Context(), name, p)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("such as %d: another daemon", cmd.Process.Pid)) {
		t.Error(err)
	}
	if err := f.m.Remove(context.Background(), name); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("the other daemon's process: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}
