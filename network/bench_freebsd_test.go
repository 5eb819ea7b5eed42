package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// BenchmarkStack makes a stack with a link and addresses of both families, and takes it away.
func BenchmarkStack(b *testing.B) {
	f := setupStacks(b)
	f.attached(9) // the bridge is there
	for n := 0; b.Loop(); n++ {
		e := f.endpoint(10 + n%1000)
		f.check(errors.Join(f.attach(f.nat, e), f.detach(e)))
	}
}

// BenchmarkBareStack is the same by the fewest system calls: nothing is asked for, and nothing is marked.
func BenchmarkBareStack(b *testing.B) {
	f := setupStacks(b)
	f.attached(9)
	for n := 0; b.Loop(); n++ {
		f.bare(f.endpoint(10 + n%1000))
	}
}

func (f stackFixture) bare(e Endpoint) {
	must := func(err error) {
		f.Helper()
		if err != nil {
			f.Fatal(err)
		}
	}
	jid, _, err := bsd.Call(unix.SYS_JAIL_SET, []bsd.Param{bsd.Text("name", e.Stack), bsd.Text("path", "/"),
		{Name: "persist"}, {Name: "vnet", Value: bsd.Word(jailNew)}}, jailCreate)
	must(err)
	mac, err := net.ParseMAC(e.MAC)
	must(err)
	h, end, bridge := f.host, other(e.Link), f.nat.OwnBridge()
	must(h.do("create", unix.SIOCIFCREATE2, named(sizeIfreq, e.Link[:len(e.Link)-1])))
	must(h.setMAC(end, mac))
	must(h.bridge(unix.SIOCSDRVSPEC, bridge, bridgeAdd, memberReq(e.Link)))
	must(h.bridge(unix.SIOCSDRVSPEC, bridge, bridgeStatic, staticReq(e.Link, mac)))
	must(h.do("move", unix.SIOCSIFVNET, numberReq(end, jid)))
	must(h.do("up", unix.SIOCSIFFLAGS, numberReq(e.Link, 0x8843)))
	in, err := inside(jid, true)
	must(err)
	must(in.addAddr(loopbackLink, loopback4, false))
	must(in.do("up", unix.SIOCSIFFLAGS, numberReq(loopbackLink, 0x8049)))
	must(in.rename(end, taskLink))
	must(in.setND(taskLink, ndNoDAD, 0))
	must(in.do("up", unix.SIOCSIFFLAGS, numberReq(taskLink, 0x8843)))
	index, err := in.index(taskLink)
	must(err)
	for _, a := range []struct{ addr, gateway, by netip.Addr }{
		{e.Addr4, f.nat.Gateway4, f.nat.Gateway4}, {e.Addr6, f.nat.Gateway6, gatewayLink.Addr()},
	} {
		bits := a.addr.BitLen()
		must(in.addAddr(taskLink, netip.PrefixFrom(a.addr, bits), false))
		must(in.addRoute(netip.PrefixFrom(a.gateway, bits), &route.LinkAddr{Index: index, Name: taskLink}, unix.RTF_HOST))
		must(in.addRoute(everywhere[a.addr.Is4()], routeAddr(a.by, zone(a.by, index)), unix.RTF_GATEWAY))
	}
	in.close()
	must(h.do("destroy", unix.SIOCIFDESTROY, named(sizeIfreq, e.Link)))
	must(removeJail(jid))
}

// BenchmarkStackByTools is the same by jail(8) and ifconfig(8), as scripts do it.
func BenchmarkStackByTools(b *testing.B) {
	f := setupStacks(b)
	f.attached(9)
	for n := 0; b.Loop(); n++ {
		e := f.endpoint(10 + n%1000)
		end := other(e.Link)
		inside := strings.Join([]string{"ifconfig lo0 127.0.0.1/8 up", "ifconfig " + end + " name eth0",
			"ifconfig eth0 ether " + e.MAC, "ifconfig eth0 inet6 no_dad -ifdisabled auto_linklocal up",
			fmt.Sprintf("ifconfig eth0 inet %s/32 alias", e.Addr4), fmt.Sprintf("ifconfig eth0 inet6 %s/128 alias", e.Addr6),
			"route -q add -host 10.99.0.1 -iface eth0", "route -q add default 10.99.0.1",
			"route -q -6 add -host fd99::1 -iface eth0", "route -q -6 add default fe80::1%eth0"}, " && ")
		prestart := fmt.Sprintf("ifconfig %s create up && ifconfig %s addm %s private %s static %s %s",
			e.Link[:len(e.Link)-1], f.nat.OwnBridge(), e.Link, e.Link, e.Link, e.MAC)
		out, err := exec.Command("jail", "-c", "name="+e.Stack, "path=/", "persist", "vnet", "vnet.interface="+end,
			"exec.prestart="+prestart, "exec.start="+inside).CombinedOutput()
		if err == nil {
			out, err = exec.Command("sh", "-c", "ifconfig "+e.Link+" destroy && jail -R "+e.Stack).CombinedOutput()
		}
		if err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
}

// BenchmarkPublish publishes a port of one task more in the packet filter, and withdraws it, among other tasks'. It
// runs in a jail with a pf of its own.
func BenchmarkPublish(b *testing.B) {
	if os.Getenv(inHost) == "" {
		inHostsJail(b, "-test.run=^$", "-test.bench=^"+b.Name()+"$", "-test.benchtime=20x")
		return
	}
	if _, err := runPfctl(anchors+"anchor \"freejail\"\n", "-q", "-f", "-"); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{0, 100, 300} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkPublish(b, n) })
	}
}

func benchmarkPublish(b *testing.B, n int) {
	web, tasks := manyTasks(n + 1)
	web.Pool4, web.Pool6 = RangeOf(web.Subnet4), RangeOf(web.Subnet6)
	f := &fake{held: map[string]Task{}}
	m, err := newManager(Config{StateDir: "/state", Networks: []Network{web}}, f, newPF(nil), fakePorts{f})
	if err != nil {
		b.Fatal(err)
	}
	for _, t := range tasks[:n] {
		m.tasks[t.Key] = t
	}
	m.rules.change()
	if err := m.rules.load(b.Context()); err != nil {
		b.Fatal(err)
	}
	var publish, withdraw time.Duration
	for b.Loop() {
		began := time.Now()
		err := m.Publish(b.Context(), tasks[n])
		published := time.Now()
		if err := errors.Join(err, m.Withdraw(b.Context(), tasks[n].Key)); err != nil {
			b.Fatal(err)
		}
		publish, withdraw = publish+published.Sub(began), withdraw+time.Since(published)
	}
	b.ReportMetric(float64(publish.Microseconds())/float64(b.N), "µs/publish")
	b.ReportMetric(float64(withdraw.Microseconds())/float64(b.N), "µs/withdraw")
}
