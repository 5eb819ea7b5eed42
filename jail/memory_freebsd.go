package jail

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a jail uses of the host's memory: what its processes have resident, what
// lies in its file systems in memory, and what its shared memory objects hold
// beyond what is mapped and so resident already. The kernel counts none of the
// last two for anybody.

// enforceMemory kills jails that are over their limit by what is quickly asked.
func (m *Manager) enforceMemory() {
	if !m.watchesMemory() {
		return
	}
	used, err := m.memoryUsed()
	if err != nil {
		return // the next pass will do; Stats tells the error
	}
	for _, s := range m.limited() {
		if used[s.jid] > s.Memory {
			m.killOver(s, used[s.jid], "")
		}
	}
	m.lookAtShared(used)
}

// limited are copies of the jails that have a limit.
func (m *Manager) limited() map[string]state {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]state{}
	for name, s := range m.jails {
		if s.Memory > 0 && !s.killed && !s.gone {
			out[name] = *s
		}
	}
	return out
}

// memoryUsed is what is resident or in file systems, in bytes, by jail.
func (m *Manager) memoryUsed() (map[int]int64, error) {
	used := map[int]int64{}
	if err := m.eachBorn(func(jid int, k kinfo) { used[jid] += int64(k.rss()) }); err != nil {
		return nil, err
	}
	for _, s := range m.limited() {
		for _, handle := range s.InMemory {
			used[s.jid] += usedIn(handle)
		}
	}
	return used, nil
}

// usedIn is what lies in a file system, in bytes; nothing in one that is no
// longer mounted.
func usedIn(handle []byte) int64 {
	var st unix.Statfs_t
	_, _, errno := unix.Syscall(unix.SYS_FHSTATFS, uintptr(unsafe.Pointer(unsafe.SliceData(handle))), uintptr(unsafe.Pointer(&st)), 0)
	runtime.KeepAlive(handle)
	if errno != 0 {
		return 0
	}
	return int64(st.Blocks-st.Bfree) * int64(st.Bsize)
}

// killOver kills a jail for its use of memory, in bytes.
func (m *Manager) killOver(s state, used int64, of string) {
	m.mu.Lock()
	for _, now := range m.jails {
		if now.jid == s.jid {
			now.over = fmt.Sprintf("over the memory limit of %d MiB: %d MiB seen%s", s.Memory>>20, used>>20, of)
		}
	}
	m.mu.Unlock()
	// What is left of it is over the limit in the next pass too.
	_ = m.signalAll(s.jid, unix.SIGKILL, nil)
}
