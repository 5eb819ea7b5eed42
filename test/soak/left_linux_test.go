package soak

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// uplink has this namespace be a host with a way out, on which nobody is.
func uplink(t *testing.T) {
	t.Helper()
	for _, c := range []string{"ip link set lo up", "ip link add fjsoak0 type veth peer name fjsoak1",
		"ip addr add 192.0.2.1/24 dev fjsoak0", "ip link set fjsoak0 up", "ip route replace default via 192.0.2.2",
		"sysctl -q -w net.ipv4.ip_forward=1"} {
		args := strings.Fields(c)
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", c, err, out)
		}
	}
}

// containers are the cgroups of tasks.
func containers() (out []string, err error) {
	err = filepath.WalkDir("/sys/fs/cgroup", func(p string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // gone meanwhile
		}
		if err == nil && d.IsDir() && strings.Contains(filepath.Base(p), prefix) {
			out = append(out, p)
		}
		return err
	})
	return out, err
}

// process tells the resident memory of a process in KiB, its descriptors and its threads.
func process(pid int) (rss, fds, tasks float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, 0, 0, err
	}
	var size, pages float64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		return 0, 0, 0, err
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, 0, 0, err
	}
	run, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return pages * float64(os.Getpagesize()) / 1024, float64(len(open)), float64(len(run)), err
}
