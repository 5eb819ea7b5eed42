package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/keylock"
)

// holder is the ports of a host: each has a socket of the daemon's that listens, so that no other program
// takes it. Packets from elsewhere are translated before they reach it. Those of the host itself may not
// be, and are led on by the daemon.
type holder struct {
	log    hclog.Logger
	own    func(netip.Addr) bool // tells whether an address is the host's
	limits limits
	tasks  *share // what is led on to tasks
	apart  *share // the same, of what comes from elsewhere
	asked  *share // questions to the resolver
	names  *resolver
	drops  atomic.Uint64

	turns     keylock.Map  // of keys
	upgrading sync.RWMutex // is read by what opens or closes sockets

	// Nothing waits for the kernel with the lock.
	mu        sync.Mutex
	kept      map[portOf][]*kept
	has       map[string][]*kept // by key
	sockets   int                // how many are kept
	inherited map[bound]*os.File // of the daemon before, and of no task yet
}

// portOf is a port of any address.
type portOf struct {
	protocol string
	port     uint16
}

// bound is where a socket listens. 0.0.0.0 and :: are all addresses of their families.
type bound struct {
	protocol string
	at       netip.AddrPort
}

func (p bound) port() portOf { return portOf{p.protocol, p.at.Port()} }

func (p bound) String() string { return p.at.String() + "/" + p.protocol }

// meets tells whether two places of one port are not to be had at once.
func (p bound) meets(o bound) bool {
	a, b := p.at.Addr(), o.at.Addr()
	return a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified())
}

// kept is a port that is held, or is about to be.
type kept struct {
	bound
	keys  []string // of those who have it: tasks of one stack may publish the same; nobody while it is being closed
	relay *relay
	old   *os.File // the socket of the daemon before

	opened chan struct{}       // is closed when the rest is there
	err    error               // why it could not be
	dup    func() (int, error) // a copy of the socket that another program inherits
	stop   func()
	gone   chan struct{} // is closed when it is nobody's any more
}

// wanted is a place that is to lead to a target.
type wanted struct {
	bound
	target
	// family is that its address is one of all: a host without it has it no less held.
	family bool
}

func newPorts(cfg Config) (ports, error) {
	return newHolder(cfg.Log, limitsOf(openFiles())), eachInherited(closeOnExec)
}

func newHolder(log hclog.Logger, l limits) *holder {
	if log == nil {
		log = hclog.NewNullLogger()
	}
	return &holder{log: log, own: (&hostAddresses{}).has,
		limits: l, tasks: &share{newConns(l.conns, l.conns/4), newFlows(l.flows)},
		apart: &share{newConns(l.conns/2, l.conns/8), newFlows(l.flows / 2)},
		asked: &share{newConns(l.conns/4, l.conns/64), newFlows(l.flows / 4)},
		names: &resolver{file: "/etc/resolv.conf", port: 53},
		kept:  map[portOf][]*kept{}, has: map[string][]*kept{}, inherited: map[bound]*os.File{}}
}

// limits bound the descriptors that ports take of those that the daemon may have.
type limits struct{ files, sockets, conns, flows int }

// limitsOf leaves more than a half of the descriptors to the rest of the daemon: an upgrade has two of
// each socket for a moment, and a connection two.
func limitsOf(files int) limits {
	return limits{files: files, sockets: min(8192, files/8), conns: min(2048, files/32), flows: min(4096, files/32)}
}

func (h *holder) hold(t Task) error {
	need := 0
	for _, p := range t.Published {
		need += max(1, int(p.Count)) * len(addressesOf(p.At))
	}
	if need > h.limits.sockets {
		return h.over(need, h.count().Sockets)
	}
	list, err := publishedBy(t, h.aim(t))
	if err != nil {
		return err
	}
	return h.have(t.Key, list)
}

// have has the places be those of a key: all of them, or as before.
func (h *holder) have(key string, list []wanted) error {
	unlock, err := h.turns.Lock(context.Background(), key)
	if err != nil {
		return err
	}
	defer unlock()
	h.upgrading.RLock()
	defer h.upgrading.RUnlock()
	c, err := h.claim(key, list)
	if err != nil {
		return err
	}
	for i, k := range c.all {
		if c.fresh[k] {
			h.open(k, list[i])
		}
	}
	var now []*kept
	for i, k := range c.all {
		<-k.opened
		passed := list[i].family && notOfHost(k.err) && (i+1 < len(list) || len(now) > 0)
		switch {
		case k.err == nil:
			now = append(now, k)
		case !passed && err == nil:
			err = k.err
		}
	}
	if err != nil {
		h.leave(key, c.all, c.before)
		return err
	}
	h.leave(key, slices.Concat(c.all, c.before), now)
	return nil
}

// claim is the places that a key is to have. Those that are fresh are to be opened.
type claim struct {
	all, before []*kept
	fresh       map[*kept]bool
}

// claim notes the places as those of a key, or none of them. What is just being closed is waited for.
func (h *holder) claim(key string, list []wanted) (claim, error) {
	for {
		c, closing, err := h.tryClaim(key, list)
		if closing == nil {
			return c, err
		}
		<-closing.gone
	}
}

func (h *holder) tryClaim(key string, list []wanted) (c claim, closing *kept, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.inherit(); err != nil {
		return c, nil, err
	}
	c = claim{before: h.has[key], fresh: map[*kept]bool{}}
	if n := len(list) - len(c.before); n > 0 && h.sockets+n > h.limits.sockets {
		return c, nil, h.over(n, h.sockets)
	}
	for _, w := range list {
		k, err := h.keep(key, w)
		if err != nil || k != nil && len(k.keys) == 0 {
			for k := range c.fresh {
				h.cut(k)
			}
			return c, k, err
		}
		if k == nil {
			k = h.add(key, w)
			c.fresh[k] = true
		}
		c.all = append(c.all, k)
	}
	for i, k := range c.all { // nothing of it can fail any more
		k.relay.lead(list[i].target)
		if !slices.Contains(k.keys, key) {
			k.keys = append(k.keys, key)
		}
		if c.fresh[k] {
			k.old = h.inherited[k.bound]
			delete(h.inherited, k.bound)
		}
	}
	h.has[key] = c.all
	return c, nil, nil
}

func (h *holder) over(n, used int) error {
	return fmt.Errorf("no room for %d more sockets of published ports: this host has %d of them, and the limit is %d "+
		"(8192, or an eighth of the %d files that the daemon can have open); a port of all addresses takes two",
		n, used, h.limits.sockets, h.limits.files)
}

// errOfTask means that freejail itself has a port.
var errOfTask = fmt.Errorf("held by freejail: %w", syscall.EADDRINUSE)

// notOfHost tells that a host has not a family of addresses.
func notOfHost(err error) bool {
	return errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) ||
		errors.Is(err, syscall.EPROTONOSUPPORT)
}

// keep finds a place that is kept and can be a key's too, or is being closed; nil is one that nobody has.
func (h *holder) keep(key string, w wanted) (*kept, error) {
	for _, k := range h.kept[w.port()] {
		if !k.meets(w.bound) {
			continue
		}
		alone := len(k.keys) == 1 && k.keys[0] == key
		if len(k.keys) == 0 || k.bound == w.bound && (alone || k.relay.target().to == w.to) {
			return k, nil
		}
		return nil, fmt.Errorf("port %s is taken on this host by %s, with %s: %w", w.bound, k.keys[0], k.bound,
			errOfTask)
	}
	return nil, nil
}

// add keeps a place.
func (h *holder) add(key string, w wanted) *kept {
	k := &kept{bound: w.bound, keys: []string{key}, relay: &relay{drops: &h.drops, log: h.log, name: w.bound.String()},
		opened: make(chan struct{}), gone: make(chan struct{})}
	h.kept[w.port()] = append(h.kept[w.port()], k)
	h.sockets++
	return k
}

// cut is the end of what add does.
func (h *holder) cut(k *kept) {
	rest := slices.DeleteFunc(h.kept[k.port()], func(o *kept) bool { return o == k })
	if h.kept[k.port()] = rest; len(rest) == 0 {
		delete(h.kept, k.port())
	}
	h.sockets--
	close(k.gone)
}

// describe tells in words why a place cannot be had.
func describe(p bound, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		who := ProgramAt(p.protocol, p.at)
		if who == "" {
			who = fmt.Sprintf("another program (%s tells which)", fmt.Sprintf(listCommand, p.at.Port()))
		}
		return fmt.Errorf("port %s is taken on this host by %s: %w", p, who, syscall.EADDRINUSE)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("port %s: %s is not an address of this host: %w", p, p.at.Addr(), syscall.EADDRNOTAVAIL)
	}
	return fmt.Errorf("port %s: %w", p, err)
}

// open listens at a place, by the socket of the daemon before where there is one, and serves it.
func (h *holder) open(k *kept, w wanted) {
	defer close(k.opened)
	ctx, cancel := context.WithCancel(context.Background())
	k.relay.ctx = ctx
	if err := settled(w.bound, func() error { return h.listen(k, w, cancel) }); err != nil {
		cancel()
		k.err = describe(w.bound, err)
	}
}

func (h *holder) listen(k *kept, w wanted, cancel func()) error {
	if w.protocol == "udp" {
		c, err := listenUDP(w.at, k.old)
		if err != nil {
			return err
		}
		k.dup = func() (int, error) { return inheritable(c) }
		k.stop = func() { cancel(); c.Close(); w.share.flows.end(c) }
		go k.relay.serveUDP(c)
		return nil
	}
	l, err := listenTCP(w.at, k.old)
	if err != nil {
		return err
	}
	s := &listening{at: w.at, l: l}
	k.dup, k.stop = s.dup, func() { cancel(); s.close() }
	go s.serve(k.relay)
	return nil
}

// leave takes a key off all that are not also among others. Who has no key any more is closed.
func (h *holder) leave(key string, list, but []*kept) {
	stay := make(map[*kept]bool, len(but))
	for _, k := range but {
		stay[k] = true
	}
	h.mu.Lock()
	var over []*kept
	for _, k := range list {
		if stay[k] || !slices.Contains(k.keys, key) {
			continue
		}
		if k.keys = slices.DeleteFunc(k.keys, func(s string) bool { return s == key }); len(k.keys) == 0 {
			over = append(over, k)
		}
	}
	if h.has[key] = but; len(but) == 0 {
		delete(h.has, key)
	}
	h.mu.Unlock()
	for _, k := range over {
		if k.err == nil {
			k.stop()
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range over {
		h.cut(k)
	}
}

func (h *holder) count() Held {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := Held{Sockets: h.sockets, Most: h.limits.sockets, Drops: h.drops.Load()}
	for _, s := range []*share{h.tasks, h.apart, h.asked} {
		out.Connections += s.conns.count()
		out.Flows += s.flows.count()
	}
	return out
}

func (h *holder) free(key string) {
	unlock, err := h.turns.Lock(context.Background(), key)
	if err != nil { // not by a context that does not end
		return
	}
	defer unlock()
	h.upgrading.RLock()
	defer h.upgrading.RUnlock()
	h.mu.Lock()
	before := h.has[key]
	h.mu.Unlock()
	h.leave(key, before, nil)
}

// aim is what all of a task's publications have of a target. Where no rule translates, the daemon leads on
// what comes from elsewhere, too.
func (h *holder) aim(t Task) target {
	aim := target{share: h.tasks, from: h.own, owner: func(netip.Addr) string { return t.Key }, source: sourceOf,
		idle: udpIdle, half: halfIdle}
	if t.Mode == Bridged || t.Mode == Alias {
		aim.share, aim.from, aim.source = h.apart, func(netip.Addr) bool { return true }, h.sourceAnywhere
	}
	return aim
}

// sourceAnywhere is also that of who is elsewhere: an address, or of IPv6 the network, of which one host
// has all addresses.
func (h *holder) sourceAnywhere(protocol string, client, server netip.AddrPort) string {
	a := client.Addr()
	switch {
	case h.own(a):
		return sourceOf(protocol, client, server)
	case a.Is6():
		return netip.PrefixFrom(a.WithZone(""), 64).Masked().String()
	}
	return a.String()
}

// publishedBy are the places of a task's publications, each with where it leads to.
func publishedBy(t Task, aim target) (out []wanted, err error) {
	seen := map[bound]netip.AddrPort{}
	for _, p := range t.Published {
		list, err := t.placesOf(p)
		if err != nil {
			return nil, err
		}
		for _, w := range list {
			to, twice := seen[w.bound]
			if twice && to != w.to {
				return nil, fmt.Errorf("port %s is published twice, to %s and %s", w.bound, to, w.to)
			}
			if seen[w.bound] = w.to; !twice {
				aim.to = w.to
				w.target = aim
				out = append(out, w)
			}
		}
	}
	return out, nil
}

// placesOf are those of one publication, each with the task's port.
func (t Task) placesOf(p Publication) (out []wanted, err error) {
	if !p.valid() {
		return nil, fmt.Errorf("port %d/%s to %d, %d of them: not a range of ports", p.First, p.Protocol, p.To, p.Count)
	}
	if err := p.CheckAddress(); err != nil {
		return nil, err
	}
	for _, at := range addressesOf(p.At) {
		for i := range uint16(max(1, int(p.Count))) {
			w := wanted{bound: bound{p.Protocol, netip.AddrPortFrom(at, p.First+i)}, family: !p.At.IsValid()}
			if w.to, err = t.at(at.Is4(), p.To+i); err != nil {
				return nil, fmt.Errorf("port %s: %w", w.bound, err)
			}
			out = append(out, w)
		}
	}
	return out, nil
}

// CheckAddress refuses addresses at which rules of the host's cannot lead a port to a task: one of IPv6 that is
// another on each interface, and those of many hosts, also of all of a network that the host is in.
func (p Publication) CheckAddress() error {
	a := p.At.Unmap()
	if a.Is6() && a.IsLinkLocalUnicast() || a.IsMulticast() || a == broadcast {
		return notOfOne(a)
	}
	if !a.Is4() || a.IsUnspecified() {
		return nil
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("addresses of the host: %w", err)
	}
	many := false
	for _, one := range list {
		if n, err := netip.ParsePrefix(one.String()); err == nil {
			if n.Addr() == a {
				return nil // though another network's mask would make it one of many
			}
			many = many || isBroadcast(a, n)
		}
	}
	if many {
		return notOfOne(a)
	}
	return nil
}

func notOfOne(a netip.Addr) error {
	return fmt.Errorf("a port cannot be published at %s, which is not an address of one host in all networks", a)
}

// isBroadcast tells whether an address is that of all hosts of a network.
func isBroadcast(a netip.Addr, n netip.Prefix) bool {
	return n.Addr().Is4() && n.Bits() < 31 && a == RangeOf(n).Last
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func (p Publication) valid() bool {
	last := max(1, int(p.Count)) - 1
	return p.First > 0 && p.To > 0 && int(p.First)+last <= 65535 && int(p.To)+last <= 65535 &&
		(p.Protocol == "tcp" || p.Protocol == "udp")
}

// addressesOf are those at which a publication listens.
func addressesOf(at netip.Addr) []netip.Addr {
	if !at.IsValid() {
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	return []netip.Addr{at.Unmap()}
}

// at is a port of the task, by its address of the family that is asked for if it has one.
func (t Task) at(ip4 bool, port uint16) (netip.AddrPort, error) {
	a, other := t.Addr4, t.Addr6
	if !ip4 {
		a, other = other, a
	}
	if !a.IsValid() {
		a = other
	}
	if !a.IsValid() {
		return netip.AddrPort{}, errors.New("the task has no address of its own")
	}
	return netip.AddrPortFrom(a, port), nil
}

// portFDs names the environment variable that carries the sockets of ports over an upgrade: their
// descriptors, with commas between them. Each tells itself where it listens.
const portFDs = "FREEJAIL_PORT_FDS"

// pass runs what executes another program in this process's place, with the environment that leaves the
// sockets to it. Connections that the daemon leads on end with that; those in a socket's queue wait.
func (h *holder) pass(env []string, replace func(env []string) error) error {
	h.upgrading.Lock()
	defer h.upgrading.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.inherit(); err != nil {
		return err
	}
	var from []func() (int, error)
	for _, some := range h.kept {
		for _, k := range some {
			from = append(from, k.dup)
		}
	}
	for _, f := range h.inherited {
		from = append(from, func() (int, error) { return inheritable(f) })
	}
	var fds []string
	for _, dup := range from {
		fd, err := dup()
		if err != nil {
			return fmt.Errorf("ports that are published: %w", err)
		}
		if fd < 0 {
			continue
		}
		defer unix.Close(fd)
		fds = append(fds, strconv.Itoa(fd))
	}
	if len(fds) > 0 {
		env = append(env, portFDs+"="+strings.Join(fds, ","))
	}
	return replace(env)
}

// inheritable is a copy of a descriptor that another program inherits.
func inheritable(c syscall.Conn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(from uintptr) { fd, err = unix.FcntlInt(from, unix.F_DUPFD, 3) })
	return fd, errors.Join(cerr, err)
}

// inherit takes the sockets that an upgraded daemon has left: the first of this process's that needs them,
// not one that only looks at the host.
func (h *holder) inherit() error {
	err := eachInherited(func(fd int) error {
		p, err := placeOf(fd)
		if err == nil {
			h.inherited[p] = os.NewFile(uintptr(fd), p.String())
		}
		return err
	})
	return errors.Join(err, os.Unsetenv(portFDs))
}

// eachInherited calls a function for each socket that an upgraded daemon has left.
func eachInherited(do func(fd int) error) error {
	text := os.Getenv(portFDs)
	if text == "" {
		return nil
	}
	var errs []error
	for number := range strings.SplitSeq(text, ",") {
		fd, err := strconv.Atoi(number)
		if err == nil {
			err = do(fd)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", portFDs, number, err))
		}
	}
	return errors.Join(errs...)
}

// closeOnExec keeps a socket from programs that this daemon executes.
func closeOnExec(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	return err
}

// settle closes what an upgraded daemon has left and no task has taken.
func (h *holder) settle() {
	h.mu.Lock()
	err := h.inherit()
	left := h.inherited
	h.inherited = map[bound]*os.File{}
	h.mu.Unlock()
	if err != nil {
		h.log.Error("ports of the daemon before", "error", err)
	}
	for p, f := range left {
		h.log.Info("a port of no task is not kept over the upgrade", "port", p)
		f.Close()
	}
}
