package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/internal/keylock"
)

// Config of a Manager.
type Config struct {
	StateDir string // by which one daemon of a host knows what is its own
	Networks []Network
	Log      hclog.Logger
	// Tell tells something of a network, such as that its rules were lost.
	Tell func(kind, message string)
}

// Request is what a task asks for of a network.
type Request struct {
	Network string
	// Addresses are fixed ones of its pools, at most one of each family.
	Addresses []netip.Addr
}

// Manager has the networks of one host. It keeps no state of its own: what it gives is in the
// records of tasks.
//
// A task's way is Reserve, Attach, Publish, and back: its processes end while the link is up, then
// Withdraw, Detach, Release.
type Manager struct {
	cfg    Config
	stacks stacks
	filter filter
	ports  ports
	rules  *rules

	changing keylock.Map   // a stack, by its name or its address
	ending   chan struct{} // has a place for each end of a stack at a time
	usable   usable

	watchEvery time.Duration

	mu        sync.Mutex
	pool      *pool
	endpoints map[string]Endpoint // by holder
	links     map[string]string   // holders
	macs      map[string]string   // holders
	tries     map[string]uint64   // of links, by holder
	tasks     map[string]Task     // that are published, by key
	unheld    map[string]Task     // whose ports could not be taken over, by key
}

// maxEnding is how many stacks end at a time: the kernel has one lock for ends and starts, and starts
// are waited for.
const maxEnding = 2

// Open finds what the host has, and changes nothing.
func Open(cfg Config) (*Manager, error) {
	s, err := newStacks(cfg)
	if err != nil {
		return nil, err
	}
	f, err := newFilter(cfg)
	if err != nil {
		return nil, err
	}
	p, err := newPorts(cfg)
	if err != nil {
		return nil, err
	}
	return newManager(cfg, s, f, p)
}

func newManager(cfg Config, s stacks, f filter, p ports) (*Manager, error) {
	if err := Validate(cfg.Networks); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.Tell == nil {
		cfg.Tell = func(string, string) {}
	}
	m := &Manager{cfg: cfg, stacks: s, filter: f, ports: p, ending: make(chan struct{}, maxEnding), pool: newPool(),
		watchEvery: watchEvery,
		endpoints:  map[string]Endpoint{}, links: map[string]string{}, macs: map[string]string{},
		tries: map[string]uint64{}, tasks: map[string]Task{}, unheld: map[string]Task{}}
	m.rules = &rules{filter: f, every: loadEvery, now: m.state}
	m.usable = usable{stacks: s, filter: f, now: time.Now, seen: map[string]time.Time{}}
	return m, nil
}

// network is one of the configuration; host and none are without a block.
func (m *Manager) network(name string) (Network, error) {
	switch Mode(name) {
	case Host, None:
		return Network{Name: name, Mode: Mode(name)}, nil
	}
	names := []string{string(Host), string(None)}
	for _, n := range m.cfg.Networks {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Name)
	}
	return Network{}, fmt.Errorf("network %q is not in the host configuration (there are: %s)", name,
		strings.Join(names, ", "))
}

// Reserve chooses the stack's name, the link, the MAC and the addresses of a holder, a task's key or
// that of an allocation; it gives the same again until Release. The addresses rest after that.
func (m *Manager) Reserve(holder string, r Request) (Endpoint, error) {
	n, err := m.network(r.Network)
	if err != nil {
		return Endpoint{}, err
	}
	if err := m.usable.check(n); err != nil {
		return Endpoint{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.endpoints[holder]; ok {
		return e, e.fits(holder, r)
	}
	if err := m.unchanged(n); err != nil {
		return Endpoint{}, err
	}
	e := Endpoint{Network: n.Name, Mode: n.Mode, As: n}
	if e.Addr4, e.Addr6, err = m.addresses(n, r.Addresses); err != nil {
		return Endpoint{}, fmt.Errorf("network %q: %w", n.Name, err)
	}
	if n.Mode.OwnStack() {
		e.Stack = stackName(holder)
	}
	if n.Mode == NAT || n.Mode == Bridged {
		m.link(holder, &e)
		for try := 0; e.MAC == "" || m.macs[e.MAC] != ""; try++ {
			e.MAC = macOf(e, try)
		}
	}
	m.note(holder, e)
	return e, nil
}

// fits tells whether an endpoint is what another task of its holder asks for.
func (e Endpoint) fits(holder string, r Request) error {
	if e.Network != r.Network {
		return fmt.Errorf("%s has the network %q: all tasks that share a network stack name the same, not %q",
			holder, e.Network, r.Network)
	}
	for _, a := range r.Addresses {
		if a != e.Addr4 && a != e.Addr6 {
			return fmt.Errorf("%s has not the address %s: all tasks that share a network stack have the same",
				holder, a)
		}
	}
	return nil
}

// unchanged refuses a network of which a task still has what the configuration said before.
func (m *Manager) unchanged(n Network) error {
	for holder, e := range m.endpoints {
		if e.Network == n.Name && !e.As.sameShape(n) {
			return fmt.Errorf("%snetwork %q has changed in the host configuration while %s uses it as it was: "+
				"stop the tasks there, or give the network another name", place(n), n.Name, holder)
		}
	}
	return nil
}

// sameShape tells whether stacks of one network work as well in the other.
func (n Network) sameShape(o Network) bool {
	return n.Mode == o.Mode && n.Subnet4 == o.Subnet4 && n.Subnet6 == o.Subnet6 && n.Gateway4 == o.Gateway4 &&
		n.Gateway6 == o.Gateway6 && n.Bridge == o.Bridge && n.Interface == o.Interface
}

// addresses finds one of each family of a network: those that are wanted, or free ones.
func (m *Manager) addresses(n Network, wanted []netip.Addr) (a4, a6 netip.Addr, err error) {
	reserved := n.reserved()
	for _, a := range wanted {
		family, pool := &a4, n.Pool4
		if a.Is6() {
			family, pool = &a6, n.Pool6
		}
		switch holder := m.pool.held[a]; {
		case family.IsValid():
			err = fmt.Errorf("addresses %s and %s: a task has one of each family", *family, a)
		case !pool.Contains(a):
			err = fmt.Errorf("address %s is not in its pools (%s)", a, n.pools())
		case holder != "":
			err = fmt.Errorf("address %s is taken by %s", a, holder)
		case reserved[a]:
			err = fmt.Errorf("address %s is the gateway's, or the network's own", a)
		}
		if err != nil {
			return a4, a6, err
		}
		*family = a
	}
	for _, f := range []struct {
		addr *netip.Addr
		pool Range
	}{{&a4, n.Pool4}, {&a6, n.Pool6}} {
		if f.addr.IsValid() || !f.pool.First.IsValid() {
			continue
		}
		ok := false
		if *f.addr, ok = m.pool.choose(f.pool, reserved); !ok {
			return a4, a6, fmt.Errorf("%w: all of %s are in use", ErrPoolFull, f.pool)
		}
	}
	return a4, a6, nil
}

// pools are those of a network, in words.
func (n Network) pools() string {
	var list []string
	for _, r := range []Range{n.Pool4, n.Pool6} {
		if r.First.IsValid() {
			list = append(list, r.String())
		}
	}
	if list == nil {
		return "none"
	}
	return strings.Join(list, ", ")
}

// link chooses a name of a link that no other holder has, and that was not tried for this one.
func (m *Manager) link(holder string, e *Endpoint) {
	first := linkNumber(m.cfg.StateDir, holder)
	for {
		e.Link = linkName(first + m.tries[holder])
		m.tries[holder]++
		if m.links[e.Link] == "" {
			return
		}
	}
}

// note has a holder have an endpoint.
func (m *Manager) note(holder string, e Endpoint) {
	m.endpoints[holder] = e
	for _, a := range e.addrs() {
		m.pool.hold(a, holder)
	}
	if e.Link != "" {
		m.links[e.Link] = holder
	}
	if e.MAC != "" {
		m.macs[e.MAC] = holder
	}
}

// Another chooses another link for a holder, whose first was taken by another interface.
func (m *Manager) Another(holder string) (Endpoint, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.endpoints[holder]
	if !ok || e.Link == "" {
		return e, fmt.Errorf("%s has no link", holder)
	}
	if m.tries[holder] >= maxLinks {
		return e, fmt.Errorf("%w, up to %s: remove interfaces that nobody uses", ErrLinkTaken, e.Link)
	}
	delete(m.links, e.Link)
	m.link(holder, &e)
	m.note(holder, e)
	return e, nil
}

// maxLinks is how many names are tried for a link.
const maxLinks = 100

// Adopt takes over what an earlier daemon has given to a holder.
func (m *Manager) Adopt(holder string, e Endpoint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if had, ok := m.endpoints[holder]; ok {
		if !had.same(e) {
			return fmt.Errorf("%s has two network stacks in its records", holder)
		}
		return nil
	}
	for _, a := range e.addrs() {
		if other := m.pool.held[a]; other != "" {
			return fmt.Errorf("address %s of %s is also that of %s", a, holder, other)
		}
	}
	if other := m.links[e.Link]; other != "" {
		return fmt.Errorf("link %s of %s is also that of %s", e.Link, holder, other)
	}
	m.note(holder, e)
	return nil
}

// same tells whether endpoints are one stack.
func (e Endpoint) same(o Endpoint) bool {
	return e.Network == o.Network && e.Stack == o.Stack && e.Link == o.Link && e.MAC == o.MAC && e.Addr4 == o.Addr4 &&
		e.Addr6 == o.Addr6
}

// Release gives back what a holder was given.
func (m *Manager) Release(holder string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.endpoints[holder]
	if !ok {
		return
	}
	delete(m.endpoints, holder)
	delete(m.tries, holder)
	delete(m.links, e.Link)
	delete(m.macs, e.MAC)
	for _, a := range e.addrs() {
		m.pool.release(a)
	}
	if e.Mode != NAT || slices.ContainsFunc(m.cfg.Networks, func(n Network) bool { return n.Name == e.Network }) {
		return
	}
	// Of a network that is no longer configured the bridge goes with the last stack.
	if err := m.stacks.prune(m.networks()); err != nil {
		m.cfg.Log.Warn("a bridge that nobody uses cannot be removed; the next daemon tries again", "network", e.Network,
			"error", err)
	}
}

// Close takes the bridges and the rules away that no stack needs, when a daemon ends in good order. What
// tasks have, they keep.
func (m *Manager) Close() error {
	var used []Network
	m.mu.Lock()
	for _, e := range m.endpoints {
		used = withNetwork(used, e.As)
	}
	m.mu.Unlock()
	m.rules.loading.Lock()
	defer m.rules.loading.Unlock()
	if len(used) > 0 || len(m.cfg.Networks) == 0 {
		return m.stacks.prune(used)
	}
	err := m.filter.load(nil, nil)
	if errors.Is(err, errNoFilter) { // then there are no rules
		err = nil
	}
	return errors.Join(err, m.stacks.prune(nil))
}

// networks are those of the configuration, or what they were where a stack has that of before, and those
// that stacks have besides. The caller locks.
func (m *Manager) networks() []Network {
	list := slices.Clone(m.cfg.Networks)
	for _, holder := range slices.Sorted(maps.Keys(m.endpoints)) {
		list = withNetwork(list, m.endpoints[holder].As)
	}
	return list
}

func withNetwork(list []Network, n Network) []Network {
	switch n.Mode {
	case NAT, Bridged, Alias:
	default:
		return list
	}
	i := slices.IndexFunc(list, func(o Network) bool { return o.Name == n.Name })
	switch {
	case i < 0:
		return append(list, n)
	case !list[i].sameShape(n):
		list[i] = n
	}
	return list
}

// of is the network of an endpoint: as it is configured, or as it was.
func (m *Manager) of(e Endpoint) Network {
	if n, err := m.network(e.Network); err == nil && n.sameShape(e.As) {
		return n
	}
	return e.As
}

// lock waits for the changes of others to the same stack.
func (m *Manager) lock(ctx context.Context, e Endpoint) (func(), error) {
	if e.Stack != "" {
		return m.changing.Lock(ctx, e.Stack)
	}
	return m.changing.Lock(ctx, fmt.Sprint(e.addrs()))
}

// Attach makes what an endpoint says; that of another task of its allocation may have done it.
// ErrLinkTaken has Another choose. What an error leaves Detach takes away.
func (m *Manager) Attach(ctx context.Context, e Endpoint) error {
	if e.Mode == Host {
		return nil
	}
	unlock, err := m.lock(ctx, e)
	if err != nil {
		return err
	}
	defer unlock()
	n := m.of(e)
	if err := m.stacks.attach(n, e); err != nil {
		return fmt.Errorf("network %q: %w", e.Network, err)
	}
	if e.Mode != NAT {
		return nil
	}
	if err := m.ports.resolve(n); err != nil {
		return fmt.Errorf("network %q: name server: %w", e.Network, err)
	}
	return nil
}

// Detach takes it away, when the last task that has it has ended. To do it twice is no error.
func (m *Manager) Detach(ctx context.Context, e Endpoint) error {
	if e.Mode == Host {
		return nil
	}
	unlock, err := m.lock(ctx, e)
	if err != nil {
		return err
	}
	defer unlock()
	select {
	case m.ending <- struct{}{}:
		defer func() { <-m.ending }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := m.stacks.detach(e); err != nil {
		return fmt.Errorf("network %q: %w", e.Network, err)
	}
	return nil
}

// JailStack is the Stack of a jail.Spec of an endpoint: empty is the host's.
func (m *Manager) JailStack(e Endpoint) string {
	if e.Stack == "" {
		return ""
	}
	return jailStack(m.cfg.StateDir, e.Stack)
}

// Status is one network as it is.
type Status struct {
	Network
	Used, Size int    // addresses, of the smaller of its pools
	Problem    string // what keeps it from being used
}

// List has the status of all networks, in their order, and then of those that are no longer in the
// configuration and that tasks have.
func (m *Manager) List() []Status {
	m.mu.Lock()
	networks, used := m.networks(), map[string]int{}
	for _, e := range m.endpoints {
		used[e.Network]++
	}
	m.mu.Unlock()
	var list []Status
	for _, n := range networks {
		s := Status{Network: n, Used: used[n.Name], Size: n.Size()}
		now, err := m.network(n.Name)
		switch {
		case err != nil:
			s.Problem = "not in the host configuration any more: its tasks keep it until they end"
		case !now.sameShape(n):
			s.Problem = "changed in the host configuration: its tasks keep it as it was until they end"
		default:
			if err := m.usable.check(n); err != nil {
				s.Problem = err.Error()
			}
		}
		list = append(list, s)
	}
	return list
}

// Describe is what a network is, in words.
func (s Status) Describe() string {
	of := []string{string(s.Mode)}
	for _, f := range s.families() {
		if f.subnet.IsValid() {
			of = append(of, f.subnet.String())
		}
	}
	for _, name := range []string{s.Bridge, s.Interface} {
		if name != "" {
			of = append(of, "on "+name)
		}
	}
	return fmt.Sprintf("%s, %d addresses for tasks", strings.Join(of, " "), s.Size)
}

// Size is how many tasks can have addresses of a network.
func (n Network) Size() int {
	size := n.size(n.Pool4)
	if six := n.size(n.Pool6); n.Pool6.First.IsValid() && (six < size || !n.Pool4.First.IsValid()) {
		size = six
	}
	return size
}

// Counters are those of endpoints by their links.
func (m *Manager) Counters() (map[string]Counters, error) { return m.stacks.counters() }

// Check tells for each network what of the host keeps it from being used, but for a packet filter that
// does not run: that may come later, and hinders only tasks of nat networks.
func (m *Manager) Check() error {
	var errs []error
	for _, n := range m.cfg.Networks {
		errs = append(errs, m.usable.host(n))
	}
	return errors.Join(errs...)
}

// Ports are those that are held.
func (m *Manager) Ports() Held { return m.ports.count() }

// KeepPorts runs what executes another program in this process's place, with an environment that leaves
// the ports that are published to it: nobody else can take one in between.
func (m *Manager) KeepPorts(env []string, replace func(env []string) error) error {
	return m.ports.pass(env, replace)
}
