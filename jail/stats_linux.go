package jail

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
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

func (m *Manager) oomKilled(name string) bool {
	dir, v2 := cgroup("memory", name)
	if v2 {
		return keyed(filepath.Join(dir, "memory.events"))["oom_kill"] > 0
	}
	return keyed(filepath.Join(dir, "memory.oom_control"))["oom_kill"] > 0
}

// Stats samples all jails.
func (m *Manager) Stats() (map[string]Usage, error) {
	s := newSampler("/sys/fs/cgroup")
	out := map[string]Usage{}
	for _, name := range m.watch.procs.jails() {
		out[name] = s.jail(name)
	}
	return out, nil
}

// sampler reads what the kernel tells of many jails into one buffer: each is a dozen files.
type sampler struct {
	memory, cpu string // directories of freejail's cgroups
	v2          bool
	buf         []byte
}

func newSampler(cgroups string) *sampler {
	s := &sampler{memory: cgroups + "/memory/freejail/", cpu: cgroups + "/cpuacct/freejail/", buf: make([]byte, 16<<10)}
	if _, err := os.Stat(s.memory); err != nil {
		s.v2, s.memory = true, cgroups+"/freejail/"
	}
	return s
}

// read returns the content of a file of the kernel's, until the next call; nothing where what it tells of is gone.
func (s *sampler) read(path string) []byte {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	for n := 0; ; {
		if n == len(s.buf) {
			s.buf = append(s.buf, make([]byte, n)...)
		}
		more, err := unix.Read(fd, s.buf[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil
		}
		if n += more; more == 0 {
			return s.buf[:n]
		}
	}
}

// number is that of a file, or 0: "max" is none.
func (s *sampler) number(path string) uint64 { return decimal(bytes.TrimSpace(s.read(path))) }

// decimal reads a number without making a string of it.
func decimal(b []byte) (n uint64) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0
		}
		n = 10*n + uint64(c-'0')
	}
	return n
}

// value is that of a key in lines of "key number".
func value(lines []byte, key string) uint64 {
	for line := range bytes.Lines(lines) {
		if len(line) > len(key) && line[len(key)] == ' ' && string(line[:len(key)]) == key {
			return decimal(bytes.TrimSpace(line[len(key):]))
		}
	}
	return 0
}

func (s *sampler) jail(name string) (u Usage) {
	mem := s.memory + name
	var told struct{ swap, cache uint64 }
	stat := s.read(mem + "/memory.stat")
	if s.v2 {
		u.RSS, told.cache = value(stat, "anon"), value(stat, "file")
		told.swap, u.Memory = s.number(mem+"/memory.swap.current"), s.number(mem+"/memory.current")
		cpu := s.read(mem + "/cpu.stat")
		u.UserTime = time.Duration(value(cpu, "user_usec")) * time.Microsecond
		u.SysTime = time.Duration(value(cpu, "system_usec")) * time.Microsecond
	} else {
		u.RSS, told.swap, told.cache = value(stat, "total_rss"), value(stat, "total_swap"), value(stat, "total_cache")
		u.Memory = s.number(mem + "/memory.usage_in_bytes")
		u.UserTime = time.Duration(s.number(s.cpu + name + "/cpuacct.usage_user"))
		u.SysTime = time.Duration(s.number(s.cpu + name + "/cpuacct.usage_sys"))
	}
	u.Swap, u.Cache = &told.swap, &told.cache
	var pids []int
	for text := range bytes.FieldsSeq(s.read(mem + "/cgroup.procs")) {
		pids = append(pids, int(decimal(text)))
	}
	for _, pid := range pids {
		if p, ok := s.process(pid); ok {
			u.Procs = append(u.Procs, p)
		}
	}
	return u
}

// process is not ok where it has ended since.
func (s *sampler) process(pid int) (p ProcUsage, ok bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat := s.read(dir + "/stat")
	begin, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if begin < 0 || end < begin {
		return p, false
	}
	p = ProcUsage{PID: pid, Command: string(bytes.TrimSpace(stat[begin+1 : end]))}
	n := 2 // the fields up to the name
	for text := range bytes.FieldsSeq(stat[end+1:]) {
		switch n++; n {
		case 14:
			p.UserTime = time.Duration(decimal(text)) * clockTick
		case 15:
			p.SysTime = time.Duration(decimal(text)) * clockTick
		case 24:
			p.RSS = decimal(text) * uint64(os.Getpagesize())
		}
	}
	if strings.Contains(p.Command, `\`) { // the kernel has escaped something in it
		p.Command = string(bytes.TrimSpace(s.read(dir + "/comm")))
	}
	return p, n >= 24
}
