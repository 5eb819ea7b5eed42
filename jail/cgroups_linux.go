package jail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A cgroup has the name of its jail, and runc makes none in one that has processes. Beside the first process and what
// that began there can be others for a moment: those of a `runc exec` that have not come into the jail yet, and of a
// `runc create` that an earlier daemon has left. So the cgroup is emptied before a name is free again, but not one that
// was there before: it is another daemon's.

// claimFile is, in a jail's directory, that of a cgroup which is ours. It is locked while runc makes that.
const claimFile = "cgroup"

// How long processes of a cgroup that are killed, or are none of ours, may take to go.
const (
	emptyTime = 10 * time.Second
	claimTime = time.Second
)

// cgroups are the directories of a jail's cgroup that there are: one in each hierarchy.
func cgroups(name string) (dirs []string, err error) {
	var st unix.Statfs_t
	hierarchies := []string{"/sys/fs/cgroup"}
	if err := unix.Statfs("/sys/fs/cgroup", &st); err == nil && st.Type != unix.CGROUP2_SUPER_MAGIC {
		if hierarchies, err = filepath.Glob("/sys/fs/cgroup/*"); err != nil {
			return nil, err
		}
	}
	for _, h := range hierarchies {
		dir := filepath.Join(h, "freejail", name) // asked for by its name: there can be many
		if _, err := os.Lstat(dir); err == nil {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// processesIn are the pids in cgroups. What is gone has none.
func processesIn(dirs []string) (pids []int, err error) {
	for _, dir := range dirs {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for text := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(text); err == nil && pid > 0 { // 0 is of another namespace of pids
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// claim takes the cgroup of a jail for this daemon. The file that it returns is inherited by the runc that makes it.
func (m *Manager) claim(ctx context.Context, name string) (*os.File, error) {
	dirs, err := cgroups(name)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(claimTime); ; {
		pids, err := processesIn(dirs)
		if err != nil {
			return nil, err
		}
		if len(pids) == 0 {
			break
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("the cgroup /freejail/%s has processes that are not of this daemon, such as %d: "+
				"another daemon on this host has a task with this id", name, pids[0])
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(m.path(name, claimFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	return f, err
}

func pause(ctx context.Context) error {
	select {
	case <-time.After(5 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// removeContainer has runc forget a container, and removes its cgroup with all that is in it.
func (m *Manager) removeContainer(ctx context.Context, name string) error {
	claim, err := os.OpenFile(m.path(name, claimFile), os.O_RDWR, 0)
	ours := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if ours {
		defer claim.Close()
		if err := m.unmade(ctx, claim); err != nil {
			return &Error{Op: "remove", Jail: name, Err: err}
		}
		if err := m.empty(ctx, name, false); err != nil {
			return &Error{Op: "remove", Jail: name, Err: err}
		}
	}
	if _, err := os.Stat(m.path("state", name)); err == nil {
		// With --force runc looks for an end every 100 ms, also for one that came before it: delete.go of runc 1.4.
		if err := m.run(ctx, "delete", name, nil, name); err != nil {
			if err := m.run(ctx, "delete", name, nil, "--force", name); err != nil {
				return err
			}
		}
	}
	if !ours {
		return nil
	}
	if err := m.empty(ctx, name, true); err != nil {
		return &Error{Op: "remove", Jail: name, Err: err}
	}
	return nil
}

// unmade waits for a runc that still makes a container, which an earlier daemon began.
func (m *Manager) unmade(ctx context.Context, claim *os.File) error {
	for end := time.Now().Add(emptyTime); ; {
		err := unix.Flock(int(claim.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("runc still makes its container after %s", emptyTime)
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// empty kills what is in the cgroup of a jail until nothing is, and removes it then if that is to be.
func (m *Manager) empty(ctx context.Context, name string, remove bool) error {
	killed := map[int]bool{}
	defer func() { m.reap(killed) }()
	for end := time.Now().Add(emptyTime); ; {
		dirs, err := cgroups(name)
		if err != nil {
			return err
		}
		pids, err := processesIn(dirs)
		for _, pid := range pids {
			killed[pid] = true
			err = errors.Join(err, killIn(pid, dirs))
		}
		if remove {
			err = errors.Join(err, removeDirs(dirs))
		}
		if err != nil || len(pids) == 0 && (!remove || len(dirs) == 0) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("its cgroup has processes that do not end: %v", pids)
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// removeDirs removes cgroups, but those that have processes again.
func removeDirs(dirs []string) (err error) {
	for _, dir := range dirs {
		if rerr := os.Remove(dir); !errors.Is(rerr, unix.EBUSY) && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// killIn kills a process of cgroups: not one that had its number meanwhile.
func killIn(pid int, dirs []string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	now, err := processesIn(dirs)
	for _, p := range now {
		if p == pid {
			err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			break
		}
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// reap waits for those of the killed that are children of this process, and that nobody else waits for.
func (m *Manager) reap(pids map[int]bool) {
	for pid := range pids {
		if _, watched := m.watch.procs.get(pid); !watched {
			_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil) // most are nobody's child here
		}
	}
}
