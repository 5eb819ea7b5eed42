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

	"github.com/freejail/freejail/internal/printable"
)

// watchEvery is how often the host is asked whether the rules are there.
const watchEvery = 2 * time.Second

// rules loads the host's rules, at most one at a time: what is asked for meanwhile, the next load does together.
type rules struct {
	filter filter
	now    func() ([]Network, []Task) // what the rules are of

	loading sync.Mutex // the filter's, while it loads or compares

	mu      sync.Mutex
	running bool
	waiting []chan error
	changes uint64 // counted by change
	loaded  uint64 // changes that the host has
}

// change notes that other rules are needed.
func (r *rules) change() {
	r.mu.Lock()
	r.changes++
	r.mu.Unlock()
}

// load returns when the host has the rules of all changes until now, or cannot.
func (r *rules) load(ctx context.Context) error {
	done := make(chan error, 1)
	r.mu.Lock()
	if r.loaded == r.changes {
		r.mu.Unlock()
		return nil
	}
	r.waiting = append(r.waiting, done)
	if !r.running {
		r.running = true
		go r.run()
	}
	r.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run loads as long as somebody waits.
func (r *rules) run() {
	for {
		r.mu.Lock()
		waiting, changes := r.waiting, r.changes
		r.waiting = nil
		if r.running = len(waiting) > 0; !r.running {
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		r.loading.Lock()
		err := r.filter.load(r.now())
		r.loading.Unlock()
		r.mu.Lock()
		if err == nil {
			r.loaded = changes
		}
		r.mu.Unlock()
		for _, w := range waiting {
			w <- err
		}
	}
}

// lost tells whether the host has other rules than were loaded last.
func (r *rules) lost() (bool, error) {
	r.loading.Lock()
	defer r.loading.Unlock()
	ok, err := r.filter.loaded()
	return !ok && err == nil, err
}

// state is what the rules are of.
func (m *Manager) state() ([]Network, []Task) {
	m.mu.Lock()
	defer m.mu.Unlock()
	networks := slices.Clone(m.cfg.Networks)
	tasks := make([]Task, 0, len(m.tasks))
	for _, key := range slices.Sorted(maps.Keys(m.tasks)) {
		tasks = append(tasks, m.tasks[key])
		networks = withNetwork(networks, m.tasks[key].As)
	}
	return networks, tasks
}

// needsRules tells whether the packet filter knows of the tasks of a mode.
func (m Mode) needsRules() bool { return m == NAT || m == Bridged || m == Alias }

// loadFor loads the rules for a task. Only nat is nothing without a packet filter.
func (m *Manager) loadFor(ctx context.Context, mode Mode) error {
	err := m.rules.load(ctx)
	if errors.Is(err, errNoFilter) && mode != NAT {
		return nil
	}
	return err
}

// Publish holds the ports of a task on the host and leads them to it: when it returns, they are
// reached. A port that another program has is an error that names it. What an error leaves Withdraw
// takes away.
func (m *Manager) Publish(ctx context.Context, t Task) error {
	if err := m.refused(t); err != nil {
		return err
	}
	if err := m.ports.hold(t); err != nil {
		return err
	}
	if !t.Mode.needsRules() {
		return nil
	}
	m.mu.Lock()
	m.tasks[t.Key] = t
	m.rules.change()
	m.mu.Unlock()
	if err := m.loadFor(ctx, t.Mode); err != nil {
		return about(t.Network, err)
	}
	return nil
}

// refused tells why a task's ports cannot be published.
func (m *Manager) refused(t Task) error {
	if len(t.Published) == 0 {
		return nil
	}
	m.mu.Lock()
	networks := append(m.networks(), m.cfg.Networks...)
	m.mu.Unlock()
	for _, p := range t.Published {
		places := []netip.Addr{p.At}
		if t.Mode != NAT && (!p.At.IsValid() || p.At.IsUnspecified()) {
			places = gatewaysOf(networks) // there the daemon's socket answers, and no rule keeps it from that
		}
		for _, p.At = range places {
			if err := Refused(p, networks); err != nil {
				return err
			}
		}
	}
	return nil
}

func gatewaysOf(networks []Network) (out []netip.Addr) {
	for _, n := range networks {
		out = append(out, n.Gateway4, n.Gateway6)
	}
	return out
}

// Withdraw undoes Publish, and forgets the connections. To do it twice is no error.
func (m *Manager) Withdraw(ctx context.Context, key string) error {
	m.mu.Lock()
	delete(m.unheld, key)
	if _, ok := m.tasks[key]; ok {
		delete(m.tasks, key)
		m.rules.change()
	}
	m.mu.Unlock()
	if err := m.loadFor(ctx, Host); err != nil {
		return fmt.Errorf("rules of %s: %w", key, err)
	}
	unlock, err := m.holding.Lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	m.ports.free(key) // no rule leads a packet of the next who has the port to the task
	return nil
}

// Sweep takes away all that is freejail's on this host and belongs to none of the tasks, and has the
// rules be theirs, as far as their endpoints were adopted. What was adopted or reserved stays.
func (m *Manager) Sweep(ctx context.Context, tasks []Task) error {
	found, err := m.stacks.endpoints()
	errs, adopted := []error{err}, m.adopted(tasks)
	m.mu.Lock()
	for _, t := range adopted {
		if t.Mode.needsRules() {
			m.tasks[t.Key] = t
		}
	}
	m.rules.change() // also of what the last daemon loaded
	m.mu.Unlock()
	errs = append(errs, m.hold(adopted), m.loadFor(ctx, Host))
	for _, e := range found {
		if !m.known(e, tasks) {
			errs = append(errs, m.Detach(ctx, e))
		}
	}
	m.tellOutlived()
	return errors.Join(append(errs, m.stacks.prune(m.used()))...)
}

// tellOutlived tells of networks that are no longer configured as tasks have them.
func (m *Manager) tellOutlived() {
	m.mu.Lock()
	users, kept := map[string]int{}, map[string]int{}
	for _, e := range m.endpoints {
		n, err := m.network(e.Network)
		switch {
		case err != nil || !n.sameShape(e.As) && e.As.Name != "":
			users[e.Network]++
		case e.As.Name != "" && len(n.keptBesides(e.As)) > 0:
			kept[fmt.Sprintf("network %q: %s", e.Network, strings.Join(n.keptBesides(e.As), ", "))]++
		}
	}
	m.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(kept)) {
		m.cfg.Tell("network", fmt.Sprintf("%s changed in the host configuration: new tasks have it, and those that "+
			"run keep what they have until they end (%s)", what, printable.Count(kept[what], "task")))
	}
	for _, name := range slices.Sorted(maps.Keys(users)) {
		m.cfg.Tell("network", fmt.Sprintf("network %q was removed or changed in the host configuration: tasks that "+
			"have it keep it as it was until they end (%s)", name, printable.Count(users[name], "task")))
	}
}

// unheld is a task of an earlier daemon whose published ports are not held, and why.
type unheld struct {
	task Task
	err  error
}

// hold has the ports of tasks of an earlier daemon held, after those of gateways. Those that are not are told,
// and tried again: they are no error.
func (m *Manager) hold(tasks []Task) error {
	m.mu.Lock()
	networks := m.networks()
	m.mu.Unlock()
	var errs []error
	for _, n := range networks {
		if err := m.resolve(n); !notOfHost(err) { // else its bridge comes with the first task
			errs = append(errs, err)
		}
	}
	for _, t := range tasks {
		err := m.refused(t)
		if err == nil {
			err = m.ports.hold(t)
		}
		if err != nil {
			m.cfg.Tell("network", "published ports of "+t.Key+" are not held: "+err.Error())
			m.mu.Lock()
			m.unheld[t.Key] = unheld{t, err}
			m.mu.Unlock()
		}
	}
	m.ports.settle()
	return errors.Join(errs...)
}

// holdAgain tries to have ports that another program took while there was no daemon.
func (m *Manager) holdAgain(ctx context.Context) {
	m.mu.Lock()
	keys := slices.Sorted(maps.Keys(m.unheld))
	m.mu.Unlock()
	for _, key := range keys {
		if m.heldAgain(ctx, key) {
			m.cfg.Tell("network", "published ports of "+key+" are held again")
		}
	}
}

func (m *Manager) heldAgain(ctx context.Context, key string) bool {
	unlock, err := m.holding.Lock(ctx, key)
	if err != nil {
		return false
	}
	defer unlock()
	m.mu.Lock()
	u, still := m.unheld[key]
	m.mu.Unlock()
	if !still {
		return false
	}
	if err = m.refused(u.task); err == nil {
		err = m.ports.hold(u.task)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		delete(m.unheld, key)
	} else if _, still = m.unheld[key]; still { // else withdrawn meanwhile
		m.unheld[key] = unheld{u.task, err}
	}
	return err == nil
}

// known tells whether what the kernel has is that of one of the tasks, or of a holder.
func (m *Manager) known(found Endpoint, tasks []Task) bool {
	is := func(e Endpoint) bool {
		return found.Stack != "" && e.Stack == found.Stack || found.Link != "" && e.Link == found.Link ||
			slices.ContainsFunc(found.addrs(), func(a netip.Addr) bool { return slices.Contains(e.addrs(), a) })
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.endpoints {
		if is(e) {
			return true
		}
	}
	return slices.ContainsFunc(tasks, func(t Task) bool {
		return is(t.Endpoint) || found.Stack == stackName(t.Key) // also where its record is wrong
	})
}

// Run watches the rules and the links, and has them be again when they are lost, until ctx has ended.
func (m *Manager) Run(ctx context.Context) {
	go m.watchLinks(ctx)
	tick := time.NewTicker(m.watchEvery)
	defer tick.Stop()
	told := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			m.holdAgain(ctx)
			told = m.watch(ctx, told)
		}
	}
}

// published counts the tasks that have rules, and those of them that are not reached without.
func (m *Manager) published() (all, translated int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.tasks {
		if t.Mode == NAT {
			translated++
		}
	}
	return len(m.tasks), translated
}

// notInForce is what it means where there may be no rules at all.
const notInForce = "the rules of networks cannot be put in force: published ports may not be reached, and nothing " +
	"may keep tasks of nat networks from the host's services, from other networks and from one another: "

// watch looks once. It returns the failure that is told by now.
func (m *Manager) watch(ctx context.Context, told string) string {
	all, translated := m.published()
	if all == 0 {
		return ""
	}
	lost, err := m.rules.lost()
	if err != nil && translated == 0 {
		return ""
	}
	if !lost && err == nil && told == "" {
		return ""
	}
	if lost || err == nil {
		m.rules.change()
		err = m.rules.load(ctx)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		if told != err.Error() {
			m.cfg.Tell("network", notInForce+err.Error())
		}
		return err.Error()
	case told != "":
		m.cfg.Tell("network", "the rules of networks are in force again")
	case lost:
		m.cfg.Tell("network", "the rules of networks were gone or changed in the packet filter: they are loaded again")
	}
	return ""
}
