package driver

import (
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// Half a processor is half of one, whatever is done to the host's clock.
func TestUsageWhileTheClockIsSet(t *testing.T) {
	var m cpuMeter
	start := time.Now()
	for i, step := range []time.Duration{0, 0, -900 * time.Millisecond, 24 * time.Hour, -48 * time.Hour} {
		at := time.Duration(i+1) * time.Second
		u := &client.Usage{At: start.Add(at + step), Clock: at, UserTime: at / 2}
		got := m.sample("a/b/c", u).AggResourceUsage.Cpu.Percent
		if want := min(i, 1) * 50; got != float64(want) {
			t.Errorf("sample %d: %v %%, want %d", i, got, want)
		}
	}
	// An older daemon tells the time alone.
	m = cpuMeter{}
	for i := range 2 {
		at := time.Duration(i+1) * time.Second
		got := m.sample("a/b/c", &client.Usage{At: start.Add(at), UserTime: at / 2}).AggResourceUsage.Cpu.Percent
		if want := i * 50; got != float64(want) {
			t.Errorf("of an older daemon: %v %%, want %d", got, want)
		}
	}
}
