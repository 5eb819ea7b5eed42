package network

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
)

// A port that a program has is refused with its name, its process and its user.
func TestProgramAtAPort(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the sockets of others are root's to see")
	}
	want := fmt.Sprintf(" (process %d of user root)", os.Getpid())
	for _, listen := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"} {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		at := l.Addr().(*net.TCPAddr).AddrPort()
		c, err := net.ListenPacket("udp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		for _, protocol := range []string{"tcp", "udp"} {
			if got := ProgramAt(protocol, at); !strings.HasSuffix(got, want) || got == want {
				t.Errorf("%s at %s: %q, want %q", protocol, at, got, want)
			}
			all := netip.IPv4Unspecified()
			if strings.HasPrefix(listen, "[") {
				all = netip.IPv6Unspecified()
			}
			err := describe(bound{protocol, netip.AddrPortFrom(all, at.Port())}, syscall.EADDRINUSE)
			if !strings.Contains(err.Error(), want) {
				t.Error(err)
			}
		}
		l.Close()
		c.Close()
		if got := ProgramAt("tcp", at); got != "" {
			t.Errorf("nobody has %s: %q", at, got)
		}
	}
}

// A socket of this program's own, as a child has one until it executes another program, is waited for.
func TestOwnSocketsAreWaitedFor(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the sockets of others are root's to see")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	tries := 0
	err = settled(bound{"tcp", at}, func() error {
		if tries++; tries == 3 {
			l.Close()
		}
		again, err := listenTCP(at, nil)
		if err == nil {
			err = again.Close()
		}
		return err
	})
	if err != nil || tries != 3 {
		t.Errorf("after %d tries: %v", tries, err)
	}
}
