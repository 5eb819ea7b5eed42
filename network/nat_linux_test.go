package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func TestTasksSideBySide(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	for i := range 2 {
		task := h.task(n, 10+i)
		for _, p := range []string{"tcp", "udp"} {
			h.serve(h.ns(*task), p, at(netip.IPv6Unspecified(), 8080), task.Key)
			task.Published = append(task.Published, Publication{Port: Port{p, uint16(8081 + i), 1}, To: 8080})
		}
	}
	h.load()
	for _, p := range []string{"tcp", "udp"} {
		for i, task := range h.tasks {
			port := uint16(8081 + i)
			for _, a := range []netip.Addr{hostAddr4, hostAddr6} {
				h.reach("the host", "", p, at(a, port), task.Key)
				h.reach("the outside", h.out, p, at(a, port), task.Key)
				for _, from := range h.tasks {
					h.reach(from.Key, h.ns(from), p, at(a, port), task.Key)
				}
			}
			for _, a := range []netip.Addr{task.Addr4, task.Addr6} {
				h.reach("the host", "", p, at(a, 8080), task.Key)
				h.reach("the neighbour", h.ns(h.tasks[1-i]), p, at(a, 8080), task.Key)
				h.reach("itself", h.ns(task), p, at(a, 8080), task.Key)
			}
			for _, a := range []string{"127.0.0.1", "::1"} {
				h.reach("itself", h.ns(task), p, at(netip.MustParseAddr(a), 8080), task.Key)
			}
		}
	}
	for _, task := range h.tasks {
		h.must(h.stacks.detach(task.Endpoint))
		h.must(h.stacks.detach(task.Endpoint))
	}
	h.tasks = nil
	h.load()
	h.nothingLeft()
}

func TestNoneHasLoopbackAlone(t *testing.T) {
	h := newHost(t)
	task := h.task(Network{Name: "none", Mode: None}, 1)
	h.serve(h.ns(*task), "tcp", at(netip.IPv6Unspecified(), 8080), "own")
	for _, a := range []string{"127.0.0.1", "::1"} {
		h.reach("itself", h.ns(*task), "tcp", at(netip.MustParseAddr(a), 8080), "own")
	}
	h.refused("a task of none", h.ns(*task), "tcp", at(hostAddr4, 8080))
	h.must(h.stacks.detach(task.Endpoint))
	h.nothingLeft()
}

func TestAddressesAreTranslated(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	task := h.task(n, 10)
	h.load()
	for _, p := range []string{"tcp", "udp"} {
		h.serve(h.out, p, at(netip.IPv6Unspecified(), 9000), "outside")
		for _, a := range []struct{ to, from netip.Addr }{{outside4, hostAddr4}, {outside6, hostAddr6}} {
			if from := h.reach("a task", h.ns(*task), p, at(a.to, 9000), "outside"); from != fmt.Sprint(a.from) {
				t.Errorf("the outside sees %s: want %s", from, a.from)
			}
		}
	}
}

func TestRangesAndAddresses(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	task := h.task(n, 10)
	for _, p := range []string{"tcp", "udp"} {
		task.Published = append(task.Published, Publication{Port: Port{p, 8000, 11}, To: 9000},
			Publication{At: hostAddr4, Port: Port{p, 53, 1}, To: 9000},
			Publication{At: hostAddr6, Port: Port{p, 54, 1}, To: 9001})
	}
	h.load()
	for _, p := range []string{"tcp", "udp"} {
		for i := range uint16(11) {
			h.serve(h.ns(h.tasks[0]), p, at(netip.IPv6Unspecified(), 9000+i), fmt.Sprint(i))
			h.reach("the outside", h.out, p, at(hostAddr4, 8000+i), fmt.Sprint(i))
			h.reach("the host", "", p, at(hostAddr6, 8000+i), fmt.Sprint(i))
		}
		for _, port := range []uint16{7999, 8011} {
			h.refused("the outside", h.out, p, at(hostAddr4, port))
		}
		h.reach("the outside", h.out, p, at(hostAddr4, 53), "0")
		h.reach("the outside", h.out, p, at(hostAddr6, 54), "1")
		h.refused("the outside", h.out, p, at(hostAddr6, 53))
		h.refused("the outside", h.out, p, at(hostAddr4, 54))
		h.refused("itself", h.ns(h.tasks[0]), p, at(n.Gateway4, 53))
	}
}

// send has one socket ask again, as a client with a port of its own does.
func send(c net.Conn) string {
	b := make([]byte, 100)
	if _, err := c.Write([]byte("?")); err != nil {
		return err.Error()
	}
	if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		return err.Error()
	}
	k, err := c.Read(b)
	if err != nil {
		return err.Error()
	}
	text, _, _ := strings.Cut(string(b[:k]), " ")
	return text
}

func TestConnectionsAreForgotten(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	for _, a := range []netip.Addr{hostAddr4, hostAddr6} {
		var c net.Conn
		h.in(h.out, func() (err error) {
			c, err = net.Dial("udp", at(a, 5353).String())
			return err
		})
		defer c.Close()
		h.load()
		send(c) // before anybody is there
		for i := range 3 {
			task := h.task(n, 10+i)
			h.serve(h.ns(*task), "udp", at(netip.IPv6Unspecified(), 53), task.Key)
			task.Published = []Publication{{Port: Port{"udp", 5353, 1}, To: 53}}
			h.load()
			if got := send(c); got != task.Key {
				t.Errorf("%s: %q answers, not %s", a, got, task.Key)
			}
			h.must(h.stacks.detach(task.Endpoint))
			gone := task.Addr4
			h.tasks = nil
			h.load()
			for _, f := range []netlink.InetFamily{netlink.FAMILY_V4, netlink.FAMILY_V6} {
				flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, f)
				h.must(err)
				for _, flow := range flows {
					if flow.Reverse.SrcIP.Equal(gone.AsSlice()) {
						t.Errorf("the connection is left: %s", flow)
					}
				}
			}
		}
	}
}

func TestLivingConnectionsStay(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	h.task(n, 10)
	h.task(n, 11)
	h.load()
	h.serve(h.out, "udp", at(netip.IPv6Unspecified(), 9000), "outside")
	var c net.Conn
	h.in(h.ns(h.tasks[0]), func() (err error) {
		c, err = net.Dial("udp", at(outside4, 9000).String())
		return err
	})
	defer c.Close()
	if got := send(c); got != "outside" {
		t.Fatalf("%q", got)
	}
	flows := func() string {
		list, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
		h.must(err)
		for _, f := range list {
			if f.Forward.SrcIP.Equal(h.tasks[0].Addr4.AsSlice()) {
				return fmt.Sprint(f.Forward.SrcPort, f.Reverse.DstPort, f.Reverse.DstIP)
			}
		}
		return ""
	}
	before := flows()
	h.must(h.stacks.detach(h.tasks[1].Endpoint))
	h.tasks = h.tasks[:1]
	h.load()
	if after := flows(); before == "" || after != before {
		t.Errorf("%q became %q", before, after)
	}
}

func TestHostHasWhatNetworksNeed(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	h.must(h.stacks.check(n))
	h.must(h.filter.check())
	for file, name := range map[string]string{"ipv4/ip_forward": "net.ipv4.ip_forward",
		"ipv6/conf/all/forwarding": "net.ipv6.conf.all.forwarding"} {
		h.must(setSysctl(file, "0"))
		if err := h.stacks.check(n); err == nil || !strings.Contains(err.Error(), "sysctl -w "+name+"=1") {
			t.Errorf("%s: %v", name, err)
		}
		h.must(setSysctl(file, "1"))
	}
	n.Interface = "no0"
	if err := h.stacks.check(n); err == nil || !strings.Contains(err.Error(), "interface no0") {
		t.Errorf("%v", err)
	}
	b := bridgedNetwork()
	for bridge, want := range map[string]string{"br9": "bridge br9", "up0": "no bridge"} {
		b.Bridge = bridge
		if err := h.stacks.check(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %s", err, want)
		}
	}
}

func TestNetworkLeavesByItsInterface(t *testing.T) {
	n := natNetwork("web", 1)
	n.Interface = "up0"
	h := newHost(t, n)
	other := h.outside("up1", "203.0.113.1/24", "2001:db8:2::1/64", "203.0.113.2/24", "2001:db8:2::2/64")
	task := *h.task(n, 10)
	h.load()
	h.serve(h.out, "tcp", at(netip.IPv6Unspecified(), 9000), "outside")
	h.serve(other, "tcp", at(netip.IPv6Unspecified(), 9000), "other")
	h.reach("a task", h.ns(task), "tcp", at(outside4, 9000), "outside")
	h.reach("a task", h.ns(task), "tcp", at(outside6, 9000), "outside")
	h.refused("a task", h.ns(task), "tcp", at(netip.MustParseAddr("203.0.113.2"), 9000))
	h.refused("a task", h.ns(task), "tcp", at(netip.MustParseAddr("2001:db8:2::2"), 9000))
}

func TestIPv4Alone(t *testing.T) {
	n := natNetwork("web", 1)
	n.Subnet6, n.Gateway6 = netip.Prefix{}, netip.Addr{}
	h := newHost(t, n)
	task := *h.task(n, 10)
	h.load()
	h.in(h.ns(task), func() error {
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
		for _, a := range addrs {
			if !a.IP.IsLoopback() {
				t.Errorf("the task has %s unasked", a.IP)
			}
		}
		return err
	})
	h.serve(h.ns(task), "tcp", at(netip.IPv6Unspecified(), 8080), "t10")
	h.reach("the host", "", "tcp", at(task.Addr4, 8080), "t10")
}

// TestNextHolderGetsNothing has a client with connections to a task whose address another gets at once.
func TestNextHolderGetsNothing(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	holder := testHolder(t)
	publish := func() *Task {
		task := h.task(n, 10)
		for _, p := range []string{"tcp", "udp"} {
			task.Published = append(task.Published, Publication{Port: Port{p, 8080, 1}, To: 8080})
		}
		h.must(holder.hold(*task))
		h.load()
		return task
	}
	task := publish()
	heard := make(chan string, 99)
	listen := func() (end func()) {
		var l net.Listener
		var u net.PacketConn
		h.in(h.ns(*task), func() (err error) {
			if l, err = net.Listen("tcp", ":8080"); err == nil {
				u, err = net.ListenPacket("udp", ":8080")
			}
			return err
		})
		var open []net.Conn
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				open = append(open, c)
				go hear(c, heard)
			}
		}()
		go func() {
			b := make([]byte, 99)
			for {
				n, _, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				heard <- string(b[:n])
			}
		}()
		return func() {
			l.Close()
			u.Close()
			for _, c := range open {
				reset(c.(*net.TCPConn))
			}
		}
	}
	end := listen()
	var clients []net.Conn
	for from, to := range map[string]netip.Addr{h.out: hostAddr4, "": netip.MustParseAddr("127.0.0.1")} {
		h.in(from, func() error {
			c, err := net.Dial("tcp", at(to, 8080).String())
			clients = append(clients, c)
			return err
		})
	}
	for _, c := range clients {
		defer c.Close()
		if _, err := io.WriteString(c, "first"); err != nil || <-heard != "first" {
			t.Fatal(err)
		}
	}
	h.in(h.ns(*task), func() error { // so that the client is not told
		l, err := netlink.LinkByName(taskEnd)
		return errors.Join(err, netlink.LinkSetDown(l))
	})
	end()
	gone := *task
	h.tasks = nil
	h.load()
	holder.free(gone.Key)
	h.must(h.stacks.detach(gone.Endpoint))
	task = publish()
	defer listen()()
	told := map[net.Conn]bool{} // that it is over, by the one of write and read that comes first
	for _, c := range clients {
		_, err := io.WriteString(c, "late")
		told[c] = errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	}
	h.in(h.out, func() error {
		c, err := net.Dial("udp", at(hostAddr4, 8080).String())
		if err == nil {
			_, err = io.WriteString(c, "new")
		}
		return err
	})
	if got := <-heard; got != "new" {
		t.Errorf("the next holder of the address hears %q", got)
	}
	for _, c := range clients {
		h.must(c.SetReadDeadline(time.Now().Add(5 * time.Second)))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !told[c] {
			t.Errorf("a client of the last holder at %s is not told: %v", c.RemoteAddr(), err)
		}
	}
}

func hear(c net.Conn, heard chan<- string) {
	b := make([]byte, 99)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		heard <- string(b[:n])
	}
}
