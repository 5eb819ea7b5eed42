package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

var own, whole = []string{"mounts", "cgroups", "processes"}, []string{"interfaces"}

func (h host) lookAtSystem(marks []string) error {
	err := filepath.WalkDir("/sys/fs/cgroup", func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err == nil && d.IsDir() {
			h.add("cgroups", p, marks)
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
		args, err1 := os.ReadFile(filepath.Join(p, "cmdline"))
		groups, err2 := os.ReadFile(filepath.Join(p, "cgroup"))
		if err1 != nil || err2 != nil {
			continue // no process, or one that has just ended
		}
		text := strings.ReplaceAll(string(args), "\x00", " ") + " " + strings.ReplaceAll(string(groups), "\n", " ")
		h.add("processes", e.Name()+" "+text, marks)
	}
	return nil
}
