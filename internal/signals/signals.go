// Package signals reads what images, jobs and operators call a signal, by the system that a
// program is written for.
package signals

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// system is how an operating system numbers its signals.
type system struct {
	title    string
	names    []string // without SIG, of 1, 2 and so on
	first    int      // real-time signals; those below min are the C library's own
	min, max int
}

// systems are those of images, from sys/signal.h of FreeBSD, and asm/signal.h and nptl of Linux.
var systems = map[string]system{
	"freebsd": {"FreeBSD", strings.Fields("HUP INT QUIT ILL TRAP ABRT EMT FPE KILL BUS SEGV SYS PIPE ALRM TERM URG " +
		"STOP TSTP CONT CHLD TTIN TTOU IO XCPU XFSZ VTALRM PROF WINCH INFO USR1 USR2 THR LIBRT"), 65, 65, 126},
	"linux": {"Linux", strings.Fields("HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT " +
		"CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"), 32, 34, 64},
}

// aliases are other names of the same signals.
var aliases = map[string]string{"IOT": "ABRT", "CLD": "CHLD", "POLL": "IO"}

// powerOfLinux is the number by which FreeBSD knows Linux's SIGPWR, which it has not itself
// (LINUX_SIGPWREMU in sys/compat/linux/linux.c).
const powerOfLinux = 98

// Host is the system of this host, as images name it.
const Host = runtime.GOOS

// Parse returns the number that a signal has for programs of a system, "freebsd" or "linux". A
// signal is a name, with or without SIG and in either case, such as SIGTERM, quit, RTMIN+3 or
// SIGRTMAX-1, or a number.
func Parse(text, system string) (syscall.Signal, error) {
	s := systems[known(system)]
	n, err := strconv.Atoi(text)
	if err != nil {
		n = s.number(text)
	}
	switch {
	case n > 0 && n <= len(s.names) || n >= s.first && n <= s.max:
		return syscall.Signal(n), nil
	case err == nil:
		return 0, fmt.Errorf("signal %s: %s has no signal of this number; it has 1 to %d, and from SIGRTMIN to "+
			"SIGRTMAX %d to %d", text, s.title, len(s.names), s.min, s.max)
	}
	return 0, fmt.Errorf("signal %q: %s has no such signal (for example SIGTERM or SIGRTMIN+3)", text, s.title)
}

// number is that of a name, and 0 where there is none.
func (s system) number(text string) int {
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if to, is := aliases[name]; is {
		name = to
	}
	base := 0
	switch {
	case strings.HasPrefix(name, "RTMIN"):
		base = s.min
	case strings.HasPrefix(name, "RTMAX"):
		base = s.max
	default:
		return slices.Index(s.names, name) + 1
	}
	offset := name[len("RTMIN"):]
	if offset == "" {
		return base
	}
	n, err := strconv.Atoi(offset)
	if up := offset[0] == '+'; err != nil || up != (base == s.min) || base+n < s.min || base+n > s.max {
		return 0
	}
	return base + n
}

// ForHost returns the number by which this host's kernel knows what Parse returns: that of Linux
// hands a signal on as it is to programs of Linux, that of FreeBSD translates.
func ForHost(text, system string) (syscall.Signal, error) {
	return translate(text, known(system), Host)
}

// known takes a system that it does not know for this host's.
func known(system string) string {
	if _, ok := systems[system]; !ok {
		return Host
	}
	return system
}

func translate(text, from, to string) (syscall.Signal, error) {
	sig, err := Parse(text, from)
	if err != nil || from == to {
		return sig, err
	}
	a, b, n := systems[from], systems[to], int(sig)
	switch {
	case n >= a.first && to == "freebsd": // linux_to_bsd_rt_signal in sys/compat/linux/linux.c
		n += b.first - a.first
	case n >= a.first: // there for development, where nothing translates
		n += b.min - a.min
	case a.names[n-1] == "PWR" && to == "freebsd":
		n = powerOfLinux
	default:
		n = slices.Index(b.names, a.names[n-1]) + 1
	}
	if n < 1 || n > b.max {
		return 0, fmt.Errorf("signal %s: %s has no such signal for a program of %s", text, b.title, a.title)
	}
	return syscall.Signal(n), nil
}

// Known tells whether a text is a signal of any system.
func Known(text string) bool {
	for system := range systems {
		if _, err := Parse(text, system); err == nil {
			return true
		}
	}
	return false
}

// Name is that of a signal of this host.
func Name(sig syscall.Signal) string {
	s, n := systems[Host], int(sig)
	switch {
	case n > 0 && n <= len(s.names):
		return "SIG" + s.names[n-1]
	case n == s.min:
		return "SIGRTMIN"
	case n > s.min && n <= s.max:
		return "SIGRTMIN+" + strconv.Itoa(n-s.min)
	}
	return "signal " + strconv.Itoa(n)
}
