package cli

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func isTraced(t *testing.T, pid int) bool {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	check(t, err)
	return !strings.Contains(string(b), "TracerPid:\t0\n")
}
