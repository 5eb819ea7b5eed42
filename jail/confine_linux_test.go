package jail

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tryAddresses tells how binds, connections and datagrams of a process fare.
func tryAddresses() {
	for _, l := range []struct{ network, at string }{{"tcp4", "0.0.0.0:8001"}, {"tcp", "127.0.0.1:8002"},
		{"tcp", "192.0.2.10:8003"}, {"tcp", "192.0.2.11:8004"}, {"tcp", ":8005"}, {"tcp6", "[::]:8006"},
		{"tcp", "[::1]:8007"}, {"tcp", "[2001:db8::10]:8008"}, {"tcp", "[2001:db8::11]:8009"}} {
		listener, err := net.Listen(l.network, l.at)
		if err != nil {
			fmt.Println("refused")
			continue
		}
		fmt.Println(listener.Addr())
	}
	for _, to := range []string{"192.0.2.11:9000", "[::ffff:192.0.2.11]:9000", "127.0.0.1:8002", "[2001:db8::11]:9000",
		"[::1]:8007"} {
		c, err := net.Dial("tcp", to)
		if err != nil {
			fmt.Println("refused")
			continue
		}
		fmt.Println(c.LocalAddr().(*net.TCPAddr).IP)
	}
	fmt.Println(asked(unix.AF_INET, &unix.SockaddrInet4{Port: 9000, Addr: [4]byte{192, 0, 2, 11}}))
	six := netip.MustParseAddr("2001:db8::11").As16()
	fmt.Println(asked(unix.AF_INET6, &unix.SockaddrInet6{Port: 9000, Addr: six}))
}

// asked sends from a socket that is neither bound nor connected, and returns from which address.
func asked(family int, to unix.Sockaddr) string {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return "refused"
	}
	must(err)
	must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	if err := unix.Sendto(fd, []byte("?"), 0, to); err != nil {
		return "refused"
	}
	b := make([]byte, 100)
	n, _, err := unix.Recvfrom(fd, b, 0)
	must(err)
	return string(b[:n])
}

// addressed gives a network namespace two addresses of each family, and servers at the second.
func addressed(t *testing.T, file string) {
	t.Helper()
	ns, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = giveAddresses(t)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func giveAddresses(t *testing.T) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	errs := []error{netlink.LinkSetUp(lo)}
	for _, a := range []string{"192.0.2.10", "192.0.2.11", "2001:db8::10", "2001:db8::11"} {
		ip := net.ParseIP(a)
		bits, flags := 128, unix.IFA_F_NODAD
		if ip.To4() != nil {
			ip, bits, flags = ip.To4(), 32, 0
		}
		n := &net.IPNet{IP: ip, Mask: net.CIDRMask(bits, bits)}
		errs = append(errs, netlink.AddrAdd(lo, &netlink.Addr{IPNet: n, Flags: flags}))
		if !strings.HasSuffix(a, "11") {
			continue
		}
		at := net.JoinHostPort(a, "9000")
		l, err := net.Listen("tcp", at)
		c, err2 := net.ListenPacket("udp", at)
		if errs = append(errs, err, err2); errors.Join(errs...) == nil {
			t.Cleanup(func() { l.Close(); c.Close() })
			go echoSource(c)
		}
	}
	return errors.Join(errs...)
}

func echoSource(c net.PacketConn) {
	b := make([]byte, 100)
	for {
		_, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		if _, err := c.WriteTo([]byte(from.(*net.UDPAddr).IP.String()), from); err != nil {
			return
		}
	}
}

func TestConfinedToAddresses(t *testing.T) {
	if _, err := cgroup2(); err != nil {
		t.Skip(err)
	}
	f := setup(t)
	file := stack(t)
	addressed(t, file)
	const four, six = "192.0.2.10", "2001:db8::10"
	for _, c := range []struct {
		params map[string]string
		want   string
	}{
		{map[string]string{"ip4.addr": four, "ip6.addr": six}, "192.0.2.10:8001 192.0.2.10:8002 192.0.2.10:8003 refused " +
			"192.0.2.10:8005 refused [2001:db8::10]:8007 [2001:db8::10]:8008 refused " +
			"192.0.2.10 192.0.2.10 192.0.2.10 2001:db8::10 2001:db8::10 192.0.2.10 2001:db8::10"},
		{map[string]string{"ip4.addr": four}, "192.0.2.10:8001 192.0.2.10:8002 192.0.2.10:8003 refused " +
			"192.0.2.10:8005 refused refused refused refused " +
			"192.0.2.10 192.0.2.10 192.0.2.10 refused refused 192.0.2.10 refused"},
		{map[string]string{"ip6.addr": six}, "refused refused refused refused " +
			"[2001:db8::10]:8005 [2001:db8::10]:8006 [2001:db8::10]:8007 [2001:db8::10]:8008 refused " +
			"refused refused refused 2001:db8::10 2001:db8::10 refused 2001:db8::10"},
	} {
		name := f.createSpec(Spec{Stack: file, Params: c.params})
		_, r := f.start(name, "prog", "inside-addresses")
		if got := answers(t, r); got != c.want {
			t.Errorf("%v: the first process says\n%s: want\n%s", c.params, got, c.want)
		}
		name = f.running(Spec{Stack: file, Params: c.params})
		p, r := f.process("/bin/prog", "inside-addresses")
		out, _ := f.output(name, p, r)
		if got := strings.Join(strings.Fields(out), " "); got != c.want {
			t.Errorf("%v: another process says\n%s: want\n%s", c.params, got, c.want)
		}
	}
}

func answers(t *testing.T, r *os.File) string {
	t.Helper()
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil && !errors.Is(err, os.ErrNoDeadline) {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(b)), " ")
}

func TestConfinementOfOneAddressOfAFamily(t *testing.T) {
	for name, text := range map[string]string{"ip4.addr": "192.0.2.1,192.0.2.2", "ip6.addr": "192.0.2.1"} {
		s := Spec{Name: "fj-x", Root: "/", Params: map[string]string{name: text}}
		if _, err := confinementOf(s); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s %s: %v", name, text, err)
		}
	}
}

// Signals, which Go's scheduler sends too, end the kernel's verifier.
func TestProgramsAreLoadedAmongSignals(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("programs of BPF need root")
	}
	c, err := confinementOf(Spec{Params: map[string]string{"ip4": "new", "ip4.addr": "192.0.2.10", "ip6": "disable"}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Kill(os.Getpid(), unix.SIGURG) // ourselves
			}
		}
	}()
	for range 200 {
		for _, p := range c.programs() {
			fd, err := p.load()
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(fd)
		}
	}
}
