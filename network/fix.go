package network

import (
	"errors"
	"strings"
)

// lack is something that the host has not, with the command that gives it.
type lack struct {
	error
	fix string
}

func (l lack) Unwrap() error { return l.error }

// fixes are the commands of an error, in their order.
func fixes(err error) (list []string) {
	var l lack
	if many, is := err.(interface{ Unwrap() []error }); is {
		for _, one := range many.Unwrap() {
			list = append(list, fixes(one)...)
		}
		return list
	}
	if l, is := err.(lack); is {
		return []string{l.fix}
	}
	if inner := errors.Unwrap(err); inner != nil && errors.As(err, &l) {
		return fixes(inner)
	}
	return nil
}

// Fix is what to do about what keeps a network from being used, the commands of this host first.
func (s Status) Fix(config string) string {
	if list := fixes(s.err); len(list) > 0 {
		return strings.Join(list, " && ")
	}
	return "fix that on the host, which takes effect within seconds; or change the block of network " + s.Name +
		" in " + config + ", then: freejail daemon --upgrade"
}
