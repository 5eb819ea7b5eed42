package network

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// pfAnchor is where freejail's rules are. The host's main rule set names it (pfConf); freejail changes
// nothing else of pf.
const pfAnchor = "freejail"

// pfHost is what rules need to know of the host.
type pfHost struct {
	Addresses []hostAddress
	// Links tells whether pf sees packets on the members of bridges too: net.link.bridge.pfil_member, and
	// with pfil_local_phys those to the host. Then a link is held to the addresses of its task.
	Links bool
	// States is pf's limit of states, `set limit states`.
	States uint32
}

// pfText is a piece of a rule. Nothing that comes from elsewhere becomes one but by the functions
// below: no value can end a rule or begin another, nor be a macro of pf's.
type pfText struct{ text string }

func (t pfText) String() string { return t.text }

// pfInterfaceName has no character of pf.conf's grammar.
var pfInterfaceName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,14}$`)

func pfInterface(name string) (pfText, error) {
	if !pfInterfaceName.MatchString(name) {
		return pfText{}, fmt.Errorf("%q is no name of an interface", name)
	}
	return pfText{name}, nil
}

func pfAddress(a netip.Addr) pfText { return pfText{a.Unmap().WithZone("").String()} }

func pfPrefix(p netip.Prefix) pfText { return pfText{p.Masked().String()} }

// pfHostPrefix has no length where the prefix is one address.
func pfHostPrefix(p netip.Prefix) pfText {
	if p.IsSingleIP() {
		return pfAddress(p.Addr())
	}
	return pfPrefix(p)
}

func pfFamily(a netip.Addr) pfText {
	if a.Unmap().Is4() {
		return pfText{"inet"}
	}
	return pfText{"inet6"}
}

// pfPorts are a protocol and ports as rules have them.
func pfPorts(p Port) (proto, ports pfText, err error) {
	if err := pfCheckPorts(p); err != nil {
		return proto, ports, err
	}
	if last := p.First + max(p.Count, 1) - 1; last != p.First {
		return pfText{p.Protocol}, pfText{fmt.Sprintf("%d:%d", p.First, last)}, nil
	}
	return pfText{p.Protocol}, pfText{fmt.Sprint(p.First)}, nil
}

func pfCheckPorts(p Port) error {
	last := int(p.First) + max(int(p.Count), 1) - 1
	if p.Protocol != "tcp" && p.Protocol != "udp" || p.First == 0 || last > 65535 {
		return fmt.Errorf("%d to %d of %q are no ports", p.First, last, p.Protocol)
	}
	return nil
}

// pfStack is an address or two of tasks: those of a group have them together.
type pfStack struct {
	addrs     []netip.Addr // one of each family at most
	linkLocal netip.Addr   // of a bridged task with IPv6
	link      pfText
	published []Publication
	declared  []Port
}

func pfValid(all ...netip.Addr) []netip.Addr {
	return slices.DeleteFunc(all, func(a netip.Addr) bool { return !a.IsValid() })
}

// of is the address of a stack of another's family; not valid if it has none.
func (s *pfStack) of(a netip.Addr) netip.Addr {
	for _, own := range s.addrs {
		if own.Is4() == a.Unmap().Is4() {
			return own
		}
	}
	return netip.Addr{}
}

// pfNet is a network with what rules have of it.
type pfNet struct {
	Network
	bridge, egress pfText // its bridge; where its packets leave, empty for all interfaces
	table          pfText // of its tasks' addresses
	stacks         []*pfStack
	of             map[[2]netip.Addr]int // stacks, by their addresses
}

// pfFamilies are the prefixes of a network, each with its gateway.
type pfFamilies struct {
	prefix  netip.Prefix
	gateway netip.Addr
}

func (n *pfNet) families() []pfFamilies {
	all := []pfFamilies{{n.Subnet4, n.Gateway4}, {n.Subnet6, n.Gateway6}}
	return slices.DeleteFunc(all, func(f pfFamilies) bool { return !f.prefix.IsValid() })
}

func newPFNet(n Network, tasks []*Task) (*pfNet, error) {
	bridge := n.Bridge
	if n.Mode == NAT {
		bridge = n.OwnBridge()
	}
	out := &pfNet{Network: n, of: map[[2]netip.Addr]int{}}
	out.table.text = pfAnchor + "_" + strings.TrimPrefix(n.OwnBridge(), "fj-")
	var err error
	if n.Mode != Alias {
		if out.bridge, err = pfInterface(bridge); err != nil {
			return out, about(n.Name, err)
		}
	}
	if n.Interface != "" {
		if out.egress, err = pfInterface(n.Interface); err != nil {
			return out, about(n.Name, err)
		}
	}
	for _, t := range tasks {
		if t.Network == n.Name && t.Mode == n.Mode {
			if err := out.add(t); err != nil {
				return out, about(n.Name, fmt.Errorf("task %q: %w", t.Key, err))
			}
		}
	}
	return out, nil
}

// add takes a task into its network, to those that have its addresses already.
func (n *pfNet) add(t *Task) error {
	addrs := [2]netip.Addr{t.Addr4, t.Addr6}
	i, ok := n.of[addrs]
	if !ok {
		s := &pfStack{addrs: pfValid(t.Addr4, t.Addr6)}
		if t.Mode == Bridged {
			s.linkLocal = t.linkLocal()
		}
		if t.Link != "" {
			var err error
			if s.link, err = pfInterface(t.Link); err != nil {
				return err
			}
		}
		n.stacks, i = append(n.stacks, s), len(n.stacks)
		n.of[addrs] = i
	}
	n.stacks[i].published = append(n.stacks[i].published, t.Published...)
	n.stacks[i].declared = append(n.stacks[i].declared, t.Declared...)
	return nil
}

// pfLayout is all that pf has of freejail. Only the tables and buckets are other ones for another task of a
// nat network: neither a start nor an end costs more where there are many.
type pfLayout struct {
	rules   string                    // of the anchor
	tables  map[string][]netip.Prefix // which the rules use; sorted
	buckets [pfBuckets]pfBucket       // what leads to tasks
}

// text is the anchor for `pfctl -a freejail -f -`, with its tables. What buckets have is not in it.
func (l pfLayout) text() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(l.tables)) {
		fmt.Fprintf(&b, "table <%s> { ", name)
		for _, p := range l.tables[name] {
			b.WriteString(pfHostPrefix(p).text + " ")
		}
		b.WriteString("}\n")
	}
	return b.String() + l.rules
}

// pfWriter writes the layout: translations and rules of the anchor, then what is in tables and buckets.
type pfWriter struct {
	strings.Builder
	host    pfHost
	nets    []*pfNet
	hosts   []netip.Prefix // the host's own addresses
	buckets [pfBuckets]pfBucket
	states  pfText // of what tasks send
	err     error
}

// rule writes one; its format is a constant of this package.
func (w *pfWriter) rule(format string, args ...pfText) {
	all := make([]any, len(args))
	for i, a := range args {
		all[i] = a
	}
	fmt.Fprintf(&w.Builder, format+"\n", all...)
}

// ports are those of pfPorts; the first error is that of the whole layout.
func (w *pfWriter) ports(p Port) (proto, ports pfText) {
	proto, ports, err := pfPorts(p)
	w.err = cmp.Or(w.err, err)
	return proto, ports
}

func (w *pfWriter) mode(m Mode) []*pfNet {
	return slices.DeleteFunc(slices.Clone(w.nets), func(n *pfNet) bool { return n.Mode != m })
}

// pfRules is the layout for a host's networks and tasks. It is the same for the same ones in any order.
//
// On freejail's own bridges every rule is quick: what is not passed there is not reached, whatever
// follows. On all other interfaces a pass is not quick, so that rules of the operator's after the anchor
// have the last word. A packet on its way to a task carries the tag freejail_in, one from a task to the
// outside freejail_out: what the way in has not judged does not leave by a bridge.
func pfRules(networks []Network, tasks []Task, host pfHost) (pfLayout, error) {
	networks = slices.Clone(networks)
	slices.SortFunc(networks, func(a, b Network) int { return strings.Compare(a.Name, b.Name) })
	all := make([]*Task, len(tasks))
	for i := range tasks {
		all[i] = &tasks[i]
	}
	slices.SortFunc(all, func(a, b *Task) int { return strings.Compare(a.Key, b.Key) })
	w := pfWriter{host: host, states: pfTaskStates(host.States)}
	for _, n := range networks {
		if n.Mode != NAT && n.Mode != Bridged && n.Mode != Alias {
			continue
		}
		one, err := newPFNet(n, all)
		if err != nil {
			return pfLayout{}, err
		}
		w.nets = append(w.nets, one)
	}
	if len(w.nets) > 0 {
		w.hosts = w.hostAddresses()
		w.translations()
		w.filters()
	}
	return pfLayout{rules: w.String(), tables: w.tables(), buckets: w.buckets}, w.err
}

// tables are those that a rule uses: the kernel keeps no others.
func (w *pfWriter) tables() map[string][]netip.Prefix {
	all := map[string][]netip.Prefix{pfAnchor + "_host": w.hosts}
	// What is sent to many is for nobody outside a bridge.
	nets := []netip.Prefix{netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"),
		netip.MustParsePrefix("ff00::/8")}
	for _, n := range w.mode(NAT) {
		for _, f := range n.families() {
			nets = append(nets, f.prefix.Masked())
		}
	}
	all[pfAnchor+"_nets"] = nets
	for _, a := range metadata {
		all[pfAnchor+"_metadata"] = append(all[pfAnchor+"_metadata"], pfSingle(a))
	}
	for _, n := range w.nets {
		all[n.table.text] = n.taskAddresses()
	}
	rules := w.String()
	maps.DeleteFunc(all, func(name string, _ []netip.Prefix) bool { return !strings.Contains(rules, "<"+name+">") })
	for name, list := range all {
		slices.SortFunc(list, comparePrefixes)
		all[name] = slices.Compact(list)
	}
	return all
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func (n *pfNet) taskAddresses() (all []netip.Prefix) {
	for _, s := range n.stacks {
		for _, a := range pfValid(append(slices.Clone(s.addrs), s.linkLocal)...) {
			all = append(all, pfSingle(a))
		}
	}
	return all
}

// pfSingle is the prefix of one address.
func pfSingle(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, a.BitLen())
}

// hostAddresses are the host's own, which publications without an address lead from: neither loopback,
// nor those of tasks in alias networks.
func (w *pfWriter) hostAddresses() []netip.Prefix {
	taken := map[netip.Addr]bool{}
	for _, n := range w.mode(Alias) {
		for _, s := range n.stacks {
			for _, a := range s.addrs {
				taken[a] = true
			}
		}
	}
	var all []netip.Prefix
	for _, h := range w.host.Addresses {
		if a := h.Addr(); !a.IsLoopback() && !a.IsLinkLocalUnicast() && !taken[a] {
			all = append(all, pfSingle(a))
		}
	}
	for _, n := range w.mode(NAT) { // its bridge may not be there yet
		for _, a := range pfValid(n.Gateway4, n.Gateway6) {
			all = append(all, pfSingle(a))
		}
	}
	slices.SortFunc(all, comparePrefixes)
	return slices.Compact(all)
}
