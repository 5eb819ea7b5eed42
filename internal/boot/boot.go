// Package boot tells one boot of a host from another.
package boot

import "errors"

var errNone = errors.New("the kernel has no boot id")

// ID is the kernel's random name of this boot. Clocks do not matter to it, as they
// do to the time of the boot: that changes when the clock is set.
func ID() (string, error) {
	id, err := id()
	if err == nil && id == "" {
		err = errNone
	}
	return id, err
}
