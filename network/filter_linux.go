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
	// metadata are the sets of toMetadata, by the size of an address.
	metadata map[uint32]*nftables.Set
	err      error
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

// of are the networks that have the family.
func (f ipFamily) of(networks []Network) []Network {
	return slices.DeleteFunc(slices.Clone(networks), func(n Network) bool { return !f.subnet(n).IsValid() })
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
	nat, natTasks := ofMode(NAT, networks, tasks)
	bridged, bridgedTasks := ofMode(Bridged, networks, tasks)
	alias, aliases := ofMode(Alias, networks, tasks)
	c := r.hooks()
	r.add(c.pre, r.toHost(), jump(c.published))
	r.add(c.forward, known, accept)
	r.add(c.forward, r.to(), jump(c.toTask))
	r.add(c.toTask, dnatted, accept)
	r.add(c.input, known, accept)
	r.add(c.input, r.from(), jump(c.toHost))
	for _, f := range ipFamilies {
		for _, n := range f.of(nat) {
			r.network(c, f, n)
		}
		r.add(c.output, f.loopback(), ret)
		r.ofGateways(c.published, f, nat)
		r.published(c.published, f, natTasks)
		r.hairpin(c.post, f, f.of(nat), natTasks)
		r.bridgedToHost(c, f, bridgedTasks)
		r.declared(c.toHost, f, slices.Concat(aliases, bridgedTasks))
		for _, n := range f.of(bridged) {
			r.services(c.toHost, f, n, f.within(f.src, f.subnet(n)))
		}
		r.aliasMetadata(c.sent, f, f.of(alias), aliases)
	}
	r.add(c.toHost, discovery, accept) // of bridges, where it was looked at
	r.sources(c.source, natTasks)
	r.add(c.output, r.toHost(), jump(c.published))
	r.refuse(c.toHost)
	r.refuse(c.toTask)
	if len(bridgedTasks) > 0 {
		r.bridges(name, bridged, bridgedTasks)
	}
}

// ofMode are the networks and tasks of one mode.
func ofMode(m Mode, networks []Network, tasks []Task) ([]Network, []Task) {
	return slices.DeleteFunc(slices.Clone(networks), func(n Network) bool { return n.Mode != m }),
		slices.DeleteFunc(slices.Clone(tasks), func(t Task) bool { return t.Mode != m })
}

// chains are those that the kernel calls, and those that they jump to.
type chains struct {
	source, pre, output, sent, forward, input, post *nftables.Chain
	published, toTask, toHost                       *nftables.Chain
}

// hooks makes them. They translate after the operator's chains (at -100 and 100) have had their turn.
func (r *table) hooks() chains {
	return chains{
		source:    r.hook("source", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -300),
		pre:       r.hook("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -90),
		output:    r.hook("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, -90),
		sent:      r.hook("sent", nftables.ChainTypeFilter, nftables.ChainHookOutput, 0),
		forward:   r.hook("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, 0),
		input:     r.hook("input", nftables.ChainTypeFilter, nftables.ChainHookInput, 0),
		post:      r.hook("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 110),
		published: r.chain("published"),
		toTask:    r.chain("to-task"),
		toHost:    r.chain("to-host"),
	}
}

// sources lets in what has the address of the task whose link it came by.
func (r *table) sources(c *nftables.Chain, tasks []Task) {
	r.add(c, r.fromOthers(), accept)
	for _, f := range ipFamilies {
		own := r.set("source"+f.suffix, nftables.TypeIFName, f.kind)
		elements := map[string][]byte{}
		for _, t := range tasks {
			if a := f.task(t); a.IsValid() && t.Link != "" {
				elements[string(slices.Concat(interfaceName(t.Link), a.AsSlice()))] = nil
			}
		}
		r.fill(own, pairs(elements))
		r.add(c, f.is(), f.load(f.src, 12), meta(expr.MetaKeyIIFNAME, 8), in(own), accept)
	}
	r.add(c, drop)
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

// network has the rules of a nat network: whose its addresses are, who reaches whom, and where its
// packets leave the host, with which address.
func (r *table) network(c chains, f ipFamily, n Network) {
	s, g := f.subnet(n), f.gateway(n)
	own := f.within(f.src, s)
	r.add(c.source, r.fromOthers(), meta(expr.MetaKeyIIFNAME, 8), unequal(8, interfaceName("lo")), own, drop)
	if !n.Isolate {
		r.add(c.toTask, r.from(), own, f.within(f.dst, s), accept)
	}
	r.services(c.toHost, f, n, join(own, f.within(f.dst, netip.PrefixFrom(g, g.BitLen()))))
	out := join(own, r.toOthers())
	if !n.Metadata {
		for _, to := range r.toMetadata(f) {
			r.refuse(c.forward, own, to)
		}
	}
	if n.Interface != "" {
		by := interfaceName(n.Interface)
		r.refuse(c.forward, out, meta(expr.MetaKeyOIFNAME, 8), unequal(8, by))
		out = join(out, meta(expr.MetaKeyOIFNAME, 8), equal(8, by))
	}
	r.add(c.post, out, &expr.Masq{})
}

// aliasMetadata keeps the addresses of tasks of alias networks from the metadata services of clouds.
func (r *table) aliasMetadata(c *nftables.Chain, f ipFamily, networks []Network, tasks []Task) {
	own := r.set("alias"+f.suffix, f.kind)
	elements := map[string][]byte{}
	for _, t := range tasks {
		kept := slices.ContainsFunc(networks, func(n Network) bool { return n.Name == t.Network && !n.Metadata })
		if a := f.task(t); a.IsValid() && kept {
			elements[string(a.AsSlice())] = nil
		}
	}
	r.fill(own, pairs(elements))
	for _, to := range r.toMetadata(f) {
		r.refuse(c, f.is(), f.load(f.src, 8), in(own), to)
	}
}

// services are those of the host that tasks reach, and its answer to ping.
func (r *table) services(c *nftables.Chain, f ipFamily, n Network, from part) {
	for _, p := range n.HostAccess {
		r.add(c, from, onPort(p), accept)
	}
	r.add(c, from, f.ping(), accept)
}

// ofGateways keeps the host's services at gateways from publications, those of all addresses too.
func (r *table) ofGateways(c *nftables.Chain, f ipFamily, networks []Network) {
	for _, n := range f.of(networks) {
		g := f.gateway(n)
		for _, p := range n.HostAccess {
			r.add(c, f.within(f.dst, netip.PrefixFrom(g, g.BitLen())), onPort(p), ret)
		}
	}
}

// bridgedToHost has what tasks on bridges of the operator's send to the host judged as that of others.
func (r *table) bridgedToHost(c chains, f ipFamily, tasks []Task) {
	own := r.set("bridged"+f.suffix, f.kind)
	elements := map[string][]byte{}
	for _, t := range tasks {
		for _, a := range pfValid(f.task(t), t.linkLocal()) {
			if f.has(a) {
				elements[string(a.AsSlice())] = nil
			}
		}
	}
	r.fill(own, pairs(elements))
	r.add(c.input, f.is(), f.load(f.src, 8), in(own), jump(c.toHost))
}

// hairpin gives a task that connects to its own published port the gateway's address: it would take
// what comes from its own address for forged.
func (r *table) hairpin(c *nftables.Chain, f ipFamily, networks []Network, tasks []Task) {
	own := r.set("self"+f.suffix, f.kind, f.kind)
	elements := map[string][]byte{}
	for _, t := range tasks {
		if a := f.task(t); a.IsValid() {
			elements[string(slices.Concat(a.AsSlice(), a.AsSlice()))] = nil
		}
	}
	r.fill(own, pairs(elements))
	for _, n := range networks {
		r.add(c, r.to(), f.within(f.src, f.subnet(n)), f.load(f.src, 8), f.load(f.dst, 8+f.size/4), in(own),
			load(1, f.gateway(n).AsSlice()), f.nat(false))
	}
}

// declared are the ports of tasks of alias networks, which have addresses of the host, and those of the
// host that the daemon itself leads to tasks.
func (r *table) declared(c *nftables.Chain, f ipFamily, tasks []Task) {
	s := r.ranges("declared"+f.suffix, f.kind, nftables.TypeInetProto, nftables.TypeInetService)
	type owner struct {
		addr     netip.Addr
		protocol string
	}
	of := map[owner][]Port{}
	add := func(a netip.Addr, p Port) {
		if a.IsValid() && f.has(a) {
			of[owner{a, p.Protocol}] = append(of[owner{a, p.Protocol}], p)
		}
	}
	for _, t := range tasks {
		for _, p := range t.Declared {
			if t.Mode == Alias {
				add(f.task(t), p)
			}
		}
		for _, p := range t.Published {
			add(p.At, p.Port)
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
