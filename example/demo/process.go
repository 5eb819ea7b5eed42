package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// processGone counts a zombie as gone too: in a container without an init it remains one.
func processGone(pid int) (bool, error) {
	err := syscall.Kill(pid, 0)
	if errors.Is(err, syscall.ESRCH) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false, nil // no Linux: a live one, or seen the next time
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	return ok && strings.HasPrefix(rest, "Z"), nil
}
