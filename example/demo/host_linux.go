package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

var kinds = []string{"mounts", "cgroups", "interfaces", "processes"}

func (h host) lookAtSystem(dir string) error {
	err := filepath.WalkDir("/sys/fs/cgroup", func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		// A Nomad agent makes cgroups for itself and keeps them.
		if err == nil && d.IsDir() && !strings.Contains(p, "nomad") {
			h["cgroups"] = append(h["cgroups"], p)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := filepath.Join("/proc", e.Name())
		// Both are empty for processes that have just ended.
		args, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		groups, _ := os.ReadFile(filepath.Join(p, "cgroup"))
		if strings.Contains(string(args), dir) || strings.Contains(string(groups), "/freejail/") {
			h["processes"] = append(h["processes"], e.Name()+" "+strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return nil
}
