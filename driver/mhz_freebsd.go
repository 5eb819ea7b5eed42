package driver

import (
	"sync"

	"golang.org/x/sys/unix"
)

// hostMHz is one core's speed, in which Nomad counts ticks; 0 where unknown.
var hostMHz = sync.OnceValue(func() float64 {
	mhz, err := unix.SysctlUint32("hw.clockrate")
	if err != nil {
		return 0
	}
	return float64(mhz)
})
