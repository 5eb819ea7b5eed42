// Package boot tells one boot of a host from another.
package boot

import (
	"errors"
	"sync"
)

var errNone = errors.New("the kernel has no boot id")

// ID is the kernel's random name of this boot. Clocks do not matter to it, as they
// do to the time of the boot: that changes when the clock is set.
func ID() (string, error) {
	known.Lock()
	defer known.Unlock()
	if known.id != "" {
		return known.id, nil
	}
	id, err := id()
	if err == nil && id == "" {
		err = errNone
	}
	if err == nil {
		known.id = id
	}
	return id, err
}

// known is of this boot, which no process outlives.
var known struct {
	sync.Mutex
	id string
}
