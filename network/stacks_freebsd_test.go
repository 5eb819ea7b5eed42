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
	os.Exit(m.Run())
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
	nat Network
}

var taskNumber atomic.Int32

func setupStacks(t testing.TB) stackFixture {
	if os.Geteuid() != 0 || !bsd.SysctlOn("kern.features.vimage") {
		t.Skip("network stacks need root, and a kernel with VIMAGE")
	}
	n := Network{Name: fmt.Sprintf("test-of-stacks-%d", taskNumber.Add(1)), Mode: NAT,
		Subnet4: netip.MustParsePrefix("10.99.0.0/16"), Gateway4: netip.MustParseAddr("10.99.0.1"),
		Subnet6: netip.MustParsePrefix("fd99::/64"), Gateway6: netip.MustParseAddr("fd99::1")}
	s, err := newStacks(Config{StateDir: t.TempDir(), Networks: []Network{n}})
	if err != nil {
		t.Fatal(err)
	}
	f := stackFixture{t, s.(*kernelStacks), n}
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
	for _, c := range []string{"ifconfig -l", "jls -d -n jid name | grep -v fj-other", "netstat -rn",
		"ifconfig -a | grep -v nd6 | grep -v txcsum"} {
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

func (f stackFixture) endpoint(n int) Endpoint {
	return Endpoint{Network: f.nat.Name, Mode: NAT, Stack: fmt.Sprintf("fjnet-t%d-%d", os.Getpid(), n),
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
