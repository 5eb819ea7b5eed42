package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"github.com/freejail/freejail/internal/printable"
)

// listener is a program that listens at a port.
type listener struct {
	name     string // as it calls itself
	pid, uid int
}

// ProgramAt tells in words which program has a port, of tcp or udp, at an address or at all of its family's; empty is
// that it cannot be told.
func ProgramAt(protocol string, at netip.AddrPort) string {
	p, ok := programAt(bound{protocol, at})
	if !ok {
		return ""
	}
	who := "uid " + strconv.Itoa(p.uid)
	if u, err := user.LookupId(strconv.Itoa(p.uid)); err == nil {
		who = u.Username
	}
	return fmt.Sprintf("%s (process %d of user %s)", printable.Line(p.name), p.pid, who)
}

// settleTries and settleEvery bound how long a port is waited for that only this program has.
const (
	settleTries = 50
	settleEvery = 20 * time.Millisecond
)

// settled opens a port. A child that is forked meanwhile has sockets of this program's, also those that
// looked whether the port is free, until it executes another: they are waited for.
func settled(p bound, open func() error) error {
	for try := 0; ; try++ {
		err := open()
		if !errors.Is(err, syscall.EADDRINUSE) || try == settleTries {
			return err
		}
		if who, ok := programAt(p); ok && who.name != commandOf(os.Getpid()) {
			return err
		}
		time.Sleep(settleEvery)
	}
}

// inTheWay tells whether a socket of some address keeps another from being had: one of :: may take IPv4 too.
func (p bound) inTheWay(socket netip.AddrPort) bool {
	if p.at.Port() != socket.Port() {
		return false
	}
	a, b := p.at.Addr(), socket.Addr().Unmap()
	return a == b || b == netip.IPv6Unspecified() || a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified())
}
