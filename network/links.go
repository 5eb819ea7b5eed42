package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/freejail/freejail/internal/printable"
)

// users are the running tasks of a network.
type users struct {
	network Network
	stacks  []Endpoint // each once
	tasks   int
}

// users are those of all networks, in the order of their names.
func (m *Manager) users() (list []users) {
	m.mu.Lock()
	defer m.mu.Unlock()
	by := map[string]*users{}
	for _, e := range m.connected() {
		u := by[e.Network]
		if u == nil {
			u = &users{network: m.of(e)}
			by[e.Network] = u
		}
		u.tasks++
		if !slices.ContainsFunc(u.stacks, e.same) {
			u.stacks = append(u.stacks, e)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		list = append(list, *by[name])
	}
	return list
}

// connected are the endpoints of running tasks, one for each task. The caller locks.
func (m *Manager) connected() (list []Endpoint) {
	for _, key := range slices.Sorted(maps.Keys(m.tasks)) {
		if m.tasks[key].Mode != Alias {
			list = append(list, m.tasks[key].Endpoint)
		}
	}
	for _, holder := range slices.Sorted(maps.Keys(m.aliases)) {
		list = append(list, m.aliases[holder])
	}
	return list
}

// runs tells whether a task has an endpoint. Who asks has its lock: Withdraw comes before Detach.
func (m *Manager) runs(e Endpoint) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.connected(), e.same)
}

// watchLinks looks every now and then, until ctx has ended, whether running tasks are connected as they were made.
func (m *Manager) watchLinks(ctx context.Context) {
	tick := time.NewTicker(m.watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			m.lookAtLinks(ctx)
			m.tellUsable()
		}
	}
}

// Await has it told when a network can be used.
func (m *Manager) Await(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.awaited[name] = true
}

// tellUsable tells of awaited networks that can be used now.
func (m *Manager) tellUsable() {
	m.mu.Lock()
	awaited := slices.Sorted(maps.Keys(m.awaited))
	m.mu.Unlock()
	for _, name := range awaited {
		n, err := m.network(name)
		if err == nil && m.usable.check(n) != nil {
			continue
		}
		m.mu.Lock()
		delete(m.awaited, name)
		m.mu.Unlock()
		if err == nil {
			m.cfg.Tell("network", fmt.Sprintf("network %q can be used now", name))
		}
	}
}

// lookAtLinks connects tasks again that are cut off, such as by a bridge that was destroyed and made anew.
func (m *Manager) lookAtLinks(ctx context.Context) {
	all := m.users()
	for _, u := range all {
		cut, err := m.stacks.cut(u.network, u.stacks)
		again := len(cut)
		if err == nil && again == 0 { // nobody was cut off by that, nor is one whom an earlier release connected
			cut, err = m.stacks.forgotten(u.network, u.stacks)
		}
		if err == nil && len(cut) > 0 {
			err = m.rejoin(ctx, u, cut)
		}
		if err != nil {
			m.usable.forget(u.network.Name)
		}
		if ctx.Err() == nil {
			m.tellCut(u, again, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.severed, func(name string, _ string) bool {
		return !slices.ContainsFunc(all, func(u users) bool { return u.network.Name == name })
	})
}

// rejoin connects endpoints again, and looks whether they are: what cannot be is not tried without end in silence.
func (m *Manager) rejoin(ctx context.Context, u users, cut []Endpoint) error {
	var errs []error
	for _, e := range cut {
		errs = append(errs, m.rejoinOne(ctx, u.network, e))
	}
	if err := errors.Join(errs...); err != nil {
		return errs[slices.IndexFunc(errs, func(err error) bool { return err != nil })] // one tells of all
	}
	still, err := m.stacks.cut(u.network, cut)
	still = slices.DeleteFunc(still, func(e Endpoint) bool { return !m.runs(e) })
	if err == nil && len(still) > 0 {
		err = fmt.Errorf("what connects them is taken away again at once (%s)", stackOf(still[0]))
	}
	return err
}

func (m *Manager) rejoinOne(ctx context.Context, n Network, e Endpoint) error {
	unlock, err := m.lock(ctx, e)
	if err != nil {
		return err
	}
	defer unlock()
	if !m.runs(e) {
		return nil // it ended meanwhile
	}
	if err := m.stacks.rejoin(n, e); err != nil {
		return err
	}
	return m.resolve(n)
}

// stackOf names an endpoint: by its link, or by its address where it has none.
func stackOf(e Endpoint) string {
	if e.Link == "" {
		return fmt.Sprint(e.addrs()[0])
	}
	return e.Link
}

// tellCut tells once that tasks are cut off, and once that they are not any more.
func (m *Manager) tellCut(u users, again int, err error) {
	m.mu.Lock()
	told := m.severed[u.network.Name]
	if delete(m.severed, u.network.Name); err != nil {
		m.severed[u.network.Name] = err.Error()
	}
	m.mu.Unlock()
	of := printable.Count(u.tasks, "task")
	switch {
	case err != nil && told == "":
		m.cfg.Tell("network", fmt.Sprintf("network %q is gone from its tasks (%s): %v; they are connected again when "+
			"it is back", u.network.Name, of, err))
	case err != nil && told != err.Error():
		m.cfg.Tell("network", fmt.Sprintf("network %q is still gone from its tasks (%s): %v", u.network.Name, of, err))
	case err == nil && told != "":
		m.cfg.Tell("network", fmt.Sprintf("network %q is back (%s)", u.network.Name, of))
	case err == nil && again > 0:
		m.cfg.Tell("network", fmt.Sprintf("network %q: what connects its tasks was taken away on the host (%s): it is "+
			"back", u.network.Name, of))
	}
}

// gone is what cuts the running tasks of a network off; empty is nothing. The caller locks.
func (m *Manager) gone(name string) string {
	why := m.severed[name]
	if why == "" {
		return ""
	}
	n := 0
	for _, t := range m.tasks {
		if t.Network == name {
			n++
		}
	}
	return fmt.Sprintf("gone from its tasks (%s): %s", printable.Count(n, "task"), why)
}
