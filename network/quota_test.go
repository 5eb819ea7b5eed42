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

// ago is a use of an owner and a source, in which something has happened some seconds ago.
func ago(owner, source string, seconds int) *use {
	u := &use{owner: owner, source: source, end: func() {}}
	u.last.Store(time.Now().Add(-time.Duration(seconds) * time.Second).UnixNano())
	return u
}

func TestTheLongestIdleOfTheGreediestMakesWay(t *testing.T) {
	q := newQuota(8, 4)
	add := func(u *use, way *use, room bool) {
		t.Helper()
		if made, ok := q.add(u); made != way || ok != room {
			t.Errorf("%s %s: %+v makes way, %v", u.owner, u.source, made, ok)
		}
	}
	old, older, fresh := ago("a", "greedy", 10), ago("a", "greedy", 20), ago("a", "greedy", 0)
	add(old, nil, true)
	add(older, nil, true)
	add(fresh, nil, true)
	one := ago("a", "one", 3600)
	add(one, nil, true) // of a database, say
	add(ago("a", "greedy", 0), older, true)
	add(ago("a", "two", 0), old, true)
	// Now greedy has two, one and two have one each, of the four of a.
	add(ago("a", "greedy", 0), nil, false)
	add(ago("a", "two", 0), nil, false)
	add(ago("a", "three", 0), first(q.owners["a"]["greedy"]), true)
	// Nobody has more than another. What was idle makes way.
	add(ago("a", "four", 0), one, true)
	add(ago("a", "five", 0), nil, false)
	for i := range 4 {
		add(ago("b", "greedy", 9-i), nil, true)
	}
	add(ago("c", "six", 0), first(q.sources["greedy"]), true)
	if q.total != 8 || q.of["c"] != 1 {
		t.Errorf("%+v", q)
	}
	for _, some := range q.sources {
		for u := range some {
			q.remove(u)
			q.remove(u)
		}
	}
	if q.total+len(q.of)+len(q.sources)+len(q.owners) != 0 {
		t.Errorf("left: %+v", q)
	}
}

// first is the longest idle of some.
func first(all uses) *use { return all.longest() }

// TestNoUserKeepsOthersOut has one that opens all connections and flows that there can be, to several tasks, and
// keeps them.
func TestNoUserKeepsOthersOut(t *testing.T) {
	if os.Getenv("GREEDY") != "" {
		greedy(t)
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	h := testHolder(t)
	h.tasks = &share{newConns(8, 4), newFlows(256)}
	var places []string
	for i := range 5 {
		tcp, udp := freePort(t, "tcp"), freePort(t, "udp")
		task := published(fmt.Sprint("t", i), loopback, "tcp", tcp, served(t, echo), 1)
		task.Published = append(task.Published, published("", loopback, "udp", udp, echoUDP(t), 1).Published...)
		if err := h.hold(task); err != nil {
			t.Fatal(err)
		}
		places = append(places, fmt.Sprintf("127.0.0.1:%d", tcp), fmt.Sprintf("127.0.0.1:%d", udp))
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNoUserKeepsOthersOut$")
	cmd.Env = append(os.Environ(), "GREEDY="+strings.Join(places[:8], " "))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_, _ = cmd.Process.Kill(), cmd.Wait() // killed by us
	}()
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "full" {
	}
	for range 3 {
		for i := 0; i < len(places); i += 2 {
			if got, err := asked(t, places[i], "x"); err != nil || got != "x" {
				t.Errorf("%s: %q %v", places[i], got, err)
			}
			if got := askedUDP(t, places[i+1], "y"); got != "y" {
				t.Errorf("%s: %q", places[i+1], got)
			}
		}
	}
	if h.count().Drops == 0 {
		t.Error("nothing was full")
	}
}

// greedy is another user.
func greedy(t *testing.T) {
	if err := syscall.Setuid(65534); err != nil {
		t.Fatal(err)
	}
	var some []net.Conn
	for i := range 20 {
		for n, at := range strings.Fields(os.Getenv("GREEDY")) {
			c, err := net.Dial([]string{"tcp", "udp"}[n%2], at)
			if err == nil {
				_, err = c.Write([]byte{byte(i)})
				some = append(some, c)
			}
			if err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Fatal(err)
			}
		}
	}
	fmt.Println("full")
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
	for _, c := range some {
		c.Close()
	}
}

func TestUserOf(t *testing.T) {
	if at := os.Getenv("USER_OF"); at != "" {
		userOfHelper(t, at)
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Skip(err)
		}
		defer l.Close()
		u, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			t.Skip(err)
		}
		defer u.Close()
		cmd := exec.Command(os.Args[0], "-test.run=^TestUserOf$")
		cmd.Env = append(os.Environ(), "USER_OF="+l.Addr().String())
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if uid, err := userOf("tcp", addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())); err != nil || uid != 65534 {
			t.Errorf("%s by TCP: %d %v", at, uid, err)
		}
		for range 2 { // of a socket that is connected, and of one that is not
			_, from, err := u.ReadFrom(make([]byte, 9))
			if err != nil {
				t.Fatal(err)
			}
			client, server := from.(*net.UDPAddr).AddrPort(), u.LocalAddr().(*net.UDPAddr).AddrPort()
			if uid, err := userOf("udp", client, server); err != nil || uid != 65534 {
				t.Errorf("%s by UDP: %d %v", at, uid, err)
			}
			if got := sourceOf("udp", client, netip.AddrPortFrom(netip.IPv6Unspecified(), server.Port())); got != "user 65534" {
				t.Errorf("%s: %s", at, got)
			}
		}
		c.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	if _, err := userOf("tcp", netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")); err == nil {
		t.Error("a socket that there is not has a user")
	}
}

// userOfHelper is the other user, until its connection is closed.
func userOfHelper(t *testing.T, at string) {
	if err := syscall.Setuid(65534); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ := net.SplitHostPort(at)
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at))
	u, err := net.DialUDP("udp", nil, to)
	if err == nil {
		_, err = u.Write([]byte("x"))
	}
	free, err2 := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
	if err2 == nil {
		_, err2 = free.WriteTo([]byte("y"), to)
	}
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, c)
	os.Exit(0)
}

// TestHalfClosedEnds has a client that says no more, and a task that never does.
func TestHalfClosedEnds(t *testing.T) {
	h := testHolder(t)
	port := freePort(t, "tcp")
	stop := make(chan bool)
	defer close(stop)
	task := published("a", loopback, "tcp", port, served(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "hello")
		<-stop
		c.Close()
	}), 1)
	list, err := publishedBy(task, h.aim(task))
	if err != nil {
		t.Fatal(err)
	}
	list[0].half = 50 * time.Millisecond
	if err := h.have("a", list); err != nil {
		t.Fatal(err)
	}
	idle, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if got, err := asked(t, idle.RemoteAddr().String(), "x"); err == nil || got != "hello" {
		t.Errorf("%q %v", got, err)
	}
	for h.tasks.conns.count() > 1 { // that of idle, which stays
		time.Sleep(time.Millisecond)
	}
	if _, err := io.ReadFull(idle, make([]byte, 5)); err != nil {
		t.Error("one that is open on both sides has ended:", err)
	}
}
