package test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/freejail/freejail/jail"
)

func jails(t *testing.T) []string {
	t.Helper()
	m, err := jail.Open(jail.Config{StateDir: t.TempDir()})
	check(t, err)
	list, err := m.List()
	check(t, err)
	var out []string
	for _, j := range list {
		out = append(out, j.Name)
	}
	return out
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
