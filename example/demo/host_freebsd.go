package main

import (
	"fmt"
	"os/exec"
	"strings"
)

var own, whole = []string{"mounts", "jails", "limits", "processes"}, []string{"devfs rulesets", "interfaces"}

func (h host) lookAtSystem(marks []string) error {
	for kind, args := range map[string][]string{
		"jails":          {"jls", "-q", "name"},
		"devfs rulesets": {"devfs", "rule", "showsets"},
		"limits":         {"rctl"},
		"processes":      {"ps", "-axww", "-o", "pid=", "-o", "jail=", "-o", "command="},
	} {
		out, err := exec.Command(args[0], args[1:]...).Output()
		if err != nil && kind != "limits" { // which a kernel without racct does not have
			return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
		for line := range strings.Lines(string(out)) {
			h.add(kind, strings.TrimSpace(line), marks)
		}
	}
	return nil
}
