package driver

import (
	"os"
	"strconv"
	"strings"
	"sync"
)

// hostMHz is one core's speed, in which Nomad counts ticks; 0 where unknown.
var hostMHz = sync.OnceValue(func() float64 {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "cpu MHz" {
			mhz, _ := strconv.ParseFloat(strings.TrimSpace(v), 64) // unknown is 0
			return mhz
		}
	}
	return 0
})
