package test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// jails are cgroups and processes here. Opening runc's manager would make the
// test the reaper of Nomad's orphans, which the agent waits for.
func jails(*testing.T) []string { return nil }

// cgroups are those of our containers. Their parent stays for the next, and
// Nomad's agent keeps its own.
func cgroups(t *testing.T) []string {
	t.Helper()
	var out []string
	check(t, filepath.WalkDir("/sys/fs/cgroup", func(p string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // gone meanwhile
		}
		if err == nil && d.IsDir() && strings.Contains(p, "/freejail/") {
			out = append(out, p)
		}
		return err
	}))
	return out
}

func allProcesses() ([]process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var out []process
	for _, d := range dirs {
		stat, err := os.ReadFile(d + "/stat")
		if err != nil {
			continue // ended meanwhile
		}
		args, err := os.ReadFile(d + "/cmdline")
		if err != nil {
			continue
		}
		p := process{args: strings.ReplaceAll(string(args), "\x00", " ")}
		s, state := string(stat), ""
		if _, err := fmt.Sscanf(s, "%d", &p.pid); err != nil {
			return nil, err
		}
		if _, err := fmt.Sscanf(s[strings.LastIndexByte(s, ')')+1:], "%s %d", &state, &p.parent); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}
