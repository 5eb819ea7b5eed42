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

	changing keylock.Map // a stack, by its name or its address
	holding  keylock.Map // ports of a task, by its key
	usable   usable

	starting, ending turns // of stacks

	watchEvery time.Duration

	mu        sync.Mutex
	pool      *pool
	endpoints map[string]Endpoint // by holder
	links     map[string]string   // holders
	macs      map[string]string   // holders
	named     map[string]string   // holders of stacks
	living    map[string][]living // of endpoints, by the name of the network
	tries     map[string]uint64   // of links, by holder
	aliases   map[string]Endpoint // that are attached, by holder: these tasks are not published
	tasks     map[string]Task     // that are published, by key
	unheld    map[string]unheld   // whose ports could not be taken over, by key
	severed   map[string]string   // why running tasks are cut off, by network
	// unresolved are the errors of name servers at gateways, by network.
	unresolved map[string]string
	awaited    map[string]bool // networks of which is told when they can be used
}

// maxStarting and maxEnding are how many stacks start and end at a time. The kernel has one lock for both: more at a
// time take as long, and keep processors from the connections that the daemon leads on.
const maxStarting, maxEnding = 2, 2

// turns has a place for each that is at work.
type turns chan struct{}

// take waits for a place.
func (t turns) take(ctx context.Context) (give func(), err error) {
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

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
	m := &Manager{cfg: cfg, stacks: s, filter: f, ports: p, pool: newPool(), watchEvery: watchEvery,
		starting: make(turns, maxStarting), ending: make(turns, maxEnding),
		endpoints: map[string]Endpoint{}, links: map[string]string{}, macs: map[string]string{},
		named:  map[string]string{},
		living: map[string][]living{}, tries: map[string]uint64{}, tasks: map[string]Task{},
		aliases: map[string]Endpoint{},
		unheld:  map[string]unheld{}, unresolved: map[string]string{}, severed: map[string]string{},
		awaited: map[string]bool{}}
	m.rules = &rules{filter: f, now: m.state}
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

// Release gives back what a holder was given.
func (m *Manager) Release(holder string) {
	e, ok := m.release(holder)
	if !ok || e.Mode != NAT ||
		slices.ContainsFunc(m.cfg.Networks, func(n Network) bool { return n.Name == e.Network }) {
		return
	}
	// Of a network that is no longer configured the bridge goes with the last stack: nobody can have another.
	used := m.used()
	if !slices.ContainsFunc(used, func(n Network) bool { return n.Name == e.Network }) {
		m.ports.free(nameServer(e.As))
	}
	if err := m.stacks.prune(used); err != nil {
		m.cfg.Log.Warn("a bridge that nobody uses cannot be removed; the next daemon tries again", "network", e.Network,
			"error", err)
	}
}

func (m *Manager) release(holder string) (e Endpoint, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok = m.endpoints[holder]; !ok {
		return e, false
	}
	delete(m.endpoints, holder)
	delete(m.aliases, holder)
	delete(m.tries, holder)
	delete(m.links, e.Link)
	delete(m.macs, e.MAC)
	delete(m.named, e.Stack)
	m.live(e.As, -1)
	for _, a := range e.addrs() {
		m.pool.release(a)
	}
	return e, true
}

// Close takes the bridges and the rules away that no stack needs, when a daemon ends in good order. What
// tasks have, they keep.
func (m *Manager) Close() error {
	var used []Network
	m.mu.Lock()
	for _, list := range m.living {
		for _, l := range list {
			used = withNetwork(used, l.Network)
		}
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

// used are those of the configuration, and those that stacks have.
func (m *Manager) used() []Network {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.networks()
}

// networks are those of the configuration, or what they were where a stack has that of before, and those
// that stacks have besides. The caller locks.
func (m *Manager) networks() []Network {
	list := slices.Clone(m.cfg.Networks)
	for _, name := range slices.Sorted(maps.Keys(m.living)) {
		for _, l := range m.living[name] {
			list = withNetwork(list, l.Network)
		}
	}
	return list
}

// living is a network as endpoints have it, and how many do.
type living struct {
	Network
	shape
	endpoints int
}

// live notes that there is one endpoint more, or less, of a network. The caller locks.
func (m *Manager) live(n Network, more int) {
	list, s := m.living[n.Name], n.shape()
	i := slices.IndexFunc(list, func(l living) bool { return l.shape == s })
	if i < 0 {
		i, list = len(list), append(list, living{Network: n, shape: s})
	}
	if list[i].endpoints += more; list[i].endpoints <= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if m.living[n.Name] = list; len(list) == 0 {
		delete(m.living, n.Name)
	}
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
	if err := m.others(e); err != nil {
		return about(e.Network, err)
	}
	unlock, err := m.lock(ctx, e)
	if err != nil {
		return err
	}
	defer unlock()
	n := m.of(e)
	if err := m.attach(ctx, n, e); err != nil {
		return about(e.Network, err)
	}
	m.mu.Lock()
	if holder, _ := m.holderOf(e); e.Mode == Alias && holder != "" {
		m.aliases[holder] = e
	}
	m.mu.Unlock()
	return m.resolve(n)
}

func (m *Manager) attach(ctx context.Context, n Network, e Endpoint) error {
	give, err := m.starting.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	return m.stacks.attach(n, e)
}

// resolve has look-ups answered at the gateway of a nat network. Why they are not is told once.
func (m *Manager) resolve(n Network) error {
	if n.Mode != NAT {
		return nil
	}
	err := m.ports.resolve(n)
	if err != nil {
		err = about(n.Name, fmt.Errorf("name server: %w", err))
	}
	m.mu.Lock()
	before := m.unresolved[n.Name]
	m.unresolved[n.Name] = fmt.Sprint(err)
	m.mu.Unlock()
	if err != nil && !notOfHost(err) && before != err.Error() {
		m.cfg.Tell("network", err.Error())
	}
	return err
}

// Detach takes it away, when the last task that has it has ended. To do it twice is no error. What is not
// freejail's, or another's, as it was not adopted, is left.
func (m *Manager) Detach(ctx context.Context, e Endpoint) error {
	if e.Mode == Host {
		return nil
	}
	if err := m.others(e); err != nil {
		m.cfg.Log.Error("a network stack is left, as it is not the task's", "network", e.Network, "error", err)
		return nil
	}
	unlock, err := m.lock(ctx, e)
	if err != nil {
		return err
	}
	defer unlock()
	m.mu.Lock()
	maps.DeleteFunc(m.aliases, func(_ string, o Endpoint) bool { return o.same(e) })
	m.mu.Unlock()
	give, err := m.ending.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	if err := m.stacks.detach(e); err != nil {
		return about(e.Network, err)
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

// Counters are those of endpoints by their links.
func (m *Manager) Counters() (map[string]Counters, error) { return m.stacks.counters() }

// KeepPorts runs what executes another program in this process's place, with an environment that leaves
// the ports that are published to it: nobody else can take one in between.
func (m *Manager) KeepPorts(env []string, replace func(env []string) error) error {
	return m.ports.pass(env, replace)
}
