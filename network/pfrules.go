package network

import (
	"cmp"
	"crypto/sha256"
	"fmt"
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

// pfPlain is of labels that are readable; pf expands a dollar sign in one, and has 64 bytes for it.
var pfPlain = regexp.MustCompile(`^[A-Za-z0-9_.+:-]{1,52}$`)

// pfLabel is by what the states of a task, or of all that share its stack, are found again.
func pfLabel(t Task) pfText {
	name := cmp.Or(t.Stack, t.Key)
	if !pfPlain.MatchString(name) {
		name = fmt.Sprintf("%x", sha256.Sum256([]byte(name)))[:40]
	}
	return pfText{pfAnchor + ":" + name}
}

func pfAddress(a netip.Addr) pfText { return pfText{a.Unmap().WithZone("").String()} }

func pfPrefix(p netip.Prefix) pfText { return pfText{p.Masked().String()} }

func pfFamily(a netip.Addr) pfText {
	if a.Unmap().Is4() {
		return pfText{"inet"}
	}
	return pfText{"inet6"}
}

// pfPorts are a protocol and ports as rules have them.
func pfPorts(p Port) (proto, ports pfText, err error) {
	last := int(p.First) + max(int(p.Count), 1) - 1
	switch {
	case p.Protocol != "tcp" && p.Protocol != "udp" || p.First == 0 || last > 65535:
		return proto, ports, fmt.Errorf("%d to %d of %q are no ports", p.First, last, p.Protocol)
	case last == int(p.First):
		return pfText{p.Protocol}, pfText{fmt.Sprint(p.First)}, nil
	}
	return pfText{p.Protocol}, pfText{fmt.Sprintf("%d:%d", p.First, last)}, nil
}

// pfStack is an address or two of tasks: those of a group have them together.
type pfStack struct {
	Task
	label, link pfText
	published   []Publication
	declared    []Port
}

// addrs are the addresses that a stack has.
func (s pfStack) addrs() []netip.Addr { return pfValid(s.Addr4, s.Addr6) }

func pfValid(all ...netip.Addr) []netip.Addr {
	return slices.DeleteFunc(all, func(a netip.Addr) bool { return !a.IsValid() })
}

// of is the address of a stack of another's family; not valid if it has none.
func (s pfStack) of(a netip.Addr) netip.Addr {
	if a.Unmap().Is4() {
		return s.Addr4
	}
	return s.Addr6
}

// pfNet is a network with what rules have of it.
type pfNet struct {
	Network
	bridge, egress pfText // its bridge; where its packets leave, empty for all interfaces
	table          pfText // of its tasks' addresses
	stacks         []pfStack
}

// pfFamilies are the prefixes of a network, each with its gateway.
type pfFamilies struct {
	prefix  netip.Prefix
	gateway netip.Addr
}

func (n pfNet) families() []pfFamilies {
	all := []pfFamilies{{n.Subnet4, n.Gateway4}, {n.Subnet6, n.Gateway6}}
	return slices.DeleteFunc(all, func(f pfFamilies) bool { return !f.prefix.IsValid() })
}

func newPFNet(n Network, tasks []Task) (pfNet, error) {
	bridge := n.Bridge
	if n.Mode == NAT {
		bridge = n.OwnBridge()
	}
	out := pfNet{Network: n, table: pfText{pfAnchor + "_" + strings.TrimPrefix(n.OwnBridge(), "fj-")}}
	var err error
	if n.Mode != Alias {
		if out.bridge, err = pfInterface(bridge); err != nil {
			return out, fmt.Errorf("network %s: %w", n.Name, err)
		}
	}
	if n.Interface != "" {
		if out.egress, err = pfInterface(n.Interface); err != nil {
			return out, fmt.Errorf("network %s: %w", n.Name, err)
		}
	}
	for _, t := range tasks {
		if t.Network == n.Name && t.Mode == n.Mode {
			if err := out.add(t); err != nil {
				return out, fmt.Errorf("network %s: task %q: %w", n.Name, t.Key, err)
			}
		}
	}
	return out, nil
}

// add takes a task into its network, to those that have its addresses already.
func (n *pfNet) add(t Task) error {
	i := slices.IndexFunc(n.stacks, func(s pfStack) bool { return s.Addr4 == t.Addr4 && s.Addr6 == t.Addr6 })
	if i < 0 {
		s := pfStack{Task: t, label: pfLabel(t)}
		if t.Link != "" {
			var err error
			if s.link, err = pfInterface(t.Link); err != nil {
				return err
			}
		}
		n.stacks, i = append(n.stacks, s), len(n.stacks)
	}
	n.stacks[i].published = append(n.stacks[i].published, t.Published...)
	n.stacks[i].declared = append(n.stacks[i].declared, t.Declared...)
	return nil
}

// pfWriter writes an anchor: tables, translations, rules.
type pfWriter struct {
	strings.Builder
	host pfHost
	nets []pfNet
	err  error
}

// rule writes one; its format is a constant of this package.
func (w *pfWriter) rule(format string, args ...pfText) {
	all := make([]any, len(args))
	for i, a := range args {
		all[i] = a
	}
	fmt.Fprintf(&w.Builder, format+"\n", all...)
}

// ports are those of pfPorts; the first error is that of the whole anchor.
func (w *pfWriter) ports(p Port) (proto, ports pfText) {
	proto, ports, err := pfPorts(p)
	w.err = cmp.Or(w.err, err)
	return proto, ports
}

func (w *pfWriter) mode(m Mode) []pfNet {
	return slices.DeleteFunc(slices.Clone(w.nets), func(n pfNet) bool { return n.Mode != m })
}

// pfRules is the text of the anchor for a host's networks and tasks, for `pfctl -a freejail -f -`. It is
// the same for the same networks and tasks in any order.
//
// On freejail's own bridges every rule is quick: what is not passed there is not reached, whatever
// follows. On all other interfaces a pass is not quick, so that rules of the operator's after the anchor
// have the last word. A packet on its way to a task carries the tag freejail_in, one from a task to the
// outside freejail_out: what the way in has not judged does not leave by a bridge.
func pfRules(networks []Network, tasks []Task, host pfHost) (string, error) {
	networks, tasks = slices.Clone(networks), slices.Clone(tasks)
	slices.SortFunc(networks, func(a, b Network) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(tasks, func(a, b Task) int { return strings.Compare(a.Key, b.Key) })
	w := pfWriter{host: host}
	for _, n := range networks {
		if n.Mode != NAT && n.Mode != Bridged && n.Mode != Alias {
			continue
		}
		one, err := newPFNet(n, tasks)
		if err != nil {
			return "", err
		}
		w.nets = append(w.nets, one)
	}
	if len(w.nets) > 0 {
		w.tables()
		w.translations()
		w.filters()
	}
	return w.String(), w.err
}

func (w *pfWriter) tables() {
	w.table(pfText{pfAnchor + "_host"}, w.hostAddresses())
	var subnets []pfText
	for _, n := range w.mode(NAT) {
		for _, f := range n.families() {
			subnets = append(subnets, pfPrefix(f.prefix))
		}
	}
	// What is sent to many is for nobody outside a bridge.
	subnets = append(subnets, pfText{"224.0.0.0/4"}, pfText{"255.255.255.255"}, pfText{"ff00::/8"})
	w.table(pfText{pfAnchor + "_nets"}, subnets)
	for _, n := range w.nets {
		if n.Mode != Alias {
			w.table(n.table, n.taskAddresses())
		}
	}
}

func (n pfNet) taskAddresses() (all []pfText) {
	for _, s := range n.stacks {
		for _, a := range s.addrs() {
			all = append(all, pfAddress(a))
		}
	}
	return all
}

// table writes one that nothing but another load changes.
func (w *pfWriter) table(name pfText, of []pfText) {
	all := make([]string, len(of))
	for i, a := range of {
		all[i] = a.text
	}
	w.rule("table <%s> const { %s }", name, pfText{strings.Join(all, " ")})
}

// hostAddresses are the host's own, which publications without an address lead from: neither loopback,
// nor those of tasks in alias networks.
func (w *pfWriter) hostAddresses() []pfText {
	taken := map[netip.Addr]bool{}
	for _, n := range w.mode(Alias) {
		for _, s := range n.stacks {
			taken[s.Addr4], taken[s.Addr6] = true, true
		}
	}
	var all []netip.Addr
	for _, h := range w.host.Addresses {
		if a := h.Addr(); !a.IsLoopback() && !a.IsLinkLocalUnicast() && !taken[a] {
			all = append(all, a)
		}
	}
	for _, n := range w.mode(NAT) { // its bridge may not be there yet
		all = append(all, pfValid(n.Gateway4, n.Gateway6)...)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	var out []pfText
	for _, a := range slices.Compact(all) {
		out = append(out, pfAddress(a))
	}
	return out
}
