package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A namespace of the test plays the host, others its tasks and the outside: nothing is sent elsewhere.

// TestMain runs the tests again, in a network and a mount namespace of their own.
func TestMain(m *testing.M) {
	const sign = "FREEJAIL_TEST_ISOLATED"
	if os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	if os.Getenv(sign) != "" {
		if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), loopbackUp()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), sign+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	var exit *exec.ExitError
	err := c.Run()
	switch {
	case errors.As(err, &exit):
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// host is one with a network, and an outside to which it is connected by the interface up0.
type host struct {
	*testing.T
	stacks *linuxStacks
	filter *linuxFilter
	nets   []Network
	tasks  []Task
	out    string // the namespace of the outside
}

var (
	hostAddr4 = netip.MustParseAddr("198.51.100.1")
	hostAddr6 = netip.MustParseAddr("2001:db8:1::1")
	outside4  = netip.MustParseAddr("198.51.100.2")
	outside6  = netip.MustParseAddr("2001:db8:1::2")
)

func newHost(t *testing.T, nets ...Network) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	cfg := Config{StateDir: t.TempDir(), Networks: nets, Log: hclog.NewNullLogger()}
	s, err := newStacks(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f, err := newFilter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{T: t, stacks: s.(*linuxStacks), filter: f.(*linuxFilter), nets: nets}
	t.Cleanup(h.end)
	h.must(setSysctl("ipv4/ip_forward", "1"))
	h.must(setSysctl("ipv6/conf/all/forwarding", "1"))
	h.out = h.outside("up0", "198.51.100.1/24", "2001:db8:1::1/64", "198.51.100.2/24", "2001:db8:1::2/64")
	return h
}

// end takes all away, and checks that nothing is left.
func (h *host) end() {
	for _, t := range h.tasks {
		h.must(h.stacks.detach(t.Endpoint))
	}
	h.must(h.filter.load(nil, nil))
	h.nothingLeft()
	h.must(h.stacks.prune(nil))
}

// outside makes a namespace that is connected to the host.
func (h *host) outside(link, host4, host6, out4, out6 string) string {
	h.Helper()
	file := filepath.Join(h.TempDir(), "outside")
	h.must(inThread(func() error { return create(file) }))
	h.Cleanup(func() { h.must(errors.Join(removeLink(link), unix.Unmount(file, unix.MNT_DETACH))) })
	ns, err := os.Open(file)
	h.must(err)
	defer ns.Close()
	a := netlink.NewLinkAttrs()
	a.Name = link
	h.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: taskEnd, PeerNamespace: netlink.NsFd(int(ns.Fd()))}))
	up := func(name string, addrs ...string) error {
		l, err := netlink.LinkByName(name)
		for _, p := range addrs {
			err = errors.Join(err, netlink.AddrAdd(l, address(netip.MustParsePrefix(p))))
		}
		return errors.Join(err, netlink.LinkSetUp(l))
	}
	h.must(up(link, host4, host6))
	h.in(file, func() error { return up(taskEnd, out4, out6) })
	return file
}

func removeLink(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}

func inThread(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- do()
	}()
	return <-done
}

// in calls a function in a namespace; "" is the host's.
func (h *host) in(ns string, do func() error) {
	h.Helper()
	h.must(h.within(ns, do))
}

func (h *host) within(ns string, do func() error) error {
	if ns == "" {
		return do()
	}
	return inThread(func() error {
		if err := enter(ns, false); err != nil {
			return err
		}
		return do()
	})
}

func (h *host) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *host) ns(t Task) string { return jailStack(h.stacks.state, t.Stack) }

// task attaches one, the number of which makes its addresses, and publishes nothing.
func (h *host) task(n Network, i int, declared ...Port) *Task {
	h.Helper()
	t := Task{Key: fmt.Sprint("t", i), Declared: declared, Endpoint: Endpoint{Network: n.Name, Mode: n.Mode, As: n,
		Stack: fmt.Sprint("fjnet-t", i)}}
	if n.Mode != None {
		t.Link, t.MAC = linkName(uint64(i)), fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255)
		t.Addr4, t.Addr6 = nth(n.Subnet4, i), nth(n.Subnet6, i)
	}
	h.must(h.stacks.attach(n, t.Endpoint))
	h.tasks = append(h.tasks, t)
	return &h.tasks[len(h.tasks)-1]
}

func nth(p netip.Prefix, n int) netip.Addr {
	if !p.IsValid() {
		return netip.Addr{}
	}
	b := p.Masked().Addr().AsSlice()
	b[len(b)-1], b[len(b)-2] = byte(n), byte(n>>8)|b[len(b)-2]
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (h *host) load() {
	h.Helper()
	h.must(h.filter.load(h.nets, h.tasks))
}

// serve answers at an address of a namespace, with a text and the address of who asks.
func (h *host) serve(ns, proto string, at netip.AddrPort, text string) {
	h.Helper()
	h.in(ns, func() error {
		if proto == "udp" {
			c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
			if err != nil {
				return err
			}
			h.Cleanup(func() { c.Close() })
			go answerUDP(c, text)
			return nil
		}
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		h.Cleanup(func() { l.Close() })
		go answerTCP(l, text)
		return nil
	})
}

func answerUDP(c *net.UDPConn, text string) {
	b := make([]byte, 100)
	for {
		_, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if _, err := c.WriteToUDPAddrPort([]byte(text+" "+from.Addr().Unmap().String()), from); err != nil {
			return
		}
	}
}

func answerTCP(l *net.TCPListener, text string) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return
		}
		from, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		_, err = io.WriteString(c, text+" "+from.Addr().Unmap().String())
		if errors.Join(err, c.Close()) != nil {
			return
		}
	}
}

// ask returns what is answered at an address, and to whom.
func (h *host) ask(ns, proto string, at netip.AddrPort) (text, from string, err error) {
	var answer []byte
	err = h.within(ns, func() error {
		c, err := net.DialTimeout(proto, at.String(), 3*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
			return err
		}
		if proto == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
			answer = make([]byte, 100)
			n, err := c.Read(answer)
			answer = answer[:n]
			return err
		}
		answer, err = io.ReadAll(c)
		return err
	})
	text, from, _ = strings.Cut(string(answer), " ")
	return text, from, err
}

func (h *host) reach(who, ns, proto string, at netip.AddrPort, want string) string {
	h.Helper()
	text, from, err := h.ask(ns, proto, at)
	if err != nil || text != want {
		h.Errorf("%s to %s %s: %q, %v; want %q", who, proto, at, text, err, want)
	}
	return from
}

func (h *host) refused(who, ns, proto string, at netip.AddrPort) {
	h.Helper()
	if text, _, err := h.ask(ns, proto, at); err == nil {
		h.Errorf("%s reaches %s %s: %q", who, proto, at, text)
	}
}

// nothingLeft checks that the host has no link and no stack of freejail's, but for bridges.
func (h *host) nothingLeft() {
	h.Helper()
	links, err := netlink.LinkList()
	h.must(err)
	for _, l := range links {
		if l.Attrs().Group == h.stacks.group && l.Type() != "bridge" {
			h.Errorf("interface %s is left", l.Attrs().Name)
		}
	}
	names, err := h.stacks.stackNames()
	h.must(err)
	if len(names) > 0 {
		h.Errorf("stacks are left: %v", names)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	h.must(err)
	for _, r := range routes {
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil || l.Attrs().Group == h.stacks.group && l.Type() != "bridge" {
			h.Errorf("route to %s is left", r.Dst)
		}
	}
}

func natNetwork(name string, i int) Network {
	return Network{Name: name, Mode: NAT,
		Subnet4:  netip.MustParsePrefix(fmt.Sprintf("10.88.%d.0/24", i)),
		Gateway4: netip.MustParseAddr(fmt.Sprintf("10.88.%d.1", i)),
		Subnet6:  netip.MustParsePrefix(fmt.Sprintf("fd00:88:%d::/64", i)),
		Gateway6: netip.MustParseAddr(fmt.Sprintf("fd00:88:%d::1", i)),
	}
}
