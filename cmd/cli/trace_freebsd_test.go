package cli

import (
	"testing"

	"github.com/freejail/freejail/internal/bsd"
)

func isTraced(t *testing.T, pid int) bool {
	t.Helper()
	p, err := bsd.FindProcess(pid)
	check(t, err)
	points, _ := p.Trace()
	return points != 0
}
