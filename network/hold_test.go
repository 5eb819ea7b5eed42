package network

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

var loopback = netip.MustParseAddr("127.0.0.1")

func testHolder(t *testing.T) *holder {
	h := newHolder(nil, limitsOf(4096))
	t.Cleanup(func() {
		for key := range h.has {
			h.free(key)
		}
	})
	return h
}

// freePort is one that nobody has on any address.
func freePort(t *testing.T, network string) uint16 {
	t.Helper()
	if strings.HasPrefix(network, "udp") {
		c, err := net.ListenPacket(network, ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	}
	l, err := net.Listen(network, ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// accepting has a function serve each connection until the test ends.
func accepting(t *testing.T, l net.Listener, serve func(net.Conn)) {
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
}

// served is a task at 127.0.0.1 that serves a function, whose port it returns.
func served(t *testing.T, serve func(net.Conn)) uint16 {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepting(t, l, serve)
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// echo sends all back, and ends when its input has.
func echo(c net.Conn) {
	defer c.Close()
	_, _ = io.Copy(c, c)
}

func echoUDP(t *testing.T) uint16 {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

func published(key string, at netip.Addr, protocol string, port, to, count uint16) Task {
	return Task{Key: key, Endpoint: Endpoint{Addr4: loopback},
		Published: []Publication{{At: at, Port: Port{Protocol: protocol, First: port, Count: count}, To: to}}}
}

// asked sends a text over TCP, ends its half, and returns what comes back to the end.
func asked(t *testing.T, at, text string) (string, error) {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		return "", err
	}
	defer c.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, text)
		sent <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
	}()
	b, err := io.ReadAll(c)
	return string(b), errors.Join(err, <-sent)
}

func askedUDP(t *testing.T, at, text string) string {
	t.Helper()
	c, err := net.Dial("udp", at) // takes answers from that address alone
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestHeldPortReachesTheTask(t *testing.T) {
	h := testHolder(t)
	port, udp := freePort(t, "tcp"), freePort(t, "udp")
	task := published("a", netip.Addr{}, "tcp", port, served(t, echo), 1)
	task.Published = append(task.Published, published("a", netip.Addr{}, "udp", udp, echoUDP(t), 1).Published...)
	if err := h.hold(task); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("0123456789abcdef", 1<<16)
	for _, host := range localAddresses(t) {
		if got, err := asked(t, net.JoinHostPort(host, fmt.Sprint(port)), large); err != nil || got != large {
			t.Errorf("%s: %d bytes of %d came back: %v", host, len(got), len(large), err)
		}
		text := strings.Repeat("x", 8000)
		if got := askedUDP(t, net.JoinHostPort(host, fmt.Sprint(udp)), text); got != text {
			t.Errorf("%s: %d bytes came back by UDP", host, len(got))
		}
	}
	h.free("a")
	h.free("a")
	if _, err := asked(t, fmt.Sprintf("127.0.0.1:%d", port), "x"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error("a port that is free answers:", err)
	}
	if h.sockets != 0 || len(h.kept) != 0 || h.tasks.flows.count() != 0 {
		t.Errorf("%d sockets and %d flows are left: %v", h.sockets, h.tasks.flows.count(), h.kept)
	}
}

// localAddresses are those of the host, without those of links.
func localAddresses(t *testing.T) (out []string) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if ip := a.(*net.IPNet).IP; !ip.IsLinkLocalUnicast() {
			out = append(out, ip.String())
		}
	}
	return out
}

func TestTakenPortIsRefusedByName(t *testing.T) {
	for _, protocol := range []string{"tcp", "udp"} {
		for name, at := range map[string]struct{ other, wanted string }{
			"the same": {"127.0.0.1", "127.0.0.1"}, "all and one": {"", "127.0.0.1"}, "one and all": {"127.0.0.1", ""},
			"all of IPv6 and one": {"::", "::1"}, "one of IPv6 and all": {"::1", ""},
		} {
			t.Run(protocol+" "+name, func(t *testing.T) {
				h := testHolder(t)
				port := freePort(t, protocol)
				listen := net.JoinHostPort(at.other, fmt.Sprint(port))
				var other io.Closer
				var err error
				if other, err = net.Listen("tcp", listen); protocol == "udp" {
					other.Close()
					other, err = net.ListenPacket("udp", listen)
				}
				if err != nil {
					t.Skip(err)
				}
				defer other.Close()
				var addr netip.Addr
				if at.wanted != "" {
					addr = netip.MustParseAddr(at.wanted)
				}
				err = h.hold(published("a", addr, protocol, port-2, 80, 3))
				if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), fmt.Sprintf(":%d/%s", port, protocol)) {
					t.Errorf("%v", err)
				}
				if h.sockets != 0 {
					t.Errorf("%d sockets of a task that was refused", h.sockets)
				}
			})
		}
	}
}

func TestForeignAddressIsRefusedByName(t *testing.T) {
	h := testHolder(t)
	for _, at := range []string{"fe80::1%lo", "fe80::1", "ff02::1", "224.0.0.1", "255.255.255.255",
		"127.255.255.255"} { // of lo
		err := h.hold(published("a", netip.MustParseAddr(at), "udp", 8080, 80, 1))
		if err == nil || !strings.Contains(err.Error(), "cannot be published at "+at) {
			t.Errorf("%s: %v", at, err)
		}
	}
	for _, at := range []string{"203.0.113.9", "2001:db8::9"} {
		err := h.hold(published("a", netip.MustParseAddr(at), "tcp", 8080, 80, 1))
		if err == nil || !strings.Contains(err.Error(), at) || !strings.Contains(err.Error(), "8080/tcp") {
			t.Errorf("%s: %v", at, err)
		}
	}
}

func TestPortIsHeldAgainstOthers(t *testing.T) {
	h := testHolder(t)
	tcp, udp := freePort(t, "tcp"), freePort(t, "udp")
	for protocol, port := range map[string]uint16{"tcp": tcp, "udp": udp} {
		if err := h.hold(published(protocol, loopback, protocol, port, 80, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", tcp)); err == nil {
		l.Close()
		t.Error("another program takes the port")
	}
	if c, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", udp)); err == nil {
		c.Close()
		t.Error("another program takes the port of UDP")
	}
}

// TestPortIsTakenAgain has connections of the port before, which end late.
func TestPortIsTakenAgain(t *testing.T) {
	h := testHolder(t)
	port := freePort(t, "tcp")
	task := published("a", netip.Addr{}, "tcp", port, served(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "bye")
		c.Close()
	}), 1)
	for range 3 {
		if err := h.hold(task); err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}
		h.free("a")
		c.Close()
	}
}

func TestTasksOfOneStackShareAPort(t *testing.T) {
	h := testHolder(t)
	port, to := freePort(t, "tcp"), served(t, echo)
	for _, key := range []string{"a", "b", "a"} {
		if err := h.hold(published(key, loopback, "tcp", port, to, 1)); err != nil {
			t.Fatal(err)
		}
	}
	other := published("c", netip.Addr{}, "tcp", port, to+1, 1)
	if err := h.hold(other); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "by a, with") {
		t.Error("another task's port:", err)
	}
	h.free("a")
	if _, err := asked(t, fmt.Sprintf("127.0.0.1:%d", port), "x"); err != nil {
		t.Error("the port of a task that lives:", err)
	}
	h.free("b")
	if err := h.hold(other); err != nil {
		t.Error("the port of nobody:", err)
	}
}

// TestOthersStayWhatTheyAre changes what a task has published, to what cannot be had.
func TestHoldIsAllOrAsBefore(t *testing.T) {
	h := testHolder(t)
	port, to := freePort(t, "tcp"), served(t, echo)
	task := published("a", loopback, "tcp", port, to, 1)
	if err := h.hold(task); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	more := task
	taken := l.Addr().(*net.TCPAddr).AddrPort().Port()
	more.Published = append(published("a", loopback, "tcp", freePort(t, "tcp"), to, 1).Published,
		Publication{At: loopback, Port: Port{Protocol: "tcp", First: taken}, To: to})
	if err := h.hold(more); err == nil {
		t.Error("a port that is taken was had")
	}
	if _, err := asked(t, fmt.Sprintf("127.0.0.1:%d", port), "x"); err != nil || h.sockets != 1 {
		t.Errorf("%d sockets: %v", h.sockets, err)
	}
}

func TestSumOfPortsIsBounded(t *testing.T) {
	h := testHolder(t)
	err := h.hold(published("a", netip.Addr{}, "tcp", 1, 1, 65535))
	if err == nil || !strings.Contains(err.Error(), "no room for 131070 more") {
		t.Error(err)
	}
	for _, bad := range []Task{published("a", loopback, "tcp", 65535, 1, 2), published("a", loopback, "tcp", 1, 65535, 2),
		published("a", loopback, "tcp", 0, 1, 1), published("a", loopback, "tcp", 1, 0, 1),
		published("a", loopback, "sctp", 1, 1, 1)} {
		if err := h.hold(bad); err == nil {
			t.Errorf("%+v was held", bad.Published)
		}
	}
	twice := published("a", loopback, "tcp", 8000, 80, 2)
	twice.Published = append(twice.Published, Publication{At: loopback, Port: Port{Protocol: "tcp", First: 8001}, To: 80})
	if err := h.hold(twice); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Error("two targets of one port:", err)
	}
}

func TestForeignSourceIsReset(t *testing.T) {
	h := testHolder(t)
	seen := make(chan bool, 9)
	h.own = func(netip.Addr) bool { seen <- true; return false }
	reached := make(chan bool, 9)
	to := served(t, func(c net.Conn) { reached <- true; c.Close() })
	port, udp := freePort(t, "tcp"), freePort(t, "udp")
	task := published("a", loopback, "tcp", port, to, 1)
	task.Published = append(task.Published, published("a", loopback, "udp", udp, echoUDP(t), 1).Published...)
	if err := h.hold(task); err != nil {
		t.Fatal(err)
	}
	if _, err := asked(t, fmt.Sprintf("127.0.0.1:%d", port), "x"); err == nil {
		t.Error("a connection from elsewhere was answered")
	}
	c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", udp))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		_, _ = io.WriteString(c, "x")
	}
	for range 4 {
		<-seen
	}
	h.own = (&hostAddresses{}).has
	task.Published = task.Published[1:]
	if err := h.hold(task); err != nil {
		t.Fatal(err)
	}
	if got := askedUDP(t, fmt.Sprintf("127.0.0.1:%d", udp), "y"); got != "y" {
		t.Errorf("%q", got)
	}
	if len(reached) > 0 || h.tasks.flows.count() != 1 {
		t.Errorf("the task was reached from elsewhere: %d connections, %d flows", len(reached), h.tasks.flows.count())
	}
}

// No rule leads what comes from elsewhere to a task that is reached at an address of its own: the daemon does,
// and no host elsewhere has more of that than its part.
func TestForeignSourceIsLedOn(t *testing.T) {
	for _, mode := range []Mode{Bridged, Alias} {
		h := testHolder(t)
		h.own = func(netip.Addr) bool { return false }
		to := served(t, func(c net.Conn) { _, _ = io.WriteString(c, string(mode)); c.Close() })
		port, udp := freePort(t, "tcp"), freePort(t, "udp")
		task := published("a", loopback, "tcp", port, to, 1)
		task.Mode = mode
		task.Published = append(task.Published, published("a", loopback, "udp", udp, echoUDP(t), 1).Published...)
		if err := h.hold(task); err != nil {
			t.Fatal(err)
		}
		if got, err := asked(t, fmt.Sprintf("127.0.0.1:%d", port), ""); got != string(mode) {
			t.Errorf("%s: %q %v", mode, got, err)
		}
		if got := askedUDP(t, fmt.Sprintf("127.0.0.1:%d", udp), "y"); got != "y" {
			t.Errorf("%s: %q", mode, got)
		}
		if h.tasks.flows.count() != 0 || h.apart.flows.count() != 1 {
			t.Errorf("%s: it takes of what the host itself has", mode)
		}
	}
	h := testHolder(t)
	h.own = func(netip.Addr) bool { return false }
	for from, want := range map[string]string{"192.0.2.7": "192.0.2.7", "2001:db8::1:2:3:4": "2001:db8::/64"} {
		if got := h.sourceAnywhere("tcp", netip.AddrPortFrom(netip.MustParseAddr(from), 1), netip.AddrPort{}); got != want {
			t.Errorf("%s is of %s, want %s", from, got, want)
		}
	}
}

func TestHostAddresses(t *testing.T) {
	var h hostAddresses
	for _, a := range append(localAddresses(t), "127.0.0.1", "127.9.9.9", "::1") {
		if !h.has(netip.MustParseAddr(a)) {
			t.Errorf("%s is not the host's", a)
		}
	}
	for _, a := range []string{"203.0.113.9", "2001:db8::9", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255"} {
		if h.has(netip.MustParseAddr(a)) {
			t.Errorf("%s is the host's", a)
		}
	}
}

// TestBrokenIsNotAnEnd has a task that breaks a connection off.
func TestBrokenIsNotAnEnd(t *testing.T) {
	h := testHolder(t)
	port := freePort(t, "tcp")
	if err := h.hold(published("a", loopback, "tcp", port, served(t, func(c net.Conn) {
		_, _ = io.ReadAll(c)
		reset(c.(*net.TCPConn))
	}), 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := asked(t, fmt.Sprintf("127.0.0.1:%d", port), "x"); !errors.Is(err, syscall.ECONNRESET) {
		t.Error("a connection that was reset ended with", err)
	}
	if err := h.hold(published("b", loopback, "tcp", port+1, freePort(t, "tcp"), 1)); err != nil {
		t.Skip(err)
	}
	if _, err := asked(t, fmt.Sprintf("127.0.0.1:%d", port+1), "x"); err == nil {
		t.Error("a port of a task that does not listen was answered")
	}
}

// TestSlowPeersAreBounded has clients that read nothing, as many as there can be.
func TestSlowPeersAreBounded(t *testing.T) {
	h := testHolder(t)
	h.tasks.conns = newConns(8, 2)
	endless := served(t, func(c net.Conn) {
		defer c.Close()
		for b := make([]byte, 1<<16); ; {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	})
	slow, quick := freePort(t, "tcp"), freePort(t, "tcp")
	if err := h.hold(published("slow", loopback, "tcp", slow, endless, 1)); err != nil {
		t.Fatal(err)
	}
	if err := h.hold(published("quick", loopback, "tcp", quick, served(t, echo), 1)); err != nil {
		t.Fatal(err)
	}
	var some []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", slow))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		some = append(some, c)
	}
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", slow)); err == nil {
		defer c.Close()
		some = append(some, c)
	}
	for h.count().Drops == 0 { // it, or what was idle before it
		time.Sleep(time.Millisecond)
	}
	if n := h.tasks.conns.count(); n > 2 {
		t.Errorf("%d connections, more than the share of their task", n)
	}
	if got, err := asked(t, fmt.Sprintf("127.0.0.1:%d", quick), "x"); err != nil || got != "x" {
		t.Errorf("another task: %q %v", got, err)
	}
	h.free("slow")
	for _, c := range some { // until what was on its way
		if _, err := io.Copy(io.Discard, c); err == nil {
			t.Error("a connection of a task that went ends as if it were over")
		}
	}
}

func TestIdleFlowsEnd(t *testing.T) {
	h := testHolder(t)
	udp := freePort(t, "udp")
	task := published("a", loopback, "udp", udp, echoUDP(t), 1)
	list, err := publishedBy(task, h.aim(task))
	if err != nil {
		t.Fatal(err)
	}
	list[0].idle = 50 * time.Millisecond
	if err := h.have("a", list); err != nil {
		t.Fatal(err)
	}
	askedUDP(t, fmt.Sprintf("127.0.0.1:%d", udp), "x")
	for h.tasks.flows.count() > 0 {
		time.Sleep(time.Millisecond)
	}
}

// TestPortsAreKeptOverAnUpgrade executes this test's program in the place of one that has ports.
func TestPortsAreKeptOverAnUpgrade(t *testing.T) {
	if before := os.Getenv("HOLD_BEFORE"); before != "" {
		beforeUpgrade(t, before)
	}
	tcp, udp := freePort(t, "tcp"), freePort(t, "udp")
	cmd := exec.Command(os.Args[0], "-test.run=^TestPortsAreKeptOverAnUpgrade$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("HOLD_BEFORE=%d %d %d %d", tcp, udp, served(t, echo), echoUDP(t)))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_, _ = cmd.Process.Kill(), cmd.Wait() // killed by us
	}()
	lines := bufio.NewScanner(out)
	told := func(want string) {
		t.Helper()
		for lines.Scan() && lines.Text() != want {
			t.Log(lines.Text())
		}
		if lines.Text() != want {
			t.Fatalf("the daemon did not say %q", want)
		}
	}
	told("upgraded")
	// It has not taken its ports yet. Nobody else can, and whoever comes waits.
	if l, err := net.Listen("tcp", fmt.Sprintf(":%d", tcp)); err == nil {
		l.Close()
		t.Error("another program takes the port meanwhile")
	}
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", tcp))
	if err != nil {
		t.Fatal("the port does not listen meanwhile:", err)
	}
	defer c.Close()
	io.WriteString(in, "go on\n")
	told("recovered")
	io.WriteString(c, "x")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error("who came meanwhile:", err)
	}
	for _, host := range localAddresses(t) {
		if got, err := asked(t, net.JoinHostPort(host, fmt.Sprint(tcp)), "y"); err != nil || got != "y" {
			t.Errorf("%s: %q %v", host, got, err)
		}
		if got := askedUDP(t, net.JoinHostPort(host, fmt.Sprint(udp)), "z"); got != "z" {
			t.Errorf("%s: %q", host, got)
		}
	}
	if l, err := net.Listen("tcp", fmt.Sprintf(":%d", tcp+1)); err == nil {
		l.Close()
	} else {
		t.Error("the port of a task that went is not free:", err)
	}
}

func beforeUpgrade(t *testing.T, ports string) {
	var tcp, udp, to, toUDP uint16
	if _, err := fmt.Sscan(ports, &tcp, &udp, &to, &toUDP); err != nil {
		t.Fatal(err)
	}
	task := published("a", netip.Addr{}, "tcp", tcp, to, 1)
	task.Published = append(task.Published, published("a", netip.Addr{}, "udp", udp, toUDP, 1).Published...)
	after := os.Getenv(portFDs) != ""
	p, err := newPorts(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if after {
		fmt.Println("upgraded")
		bufio.NewScanner(os.Stdin).Scan()
	}
	if err := p.hold(task); err != nil {
		t.Fatal(err)
	}
	if after {
		p.settle()
		fmt.Println("recovered")
		select {}
	}
	if err := p.hold(published("gone", netip.Addr{}, "tcp", tcp+1, to, 1)); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err == nil {
		err = p.pass(os.Environ(), func(env []string) error { return syscall.Exec(self, os.Args, env) })
	}
	t.Fatal(err)
}
