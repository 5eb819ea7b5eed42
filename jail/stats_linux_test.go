package jail

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// cgroupFiles writes what the kernel tells of cgroups.
func cgroupFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A process that ended at once is known as the one that was started, as long as its exit code waits to be collected.
func TestStartTimeOfOneThatHasEnded(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err := errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	alive, err := StartTime(cmd.Process.Pid)
	if err := errors.Join(err, in.Close()); err != nil {
		t.Fatal(err)
	}
	for state := ""; state != "Z"; {
		f, err := procStat(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		state = f[0]
	}
	if ended, err := StartTime(cmd.Process.Pid); err != nil || ended != alive {
		t.Errorf("it started at %q, and when it has ended at %q: %v", alive, ended, err)
	}
}

// What both versions of cgroups tell is read, and cheaply: hosts with a thousand jails are asked every few seconds.
func TestSampler(t *testing.T) {
	pids := fmt.Sprintf("%d\n1073741824\n", os.Getpid()) // of which one has ended
	for version, files := range map[string]map[string]string{
		"1": {
			"memory/freejail/fj-a/memory.stat": "cache 1\nrss 2\nswap 3\ntotal_cache 4096\ntotal_rss 8192\n" +
				"total_rss_huge 5\ntotal_swap 0\n",
			"memory/freejail/fj-a/memory.usage_in_bytes": "12288\n",
			"memory/freejail/fj-a/cgroup.procs":          pids,
			"cpuacct/freejail/fj-a/cpuacct.usage_user":   "2000000000\n",
			"cpuacct/freejail/fj-a/cpuacct.usage_sys":    "1000000000\n",
		},
		"2": {
			"freejail/fj-a/memory.stat":         "anon 8192\nfile 4096\nkernel 5\nanon_thp 6\n",
			"freejail/fj-a/memory.current":      "12288\n",
			"freejail/fj-a/memory.swap.current": "0\n",
			"freejail/fj-a/cgroup.procs":        pids,
			"freejail/fj-a/cpu.stat":            "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\n",
		},
	} {
		t.Run("version "+version, func(t *testing.T) {
			dir := t.TempDir()
			cgroupFiles(t, dir, files)
			s := newSampler(dir)
			u := s.jail("fj-a")
			if u.RSS != 8192 || u.Memory != 12288 || *u.Cache != 4096 || *u.Swap != 0 || u.UserTime != 2*time.Second ||
				u.SysTime != time.Second || len(u.Procs) != 1 {
				t.Errorf("%+v %d %d", u, *u.Cache, *u.Swap)
			}
			comm, err := os.ReadFile("/proc/self/comm")
			if err != nil {
				t.Fatal(err)
			}
			if p := u.Procs[0]; p.PID != os.Getpid() || p.Command+"\n" != string(comm) || p.RSS < 1<<20 || p.RSS > 1<<32 {
				t.Errorf("%+v", p)
			}
			const most = 30 // strings of paths mostly
			if n := testing.AllocsPerRun(10, func() { s.jail("fj-a") }); n > most {
				t.Errorf("%v allocations for a jail with a process, want at most %d", n, most)
			}
			if u := s.jail("fj-gone"); u.Memory != 0 || len(u.Procs) != 0 {
				t.Errorf("of none there is %+v", u)
			}
		})
	}
}

// The kernel escapes what is in the name of a process; it is told as it is.
func TestSamplerOfAnOddName(t *testing.T) {
	self, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	const name = `a) R\b`
	rename := func(to []byte) {
		t.Helper()
		if err := os.WriteFile("/proc/self/comm", to, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rename([]byte(name))
	defer rename(bytes.TrimSpace(self))
	if p, ok := newSampler(t.TempDir()).process(os.Getpid()); !ok || p.Command != name {
		t.Errorf("%+v %v", p, ok)
	}
}
