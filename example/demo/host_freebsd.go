package main

import (
	"fmt"
	"os/exec"
	"strings"
)

var kinds = []string{"mounts", "jails", "devfs rulesets", "limits", "interfaces", "processes"}

func (h host) lookAtSystem(dir string) error {
	for kind, args := range map[string][]string{
		"jails":          {"jls", "-q", "name"},
		"devfs rulesets": {"devfs", "rule", "showsets"},
		"limits":         {"rctl"},
		"processes":      {"ps", "-axww", "-o", "pid=,command="},
	} {
		out, err := exec.Command(args[0], args[1:]...).Output()
		if err != nil && kind != "limits" { // which a kernel without racct does not have
			return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
		for line := range strings.Lines(string(out)) {
			if line = strings.TrimSpace(line); kind != "processes" || strings.Contains(line, dir) {
				h[kind] = append(h[kind], line)
			}
		}
	}
	return nil
}
