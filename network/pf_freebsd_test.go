package network

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// The tests of this file have a host of their own: a jail with a network stack and a pf of its own, in
// which they run themselves again. Tasks and the outside are jails in it. Nothing of the real host's
// network is touched.

const (
	inHost  = "FREEJAIL_TEST_HOST" // set in the host's jail
	program = "FREEJAIL_TEST_PEER" // what a peer's program is to do
)

func init() {
	what := os.Getenv(program)
	if what == "" {
		return
	}
	if err := peer(strings.Fields(what)); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// peer is a program of a test in a jail: `serve NAME tcp/PORT udp/PORT ...`, `dial SECONDS NETWORK ADDRESS [FROM]`,
// `keep NETWORK ADDRESS`, or `spray COUNT ADDRESS`.
func peer(args []string) error {
	switch args[0] {
	case "serve":
		for _, at := range args[2:] {
			proto, port, _ := strings.Cut(at, "/")
			if err := serve(args[1], proto, port); err != nil {
				return err
			}
		}
		fmt.Println("ready")
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	case "dial":
		patience, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return dial(time.Duration(patience)*time.Second, args[2], args[3], args[4:])
	case "keep":
		c, err := net.Dial(args[1], args[2])
		if err == nil {
			_, err = bufio.NewReader(c).ReadString('\n')
			fmt.Println("ready")
		}
		if err == nil {
			_, err = io.Copy(io.Discard, os.Stdin)
		}
		return err
	}
	if args[0] == "spray" {
		n, err := strconv.Atoi(args[1])
		for range n {
			if c, errDial := net.Dial("udp", args[2]); errDial == nil {
				_, errDial = c.Write([]byte("x"))
				err = errors.Join(err, errDial, c.Close())
			}
		}
		return err
	}
	return errors.New("no such program")
}

// serve answers with its name and where the client is.
func serve(name, proto, port string) error {
	if proto == "udp" {
		// A socket of each family and address: an answer of a wildcard's may come from another address.
		p, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			return err
		}
		go func() {
			b := make([]byte, 100)
			for {
				if _, from, err := p.ReadFrom(b); err == nil {
					host, _, _ := net.SplitHostPort(from.String())
					fmt.Fprintf(writerTo{p, from}, "%s %s\n", name, unzoned(host))
				}
			}
		}()
		return nil
	}
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintf(c, "%s %s\n", name, unzoned(host))
			go func() { io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	return nil
}

func unzoned(host string) string { return netip.MustParseAddr(host).Unmap().WithZone("").String() }

type writerTo struct {
	net.PacketConn
	to net.Addr
}

func (w writerTo) Write(b []byte) (int, error) { return w.WriteTo(b, w.to) }

// dial prints what is answered, to what is sent to many by anyone. FROM is an address, with a port or without.
func dial(patience time.Duration, network, address string, from []string) error {
	d := net.Dialer{Timeout: patience}
	if len(from) > 0 {
		own, err := netip.ParseAddrPort(from[0])
		if err != nil {
			own = netip.AddrPortFrom(netip.MustParseAddr(from[0]), 0)
		}
		if d.LocalAddr = net.Addr(net.TCPAddrFromAddrPort(own)); network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(own)
		}
	}
	c, err := d.Dial(network, address)
	if to, ok := manyOf(address); ok && network == "udp" {
		c, err = shout(to)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	var line string
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, err = fmt.Fprintln(c, "hello"); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		if line, err = bufio.NewReader(c).ReadString('\n'); err == nil {
			fmt.Print(line)
			return nil
		}
		if network == "tcp" {
			return err
		}
	}
	return err
}

// manyOf tells whether an address is that of many.
func manyOf(address string) (*net.UDPAddr, bool) {
	to, err := net.ResolveUDPAddr("udp", address)
	return to, err == nil && (to.IP.IsMulticast() || to.IP.To4() != nil && to.IP.To4()[3] == 255)
}

// shout sends to many. A socket that is connected would hear nobody.
func shout(to *net.UDPAddr) (net.Conn, error) {
	c, err := net.ListenUDP("udp", nil)
	return shouter{c, to}, err
}

type shouter struct {
	*net.UDPConn
	to *net.UDPAddr
}

func (s shouter) Write(b []byte) (int, error) { return s.WriteTo(b, s.to) }

// onHost has a test run in a host of its own.
func onHost(t *testing.T, script func(*pfWorld)) {
	t.Helper()
	if os.Getenv(inHost) != "" {
		w := &pfWorld{T: t, pf: newPF(nil)}
		script(w)
		return
	}
	inHostsJail(t, "-test.run=^"+t.Name()+"$", "-test.v")
}

// inHostsJail runs this binary in a jail with a stack of its own.
func inHostsJail(t testing.TB, args ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat(pfDevice); err != nil {
		t.Skip("pf is not loaded, and is not loaded for a test: kldload pf")
	}
	if out, err := exec.Command("/sbin/kldload", "-n", "if_bridge", "if_epair").CombinedOutput(); err != nil {
		t.Skipf("no bridges: %s", out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	jail := fmt.Sprintf("fjpf%d", os.Getpid())
	t.Cleanup(func() { exec.Command("/usr/sbin/jail", "-r", jail).Run() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "/usr/sbin/jail", append([]string{"-c", "name=" + jail, "path=/", "vnet", "children.max=40",
		"enforce_statfs=0", "allow.raw_sockets", "exec.clean=0", "command=" + self}, args...)...)
	c.Env = append(os.Environ(), inHost+"="+jail)
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("in the host's jail: %v", err)
	}
}

// pfWorld is the inside of the host's jail.
type pfWorld struct {
	*testing.T
	pf    *pf
	names map[string]string // of jails, where they are not those of a test
}

// run is a command of the host.
func (w *pfWorld) run(args ...string) string {
	w.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		w.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// sh runs lines of commands.
func (w *pfWorld) sh(lines string) {
	w.Helper()
	for line := range strings.Lines(lines) {
		if args := strings.Fields(line); len(args) > 0 {
			w.run(args...)
		}
	}
}

// stack makes a stack, whose interface eth0 is connected to a link of the host's.
func (w *pfWorld) stack(name, link string) {
	w.Helper()
	w.run("/usr/sbin/jail", "-c", "name="+name, "path=/", "vnet", "persist", "allow.raw_sockets")
	w.Cleanup(func() { exec.Command("/usr/sbin/jail", "-r", name).Run() })
	a := w.run("ifconfig", "epair", "create")
	b := strings.TrimSuffix(a, "a") + "b"
	w.run("ifconfig", a, "name", link)
	w.run("ifconfig", b, "vnet", name)
	w.in(name, "ifconfig", b, "name", "eth0")
	w.in(name, "ifconfig", "lo0", "127.0.0.1/8", "up")
	w.run("ifconfig", link, "up")
}

func (w *pfWorld) in(jail string, args ...string) string {
	w.Helper()
	return w.run(append([]string{"jexec", jail}, args...)...)
}

// bridge makes freejail's bridge of a network.
func (w *pfWorld) bridge(n Network) {
	w.Helper()
	made := w.run("ifconfig", "bridge", "create")
	w.sh(fmt.Sprintf(`ifconfig %s name %s
		ifconfig %[2]s inet %s/%d
		ifconfig %[2]s inet6 fe80::1/64 no_dad
		ifconfig %[2]s up`, made, n.OwnBridge(), n.Gateway4, n.Subnet4.Bits()))
	if n.Gateway6.IsValid() {
		w.run("ifconfig", n.OwnBridge(), "inet6", fmt.Sprintf("%s/%d", n.Gateway6, n.Subnet6.Bits()), "no_dad")
	}
}

// attach makes the stack of a task.
func (w *pfWorld) attach(n Network, t Task) {
	w.Helper()
	w.stack(t.Key, t.Link)
	w.run("ifconfig", n.OwnBridge(), "addm", t.Link, "private", t.Link)
	w.in(t.Key, "ifconfig", "eth0", "inet", t.Addr4.String()+"/32", "up")
	w.in(t.Key, "route", "-n", "add", "-host", n.Gateway4.String(), "-iface", "eth0")
	w.in(t.Key, "route", "-n", "add", "default", n.Gateway4.String())
	if t.Addr6.IsValid() {
		w.in(t.Key, "ifconfig", "eth0", "inet6", "-ifdisabled", "auto_linklocal", "no_dad")
		w.in(t.Key, "ifconfig", "eth0", "inet6", t.Addr6.String()+"/128", "no_dad")
		w.in(t.Key, "route", "-n", "add", "-6", "-host", n.Gateway6.String(), "-iface", "eth0") // or it is no neighbor
		w.in(t.Key, "route", "-n", "add", "-6", "default", "fe80::1%eth0")
	}
}

// program is a command that has this test's binary do something in a jail of the host's, or in it.
func (w *pfWorld) program(jail string, what ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		w.Fatal(err)
	}
	c := exec.Command(self)
	if jail != "" {
		c = exec.Command("jexec", cmp.Or(w.names[jail], jail), self)
	}
	c.Env = append(os.Environ(), program+"="+strings.Join(what, " "))
	return c
}

// start is a program which runs until the end of the test, or until the function is called.
func (w *pfWorld) start(jail string, what ...string) func() {
	w.Helper()
	c := w.program(jail, what...)
	in, err1 := c.StdinPipe()
	out, err2 := c.StdoutPipe()
	if err := errors.Join(err1, err2, c.Start()); err != nil {
		w.Fatal(err)
	}
	stop := func() { in.Close(); c.Process.Kill(); c.Wait() }
	w.Cleanup(stop)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		w.Fatalf("%s: %v: %q %v", jail, what, line, err)
	}
	return stop
}

// probe is a connection, and what has to come of it: the answer, or none where it is empty.
type probe struct{ jail, network, address, want, from string }

func (w *pfWorld) probe(all ...probe) {
	w.Helper()
	for _, p := range all {
		patience := "30"
		if p.want == "" { // what is kept out can only be waited for
			patience = "2"
		}
		out, err := w.program(p.jail, "dial", patience, p.network, p.address, p.from).CombinedOutput()
		got := strings.TrimSpace(string(out))
		if err != nil {
			w.Logf("%s to %s/%s: %s", p.jail, p.address, p.network, got)
			got = ""
		}
		if got != p.want {
			w.Errorf("%s to %s/%s (from %q): %q, want %q", p.jail, p.address, p.network, p.from, got, p.want)
		}
	}
}

func (w *pfWorld) load(networks []Network, tasks []Task) {
	w.Helper()
	if err := w.pf.load(networks, tasks); err != nil {
		w.Fatal(err)
	}
	if ok, err := w.pf.loaded(); !ok || err != nil {
		w.Fatalf("loaded just now: %v %v", ok, err)
	}
}

const anchors = "nat-anchor \"freejail\"\nrdr-anchor \"freejail\"\n"

func (w *pfWorld) conf(text string) {
	w.Helper()
	if _, err := runPfctl(text, "-q", "-f", "-"); err != nil {
		w.Fatal(err)
	}
}

// tasksOf are two tasks of one network, and two of one that isolates them.
func tasksOf() ([]Network, []Task) {
	web := pfNetwork("web", NAT, "10.88.0.0/24", "fd00:88::/64")
	db := pfNetwork("db", NAT, "10.89.0.0/24", "fd00:89::/64")
	db.Isolate = true
	tasks := []Task{pfTask("one", web, "10.88.0.7", "fd00:88::7"), pfTask("two", web, "10.88.0.8", "fd00:88::8"),
		pfTask("three", db, "10.89.0.7", "fd00:89::7"), pfTask("four", db, "10.89.0.8", "fd00:89::8")}
	for i := range tasks {
		tasks[i].Link = fmt.Sprintf("fjt%da", i)
	}
	tasks[0].Published = []Publication{pfPublished("192.0.2.10", Port{"tcp", 8081, 1}, 8080),
		pfPublished("2001:db8::10", Port{"tcp", 8081, 0}, 8080), pfPublished("", Port{"udp", 5353, 0}, 5300),
		pfPublished("", Port{"tcp", 8000, 11}, 9000)}
	tasks[2].Published = []Publication{pfPublished("192.0.2.10", Port{"tcp", 8082, 1}, 8080)}
	return []Network{web, db}, tasks
}

// twoNetworks is a host with an outside, two tasks of one network and two of another.
func (w *pfWorld) twoNetworks() ([]Network, []Task) {
	w.Helper()
	w.sh(`ifconfig lo0 127.0.0.1/8 up
		sysctl net.inet.ip.forwarding=1 net.inet6.ip6.forwarding=1`)
	networks, tasks := tasksOf()
	for _, n := range networks {
		w.bridge(n)
	}
	for _, t := range tasks {
		w.attach(t.As, t)
	}
	w.outside()
	return networks, tasks
}

// outside is another host, which knows the way to the tasks' addresses.
func (w *pfWorld) outside() {
	w.Helper()
	w.stack("out", "em0")
	w.sh(`ifconfig em0 inet 192.0.2.10/24
		ifconfig em0 inet6 2001:db8::10/64 no_dad
		jexec out ifconfig eth0 inet 192.0.2.99/24 up
		jexec out ifconfig eth0 inet6 2001:db8::99/64 no_dad
		jexec out route -n add 10.88.0.0/24 192.0.2.10
		jexec out route -n add 10.89.0.0/24 192.0.2.10
		jexec out route -n add -6 fd00:88::/64 2001:db8::10`)
}

func TestPublishedAndEnforced(t *testing.T) {
	onHost(t, func(w *pfWorld) {
		networks, tasks := w.twoNetworks()
		if err := w.pf.check(); err == nil || !strings.Contains(err.Error(), "not enabled") {
			t.Errorf("pf is not enabled: %v", err)
		}
		w.conf("")
		w.run("pfctl", "-qe")
		if err := w.pf.check(); err == nil || !strings.Contains(err.Error(), `rdr-anchor "freejail"`) {
			t.Errorf("the anchors are not named: %v", err)
		}
		// The operator's own rules pass nothing from outside.
		w.conf(anchors + "block in on em0\npass in on em0 inet6 proto icmp6\npass out\nanchor \"freejail\"\n")
		if err := w.pf.check(); err != nil {
			t.Error(err)
		}
		// What a gateway has stays the host's.
		tasks[2].Published = append(tasks[2].Published, pfPublished("", Port{"udp", 53, 1}, 8080))
		w.load(networks, tasks)
		w.start("one", "serve", "one", "tcp/8080", "udp/5300", "tcp/9003", "tcp/22")
		w.start("three", "serve", "three", "tcp/8080", "udp/8080")
		w.start("out", "serve", "out", "tcp/7000", "udp/7000")
		w.start("", "serve", "host", "tcp/9000", "udp/53", "tcp/53", "tcp/8081")
		w.published()
		w.probe(probe{"out", "udp", "192.0.2.10:53", "three 192.0.2.99", ""})
		w.enforced()
		w.hostItself()
		w.spoofed()
	})
}

// published is who reaches a published port, and as whom.
func (w *pfWorld) published() {
	w.Helper()
	w.probe(
		probe{"out", "tcp", "192.0.2.10:8081", "one 192.0.2.99", ""},
		probe{"out", "tcp", "[2001:db8::10]:8081", "one 2001:db8::99", ""},
		probe{"out", "udp", "192.0.2.10:5353", "one 192.0.2.99", ""},
		probe{"out", "udp", "[2001:db8::10]:5353", "one 2001:db8::99", ""},
		probe{"out", "tcp", "192.0.2.10:8003", "one 192.0.2.99", ""},
		probe{"out", "tcp", "192.0.2.10:8082", "three 192.0.2.99", ""},
		probe{"two", "tcp", "192.0.2.10:8081", "one 10.88.0.8", ""},
		probe{"two", "tcp", "[2001:db8::10]:8081", "one fd00:88::8", ""},
		probe{"two", "udp", "10.88.0.1:5353", "one 10.88.0.8", ""},
		probe{"one", "tcp", "192.0.2.10:8081", "one 10.88.0.1", ""},
		probe{"one", "tcp", "[2001:db8::10]:8081", "one fd00:88::1", ""},
		probe{"three", "tcp", "192.0.2.10:8081", "one 10.89.0.7", ""},
		probe{"four", "tcp", "192.0.2.10:8082", "three 10.89.0.8", ""},
		probe{"three", "udp", "[2001:db8::10]:5353", "one fd00:89::7", ""},
		// Unpublished: neighbours of a network that does not isolate, what the host has allowed, the outside.
		probe{"two", "tcp", "10.88.0.7:22", "one 10.88.0.8", ""},
		probe{"two", "tcp", "[fd00:88::7]:22", "one fd00:88::8", ""},
		probe{"one", "udp", "10.88.0.1:53", "host 10.88.0.7", ""},
		probe{"one", "tcp", "[fd00:88::1]:53", "host fd00:88::7", ""},
		probe{"one", "tcp", "192.0.2.99:7000", "out 192.0.2.10", ""},
		probe{"one", "udp", "192.0.2.99:7000", "out 192.0.2.10", ""},
		probe{"one", "tcp", "[2001:db8::99]:7000", "out 2001:db8::10", ""},
		probe{"three", "tcp", "192.0.2.99:7000", "out 192.0.2.10", ""})
}

// enforced is what nobody reaches.
func (w *pfWorld) enforced() {
	w.Helper()
	w.probe(
		// The outside, by a route of its own.
		probe{"out", "tcp", "10.88.0.7:8080", "", ""},
		probe{"out", "tcp", "10.88.0.7:22", "", ""},
		probe{"out", "tcp", "[fd00:88::7]:8080", "", ""},
		probe{"out", "udp", "10.88.0.7:5300", "", ""},
		probe{"out", "tcp", "10.88.0.1:53", "", ""},
		// Another network, and an isolated neighbour.
		probe{"three", "tcp", "10.88.0.7:8080", "", ""},
		probe{"three", "tcp", "[fd00:88::7]:8080", "", ""},
		probe{"four", "tcp", "10.89.0.7:8080", "", ""},
		probe{"four", "tcp", "[fd00:89::7]:8080", "", ""},
		// The host's own services.
		probe{"one", "tcp", "10.88.0.1:9000", "", ""},
		probe{"one", "tcp", "192.0.2.10:9000", "", ""},
		probe{"one", "tcp", "[fd00:88::1]:9000", "", ""},
		probe{"one", "tcp", "[2001:db8::10]:9000", "", ""},
		probe{"one", "tcp", "[fe80::1%eth0]:9000", "", ""},
		probe{"one", "tcp", "10.89.0.1:53", "", ""},
		probe{"one", "tcp", "192.0.2.10:53", "", ""},
		probe{"one", "udp", "255.255.255.255:53", "", ""})
}

// hostItself is answered by a socket of the host's, as the daemon has it, which reaches the task.
func (w *pfWorld) hostItself() {
	w.Helper()
	all := []probe{{"", "tcp", "192.0.2.10:8081", "host 192.0.2.10", ""},
		{"", "tcp", "127.0.0.1:8081", "host 127.0.0.1", ""},
		{"", "tcp", "[::1]:8081", "host ::1", ""}, {"", "tcp", "[2001:db8::10]:8081", "host 2001:db8::10", ""},
		{"", "tcp", "10.88.0.7:8080", "one 10.88.0.1", ""}, {"", "tcp", "[fd00:88::7]:22", "one fd00:88::1", ""},
		{"", "udp", "10.88.0.7:5300", "one 10.88.0.1", ""},
		// With filter_local these pass lo0 too.
		{"one", "udp", "10.88.0.1:53", "host 10.88.0.7", ""}, {"out", "tcp", "192.0.2.10:8081", "one 192.0.2.99", ""},
		{"two", "tcp", "192.0.2.10:8081", "one 10.88.0.8", ""}}
	w.probe(all...)
	for _, local := range []string{"1", "0"} {
		w.run("sysctl", "net.pf.filter_local="+local) // which pf reads when it is enabled
		w.sh(`pfctl -qd
			pfctl -qF states
			pfctl -qe`)
		w.probe(all...)
	}
}

// spoofed is what comes from an address that is not its sender's.
func (w *pfWorld) spoofed() {
	w.Helper()
	w.sh(`jexec one ifconfig eth0 inet 10.88.0.99/32 alias
		jexec one ifconfig eth0 inet 10.88.0.8/32 alias
		jexec one ifconfig eth0 inet 192.0.2.98/32 alias
		jexec out ifconfig eth0 inet 10.88.0.1/32 alias`)
	w.probe(
		probe{"one", "udp", "192.0.2.99:7000", "", "10.88.0.99"},
		probe{"one", "udp", "192.0.2.99:7000", "", "192.0.2.98"},
		probe{"out", "tcp", "10.88.0.7:8080", "", "10.88.0.1"})
	w.injected()
	sent := func() bool { // as a neighbour: its answer goes to the neighbour, but the state is seen
		w.run("pfctl", "-qF", "states")
		w.program("one", "dial", "1", "udp", "192.0.2.99:7000", "10.88.0.8").Run()
		return strings.Contains(w.run("pfctl", "-ss"), "10.88.0.8")
	}
	if !sent() {
		w.Error("a neighbour's address was refused without pfil_member: doctor says it is not")
	}
	w.sh(`sysctl net.link.bridge.pfil_member=1
		sysctl net.link.bridge.pfil_local_phys=1`)
	if ok, err := w.pf.loaded(); !ok || err != nil {
		w.Errorf("with pfil_member: %v %v", ok, err)
	}
	if sent() {
		w.Error("a neighbour's address passed in spite of pfil_member and pfil_local_phys")
	}
	w.sh(`jexec one ifconfig eth0 inet 10.88.0.8/32 -alias
		arp -nad`)
	w.published()
	w.sh(`sysctl net.link.bridge.pfil_member=0
		sysctl net.link.bridge.pfil_local_phys=0`)
}

// injected is what a task of another network sends as the outside, into what a task has with it.
func (w *pfWorld) injected() {
	w.Helper()
	w.run("jexec", "three", "ifconfig", "eth0", "inet", "192.0.2.99/32", "alias")
	defer w.run("jexec", "three", "ifconfig", "eth0", "inet", "192.0.2.99/32", "-alias")
	w.run("pfctl", "-qF", "states")
	w.probe(probe{"one", "udp", "192.0.2.99:7000", "out 192.0.2.10", ""},
		probe{"out", "udp", "192.0.2.10:5353", "one 192.0.2.99", ""})
	for _, of := range []string{`udp (192.0.2.10:\d+) \(10.88.0.7:\d+\) -> (192.0.2.99:7000) .*\n.* (\d+:\d+) pkts`,
		`udp 10.88.0.7:5300 \((192.0.2.10:5353)\) <- (192.0.2.99:\d+) .*\n.* (\d+:\d+) pkts`} {
		state := regexp.MustCompile(of)
		was := state.FindStringSubmatch(w.run("pfctl", "-vss"))
		if was == nil {
			w.Errorf("no state is %s: %s", of, w.run("pfctl", "-vss"))
			continue
		}
		out, _ := w.program("three", "dial", "1", "udp", was[1], was[2]).CombinedOutput() // nobody answers
		if is := state.FindStringSubmatch(w.run("pfctl", "-vss")); is == nil || is[3] != was[3] {
			w.Errorf("what another task has sent as %s is in the state %q, was %q (%s)", was[2], is, was, out)
		}
	}
}

// No task has all states of pf's.
func TestStatesAreShared(t *testing.T) {
	onHost(t, func(w *pfWorld) {
		networks, tasks := w.twoNetworks()
		w.conf("set limit states 120\n" + anchors + "pass\nanchor \"freejail\"\n")
		w.run("pfctl", "-qe")
		w.load(networks, tasks)
		w.start("out", "serve", "out", "tcp/7000", "udp/7000")
		w.start("two", "serve", "two", "udp/7000")
		for _, to := range []string{"192.0.2.99:7000", "10.88.0.8:7000", "10.88.0.1:53"} {
			if out, err := w.program("one", "spray", "200", to).CombinedOutput(); err != nil {
				t.Logf("%s: %v: %.200s", to, err, out)
			}
		}
		states := w.run("pfctl", "-ss")
		if n := len(regexp.MustCompile(`(?m)^fj-web .* 10\.88\.0\.7:`).FindAllString(states, -1)); n < 20 || n > 40 {
			t.Errorf("%d states of a task with the 20 that are its own, and 20 to its neighbour:\n%s", n, states)
		}
		w.probe(probe{"two", "tcp", "192.0.2.99:7000", "out 192.0.2.10", ""})
		w.conf("set limit states 240\n" + anchors + "pass\nanchor \"freejail\"\n")
		ok, err := w.pf.loaded()
		for i := 0; i < 3 && (!ok || err != nil); i++ { // the main rules are new, which is told
			w.load(networks, tasks)
			ok, err = w.pf.loaded()
		}
		if rules := w.run("pfctl", "-qa", "freejail", "-sr"); !ok || err != nil || !strings.Contains(rules, "max-src-states 40") {
			t.Errorf("with another limit: %v %v:\n%s", ok, err, rules)
		}
	})
}

// Whatever takes rules away is noticed, and what does not is not.
func TestLostPFRules(t *testing.T) {
	onHost(t, func(w *pfWorld) {
		networks, tasks := w.twoNetworks()
		conf := anchors + "pass\nanchor \"freejail\"\n"
		w.conf(conf)
		w.run("pfctl", "-qe")
		if ok, err := w.pf.loaded(); ok || err != nil {
			t.Errorf("before the first load: %v %v", ok, err)
		}
		whole := func() string {
			return w.run("sh", "-c", `for a in freejail freejail/07; do pfctl -qa $a -sr; pfctl -qa $a -sn; done
				for t in $(pfctl -qa freejail -sT); do echo $t; pfctl -qa freejail -t $t -T show; done`)
		}
		w.load(networks, tasks)
		was := whole()
		for _, harm := range []string{"freejail -F rules", "freejail -F nat", "freejail -F Tables", "freejail -F all",
			"freejail/07 -F nat", "freejail/* -F nat", "freejail/* -F Tables", "freejail -t freejail_web -T flush",
			"freejail -t freejail_web -T delete 10.88.0.8", "freejail -t freejail_web -T replace 10.88.0.7 10.88.0.9"} {
			w.run(append([]string{"pfctl", "-q", "-a"}, strings.Fields(harm)...)...)
			if ok, err := w.pf.loaded(); ok || err != nil {
				t.Errorf("after pfctl %s: %v %v", harm, ok, err)
			}
			w.load(networks, tasks)
			if got := whole(); got != was {
				t.Errorf("after pfctl %s and another load:\n%s\nwas\n%s", harm, got, was)
			}
		}
		for _, anchor := range []string{"freejail", "freejail/07", "freejail/63"} {
			if _, err := runPfctl("rdr proto tcp to port 9 -> 127.0.0.1\n", "-q", "-a", anchor, "-f", "-"); err != nil {
				t.Fatal(err)
			}
			if ok, err := w.pf.loaded(); ok || err != nil {
				t.Errorf("with other rules in the anchor %s: %v %v", anchor, ok, err)
			}
			w.load(networks, tasks)
			if left := w.run("pfctl", "-qa", anchor, "-sn"); strings.Contains(left, "port = discard") {
				t.Errorf("other rules in the anchor %s are left: %s", anchor, left)
			}
		}
		w.run("pfctl", "-qa", "freejail/07", "-F", "nat")
		if err := w.pf.load(networks, tasks); err != nil || whole() != was {
			t.Errorf("a load after a change that nobody has noticed: %v\n%s", err, whole())
		}
		if ok, err := w.pf.loaded(); ok || err != nil {
			t.Errorf("a change that a load has undone is told by nobody: %v %v", ok, err)
		}
		w.load(networks, tasks)
		w.conf(conf) // as service pf reload does it
		if ok, err := w.pf.loaded(); err != nil || !ok && whole() == was {
			t.Errorf("after a reload of the main rules: %v %v", ok, err)
		}
		w.load(networks, tasks)
		w.conf("pass\n")
		if _, err := w.pf.loaded(); err == nil || !strings.Contains(err.Error(), "nat-anchor") {
			t.Errorf("without the anchors: %v", err)
		}
		w.conf(conf)
		w.run("pfctl", "-qd")
		if _, err := w.pf.loaded(); err == nil || !strings.Contains(err.Error(), "not enabled") {
			t.Errorf("disabled: %v", err)
		}
		w.run("pfctl", "-qe")
		w.load(networks, tasks)
		w.refused(networks, tasks, whole)
		w.moved(whole)
	})
}

// refused text leaves the rules as they are.
func (w *pfWorld) refused(networks []Network, tasks []Task, whole func() string) {
	w.Helper()
	was, real := whole(), w.pf.pfctl
	w.pf.pfctl = func(input string, args ...string) (string, error) { return real(input+"no such rule\n", args...) }
	if err := w.pf.load(networks[:1], tasks[:1]); err == nil || !strings.Contains(err.Error(), "syntax error") {
		w.Errorf("text that pfctl refuses: %v", err)
	}
	w.pf.pfctl = real
	if got := whole(); got != was {
		w.Errorf("after text that pfctl refuses:\n%s\nwas\n%s", got, was)
	}
	w.load(networks, tasks)
}

// moved is a host whose address changes: its rules follow.
func (w *pfWorld) moved(whole func() string) {
	w.Helper()
	w.sh(`ifconfig em0 inet 192.0.2.11/32 alias
		ifconfig lo1 create inet 198.51.100.7/32`)
	ok, err := w.pf.loaded()
	table := w.run("pfctl", "-qa", "freejail", "-t", "freejail_host", "-T", "show")
	if !ok || err != nil || !strings.Contains(table, "192.0.2.11") || !strings.Contains(whole(), "nat on lo1") {
		w.Errorf("after new addresses: %v %v: %s", ok, err, table)
	}
}

// When a task goes, so do its connections, in and out, by this daemon or by the next one.
func TestStatesEnd(t *testing.T) {
	onHost(t, func(w *pfWorld) {
		networks, tasks := w.twoNetworks()
		w.conf(anchors + "pass\nanchor \"freejail\"\n")
		w.run("pfctl", "-qe")
		w.load(networks, tasks)
		w.start("one", "serve", "one", "tcp/8080", "udp/5300")
		w.start("out", "serve", "out", "tcp/7000", "udp/7000")
		w.start("three", "serve", "three", "tcp/8080")
		connect := func() {
			for _, p := range []probe{{"out", "tcp", "192.0.2.10:8081", "", ""}, {"two", "tcp", "192.0.2.10:8081", "", ""},
				{"one", "tcp", "192.0.2.10:8081", "", ""}, {"one", "tcp", "192.0.2.99:7000", "", ""},
				{"two", "tcp", "10.88.0.7:8080", "", ""}, {"", "tcp", "10.88.0.7:8080", "", ""},
				{"out", "tcp", "[2001:db8::10]:8081", "", ""}, {"one", "tcp", "[2001:db8::99]:7000", "", ""},
				{"three", "tcp", "192.0.2.10:8081", "", ""}, {"out", "tcp", "192.0.2.10:8082", "", ""}} {
				w.start(p.jail, "keep", p.network, p.address)
			}
			w.probe(probe{"out", "udp", "192.0.2.10:5353", "one 192.0.2.99", ""},
				probe{"one", "udp", "192.0.2.99:7000", "out 192.0.2.10", ""})
		}
		check := func(how string) {
			states := w.run("pfctl", "-ss")
			for line := range strings.Lines(states) {
				if strings.Contains(line, "10.88.0.7") || strings.Contains(line, "fd00:88::7") {
					t.Errorf("%s: left: %s", how, line)
				}
			}
			if !strings.Contains(states, "10.89.0.7:8080 (192.0.2.10:8082) <- 192.0.2.99") {
				t.Errorf("%s: the connection of a task that stays:\n%s", how, states)
			}
		}
		for _, way := range []bool{w.pf.killsByStack, false} { // false is FreeBSD 14's
			w.pf.killsByStack = way
			w.load(networks, tasks)
			connect()
			w.load(networks, tasks[1:])
			check(fmt.Sprintf("withdrawn, %v", way))
		}
		w.load(networks, tasks)
		connect()
		w.pf = newPF(nil)
		w.load(networks, tasks[1:])
		check("withdrawn by the next daemon")
		w.load(nil, nil)
		left := "?" // tables are there until the kernel has freed the last rule
		for i := 0; i < 60 && left != ""; i++ {
			time.Sleep(time.Second / 2)
			left = w.run("sh", "-c", "pfctl -qa freejail -sr; pfctl -qa freejail -sn; pfctl -qa freejail -sT; "+
				"pfctl -qa freejail -sA")
		}
		if left != "" {
			t.Errorf("left of nothing: %s", left)
		}
	})
}

// beforeBuckets is what an earlier freejail has loaded: one anchor with all rules, labels and tables that nothing else
// can change.
const beforeBuckets = `table <freejail_host> const { 192.0.2.10 10.88.0.1 }
table <freejail_nets> const { 10.88.0.0/24 }
table <freejail_web> const { 10.88.0.7 10.88.0.8 }
rdr on ! lo0 inet proto tcp from any to 192.0.2.10 port 8081 tag freejail_in -> 10.88.0.7 port 8080
rdr on ! lo0 inet proto tcp from any to 192.0.2.10 port 8083 tag freejail_in -> 10.88.0.8 port 8080
block drop in quick on fj-web from ! <freejail_web>
pass in quick on fj-web from <freejail_web> to any tag freejail_out keep state (if-bound)
block drop out quick on fj-web from ! <freejail_host> to any ! tagged freejail_in
pass out quick on fj-web inet from any to 10.88.0.7 keep state (if-bound) label "freejail:fjnet-one"
pass out quick on fj-web inet from any to 10.88.0.8 keep state (if-bound) label "freejail:fjnet-two"
block drop in quick on ! lo0 from any to <freejail_nets> ! tagged freejail_in
pass in inet from any to 10.88.0.7 tagged freejail_in keep state label "freejail:fjnet-one"
pass in inet from any to 10.88.0.8 tagged freejail_in keep state label "freejail:fjnet-two"
pass in inet proto tcp from any to 198.51.100.50 port 5432 keep state label "freejail:alias"
`

// A daemon takes over what an earlier one has left: tasks that run on keep their connections, those of the others end.
func TestTakesOverWhatWasBefore(t *testing.T) {
	onHost(t, func(w *pfWorld) {
		networks, tasks := w.twoNetworks()
		w.conf(anchors + "pass\nanchor \"freejail\"\n")
		w.run("pfctl", "-qe")
		if _, err := runPfctl(beforeBuckets, "-q", "-o", "none", "-a", "freejail", "-f", "-"); err != nil {
			t.Fatal(err)
		}
		left, err := w.pf.left()
		if want := pfAddrsOf("10.88.0.7", "10.88.0.8", "198.51.100.50"); err != nil || !slices.Equal(left, want) {
			t.Errorf("left by the daemon before: %v %v, want %v", left, err, want)
		}
		for _, name := range []string{"one", "two"} {
			w.start(name, "serve", name, "tcp/8080")
		}
		for _, port := range []string{"8081", "8083"} {
			w.start("out", "keep", "tcp", "192.0.2.10:"+port)
		}
		w.load(networks, tasks[:1])
		states := w.run("pfctl", "-ss")
		if !strings.Contains(states, "10.88.0.7:8080 (192.0.2.10:8081) <- 192.0.2.99") || strings.Contains(states, "10.88.0.8") {
			t.Errorf("states of a task that is there, and none of one that is not:\n%s", states)
		}
		if rules := w.run("pfctl", "-qa", "freejail", "-sr"); strings.Contains(rules, "label") {
			t.Errorf("rules of before:\n%s", rules)
		}
		w.probe(probe{"out", "tcp", "192.0.2.10:8081", "one 192.0.2.99", ""}, probe{"out", "tcp", "192.0.2.10:8083", "", ""})
	})
}

func pfAddrsOf(list ...string) (all []netip.Addr) {
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

// What the operator's rules say after the anchor, or quick before it, is what counts; what they pass is
// not more than the anchor does.
func TestOperatorsRulesHold(t *testing.T) {
	onHost(t, func(w *pfWorld) {
		networks, tasks := w.twoNetworks()
		w.run("pfctl", "-qe")
		w.start("one", "serve", "one", "tcp/8080", "tcp/22")
		w.start("out", "serve", "out", "tcp/7000")
		w.conf(anchors + "anchor \"freejail\"\nblock in on em0 proto tcp from 192.0.2.99\n")
		w.load(networks, tasks)
		w.probe(probe{"out", "tcp", "192.0.2.10:8081", "", ""},
			probe{"out", "tcp", "[2001:db8::10]:8081", "one 2001:db8::99", ""})
		w.conf(anchors + "block in quick on em0 proto tcp from 192.0.2.99\nanchor \"freejail\"\n")
		w.probe(probe{"out", "tcp", "192.0.2.10:8081", "", ""})
		w.conf(anchors + "block in quick on fj-web proto tcp to port 7000\nanchor \"freejail\"\n")
		w.probe(probe{"one", "tcp", "192.0.2.99:7000", "", ""})
		w.conf(anchors + "block\nanchor \"freejail\"\n")
		w.probe(probe{"out", "tcp", "192.0.2.10:8081", "one 192.0.2.99", ""},
			probe{"one", "tcp", "192.0.2.99:7000", "out 192.0.2.10", ""})
		w.conf(anchors + "anchor \"freejail\"\npass\n")
		w.probe(probe{"out", "tcp", "10.88.0.7:22", "", ""}, probe{"three", "tcp", "10.88.0.7:22", "", ""})
	})
}

// managed is the same host with stacks, rules and sockets as a daemon makes them.
func (w *pfWorld) managed(networks []Network, tasks []Task) *Manager {
	w.Helper()
	m, err := Open(Config{StateDir: w.TempDir(), Networks: networks, Log: hclog.NewNullLogger()})
	if err != nil {
		w.Fatal(err)
	}
	m.filter.(*pf).lock = nil // that of the real host's daemon
	w.names = map[string]string{}
	for i, t := range tasks {
		e, err := m.Reserve(t.Key, Request{Network: t.Network, Addresses: pfValid(t.Addr4, t.Addr6)})
		if err != nil {
			w.Fatal(err)
		}
		w.Cleanup(func() {
			if err := m.Detach(context.Background(), e); err != nil {
				w.Error(err)
			}
		})
		if err := m.Attach(w.Context(), e); err != nil {
			w.Fatal(err)
		}
		name := e.Stack + ".t"
		w.run("/usr/sbin/jail", "-c", "name="+name, "path=/", "ip4=inherit", "ip6=inherit", "persist")
		w.names[t.Key], tasks[i].Endpoint = name, e
	}
	return m
}

func (w *pfWorld) publish(m *Manager, tasks []Task) {
	w.Helper()
	for _, t := range tasks {
		if err := m.Publish(w.Context(), t); err != nil {
			w.Error(err)
		}
	}
}

// TestManagedNetworks is the whole road with stacks of the kernel's, pf and the daemon's sockets.
func TestManagedNetworks(t *testing.T) {
	onHost(t, func(w *pfWorld) {
		w.sh(`ifconfig lo0 127.0.0.1/8 up
			sysctl net.inet.ip.forwarding=1 net.inet6.ip6.forwarding=1`)
		w.outside()
		w.conf(anchors + "pass\nanchor \"freejail\"\n")
		w.run("pfctl", "-qe")
		networks, tasks := tasksOf()
		for i := range networks {
			networks[i].Pool4, networks[i].Pool6 = RangeOf(networks[i].Subnet4), RangeOf(networks[i].Subnet6)
		}
		m := w.managed(networks, tasks)
		w.publish(m, tasks)
		w.start("one", "serve", "one", "tcp/8080", "udp/5300", "tcp/9003", "tcp/22")
		w.start("three", "serve", "three", "tcp/8080")
		w.start("out", "serve", "out", "tcp/7000", "udp/7000")
		w.start("", "serve", "host", "tcp/9000", "udp/53", "tcp/53")
		w.published()
		w.enforced()
		w.probe(probe{"", "tcp", "192.0.2.10:8081", "one 10.88.0.1", ""},
			probe{"", "tcp", "[2001:db8::10]:8081", "one fd00:88::1", ""},
			probe{"", "tcp", "127.0.0.1:8003", "one 10.88.0.1", ""}, probe{"", "tcp", "[::1]:8003", "one fd00:88::1", ""},
			probe{"", "udp", "127.0.0.1:5353", "one 10.88.0.1", ""}, probe{"", "udp", "[::1]:5353", "one fd00:88::1", ""},
			probe{"", "tcp", "10.88.0.7:22", "one 10.88.0.1", ""})
		w.run("pfctl", "-qa", "freejail", "-F", "all")
		if told := m.watch(w.Context(), ""); told != "" {
			t.Errorf("flushed: %s", told)
		}
		w.probe(probe{"out", "tcp", "192.0.2.10:8081", "one 192.0.2.99", ""})
		if err := m.Withdraw(w.Context(), "one"); err != nil {
			t.Error(err)
		}
		if left := w.run("sh", "-c", "pfctl -ss; pfctl -qa freejail -sr"); strings.Contains(left, "10.88.0.7") ||
			strings.Contains(left, "fd00:88::7") {
			t.Errorf("left of a task that is withdrawn:\n%s", left)
		}
		w.probe(probe{"out", "tcp", "192.0.2.10:8081", "", ""},
			probe{"three", "tcp", "192.0.2.10:8082", "three 10.89.0.1", ""})
	})
}

// Tasks on a bridge of the operator's are held to what pf sees of them: the host's services always, what they
// have declared where pf filters the members of bridges.
func TestBridgedTasks(t *testing.T) {
	onHost(t, func(w *pfWorld) {
		lan := pfNetwork("lan", Bridged, "198.51.100.0/24", "2001:db8:1::/64")
		lan.Bridge = w.run("ifconfig", "bridge", "create")
		w.sh(`ifconfig lo0 127.0.0.1/8 up
			ifconfig ` + lan.Bridge + ` inet 198.51.100.1/24 up
			ifconfig ` + lan.Bridge + ` inet6 2001:db8:1::1/64 no_dad
			ifconfig ` + lan.Bridge + ` inet6 fe80::1/64 no_dad`)
		tasks := []Task{pfTask("one", lan, "198.51.100.7", "2001:db8:1::7"), pfTask("two", lan, "198.51.100.8")}
		tasks[0].Declared = []Port{{"tcp", 8080, 1}}
		for i, jail := range []string{"one", "two", "peer"} {
			link := fmt.Sprintf("fjt%da", i)
			w.stack(jail, link)
			w.run("ifconfig", lan.Bridge, "addm", link)
			w.in(jail, "ifconfig", "eth0", "inet", fmt.Sprintf("198.51.100.%d/24", i+7), "up")
			w.in(jail, "ifconfig", "eth0", "inet6", fmt.Sprintf("2001:db8:1::%d/64", i+7), "no_dad", "auto_linklocal")
			w.in(jail, "route", "-n", "add", "default", "198.51.100.1")
			if i < len(tasks) {
				tasks[i].Link, tasks[i].MAC = link, w.mac(jail)
			}
		}
		w.conf(anchors + "pass\nanchor \"freejail\"\n")
		w.run("pfctl", "-qe")
		w.load([]Network{lan}, tasks)
		w.start("one", "serve", "one", "tcp/8080", "tcp/22")
		w.start("peer", "serve", "peer", "tcp/7000", "udp/7000")
		w.start("", "serve", "host", "tcp/9000", "tcp/53", "udp/9000")
		always := func() {
			w.probe(probe{"peer", "tcp", "198.51.100.7:8080", "one 198.51.100.9", ""},
				probe{"peer", "tcp", "[2001:db8:1::7]:8080", "one 2001:db8:1::9", ""},
				probe{"two", "tcp", "198.51.100.7:22", "one 198.51.100.8", ""},
				probe{"one", "tcp", "198.51.100.9:7000", "peer 198.51.100.7", ""},
				probe{"one", "tcp", "[2001:db8:1::9]:7000", "peer 2001:db8:1::7", ""},
				probe{"", "tcp", "198.51.100.7:22", "one 198.51.100.1", ""},
				probe{"", "tcp", "[2001:db8:1::7]:22", "one 2001:db8:1::1", ""},
				probe{"one", "tcp", "198.51.100.1:53", "host 198.51.100.7", ""},
				probe{"one", "tcp", "198.51.100.1:9000", "", ""}, probe{"one", "tcp", "[2001:db8:1::1]:9000", "", ""},
				probe{"peer", "tcp", "198.51.100.1:9000", "host 198.51.100.9", ""})
		}
		always()
		w.toMany(tasks[0])
		w.sh(`sysctl net.link.bridge.pfil_member=1
			sysctl net.link.bridge.pfil_local_phys=1`)
		if ok, err := w.pf.loaded(); !ok || err != nil {
			t.Errorf("with pfil_member: %v %v", ok, err)
		}
		w.run("pfctl", "-qF", "states")
		always()
		w.keptFromHost()
		w.run("jexec", "one", "ifconfig", "eth0", "inet", "198.51.100.77/32", "alias")
		w.probe(probe{"peer", "tcp", "198.51.100.7:22", "", ""}, probe{"peer", "tcp", "[2001:db8:1::7]:22", "", ""},
			probe{"one", "tcp", "198.51.100.9:7000", "", "198.51.100.77"})
	})
}

// mac is that of a stack's link.
func (w *pfWorld) mac(jail string) string {
	w.Helper()
	return regexp.MustCompile(`ether (\S+)`).FindStringSubmatch(w.in(jail, "ifconfig", "eth0"))[1]
}

// toMany is what a task on a bridge has with its neighbours by addresses that the host has too.
func (w *pfWorld) toMany(one Task) {
	w.Helper()
	peer := Endpoint{MAC: w.mac("peer"), Addr6: one.Addr6}.linkLocal().String()
	for _, to := range []string{"198.51.100.255", "255.255.255.255"} {
		w.probe(probe{"peer", "udp", to + ":9000", "host 198.51.100.9", ""},
			probe{"one", "udp", to + ":7000", "peer 198.51.100.7", ""})
	}
	w.probe(probe{"peer", "udp", "[ff02::1%eth0]:9000", "host " + peer, ""},
		probe{"peer", "tcp", "[fe80::1%eth0]:9000", "host " + peer, ""},
		probe{"one", "udp", "[ff02::1%eth0]:7000", "peer " + one.linkLocal().String(), ""},
		probe{"one", "tcp", "[" + peer + "%eth0]:7000", "peer " + one.linkLocal().String(), ""},
		probe{"one", "tcp", "[fe80::1%eth0]:53", "host " + one.linkLocal().String(), ""})
	w.keptFromHost()
	w.run("ndp", "-c")
	w.run("jexec", "one", "ndp", "-c")
	w.probe(probe{"", "tcp", "[2001:db8:1::7]:22", "one 2001:db8:1::1", ""})
}

// keptFromHost are the addresses by which a task on a bridge does not reach the host's services.
func (w *pfWorld) keptFromHost() {
	w.Helper()
	for _, to := range []string{"198.51.100.255", "255.255.255.255", "224.0.0.1", "[ff02::1%eth0]", "[fe80::1%eth0]"} {
		w.probe(probe{"one", "udp", to + ":9000", "", ""})
	}
	w.probe(probe{"one", "tcp", "[fe80::1%eth0]:9000", "", ""})
}

// loader is who has loaded a rule.
var loader = regexp.MustCompile(`pid \d+`)

// What the daemon loads by system calls is what pfctl makes of the text.
func TestBucketsAsText(t *testing.T) {
	onHost(t, func(w *pfWorld) {
		for name, c := range pfCases() {
			networks, tasks, host := c()
			want, err := pfRules(networks, tasks, host)
			if err != nil {
				t.Fatal(err)
			}
			for i, b := range want.buckets {
				shown := func() string {
					return loader.ReplaceAllString(w.run("pfctl", "-qa", bucketAnchor(i), "-vvsn"), "")
				}
				if b.empty() {
					continue
				}
				if _, err := runPfctl(b.text(), "-q", "-a", bucketAnchor(i), "-f", "-"); err != nil {
					t.Fatal(err)
				}
				byText := shown()
				if err := w.pf.commit(bucketAnchor(i), b.raw()); err != nil {
					t.Fatal(err)
				}
				if got := shown(); got != byText || strings.Count(got, "\n") < strings.Count(b.text(), "\n")-1 {
					t.Errorf("%s: bucket %d is\n%s\nand by pfctl\n%s", name, i, got, byText)
				}
			}
		}
		if err := w.pf.commit("freejail/09", []*pfRaw{{set: pfSetRDR}}); err == nil {
			t.Error("a rule of no family and kind was loaded")
		}
	})
}
