package daemon

import (
	"bytes"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/mount"
)

func lines(t *testing.T, program string, args ...string) []string {
	t.Helper()
	out, err := exec.Command(program, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
}

// leftOnHost tells of jails, dying ones too, rctl rules and mounts of tasks
// whose ids begin like this.
func leftOnHost(t *testing.T, dir, prefix string) string {
	t.Helper()
	var out []string
	for _, l := range append(lines(t, "jls", "-d", "name", "dying"), rctlRules(t)...) {
		if strings.Contains(l, "fj-"+prefix) {
			out = append(out, l)
		}
	}
	list, err := mount.Below(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		out = append(out, m.Target)
	}
	return strings.Join(out, "\n")
}

func rctlRules(t *testing.T) []string {
	if out, err := exec.Command("sysctl", "-n", "kern.racct.enable").Output(); err != nil ||
		!bytes.HasPrefix(out, []byte("1")) {
		return nil
	}
	return lines(t, "rctl")
}

func kernelRulesets(t *testing.T) (out []int) {
	t.Helper()
	for _, l := range lines(t, "devfs", "rule", "showsets") {
		n, err := strconv.Atoi(l)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	return len(lines(t, "procstat", "-h", "-f", strconv.Itoa(pid)))
}
