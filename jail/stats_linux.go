package jail

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is USER_HZ, which is 100 on every Linux that Go runs on.
const clockTick = time.Second / 100

// cgroup finds a jail's directory of a controller, of version 1 or 2.
func cgroup(controller, name string) (dir string, v2 bool) {
	v1 := filepath.Join("/sys/fs/cgroup", controller, "freejail", name)
	if _, err := os.Stat(v1); err == nil {
		return v1, false
	}
	return filepath.Join("/sys/fs/cgroup/freejail", name), true
}

// keyed reads files of lines "name number".
func keyed(file string) map[string]uint64 {
	out := map[string]uint64{}
	b, err := os.ReadFile(file)
	if err != nil {
		return out // the jail is gone
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 {
			if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
				out[f[0]] = n
			}
		}
	}
	return out
}

func number(file string) uint64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0 // the jail is gone
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64) // "max" is 0
	return n
}

func (m *Manager) oomKilled(name string) bool {
	dir, v2 := cgroup("memory", name)
	if v2 {
		return keyed(filepath.Join(dir, "memory.events"))["oom_kill"] > 0
	}
	return keyed(filepath.Join(dir, "memory.oom_control"))["oom_kill"] > 0
}

// Stats samples all jails.
func (m *Manager) Stats() (map[string]Usage, error) {
	list, err := m.List()
	if err != nil {
		return nil, err
	}
	out := map[string]Usage{}
	for _, i := range list {
		if _, ok := m.watch.procs.get(i.PID); ok {
			out[i.Name] = sampleJail(i.Name)
		}
	}
	return out, nil
}

func sampleJail(name string) Usage {
	var u Usage
	mem, v2 := cgroup("memory", name)
	stat := keyed(filepath.Join(mem, "memory.stat"))
	if v2 {
		swap := number(filepath.Join(mem, "memory.swap.current"))
		cache := stat["file"]
		u.RSS, u.Swap, u.Cache = stat["anon"], &swap, &cache
		u.Memory = number(filepath.Join(mem, "memory.current"))
		cpu := keyed(filepath.Join(mem, "cpu.stat"))
		u.UserTime = time.Duration(cpu["user_usec"]) * time.Microsecond
		u.SysTime = time.Duration(cpu["system_usec"]) * time.Microsecond
	} else {
		swap := stat["total_swap"]
		cache := stat["total_cache"]
		u.RSS, u.Swap, u.Cache = stat["total_rss"], &swap, &cache
		u.Memory = number(filepath.Join(mem, "memory.usage_in_bytes"))
		cpu, _ := cgroup("cpuacct", name)
		u.UserTime = time.Duration(number(filepath.Join(cpu, "cpuacct.usage_user")))
		u.SysTime = time.Duration(number(filepath.Join(cpu, "cpuacct.usage_sys")))
	}
	b, err := os.ReadFile(filepath.Join(mem, "cgroup.procs"))
	if err != nil {
		return u // the jail is gone
	}
	for pid := range strings.FieldsSeq(string(b)) {
		if p, ok := sampleProcess(pid); ok {
			u.Procs = append(u.Procs, p)
		}
	}
	return u
}

func sampleProcess(text string) (ProcUsage, bool) {
	pid, err := strconv.Atoi(text)
	if err != nil {
		return ProcUsage{}, false
	}
	f, err := procStat(pid)
	if err != nil {
		return ProcUsage{}, false // it has ended since
	}
	ticks := func(i int) time.Duration {
		n, _ := strconv.ParseInt(f[i], 10, 64) // the kernel writes numbers
		return time.Duration(n) * clockTick
	}
	rss, _ := strconv.ParseUint(f[21], 10, 64)
	comm, err := os.ReadFile("/proc/" + text + "/comm")
	if err != nil {
		return ProcUsage{}, false
	}
	return ProcUsage{PID: pid, Command: strings.TrimSpace(string(comm)), UserTime: ticks(11), SysTime: ticks(12),
		RSS: rss * uint64(os.Getpagesize())}, true
}
