package daemon

import (
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// someDevice is one that jails have not unasked.
func someDevice(*testing.T) string { return "/dev/bpf" }

const directory = "/dev/fd"

// onlyOne: devfs(5) has no such rule.
func (v *victim) onlyOne(spec client.TaskSpec, _ string) {
	v.t.Helper()
	v.refuses(spec, "only read a device, or only write it")
}
