package test

import (
	"fmt"
	"os/exec"
	"strings"
)

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
