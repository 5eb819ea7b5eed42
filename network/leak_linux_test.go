package network

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestManyStacksLeaveNothing(t *testing.T) {
	n := natNetwork("web", 1)
	n.Subnet4, n.Gateway4 = netip.MustParsePrefix("10.88.0.0/16"), netip.MustParseAddr("10.88.255.254")
	h := newHost(t, n)
	h.operatorsBridge()
	before := h.kernel()
	next := make(chan int)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for i := range next {
				e := h.endpoint(n, i)
				if i%4 == 0 {
					e = h.endpoint(bridgedNetwork(), i%250)
					e.Stack, e.Link = fmt.Sprint("fjnet-b", i), linkName(uint64(1000+i))
				}
				err := errors.Join(h.stacks.attach(e.As, e), h.stacks.attach(e.As, e), h.stacks.detach(e), h.stacks.detach(e))
				if err != nil {
					t.Errorf("%d: %v", i, err)
				}
			}
		})
	}
	for i := range 200 {
		next <- i + 3
	}
	close(next)
	all.Wait()
	h.nothingLeft()
	h.must(h.stacks.prune(nil))
	if after := h.kernel(); after != before {
		t.Errorf("the host had\n%s\nand has\n%s", before, after)
	}
}

// kernel lists what the host has of interfaces, addresses, routes, neighbours and mounts.
func (h *host) kernel() string {
	h.Helper()
	links, err := netlink.LinkList()
	h.must(err)
	var out string
	for _, l := range links {
		out += fmt.Sprintln(l.Attrs().Name, l.Attrs().MTU, l.Attrs().HardwareAddr)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	h.must(err)
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, 0)
	h.must(err)
	mounts, err := os.ReadFile("/proc/self/mounts")
	h.must(err)
	return out + fmt.Sprintln(addrs, len(routes)) + string(mounts)
}

func (h *host) endpoint(n Network, i int) Endpoint {
	return Endpoint{Network: n.Name, Mode: n.Mode, As: n, Stack: fmt.Sprint("fjnet-t", i), Link: linkName(uint64(i)),
		MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255), Addr4: nth(n.Subnet4, i), Addr6: nth(n.Subnet6, i)}
}

// TestHelperAttaches attaches and detaches until it is killed.
func TestHelperAttaches(t *testing.T) {
	dir := os.Getenv("FREEJAIL_TEST_ATTACH")
	if dir == "" {
		t.Skip("TestKilledAnywhere runs it")
	}
	s := &linuxStacks{state: dir, group: linkGroup(dir)}
	h := &host{T: t, stacks: s}
	for i := 0; ; i = (i + 1) % 3 {
		n := natNetwork("web", 1)
		if i == 2 {
			n = bridgedNetwork()
		}
		e := h.endpoint(n, 10+i)
		h.must(errors.Join(s.attach(n, e), s.detach(e)))
	}
}

func TestKilledAnywhere(t *testing.T) {
	h := newHost(t, natNetwork("web", 1))
	h.operatorsBridge()
	before := h.kernel()
	for range 25 {
		c := exec.Command("/proc/self/exe", "-test.run=^TestHelperAttaches$", "-test.v")
		c.Env = append(os.Environ(), "FREEJAIL_TEST_ATTACH="+h.stacks.state)
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		h.must(c.Start())
		time.Sleep(time.Duration(20+rand.IntN(60)) * time.Millisecond)
		h.must(c.Process.Kill())
		if err := c.Wait(); err == nil || c.ProcessState.ExitCode() > 0 {
			t.Fatalf("the helper ended: %v", err)
		}
		found, err := h.stacks.endpoints()
		h.must(err)
		for _, e := range found {
			if rand.IntN(2) == 0 && e.Stack != "" { // the next daemon may go on with it
				n := natNetwork("web", 1)
				whole := h.endpoint(n, 10)
				whole.Stack, whole.Link = e.Stack, linkName(uint64(rand.Uint32()))
				h.must(h.stacks.detach(e))
				h.must(h.stacks.attach(n, whole))
				e = whole
			}
			h.must(h.stacks.detach(e))
		}
		h.nothingLeft()
	}
	h.must(h.stacks.prune(nil))
	if after := h.kernel(); after != before {
		t.Errorf("the host had\n%s\nand has\n%s", before, after)
	}
}

// TestEachStep begins with what each step of an attach leaves.
func TestEachStep(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	e := h.endpoint(n, 10)
	file := jailStack(h.stacks.state, e.Stack)
	empty := func() {
		h.must(os.MkdirAll(filepath.Dir(file), 0o700))
		h.must(os.WriteFile(file, nil, 0o600))
	}
	made := func() { h.must(h.stacks.inside(e, true, func() error { return nil })) }
	linked := func() {
		made()
		_, err := h.stacks.connect(n, e, nil)
		h.must(err)
	}
	unnamed := func() {
		linked()
		l, err := netlink.LinkByName(e.Link)
		h.must(err)
		h.must(netlink.LinkSetAlias(l, ""))
	}
	for i, step := range []func(){func() {}, empty, made, linked, unnamed} {
		step()
		found, err := h.stacks.endpoints()
		h.must(err)
		if i > 0 && len(found) == 0 {
			t.Errorf("after step %d nothing is found", i)
		}
		for _, f := range found {
			h.must(h.stacks.detach(f))
		}
		h.nothingLeft()
		step()
		h.must(h.stacks.attach(n, e))
		h.serve(file, "tcp", at(e.Addr4, uint16(8080+i)), "whole")
		h.reach("the host", "", "tcp", at(e.Addr4, uint16(8080+i)), "whole")
		h.must(h.stacks.detach(e))
		h.nothingLeft()
	}
}

func TestOthersInterfacesStay(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	e := h.endpoint(n, 10)
	a := netlink.NewLinkAttrs()
	a.Name = e.Link
	h.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "other"}))
	if err := h.stacks.attach(n, e); !errors.Is(err, ErrLinkTaken) {
		t.Errorf("%v", err)
	}
	h.must(h.stacks.detach(e))
	h.must(removeLink(e.Link))
	h.must(h.stacks.prune(nil))
	a.Name = n.OwnBridge()
	h.must(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: a}))
	if err := h.stacks.attach(n, e); err == nil {
		t.Error("a bridge of another's was taken")
	}
	h.must(h.stacks.prune(nil))
	h.must(removeLink(a.Name))
	first, second := h.endpoint(n, 10), h.endpoint(n, 11)
	h.must(h.stacks.attach(n, first))
	second.Link = first.Link
	if err := h.stacks.attach(n, second); !errors.Is(err, ErrLinkTaken) {
		t.Errorf("that of another task: %v", err)
	}
	second.Link = ""
	h.must(errors.Join(h.stacks.detach(second), h.stacks.detach(first)))
}

func TestLostRulesAreNoticed(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	task := h.task(n, 10)
	task.Published = []Publication{{Port: Port{"tcp", 8081, 1}, To: 8080}}
	loaded := func(want bool, when string) {
		t.Helper()
		if ok, err := h.filter.loaded(); err != nil || ok != want {
			t.Errorf("%s: loaded is %v, %v", when, ok, err)
		}
	}
	loaded(false, "before the first load")
	c, err := h.filter.open()
	h.must(err)
	own := &nftables.Table{Name: h.filter.name, Family: nftables.TableFamilyINet}
	others := &nftables.Table{Name: "others", Family: nftables.TableFamilyINet}
	set := &nftables.Set{Table: own, Name: "published4", IsMap: true, KeyType: nftables.TypeIPAddr}
	for when, change := range map[string]func(){
		"without the table":  func() { c.DelTable(own) },
		"with a flushed one": func() { c.FlushTable(own) },
		"with no set":        func() { c.FlushSet(&nftables.Set{Table: own, Name: "source4"}) },
		"with another rule": func() {
			c.AddRule(&nftables.Rule{Table: own, Chain: &nftables.Chain{Table: own, Name: "to-task"}, Exprs: part{accept}})
		},
		"with an element": func() {
			set.KeyType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
			h.must(c.SetAddElements(set, []nftables.SetElement{{Key: append(hostAddr4.AsSlice(), portKey("tcp", 1)...),
				Val: append(task.Addr4.AsSlice(), portBytes(1)...)}}))
		},
		"when all was flushed": func() { c.FlushRuleset() },
	} {
		h.load()
		loaded(true, "after a load")
		change()
		h.must(c.Flush())
		loaded(false, when)
	}
	h.load()
	c.AddTable(others)
	h.must(c.Flush())
	loaded(true, "with a table of others")
	h.load()
	h.must(h.filter.load(nil, nil))
	tables, err := c.ListTables()
	h.must(err)
	if len(tables) != 1 || tables[0].Name != "others" {
		t.Errorf("tables are left or gone: %v", tables)
	}
	c.DelTable(others)
	h.must(c.Flush())
}

func TestOtherDaemonsTablesStay(t *testing.T) {
	n := natNetwork("web", 1)
	h := newHost(t, n)
	h.task(n, 10)
	h.load()
	f, err := newFilter(Config{StateDir: t.TempDir()})
	h.must(err)
	h.must(f.load([]Network{natNetwork("other", 2)}, nil))
	h.must(f.load(nil, nil))
	if ok, err := h.filter.loaded(); !ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
}

func TestRulesOfManyTasks(t *testing.T) {
	n := natNetwork("web", 1)
	n.Subnet4, n.Subnet6 = netip.MustParsePrefix("10.88.0.0/16"), netip.MustParsePrefix("fd00:88::/64")
	n.Gateway4, n.Gateway6 = nth(n.Subnet4, 1), nth(n.Subnet6, 1)
	h := newHost(t, n)
	var tasks []Task
	for i := range 1000 {
		e := h.endpoint(n, 10+i)
		tasks = append(tasks, Task{Key: e.Stack, Endpoint: e, Published: []Publication{
			{Port: Port{"tcp", uint16(20000 + 20*i), 20}, To: 80},
			{At: hostAddr4, Port: Port{"udp", uint16(20000 + i), 1}, To: 53}}})
	}
	h.must(h.filter.load(h.nets, tasks))
	if ok, err := h.filter.loaded(); !ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	c, err := h.filter.open()
	h.must(err)
	set, err := c.GetSetByName(&nftables.Table{Name: h.filter.name, Family: nftables.TableFamilyINet}, "everywhere6")
	h.must(err)
	elements, err := c.GetSetElements(set)
	h.must(err)
	if len(elements) != 20000 {
		t.Errorf("%d ports", len(elements))
	}
}
