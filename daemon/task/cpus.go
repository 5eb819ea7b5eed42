package task

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
)

// cpuMover moves a jail to other processors. Only Linux has cgroups to follow.
type cpuMover interface {
	SetCPUs(ctx context.Context, jail, list string) error
}

// cpusEvery is how soon tasks leave processors that were reserved for another.
const cpusEvery = time.Second

// followCPUs keeps a task on the processors of a cgroup of its client's until it ends.
func (m *Manager) followCPUs(t *task) {
	limits := t.snapshot().Spec.Limits
	jails, moves := m.Jails.(cpuMover)
	if limits.CPUSet != "" || limits.CPUSetOf == "" || !moves {
		return
	}
	tick := time.NewTicker(cpusEvery)
	defer tick.Stop()
	for have := ""; ; {
		if list := m.processors(limits.CPUSetOf); list != "" && list != have {
			err := jails.SetCPUs(context.Background(), t.info.Jail, list)
			if err != nil && t.snapshot().State == client.Running {
				m.Log.Warn("processors", "task", t.id(), "error", err)
			}
			have = list
		}
		select {
		case <-tick.C:
		case <-t.done:
			return
		}
	}
}

// processors are those that a cgroup has, such as "0-2,5"; empty where it is none, or is
// gone as its task is.
func (m *Manager) processors(cgroup string) string {
	if cgroup == "" {
		return ""
	}
	for _, name := range []string{"cpuset.cpus.effective", "cpuset.effective_cpus"} { // of version 2 and 1
		text, err := readCgroup(filepath.Join(cgroup, name))
		if err == nil {
			return text
		}
		if !errors.Is(err, fs.ErrNotExist) {
			m.Log.Warn("processors", "cgroup", cgroup, "error", err)
		}
	}
	return ""
}

var errNoCgroup = errors.New("is in no cgroup")

// readCgroup reads a short file of the kernel's.
func readCgroup(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if !inCgroup(f) {
		return "", &fs.PathError{Op: "read", Path: path, Err: errNoCgroup}
	}
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	return string(bytes.TrimSpace(b)), err
}
