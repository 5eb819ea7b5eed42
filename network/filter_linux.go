package network

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
)

// linuxFilter is a table of nftables that belongs to one daemon. It is replaced as a whole, in one
// transaction. An operator's rules have the last word: what they drop is dropped, and what
// they translate first is theirs.
type linuxFilter struct {
	name  string
	group uint32

	mu      sync.Mutex
	inForce string // what the kernel listed after the last load, hashed
	known   *states
}

func newFilter(cfg Config) (filter, error) {
	g := linkGroup(cfg.StateDir)
	return &linuxFilter{name: fmt.Sprintf("freejail-%04x", g&0xffff), group: g}, nil
}

// open connects to nftables, with room for the messages of many tasks.
func (f *linuxFilter) open() (*nftables.Conn, error) {
	const room = 8 << 20 // bytes, of the transaction and of its answers
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(room), c.SetReadBuffer(room))
	}))
}

func (f *linuxFilter) check() error {
	c, err := f.open()
	if err == nil {
		_, err = c.ListTables()
	}
	if err != nil {
		return fmt.Errorf("%w: nftables: %w", errNoFilter, err)
	}
	return nil
}

func (f *linuxFilter) load(networks []Network, tasks []Task) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.open()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(networks, func(n Network) bool { return n.Mode.needsRules() }) {
		return f.unload(c)
	}
	r := &table{conn: c, group: f.group}
	r.render(f.name, networks, tasks)
	if r.err == nil {
		r.err = c.Flush()
	}
	if r.err != nil {
		return fmt.Errorf("load the rules of nftables table %s: %w", f.name, r.err)
	}
	f.inForce, err = f.listed()
	return errors.Join(err, f.forget(networks, tasks))
}

// unload takes the table away where no network needs it.
func (f *linuxFilter) unload(c *nftables.Conn) error {
	tables, err := c.ListTables()
	if err != nil {
		return fmt.Errorf("%w: nftables: %w", errNoFilter, err)
	}
	for _, t := range tables {
		if t.Name == f.name {
			c.DelTable(t)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", f.name, err)
	}
	f.inForce, err = f.listed()
	return err
}

func (f *linuxFilter) loaded() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, err := f.listed()
	return err == nil && f.inForce != "" && now == f.inForce, err
}

// listed is a hash of what the kernel lists of the table; it does not depend on the order in which it
// lists elements of sets.
func (f *linuxFilter) listed() (string, error) {
	c, err := f.open()
	if err != nil {
		return "", err
	}
	tables, err := c.ListTables()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, t := range tables {
		if t.Name != f.name {
			continue
		}
		fmt.Fprintln(h, t.Name, t.Family, t.Flags)
		if err := listRules(c, t, h.Write); err != nil {
			return "", err
		}
		if err := listSets(c, t, h.Write); err != nil {
			return "", err
		}
	}
	return string(h.Sum(nil)), nil
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func listRules(c *nftables.Conn, t *nftables.Table, w writer) error {
	chains, err := c.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return err
	}
	for _, ch := range chains {
		if ch.Table.Name != t.Name {
			continue
		}
		fmt.Fprintln(w, ch.Name, ch.Type)
		if ch.Hooknum != nil && ch.Priority != nil && ch.Policy != nil {
			fmt.Fprintln(w, *ch.Hooknum, *ch.Priority, *ch.Policy)
		}
		rules, err := c.GetRules(t, ch)
		if err != nil {
			return err
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				fmt.Fprintf(w, "%T%+v\n", e, e)
			}
		}
	}
	return nil
}

func listSets(c *nftables.Conn, t *nftables.Table, w writer) error {
	sets, err := c.GetSets(t)
	if err != nil {
		return err
	}
	for _, s := range sets {
		elements, err := c.GetSetElements(s)
		if err != nil {
			return err
		}
		var lines []string
		for _, e := range elements {
			lines = append(lines, fmt.Sprintf("%x %x %x", e.Key, e.KeyEnd, e.Val))
		}
		slices.Sort(lines)
		fmt.Fprintln(w, s.Name, lines)
	}
	return nil
}

// table renders the rules. The first error stays.
type table struct {
	conn  *nftables.Conn
	table *nftables.Table
	group uint32
	err   error
}

// ipFamily is how rules of IPv4 or IPv6 differ: an address lies at src and dst of the header.
type ipFamily struct {
	proto    byte // unix.NFPROTO_IPV4 or unix.NFPROTO_IPV6
	suffix   string
	kind     nftables.SetDatatype
	src, dst uint32
	size     uint32
}

var ipFamilies = []ipFamily{
	{2, "4", nftables.TypeIPAddr, 12, 16, 4},
	{10, "6", nftables.TypeIP6Addr, 8, 24, 16},
}

func (f ipFamily) subnet(n Network) netip.Prefix {
	if f.size == 4 {
		return n.Subnet4
	}
	return n.Subnet6
}

func (f ipFamily) gateway(n Network) netip.Addr {
	if f.size == 4 {
		return n.Gateway4
	}
	return n.Gateway6
}

func (f ipFamily) task(t Task) netip.Addr {
	if f.size == 4 {
		return t.Addr4
	}
	return t.Addr6
}

// has tells whether an address is of the family; one that is not valid is of both.
func (f ipFamily) has(a netip.Addr) bool { return !a.IsValid() || a.BitLen() == int(8*f.size) }

func (r *table) render(name string, networks []Network, tasks []Task) {
	r.newTable(name, nftables.TableFamilyINet)
	nat := slices.DeleteFunc(slices.Clone(networks), func(n Network) bool { return n.Mode != NAT })
	natTasks := slices.DeleteFunc(slices.Clone(tasks), func(t Task) bool { return t.Mode != NAT })
	published := r.chain("published")
	toTask := r.chain("to-task")
	c := r.hooks()
	r.add(c.source, r.fromOthers(), accept)
	r.add(c.pre, r.toHost(), jump(published))
	for _, ch := range []*nftables.Chain{c.forward, c.input} {
		r.add(ch, ctState(stateEstablished|stateRelated), accept)
	}
	r.add(c.forward, r.to(), jump(toTask))
	r.add(c.input, r.fromOthers(), accept)
	r.add(toTask, dnatted, accept)
	for _, f := range ipFamilies {
		r.source(c.source, f, natTasks)
		r.add(c.output, f.is(), f.loopback(), ret)
		r.published(published, f, natTasks)
		for _, n := range nat {
			if f.subnet(n).IsValid() {
				r.network(c, toTask, f, n)
			}
		}
		r.hairpin(c.post, f, nat, natTasks)
		r.declared(toTask, f, natTasks)
	}
	r.add(c.output, r.toHost(), jump(published))
	r.add(c.source, drop)
	r.refuse(c.input)
	r.refuse(toTask)
}

// chains are those that the kernel calls.
type chains struct{ source, pre, output, forward, input, post *nftables.Chain }

// hooks makes them. They translate after the operator's chains (at -100 and 100) have had their turn.
func (r *table) hooks() chains {
	return chains{
		source:  r.hook("source", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -300),
		pre:     r.hook("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -90),
		output:  r.hook("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, -90),
		forward: r.hook("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, 0),
		input:   r.hook("input", nftables.ChainTypeFilter, nftables.ChainHookInput, 0),
		post:    r.hook("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 110),
	}
}

// source lets in what has the address of the task whose link it came by. Neighbour discovery is of no
// use there, as both ends know the other's MAC, and would fill the host's tables.
func (r *table) source(c *nftables.Chain, f ipFamily, tasks []Task) {
	if f.size == 16 {
		r.add(c, f.is(), discovery, drop)
	}
	own := r.set("source"+f.suffix, nftables.TypeIFName, f.kind)
	var elements []nftables.SetElement
	for _, t := range tasks {
		if a := f.task(t); a.IsValid() && t.Link != "" {
			elements = append(elements, nftables.SetElement{Key: slices.Concat(interfaceName(t.Link), a.AsSlice())})
		}
	}
	r.fill(own, elements)
	r.add(c, f.is(), f.load(f.src, 12), meta(expr.MetaKeyIIFNAME, 8), in(own), accept)
}

// published translates what is for a published port, at one address of the host or at all.
func (r *table) published(c *nftables.Chain, f ipFamily, tasks []Task) {
	at := r.mapping("published"+f.suffix, f, f.kind, nftables.TypeInetProto, nftables.TypeInetService)
	all := r.mapping("everywhere"+f.suffix, f, nftables.TypeInetProto, nftables.TypeInetService)
	one, every := map[string][]byte{}, map[string][]byte{}
	for _, t := range tasks {
		for _, p := range t.Published {
			f.publish(t, p, one, every)
		}
	}
	r.fill(at, pairs(one))
	r.fill(all, pairs(every))
	ports := 8 + f.size/4 // registers are of 4 bytes
	r.add(c, f.is(), f.load(f.dst, 8), meta(expr.MetaKeyL4PROTO, ports), dport(ports+1), lookup(at), f.nat(true))
	r.add(c, f.is(), meta(expr.MetaKeyL4PROTO, 8), dport(9), lookup(all), f.nat(true))
}

// publish adds the ports of a publication to the maps. Of two tasks the first has a port.
func (f ipFamily) publish(t Task, p Publication, one, every map[string][]byte) {
	task := f.task(t)
	if !task.IsValid() || !f.has(p.At) {
		return
	}
	for i := range max(p.Count, 1) {
		key, m := portKey(p.Protocol, p.First+i), every
		if p.At.IsValid() {
			key, m = slices.Concat(p.At.AsSlice(), key), one
		}
		if _, taken := m[string(key)]; !taken {
			m[string(key)] = slices.Concat(task.AsSlice(), portBytes(p.To+i))
		}
	}
}

func pairs(m map[string][]byte) []nftables.SetElement {
	var out []nftables.SetElement
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, nftables.SetElement{Key: []byte(k), Val: m[k]})
	}
	return out
}

// network has the rules of one network: who reaches whom, what reaches the host, and its translation.
func (r *table) network(c chains, toTask *nftables.Chain, f ipFamily, n Network) {
	s, g := f.subnet(n), f.gateway(n)
	both := join(r.from(), f.within(f.src, s), f.within(f.dst, s))
	if n.Isolate {
		r.refuse(toTask, both)
	} else {
		r.add(toTask, both, accept)
	}
	toGateway := join(f.within(f.src, s), f.within(f.dst, netip.PrefixFrom(g, g.BitLen())))
	for _, p := range n.HostAccess {
		r.add(c.input, toGateway, onPort(p), accept)
	}
	r.add(c.input, toGateway, f.ping(), accept)
	out := join(f.within(f.src, s), r.toOthers())
	if n.Interface != "" {
		out = join(out, meta(expr.MetaKeyOIFNAME, 8), equal(8, interfaceName(n.Interface)))
	}
	r.add(c.post, out, &expr.Masq{})
}

// hairpin gives a task that connects to its own published port the gateway's address: it would take
// what comes from its own address for forged.
func (r *table) hairpin(c *nftables.Chain, f ipFamily, networks []Network, tasks []Task) {
	own := r.set("self"+f.suffix, f.kind, f.kind)
	seen := map[netip.Addr]bool{}
	var elements []nftables.SetElement
	for _, t := range tasks {
		if a := f.task(t); a.IsValid() && !seen[a] {
			seen[a] = true
			elements = append(elements, nftables.SetElement{Key: slices.Concat(a.AsSlice(), a.AsSlice())})
		}
	}
	r.fill(own, elements)
	for _, n := range networks {
		if s := f.subnet(n); s.IsValid() {
			r.add(c, r.to(), f.within(f.src, s), f.load(f.src, 8), f.load(f.dst, 8+f.size/4), in(own),
				load(1, f.gateway(n).AsSlice()), f.nat(false))
		}
	}
}

// declared lets all others reach what a task has declared.
func (r *table) declared(c *nftables.Chain, f ipFamily, tasks []Task) {
	s := r.ranges("declared"+f.suffix, f.kind, nftables.TypeInetProto, nftables.TypeInetService)
	type owner struct {
		addr     netip.Addr
		protocol string
	}
	of := map[owner][]Port{}
	for _, t := range tasks {
		for _, p := range t.Declared {
			if a := f.task(t); a.IsValid() {
				of[owner{a, p.Protocol}] = append(of[owner{a, p.Protocol}], p)
			}
		}
	}
	var elements []nftables.SetElement
	for o, ports := range of {
		for _, p := range merged(ports) {
			elements = append(elements, nftables.SetElement{
				Key:    slices.Concat(o.addr.AsSlice(), portKey(o.protocol, p.First)),
				KeyEnd: slices.Concat(o.addr.AsSlice(), portKey(o.protocol, p.last()))})
		}
	}
	slices.SortFunc(elements, func(a, b nftables.SetElement) int { return bytes.Compare(a.Key, b.Key) })
	r.fill(s, elements)
	reg := 8 + f.size/4
	r.add(c, f.is(), f.load(f.dst, 8), meta(expr.MetaKeyL4PROTO, reg), dport(reg+1), in(s), accept)
}

func (p Port) last() uint16 { return p.First + max(p.Count, 1) - 1 }

// merged are the same ports in ranges that do not overlap: the kernel takes no others.
func merged(ports []Port) []Port {
	ports = slices.SortedFunc(slices.Values(ports), func(a, b Port) int { return int(a.First) - int(b.First) })
	var out []Port
	for _, p := range ports {
		if len(out) == 0 || int(p.First) > int(out[len(out)-1].last())+1 {
			out = append(out, Port{p.Protocol, p.First, max(p.Count, 1)})
		} else if o := &out[len(out)-1]; p.last() > o.last() {
			o.Count = p.last() - o.First + 1
		}
	}
	return out
}
