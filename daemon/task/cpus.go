package task

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
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

// followers are the tasks that are kept on the processors of a cgroup of their client's, with those that each was given
// last: empty where that is not known. Of many tasks most name the same cgroup, and one goroutine looks at it.
type followers struct {
	mu   sync.Mutex
	have map[*task]string
}

// followCPUs keeps a task on the processors of a cgroup of its client's until it ends.
func (m *Manager) followCPUs(t *task) {
	limits := t.snapshot().Spec.Limits
	jails, moves := m.Jails.(cpuMover)
	if limits.CPUSet != "" || limits.CPUSetOf == "" || !moves {
		return
	}
	f := &m.followers
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.have) == 0 {
		f.have = map[*task]string{}
		go m.keepOnCPUs(jails)
	}
	f.have[t] = t.cpus
}

// keepOnCPUs ends with the last task that there is.
func (m *Manager) keepOnCPUs(jails cpuMover) {
	for {
		now := m.followers.now()
		if len(now) == 0 {
			return
		}
		m.moveToCPUs(jails, now)
		time.Sleep(cpusEvery)
	}
}

// now are those that have not ended.
func (f *followers) now() map[*task]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.have, func(t *task, _ string) bool { return isClosed(t.done) })
	return maps.Clone(f.have)
}

// moveToCPUs moves the tasks whose cgroup has other processors than before.
func (m *Manager) moveToCPUs(jails cpuMover, tasks map[*task]string) {
	lists := map[string]string{}
	for t, have := range tasks {
		of := t.snapshot().Spec.Limits.CPUSetOf
		list, looked := lists[of]
		if !looked {
			list = m.processors(of)
			lists[of] = list
		}
		if list == "" || list == have {
			continue
		}
		err := jails.SetCPUs(context.Background(), t.info.Jail, list)
		if err != nil && t.state() == client.Running {
			m.Log.Warn("processors", "task", t.id(), "error", err)
		}
		m.followers.mu.Lock()
		m.followers.have[t] = list // one that has ended goes with the next look
		m.followers.mu.Unlock()
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
