package network

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// translations are in the order of pf.conf; the first that fits a packet is the one. What leads to tasks is
// in buckets, and looked through for packets alone that the lines here let by: buckets see no table of the
// anchor's.
func (w *pfWriter) translations() {
	for _, link := range w.linksOnce() { // once, and that on the bridge
		w.rule("no rdr on %s", link)
	}
	for _, n := range w.mode(NAT) {
		w.rule(`nat-anchor "*" on %s from <%s> to <%[2]s>`, n.bridge, n.table)
		w.masquerade(n)
	}
	for _, n := range w.mode(NAT) {
		families := n.families()
		for _, s := range n.stacks {
			w.hairpins(n, families, s)
			for _, p := range s.published {
				w.publish(s, p)
			}
		}
	}
	w.ofGateways()
	if len(w.mode(NAT)) > 0 {
		w.rule(`rdr-anchor "*" on ! lo0 from any to <%s_host>`, pfText{pfAnchor})
	}
}

// ofGateways keeps the host's services at gateways from publications, those of all addresses too.
func (w *pfWriter) ofGateways() {
	for _, n := range w.mode(NAT) {
		for _, p := range n.HostAccess {
			proto, ports := w.ports(p)
			for _, f := range n.families() {
				if f.gateway.IsValid() {
					w.rule("no rdr %s proto %s from any to %s port %s", pfFamily(f.gateway), proto,
						pfAddress(f.gateway), ports)
				}
			}
		}
	}
}

// linksOnce are those that rules are for, each once: a link has the stack of one task, but two networks may
// say so for a moment.
func (w *pfWriter) linksOnce() (all []pfText) {
	seen := map[pfText]bool{}
	for _, n := range w.nets {
		for _, s := range n.stacks {
			if w.host.Links && s.link.text != "" && !seen[s.link] {
				seen[s.link] = true
				all = append(all, s.link)
			}
		}
	}
	return all
}

// hairpins are for a task that connects to its own published port: a stack takes no packet that comes
// from its own address.
func (w *pfWriter) hairpins(n *pfNet, families []pfFamilies, s *pfStack) {
	for _, f := range families {
		if a := s.of(f.gateway); len(s.published) > 0 && a.IsValid() && f.gateway.IsValid() {
			w.buckets[bucketOf(s)].add(pfHairpin{n.bridge, a, f.gateway})
		}
	}
}

// masquerade has what leaves the host come from the first address of the interface by which it does.
func (w *pfWriter) masquerade(n *pfNet) {
	for _, f := range n.families() {
		for _, out := range w.exits(n, f.prefix) {
			w.rule("nat on %s %s from %s to any -> (%[1]s:0)", out, pfFamily(f.prefix.Addr()), pfPrefix(f.prefix))
		}
	}
}

// exits are the interfaces by which packets of a network leave the host: the one that it names, or all
// with an address of the prefix's family.
func (w *pfWriter) exits(n *pfNet, prefix netip.Prefix) (all []pfText) {
	if n.egress.text != "" {
		return []pfText{n.egress}
	}
	// Nothing leaves by lo0, but what reaches the host passes it with net.pf.filter_local (ip_input in
	// netinet/ip_input.c).
	own := map[string]bool{"lo0": true}
	for _, n := range w.mode(NAT) {
		own[n.bridge.text] = true
	}
	for _, h := range w.host.Addresses {
		a := h.Addr()
		if a.Is4() != prefix.Addr().Is4() || a.IsLoopback() || a.IsLinkLocalUnicast() || h.Ours || own[h.Interface] {
			continue
		}
		own[h.Interface] = true
		if name, err := pfInterface(h.Interface); err == nil { // another name is one that pf.conf cannot have
			all = append(all, name)
		}
	}
	slices.SortFunc(all, func(a, b pfText) int {
		if a.text < b.text {
			return -1
		}
		return 1
	})
	return all
}

// publish leads a port to a task, from everywhere but the host itself: a redirection on lo0 leads one
// way only, unless net.pf.filter_local was set when pf began, and never from ::1. There the daemon's
// socket answers.
func (w *pfWriter) publish(s *pfStack, p Publication) {
	w.err = cmp.Or(w.err, pfCheckPorts(p.Port), pfCheckPorts(Port{Protocol: p.Protocol, First: p.To, Count: p.Count}))
	if p.At.IsLoopback() {
		return
	}
	for _, a := range s.addrs {
		r := pfRedirect{at: p.At, port: p.Port, to: a, toPort: p.To}
		switch {
		case p.At.IsValid() && p.At.Unmap().Is4() != a.Is4():
		case p.At.IsValid() && !slices.Contains(w.hosts, pfSingle(p.At)): // the line of the buckets does not let it by
			w.rule("%s", r.text())
		default:
			w.buckets[bucketOf(s)].add(r)
		}
	}
}

// filters are in the order of pf.conf; the last that fits a packet is the one, unless one before it is
// quick.
func (w *pfWriter) filters() {
	if w.host.Links {
		w.links()
	}
	for _, n := range w.mode(NAT) {
		w.fromTasks(n)
		w.toTasks(n)
	}
	for _, n := range w.mode(NAT) {
		w.borders(n)
	}
	for _, n := range w.mode(Bridged) {
		w.bridged(n)
	}
	w.outside()
}

// neighbours let an interface's hosts find each other's link addresses by IPv6.
func (w *pfWriter) neighbours(on pfText) {
	for _, d := range []string{"in", "out"} {
		w.rule("pass %s quick on %s inet6 proto icmp6 icmp6-type { neighbrsol neighbradv } no state", pfText{d}, on)
	}
}

// pfTaskStates are the states of what tasks send. Each address has at most a sixth of the limit, by all rules together:
// with another state where a packet leaves the host, of both families, one task does not have all of them.
func pfTaskStates(limit uint32) pfText {
	return pfText{fmt.Sprintf("keep state (if-bound, source-track global, max-src-states %d)", max(limit/6, 1))}
}

// fromTasks judges what tasks of a nat network send. States are bound to the bridge: those of its members,
// where pf sees these too, are others.
func (w *pfWriter) fromTasks(n *pfNet) {
	if n.Subnet6.IsValid() {
		w.neighbours(n.bridge)
	}
	for _, f := range n.families() {
		if f.gateway.IsValid() {
			w.services(n, pfText{" on " + n.bridge.text}, pfFamily(f.gateway), pfAddress(f.gateway))
		}
	}
	w.rule("block drop in quick on %s from ! <%s>", n.bridge, n.table)
	w.metadata(n, pfText{"block return-icmp(port-unr,port-unr) in quick on " + n.bridge.text})
	w.aliases(n)
	w.forwarded(pfText{" on " + n.bridge.text}, n)
	w.tagged(pfText{"pass in quick on " + n.bridge.text}, w.states)
	if !n.Isolate {
		w.rule("pass in quick on %s from <%s> to <%[2]s> tag freejail_in %[3]s", n.bridge, n.table, w.states)
	}
	// (self) follows the host's addresses at once.
	w.rule("block return-icmp(port-unr,port-unr) in quick on %s from <%s> to (self)", n.bridge, n.table)
	w.rule("block return-icmp(port-unr,port-unr) in quick on %s from <%s> to <freejail_nets>", n.bridge, n.table)
	w.rule("pass in quick on %s from <%s> to any tag freejail_out %s", n.bridge, n.table, w.states)
	w.rule("block drop in quick on %s", n.bridge)
}

// metadata keeps tasks from the metadata services of clouds, unless their network lets them.
func (w *pfWriter) metadata(n *pfNet, block pfText) {
	if !n.Network.Metadata {
		w.rule("%s proto tcp from <%s> to <%s_metadata> port != 53", block, n.table, pfText{pfAnchor})
		for _, p := range wireServerPorts {
			_, port := w.ports(p)
			w.rule("%s inet proto tcp from <%s> to %s port %s", block, n.table, pfAddress(wireServer), port)
		}
	}
}

// tagged passes what a publication has led to a task.
func (w *pfWriter) tagged(pass, state pfText) {
	for _, n := range w.mode(NAT) {
		w.rule("%s from any to <%s> tagged freejail_in %s", pass, n.table, state)
	}
}

// services are the host's own that tasks of a network reach, and its answer to ping.
func (w *pfWriter) services(n *pfNet, on, family, at pfText) {
	icmp, kind := pfEcho(family)
	w.rule("pass in quick%s %s proto %s from <%s> to %s %s echoreq %s",
		on, family, icmp, n.table, at, kind, w.states)
	for _, p := range n.HostAccess {
		proto, ports := w.ports(p)
		w.rule("pass in quick%s %s proto %s from <%s> to %s port %s %s",
			on, family, proto, n.table, at, ports, w.states)
	}
}

// aliases are tasks with an address of the host's, whose declared ports are for all.
func (w *pfWriter) aliases(from *pfNet) {
	for _, n := range w.mode(Alias) {
		for _, s := range n.stacks {
			w.declared(s, pfText{"pass in quick on " + from.bridge.text}, pfText{"<" + from.table.text + ">"},
				w.states)
		}
	}
}

// forwarded are ports of the host that the daemon itself leads to tasks, as tasks of a network reach them.
func (w *pfWriter) forwarded(on pfText, from *pfNet) {
	for _, n := range slices.Concat(w.mode(Bridged), w.mode(Alias)) {
		for _, s := range n.stacks {
			for _, p := range s.published {
				proto, ports := w.ports(p.Port)
				w.rule("pass in quick%s %s proto %s from <%s> to %s port %s %s",
					on, pfFamily(p.At), proto, from.table, pfAddress(p.At), ports, w.states)
			}
		}
	}
}

// declared passes what a task has declared.
func (w *pfWriter) declared(s *pfStack, what, from, state pfText) {
	for _, a := range s.addrs {
		for _, p := range s.declared {
			proto, ports := w.ports(p)
			w.rule("%s %s proto %s from %s to %s port %s %s",
				what, pfFamily(a), proto, from, pfAddress(a), ports, state)
		}
	}
}

// toTasks judges what tasks of a nat network get: from the host itself, and what the way in has passed.
func (w *pfWriter) toTasks(n *pfNet) {
	w.rule("block drop out quick on %s from ! <freejail_host> to any ! tagged freejail_in", n.bridge)
	w.rule("pass out quick on %s from any to <%s> keep state (if-bound)", n.bridge, n.table)
	w.rule("block drop out quick on %s", n.bridge)
}

// borders keep a nat network's addresses, that of its gateway too, from being used elsewhere and from being
// reached but by publications, and its packets from leaving by another interface than the one it names.
// With net.pf.filter_local what reaches the host goes out on lo0 too: that was judged on the bridge.
func (w *pfWriter) borders(n *pfNet) {
	w.rule("pass out quick on lo0 from <%s>", n.table)
	for _, f := range n.families() {
		w.rule("block drop in quick on ! lo0 from %s", pfPrefix(f.prefix))
		w.rule("block drop in quick on ! lo0 from any to %s ! tagged freejail_in", pfPrefix(f.prefix))
		if n.egress.text != "" {
			w.rule("block return-icmp(port-unr,port-unr) out quick on ! %s from %s", n.egress, pfPrefix(f.prefix))
		}
	}
}

// bridged keeps tasks on a bridge of the operator's from the host's services, those too that listen to what is sent
// to many. What tasks have with each other and with the rest of the bridge, pf sees on links alone.
func (w *pfWriter) bridged(n *pfNet) {
	for _, f := range n.families() {
		w.services(n, pfText{}, pfFamily(f.prefix.Addr()), pfText{"(self)"})
	}
	w.forwarded(pfText{}, n)
	w.metadata(n, pfText{"block return-icmp(port-unr,port-unr) in quick"})
	if n.Subnet6.IsValid() {
		w.rule("pass in quick inet6 proto icmp6 from <%s> icmp6-type { neighbrsol neighbradv } no state", n.table)
	}
	w.rule("block return-icmp(port-unr,port-unr) in quick from <%s> to (self)", n.table)
	w.rule("block drop in quick from <%s> to { 224.0.0.0/4 255.255.255.255 ff00::/8 }", n.table)
	if n.Subnet4.IsValid() {
		w.rule("block drop in quick inet from <%s> to (self:broadcast)", n.table)
	}
	w.rule("pass out from <freejail_host> to <%s>", n.table)
}

// outside passes what the outside has with tasks, as far as the operator's rules after these let it. A state that is
// not bound to its interface lets in what a task sends with the address of the outside's, before any rule is looked at.
func (w *pfWriter) outside() {
	w.tagged(pfText{"pass in"}, pfText{"keep state (if-bound)"})
	if len(w.mode(NAT)) > 0 {
		w.rule("pass out tagged freejail_out keep state (if-bound)")
	}
	for _, n := range w.mode(Alias) {
		w.metadata(n, pfText{"block drop out quick"})
		for _, s := range n.stacks {
			w.declared(s, pfText{"pass in"}, pfText{"any"}, pfText{"keep state"})
		}
	}
}

// links hold each task's link to its addresses. A state of a link is bound to it: on the bridge the packet
// is judged again.
func (w *pfWriter) links() {
	for _, n := range w.nets {
		for _, s := range n.stacks {
			if s.link.text == "" {
				continue
			}
			w.neighbours(s.link)
			state := pfText{"no state"}
			if n.Mode == Bridged {
				state = w.states
				w.toLink(n, s)
				w.metadata(n, pfText{"block return-icmp(port-unr,port-unr) in quick on " + s.link.text})
				// It is for the host too, and there in the state of the link.
				w.rule("block drop in quick on %s from any to 255.255.255.255", s.link)
			}
			for _, a := range s.addrs {
				w.rule("pass in quick on %s %s from %s to any %s", s.link, pfFamily(a), pfAddress(a), state)
			}
			w.rule("block drop in quick on %s", s.link)
		}
	}
}

// toLink holds a link on a bridge of the operator's to what its task has declared, to what it has
// asked for, and to the host and its neighbours.
func (w *pfWriter) toLink(n *pfNet, s *pfStack) {
	if n.Isolate {
		w.rule("block drop in quick on %s to <%s>", s.link, n.table)
	}
	on := pfText{"pass out quick on " + s.link.text}
	w.declared(s, on, pfText{"any"}, pfText{"keep state (if-bound)"})
	for _, a := range s.addrs {
		from := []pfText{{"<" + pfAnchor + "_host>"}, {"<" + n.table.text + ">"}}
		if n.Isolate {
			from = from[:1]
		}
		for _, f := range from {
			w.rule(`%s %s from %s to %s keep state (if-bound)`, on, pfFamily(a), f, pfAddress(a))
		}
		icmp, kind := pfEcho(pfFamily(a))
		w.rule(`%s %s proto %s to %s %s echoreq keep state (if-bound)`, on, pfFamily(a), icmp, pfAddress(a), kind)
	}
	w.rule("block drop out quick on %s", s.link)
}

// pfEcho is what a rule for pings of a family has.
func pfEcho(family pfText) (proto, kind pfText) {
	if family.text == "inet6" {
		return pfText{"icmp6"}, pfText{"icmp6-type"}
	}
	return pfText{"icmp"}, pfText{"icmp-type"}
}
