package test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// jails asks jls: opening the jail manager would make the test the reaper of
// the daemon that it kills.
func jails(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("jls", "-d", "-q", "name").Output()
	check(t, err)
	return strings.Fields(string(out))
}

func cgroups(*testing.T) []string { return nil }

func allProcesses() ([]process, error) {
	text, err := exec.Command("ps", "-axww", "-o", "pid=", "-o", "ppid=", "-o", "command=").Output()
	if err != nil {
		return nil, err
	}
	var out []process
	for line := range strings.Lines(string(text)) {
		var p process
		if _, err := fmt.Sscanf(line, "%d %d", &p.pid, &p.parent); err != nil {
			return nil, fmt.Errorf("ps: %q: %w", line, err)
		}
		p.args = line
		out = append(out, p)
	}
	return out, nil
}
