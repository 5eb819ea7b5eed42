package task

import (
	"fmt"
	"slices"
	"strings"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/internal/mount"
)

// boundMemory gives each tmpfs of a plan that has no size that of the task's memory,
// or of half of the host's: without one a tmpfs takes all memory and swap. What lies
// in them counts as memory of the task, whatever their sizes add up to.
func (p *plan) boundMemory(limit int64) error {
	for i, m := range p.mounts {
		if m.Type != "tmpfs" || slices.ContainsFunc(splitOptions(m.Options), isSize) {
			continue
		}
		size := limit
		if size <= 0 {
			all, err := host.Memory()
			if err != nil {
				return fmt.Errorf("tmpfs %s: the host's memory: %w", m.Target, err)
			}
			size = int64(all / 2)
		}
		p.mounts[i].Options = strings.TrimPrefix(fmt.Sprintf("%s,size=%d", m.Options, size), ",")
	}
	return nil
}

// leastMemory is less than what any program that was linked statically comes by with:
// who asks for less has left out the unit.
const leastMemory = 4 << 20

// checkMemory refuses limits below which nothing would run.
func checkMemory(l client.Limits) error {
	for what, n := range map[string]int64{"limit": l.MemoryBytes, "reserve": l.MemoryReserveBytes} {
		if n < 0 || n > 0 && n < leastMemory {
			return client.Invalid(
				"memory %s of %d bytes is too small: at least 4MiB; write the unit (for example 64MiB)", what, n)
		}
	}
	return nil
}

func isSize(option string) bool { return strings.HasPrefix(option, "size=") }

// count remembers what is in memory of what was mounted.
func (m *mounter) count(what client.Mount, at *mount.Point) error {
	if what.Type != "tmpfs" {
		return nil
	}
	handle, err := at.Handle()
	if err == nil && handle != nil {
		m.inMemory = append(m.inMemory, handle)
	}
	return err
}
