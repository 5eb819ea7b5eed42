package soak

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/testpf"
)

func uplink(t *testing.T) { testpf.Use(t) }

// containers are the jails of tasks.
func containers() (out []string, err error) {
	names, err := exec.Command("jls", "-d", "-q", "name").Output()
	for _, name := range strings.Fields(string(names)) {
		if strings.Contains(name, prefix) {
			out = append(out, name)
		}
	}
	return out, err
}

// process tells the resident memory of a process in KiB, its descriptors and its threads.
func process(pid int) (rss, fds, tasks float64, err error) {
	text, err := exec.Command("ps", "-o", "rss=", "-o", "nlwp=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return 0, 0, 0, fmt.Errorf("ps: %w", err)
	}
	if _, err := fmt.Sscan(string(text), &rss, &tasks); err != nil {
		return 0, 0, 0, err
	}
	text, err = exec.Command("procstat", "-h", "-f", strconv.Itoa(pid)).Output()
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 {
			if _, err := strconv.Atoi(f[2]); err == nil { // not text, cwd, root
				fds++
			}
		}
	}
	return rss, fds, tasks, err
}
