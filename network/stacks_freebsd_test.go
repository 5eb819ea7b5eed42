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
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "inside" {
		inTask(os.Args[2], os.Args[3:])
		return
	}
	if len(os.Args) == 4 && os.Args[1] == "daemon" {
		asDaemon(os.Args[2], os.Args[3])
		return
	}
	os.Exit(m.Run())
}

// asDaemon attaches and detaches until it is killed.
func asDaemon(dir, numbers string) {
	var network, owner int
	_, err := fmt.Sscan(numbers, &network, &owner)
	s, oerr := newStacks(Config{StateDir: dir})
	if err = errors.Join(err, oerr); err != nil {
		fmt.Println(err)
		return
	}
	n := natOfTest(network)
	e := endpointOf(n, owner, 10)
	fmt.Println("ready")
	for err == nil {
		err = errors.Join(s.attach(n, e), s.detach(e), s.prune(nil))
	}
	fmt.Println(err)
}

// inTask is the test's program in the jail of a task.
func inTask(what string, args []string) {
	switch what {
	case "serve": // each connection gets what it sends
		l, err := net.Listen("tcp", args[0])
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("ready")
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	case "dial":
		fmt.Println(echoes(args[0]))
	case "hold": // a connection that is open when the program is killed
		c, err := net.Dial("tcp", args[0])
		if err == nil {
			_, err = c.Write([]byte("held"))
		}
		fmt.Println("ready", err)
		time.Sleep(time.Hour)
	case "own":
		fmt.Println(strings.Join(changes(), "\n"))
	}
}

func echoes(addr string) string {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	b := make([]byte, 5)
	if _, err = c.Write([]byte("hello")); err == nil {
		_, err = io.ReadFull(c, b)
	}
	return fmt.Sprint(string(b), " ", err)
}

// changes tries what is the host's alone.
func changes() (done []string) {
	s, err := openSockets()
	if err != nil {
		return []string{err.Error()}
	}
	try := func(what string, err error) {
		if err == nil {
			done = append(done, what)
		} else if !errors.Is(err, unix.EPERM) {
			done = append(done, fmt.Sprint(what, ": ", err))
		}
	}
	try("address", s.addAddr(taskLink, netip.MustParsePrefix("10.0.0.1/32"), false))
	try("IPv6 address", s.addAddr(taskLink, netip.MustParsePrefix("fd00::99/128"), false))
	try("removal of an address", s.delAddr(taskLink, netip.MustParseAddr("10.99.0.10")))
	try("MAC", s.setMAC(taskLink, net.HardwareAddr{2, 0, 0, 0, 0, 1}))
	try("MTU", s.setMTU(taskLink, 1400))
	try("down", s.do("down", unix.SIOCSIFFLAGS, named(sizeIfreq, taskLink)))
	try("destroy", s.do("destroy", unix.SIOCIFDESTROY, named(sizeIfreq, taskLink)))
	try("create", s.do("create", unix.SIOCIFCREATE2, named(sizeIfreq, "lo")))
	try("rename", s.rename(taskLink, "eth1"))
	try("route", s.addRoute(netip.MustParsePrefix("10.1.0.0/16"), routeAddr(netip.MustParseAddr("10.99.0.1"), 0),
		unix.RTF_GATEWAY))
	_, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	try("raw socket", err)
	return append(done, "end")
}

type stackFixture struct {
	testing.TB
	*kernelStacks
	nat    Network
	number int
}

func natOfTest(number int) Network {
	return Network{Name: fmt.Sprintf("test-of-stacks-%d", number), Mode: NAT,
		Subnet4: netip.MustParsePrefix("10.99.0.0/16"), Gateway4: netip.MustParseAddr("10.99.0.1"),
		Subnet6: netip.MustParsePrefix("fd99::/64"), Gateway6: netip.MustParseAddr("fd99::1")}
}

var taskNumber atomic.Int32

func setupStacks(t testing.TB) stackFixture {
	if os.Geteuid() != 0 || !bsd.SysctlOn("kern.features.vimage") {
		t.Skip("network stacks need root, and a kernel with VIMAGE")
	}
	number := int(taskNumber.Add(1))
	n := natOfTest(number)
	s, err := newStacks(Config{StateDir: t.TempDir(), Networks: []Network{n}})
	if err != nil {
		t.Fatal(err)
	}
	f := stackFixture{t, s.(*kernelStacks), n, number}
	before := hostState(t)
	t.Cleanup(func() {
		f.check(s.prune(nil))
		f.host.close()
		f.settled(before)
	})
	return f
}

func (f stackFixture) check(err error) {
	f.Helper()
	if err != nil {
		f.Error(err)
	}
}

// hostState is all that a stack could leave behind.
func hostState(t testing.TB) string {
	var out strings.Builder
	for _, c := range []string{"ifconfig -l", "jls -d -n name | grep fjnet-", "netstat -rn",
		"ifconfig -a | grep -v txcsum"} {
		b, err := exec.Command("sh", "-c", c).CombinedOutput()
		if err != nil && len(b) > 0 {
			t.Fatalf("%s: %v: %s", c, err, b)
		}
		out.Write(b)
	}
	return out.String()
}

func (f stackFixture) settled(before string) {
	f.Helper()
	now := hostState(f)
	for range 40 {
		if now == before {
			return
		}
		time.Sleep(100 * time.Millisecond)
		now = hostState(f)
	}
	f.Errorf("the host was\n%s\nand is\n%s", before, now)
}

func (f stackFixture) endpoint(n int) Endpoint { return endpointOf(f.nat, os.Getpid(), n) }

func endpointOf(network Network, owner, n int) Endpoint {
	return Endpoint{Network: network.Name, Mode: NAT, Stack: fmt.Sprintf("fjnet-t%d-%d", owner, n),
		Link: fmt.Sprintf("epair%da", 20000+n), MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", n>>8, n&255),
		Addr4: netip.AddrFrom4([4]byte{10, 99, byte(n >> 8), byte(n)}),
		Addr6: netip.MustParseAddr(fmt.Sprintf("fd99::%x", n))}
}

func (f stackFixture) attached(n int) Endpoint {
	f.Helper()
	e := f.endpoint(n)
	f.Cleanup(func() { f.check(f.detach(e)) })
	if err := f.attach(f.nat, e); err != nil {
		f.Fatal(err)
	}
	return e
}

// child is the jail of a task on a stack.
func (f stackFixture) child(e Endpoint) int {
	f.Helper()
	name := fmt.Sprintf("%s.fj-%d", e.Stack, taskNumber.Add(1))
	jid, message, err := bsd.Call(unix.SYS_JAIL_SET, []bsd.Param{bsd.Text("name", name), bsd.Text("path", "/"),
		{Name: "persist"}, {Name: "ip4", Value: bsd.Word(2)}, {Name: "ip6", Value: bsd.Word(2)}}, jailCreate)
	if err != nil {
		f.Fatal(message, err)
	}
	return jid
}

// task runs the test's program in a jail, and returns its first line.
func (f stackFixture) task(jid int, args ...string) string {
	f.Helper()
	self, err := os.Executable()
	if err != nil {
		f.Fatal(err)
	}
	c := exec.Command(self, append([]string{"inside"}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Jail: jid}
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		_ = c.Process.Kill() // it may have ended
		_ = c.Wait()
	})
	var b []byte
	if args[0] == "dial" || args[0] == "own" {
		b, err = io.ReadAll(out)
	} else {
		b, err = bufio.NewReader(out).ReadBytes('\n')
	}
	if err != nil {
		f.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestTwoTasksOnOnePort(t *testing.T) {
	f := setupStacks(t)
	a, b := f.attached(10), f.attached(300)
	for _, e := range []Endpoint{a, b} {
		if got := f.task(f.child(e), "serve", ":8080"); got != "ready" {
			t.Fatal(got)
		}
	}
	for _, e := range []Endpoint{a, b} {
		// Rules know a task on a bridge by this one too.
		out, err := exec.Command("/sbin/ifconfig", "-j", e.Stack, "eth0", "inet6").CombinedOutput()
		if err != nil || !strings.Contains(string(out), e.linkLocal().String()+"%eth0") || strings.Count(string(out), "fe80") > 1 {
			t.Errorf("the link's address is not %s: %v\n%s", e.linkLocal(), err, out)
		}
		for _, addr := range []netip.Addr{e.Addr4, e.Addr6} {
			if got := echoes(netip.AddrPortFrom(addr, 8080).String()); got != "hello <nil>" {
				t.Errorf("the host to %s: %s", addr, got)
			}
		}
	}
	l, err := net.Listen("tcp", ":8099")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	inA := f.child(a)
	for _, to := range []string{"10.99.0.1:8099", "[fd99::1]:8099", "[fe80::1%eth0]:8099", "127.0.0.1:8080",
		"[::1]:8080"} {
		if got := f.task(inA, "dial", to); got != "hello <nil>" {
			t.Errorf("a task to %s: %s", to, got)
		}
	}
	counters, err := f.counters()
	if c := counters[a.Link]; err != nil || c.PacketsIn == 0 || c.PacketsOut == 0 || c.BytesIn == 0 || c.BytesOut == 0 {
		t.Errorf("%+v %v", counters, err)
	}
	f.check(f.attach(f.nat, a)) // another of its allocation
	found, err := f.endpoints()
	if err != nil || len(found) != 2 || found[0].Link == "" || found[1].Link == "" {
		t.Errorf("%+v %v", found, err)
	}
}

func TestRootOfATaskChangesNothing(t *testing.T) {
	f := setupStacks(t)
	if got := f.task(f.child(f.attached(10)), "own"); got != "end" {
		t.Errorf("root in a task could:\n%s", got)
	}
}

func TestOpenStreamHoldsNothing(t *testing.T) {
	f := setupStacks(t)
	l, err := net.Listen("tcp", ":8099")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e := f.attached(10)
	if got := f.task(f.child(e), "hold", "10.99.0.1:8099"); got != "ready <nil>" {
		t.Fatal(got)
	}
	for _, pid := range f.processes(e) {
		f.check(unix.Kill(pid, unix.SIGKILL))
	}
	f.check(f.detach(e)) // the rest is told by settled
}

func (f stackFixture) processes(e Endpoint) (pids []int) {
	f.check(bsd.EachProcess(func(p bsd.Process) {
		if p.JID() != 0 {
			pids = append(pids, p.PID())
		}
	}))
	return pids
}

func TestManyStacksAtOnce(t *testing.T) {
	f := setupStacks(t)
	const all, atOnce = 200, 20
	work := make(chan int)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for n := range work {
				e := f.endpoint(n)
				f.check(f.attach(f.nat, e))
				f.check(f.detach(e))
			}
		})
	}
	for n := range all {
		work <- 10 + n
	}
	close(work)
	wg.Wait()
}

// What makes or removes interfaces waits for whatever else does: see kernelStacks.
func TestInterfacesComeOneAtATime(t *testing.T) {
	f := setupStacks(t)
	e := f.attached(10)
	f.changing.Lock()
	done := make(chan error, 8)
	for _, change := range []func() error{func() error { return f.attach(f.nat, e) },
		func() error { return f.rejoin(f.nat, e) }, func() error { return f.prune([]Network{f.nat}) },
		func() error { return f.detach(Endpoint{Mode: Alias}) }, func() error { return f.detach(f.endpoint(11)) }} {
		go func() { done <- change() }()
	}
	time.Sleep(time.Second)
	if n := len(done); n > 0 {
		t.Errorf("%d did not wait", n)
	}
	f.changing.Unlock()
	for range 5 {
		f.check(<-done)
	}
}

// A daemon that is killed at any moment leaves nothing that is not taken away by what is journalled, or
// found by what the kernel has.
func TestKilledDaemonLeavesNothing(t *testing.T) {
	f := setupStacks(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	halves := map[bool]int{}
	for i := range 60 {
		c := exec.Command(self, "daemon", f.dir, fmt.Sprint(f.number, " ", os.Getpid()))
		out, err := c.StdoutPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(out)
		if line, err := r.ReadString('\n'); line != "ready\n" {
			t.Fatal(line, err)
		}
		time.Sleep(time.Duration(i) * 7 * time.Millisecond)
		f.check(c.Process.Kill())
		rest, err := io.ReadAll(r)
		if err != nil || len(rest) > 0 {
			t.Errorf("%s %v", rest, err)
		}
		_ = c.Wait() // killed
		found, err := f.endpoints()
		f.check(err)
		half := len(found) > 0 && (found[0].Stack == "" || found[0].Link == "")
		halves[half]++
		if i%2 == 0 {
			found = []Endpoint{f.endpoint(10)}
		}
		for _, e := range found {
			f.check(f.detach(e))
		}
		if left, err := f.endpoints(); err != nil || len(left) > 0 {
			t.Errorf("killed after %d ms: %+v %v", i*7, left, err)
		}
	}
	t.Logf("killed with a half of what makes a stack there: %d of 60", halves[true])
}

// What the operator has made is left as it is, whatever it is called.
func TestInterfacesOfTheOperator(t *testing.T) {
	f := setupStacks(t)
	e := f.endpoint(10)
	ifconfig := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ifconfig", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	ifconfig(e.Link[:len(e.Link)-1], "create")
	defer ifconfig(e.Link, "destroy")
	if err := f.attach(f.nat, e); !errors.Is(err, ErrLinkTaken) {
		t.Errorf("a link of the operator's: %v", err)
	}
	found, err := f.endpoints()
	if err != nil || len(found) != 0 {
		t.Errorf("%+v %v", found, err)
	}
	f.check(f.detach(e))
	if !f.host.has(e.Link) {
		t.Fatal("an interface of the operator's was destroyed")
	}
	ifconfig("bridge7", "create", "name", f.nat.OwnBridge())
	defer ifconfig(f.nat.OwnBridge(), "destroy")
	if err := f.attach(f.nat, f.endpoint(11)); err == nil || !strings.Contains(err.Error(), "is not the bridge") {
		t.Errorf("a bridge of the operator's: %v", err)
	}
	f.check(errors.Join(f.detach(f.endpoint(11)), f.prune(nil)))
	if !f.host.has(f.nat.OwnBridge()) {
		t.Error("a bridge of the operator's was destroyed")
	}
}

func TestStackOfLoopbackAlone(t *testing.T) {
	f := setupStacks(t)
	e := Endpoint{Network: "none", Mode: None, Stack: fmt.Sprintf("fjnet-t%d-none", os.Getpid())}
	n := Network{Name: "none", Mode: None}
	f.check(errors.Join(f.kernelStacks.check(n), f.attach(n, e), f.attach(n, e)))
	jid := f.child(e)
	if got := f.task(jid, "serve", ":8080"); got != "ready" {
		t.Fatal(got)
	}
	for _, to := range []string{"127.0.0.1:8080", "[::1]:8080"} {
		if got := f.task(jid, "dial", to); got != "hello <nil>" {
			t.Errorf("%s: %s", to, got)
		}
	}
	got := f.task(jid, "dial", "10.0.2.15:8022")
	if !strings.Contains(got, "no route") && !strings.Contains(got, "unreach") {
		t.Errorf("to the host: %s", got)
	}
	found, err := f.endpoints()
	if err != nil || len(found) != 1 || found[0].Stack != e.Stack {
		t.Errorf("%+v %v", found, err)
	}
	f.check(errors.Join(f.detach(e), f.detach(e)))
}

func TestBridged(t *testing.T) {
	f := setupStacks(t)
	bridge, err := exec.Command("ifconfig", "bridge", "create", "inet", "10.98.0.1/24").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, bridge)
	}
	n := Network{Name: "bridged", Mode: Bridged, Bridge: strings.TrimSpace(string(bridge)),
		Subnet4: netip.MustParsePrefix("10.98.0.0/24"), Gateway4: netip.MustParseAddr("10.98.0.1")}
	defer exec.Command("ifconfig", n.Bridge, "destroy").Run()
	f.check(f.kernelStacks.check(n))
	var ends []Endpoint
	for i := range 2 {
		e := f.endpoint(30 + i)
		e.Network, e.Mode = n.Name, Bridged
		e.Addr4, e.Addr6 = netip.AddrFrom4([4]byte{10, 98, 0, byte(30 + i)}), netip.Addr{}
		ends = append(ends, e)
		t.Cleanup(func() { f.check(f.detach(e)) })
		f.check(f.attach(n, e))
	}
	a, b := f.child(ends[0]), f.child(ends[1])
	if got := f.task(a, "serve", ":8080"); got != "ready" {
		t.Fatal(got)
	}
	to := ends[0].Addr4.String() + ":8080"
	if got := f.task(b, "dial", to); got != "hello <nil>" {
		t.Errorf("a task to another: %s", got)
	}
	if got := echoes(to); got != "hello <nil>" {
		t.Errorf("the host to a task: %s", got)
	}
	f.keepsAddressesOfMembers(n, ends[0])
	n.Isolate = true
	for i := range ends {
		f.check(f.detach(ends[i]))
		f.check(f.attach(n, ends[i]))
	}
	a, b = f.child(ends[0]), f.child(ends[1])
	if got := f.task(a, "serve", ":8080"); got != "ready" {
		t.Fatal(got)
	}
	if got := f.task(b, "dial", to); !strings.Contains(got, "timeout") {
		t.Errorf("an isolated task to another: %s", got)
	}
	if got := echoes(to); got != "hello <nil>" {
		t.Errorf("the host to an isolated task: %s", got)
	}
}

// keepsAddressesOfMembers has a neighbour on the bridge that would lose what the operator gave it.
func (f stackFixture) keepsAddressesOfMembers(n Network, e Endpoint) {
	f.Helper()
	run := func(cmd string) {
		if out, err := exec.Command("sh", "-c", cmd).CombinedOutput(); err != nil {
			f.Errorf("%s: %v: %s", cmd, err, out)
		}
	}
	run("ifconfig epair77 create up && ifconfig " + n.Bridge + " addm epair77a && " +
		"ifconfig epair77a inet6 fe80::77 -ifdisabled && ifconfig " + n.Bridge + " inet6 fe80::78 -ifdisabled")
	defer run("ifconfig epair77a destroy && ifconfig " + n.Bridge + " inet6 fe80::78 delete")
	f.check(f.detach(e))
	if err := f.attach(n, e); err == nil || !strings.Contains(err.Error(), "epair77a both have link-local") {
		f.Errorf("a member would lose its addresses: %v", err)
	}
	run("ifconfig epair77a | grep -q fe80::77")
}

func TestAlias(t *testing.T) {
	f := setupStacks(t)
	n := Network{Name: "alias", Mode: Alias, Interface: "lo0", Subnet4: netip.MustParsePrefix("10.97.0.0/24"),
		Subnet6: netip.MustParsePrefix("fd97::/64"),
		Pool4:   Range{netip.MustParseAddr("10.97.0.2"), netip.MustParseAddr("10.97.0.9")},
		Pool6:   Range{netip.MustParseAddr("fd97::2"), netip.MustParseAddr("fd97::9")}}
	f.networks = append(f.networks, n)
	e := Endpoint{Network: n.Name, Mode: Alias, Addr4: n.Pool4.First, Addr6: n.Pool6.First}
	f.check(errors.Join(f.kernelStacks.check(n), f.attach(n, e), f.attach(n, e)))
	for _, addr := range e.addrs() {
		l, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		if err != nil {
			t.Errorf("bind %s: %v", addr, err)
			continue
		}
		f.check(l.Close())
	}
	found, err := f.endpoints()
	if err != nil || len(found) != 2 {
		t.Errorf("%+v %v", found, err)
	}
	all, err := f.addresses()
	ours := 0
	for _, a := range all {
		if a.Ours {
			ours++
		}
	}
	if err != nil || ours != 2 {
		t.Errorf("%+v %v", all, err)
	}
	for _, e := range found {
		f.check(f.detach(e))
	}
	if has, _ := f.host.alias("lo0", e.Addr4); has {
		t.Error("the address is left")
	}
	// One of the operator's own is neither taken nor taken away, and an interface may have gone.
	for _, cmd := range []string{"inet 10.97.0.2/32 alias", "inet6 fd97::2/128 alias"} {
		out, err := exec.Command("ifconfig", strings.Fields("lo0 "+cmd)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	defer func() {
		f.check(errors.Join(f.host.delAddr("lo0", e.Addr4), f.host.delAddr("lo0", e.Addr6)))
	}()
	if err := f.attach(n, e); err == nil || !strings.Contains(err.Error(), "the host's own") {
		t.Errorf("%v", err)
	}
	f.check(f.detach(e))
	for _, a := range e.addrs() {
		if has, _ := f.host.alias("lo0", a); !has {
			t.Errorf("%s of the operator's was taken away", a)
		}
	}
	n.Interface = "nosuch0"
	if err := errors.Join(f.kernelStacks.check(n), f.attach(n, e)); err == nil {
		t.Error("an interface that is not there")
	}
}
