package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// testResolver has a host whose resolv.conf has these lines, and where name servers have a port of the test's.
func testResolver(t *testing.T, port uint16, lines ...string) *holder {
	h := testHolder(t)
	h.names = &resolver{file: filepath.Join(t.TempDir(), "resolv.conf"), port: port}
	if err := os.WriteFile(h.names.file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// gateway is a network whose gateway is ::1.
func gateway(subnet string) Network {
	return Network{Name: "web", Mode: NAT, Gateway6: netip.MustParseAddr("::1"), Subnet6: netip.MustParsePrefix(subnet),
		HostAccess: []Port{{Protocol: "udp", First: 50, Count: 4}, {Protocol: "tcp", First: 53}}}
}

// echoAt answers at 127.0.0.1 with what it is asked, by both protocols.
func echoAt(t *testing.T, port uint16) {
	l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Skip(err)
	}
	accepting(t, l, echo)
	c, err := net.ListenPacket("udp4", l.Addr().String())
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
}

func TestGatewayAnswersForTheResolverOfLoopback(t *testing.T) {
	port := freePort(t, "tcp")
	h := testResolver(t, port, "# comment", "search example.org", "nameserver 127.0.0.2", "nameserver 127.0.0.1",
		"nameserver 192.0.2.1")
	h.names.skip.Store(1)
	echoAt(t, port)
	for range 2 {
		if err := h.resolve(gateway("::1/128")); err != nil {
			t.Skip(err)
		}
	}
	at := fmt.Sprintf("[::1]:%d", port)
	for range 3 {
		if got := askedUDP(t, at, "name?"); got != "name?" {
			t.Errorf("%q", got)
		}
		if got, err := asked(t, at, "name?"); err != nil || got != "name?" {
			t.Errorf("%q %v", got, err)
		}
	}
	if h.sockets != 2 {
		t.Errorf("%d sockets", h.sockets)
	}
	// Who is not of the network gets no answer.
	if err := h.resolve(gateway("2001:db8::/64")); err != nil {
		t.Fatal(err)
	}
	if got, err := asked(t, at, "name?"); err == nil {
		t.Errorf("another address was answered: %q", got)
	}
}

func TestGatewayDoesNotAnswerOtherwise(t *testing.T) {
	port := freePort(t, "tcp")
	no := gateway("::1/128")
	no.HostAccess = []Port{{Protocol: "tcp", First: 54}}
	own := gateway("::1/128")
	own.DNS = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	for name, c := range map[string]struct {
		n     Network
		lines string
	}{
		"servers elsewhere": {gateway("::1/128"), "nameserver 192.0.2.1\nnameserver 2001:db8::1"},
		"no access":         {no, "nameserver 127.0.0.1"}, "servers of its own": {own, "nameserver 127.0.0.1"},
	} {
		h := testResolver(t, port, c.lines)
		if err := h.resolve(c.n); err != nil || h.sockets != 0 {
			t.Errorf("%s: %d sockets, %v", name, h.sockets, err)
		}
	}
	h := testResolver(t, port, "nameserver ::1")
	l, err := net.Listen("tcp6", fmt.Sprintf("[::]:%d", port))
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	if err := h.resolve(gateway("::1/128")); err != nil || h.sockets != 1 {
		t.Errorf("where another program answers by TCP: %d sockets, %v", h.sockets, err)
	}
}

// TestGatewayIsTaken has a program at the gateway alone, which is not the host's resolver.
func TestGatewayIsTaken(t *testing.T) {
	port := freePort(t, "tcp")
	h := testResolver(t, port, "nameserver 127.0.0.1")
	l, err := net.Listen("tcp6", fmt.Sprintf("[::1]:%d", port))
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	err = h.resolve(gateway("::1/128"))
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), fmt.Sprintf("[::1]:%d/tcp", port)) ||
		h.sockets != 0 {
		t.Errorf("%d sockets, %v", h.sockets, err)
	}
	l.Close()
	all := published("a", netip.IPv6Unspecified(), "udp", port, 80, 1)
	if err := h.hold(all); err != nil {
		t.Fatal(err)
	}
	if err := h.resolve(gateway("::1/128")); err == nil || !strings.Contains(err.Error(), "by a,") {
		t.Errorf("a task has it: %v", err)
	}
}

func TestServersOfTheHost(t *testing.T) {
	for text, want := range map[string]string{
		"": "[127.0.0.1]", "nameserver\n": "[127.0.0.1]", "nameserver 0.0.0.0": "[127.0.0.1]",
		"nameserver ::": "[::1]",
		"nameserver\t127.0.0.53\noptions edns0\n":                             "[127.0.0.53]",
		"  nameserver 192.0.2.1 # first\nnameserver fe80::1%lo\nnameserver x": "[192.0.2.1 fe80::1%lo]",
	} {
		h := testResolver(t, 53, text)
		if got, err := h.names.servers(); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	r := resolver{file: "/nonexistent", port: 53}
	if got, err := r.servers(); err != nil || fmt.Sprint(got) != "[127.0.0.1]" {
		t.Error(got, err)
	}
	of := testResolver(t, freePort(t, "tcp"), "nameserver fe80::1%lo", "nameserver 192.0.2.1")
	if err := of.resolve(gateway("::1/128")); err != nil || of.sockets != 2 {
		t.Errorf("of a link's server: %d sockets, %v", of.sockets, err)
	}
	if a, err := of.names.choose(Network{}); err != nil || a.Addr().String() != "fe80::1%lo" {
		t.Error(a, err)
	}
	h := testResolver(t, 53, "nameserver ::1", "nameserver 127.0.0.1", "nameserver 192.0.2.1")
	var chosen []string
	for range 3 {
		a, err := h.names.choose(Network{})
		if err != nil {
			t.Fatal(err)
		}
		chosen = append(chosen, a.String())
		h.names.of(Network{}, h.asked).failed(a)
	}
	if want := []string{"[::1]:53", "127.0.0.1:53", "[::1]:53"}; !slices.Equal(chosen, want) {
		t.Errorf("%q", chosen)
	}
	if _, err := testResolver(t, 53, "nameserver ::1").names.choose(gateway("::1/128")); err == nil {
		t.Error("the gateway asks itself")
	}
}

// TestQuestionsDoNotStay has a task that keeps connections to the name server, and asks nothing.
func TestQuestionsDoNotStay(t *testing.T) {
	port := freePort(t, "tcp")
	h := testResolver(t, port)
	echoAt(t, port)
	n := gateway("::1/128")
	aim := h.names.of(n, h.asked)
	aim.life = 50 * time.Millisecond
	place := bound{"tcp", netip.AddrPortFrom(n.Gateway6, port)}
	if err := h.have("name server", []wanted{{bound: place, target: aim}}); err != nil {
		t.Skip(err)
	}
	var some []net.Conn
	for range h.asked.conns.each + 1 {
		c, err := net.Dial("tcp", place.at.String())
		if errors.Is(err, syscall.ECONNRESET) { // one too many may end before it is told to have begun
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		some = append(some, c)
	}
	for _, c := range some {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("an answer to nothing")
		}
	}
	for h.asked.conns.count() > 0 {
		time.Sleep(time.Millisecond)
	}
	aim.life = dnsLife
	if err := h.have("name server", []wanted{{bound: place, target: aim}}); err != nil {
		t.Fatal(err)
	}
	if got, err := asked(t, place.at.String(), "name?"); err != nil || got != "name?" {
		t.Errorf("later: %q %v", got, err)
	}
	if h.tasks.conns.count() != 0 {
		t.Error("what is for published ports was taken")
	}
}

// TestQuestionsEnd has a flow end with its answer.
func TestQuestionsEnd(t *testing.T) {
	port := freePort(t, "tcp")
	h := testResolver(t, port)
	echoAt(t, port)
	if err := h.resolve(gateway("::1/128")); err != nil {
		t.Skip(err)
	}
	c, err := net.Dial("udp", fmt.Sprintf("[::1]:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 1000 { // far more than a share, one by one
		if _, err := io.WriteString(c, "?"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 9)); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
}
