package task

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/keylock"
	"github.com/freejail/freejail/network"
)

// sharing is who has each network stack and address of the host: one task, or those of an allocation.
type sharing struct {
	changing keylock.Map // what a holder has, by its name

	mu       sync.Mutex
	reserved users
	attached users
}

// users are the keys of tasks by the holder of what they have.
type users map[string]map[string]bool

func (s *sharing) add(u *users, holder, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if *u == nil {
		*u = users{}
	}
	if (*u)[holder] == nil {
		(*u)[holder] = map[string]bool{}
	}
	(*u)[holder][key] = true
}

// remove tells whether nobody is left. To remove twice is to be the last again.
func (s *sharing) remove(u *users, holder, key string) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete((*u)[holder], key)
	last = len((*u)[holder]) == 0
	if last {
		delete(*u, holder)
	}
	return last
}

// holderOf is whose the network stack of a task is: the task's, or that of its allocation. No key has a plus
// sign, and no stack of one task has two, so that no task is named like another's allocation.
func holderOf(i client.Task, key string) string {
	if i.Spec.Share == "group" {
		return "alloc++" + i.Spec.NomadLabels()["alloc_id"]
	}
	return key
}

// validAlloc is a UUID, or what another scheduler has for it.
var validAlloc = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

func (t *task) holder() string { return holderOf(t.snapshot(), t.key()) }

// endpointOf is what a task has of a network, or nil.
func (t *task) endpointOf() *network.Endpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.endpoint
}

// connect journals what a task has of a network before it is made.
func (t *task) connect(e network.Endpoint) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	info := networkInfo(e)
	if t.endpoint != nil && *t.info.Network == *info {
		return nil
	}
	t.endpoint, t.info.Network = &e, info
	return t.journal.write(record{Task: &t.info, Endpoint: &e})
}

// isPublished tells whether the daemon holds the task's ports.
func (t *task) isPublished() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.began("publish")
}

// reserve has the task's addresses be its own, and tells them to what is made with them.
func (s *start) reserve(ctx context.Context) error {
	m, t := s.m, s.t
	holder := t.holder()
	unlock, err := m.shared.changing.Lock(ctx, holder)
	if err != nil {
		return err
	}
	defer unlock()
	m.shared.add(&m.shared.reserved, holder, t.key())
	e, err := m.Networks.Reserve(holder, s.plan.networkRequest())
	if err != nil {
		return refusedByNetwork(err)
	}
	if err := t.connect(e); err != nil {
		return err
	}
	if err := m.claimAddresses(t); err != nil {
		return err
	}
	return s.plan.connected(t.snapshot().Spec, e)
}

// refusedByNetwork is an error that another host, or a later time, may not have.
func refusedByNetwork(err error) error { return client.Unavailable("%v", err) }

// release gives the addresses back with the last task that has them.
func (m *Manager) release(ctx context.Context, t *task, _ string) error {
	holder := t.holder()
	unlock, err := m.shared.changing.Lock(ctx, holder)
	if err != nil {
		return err
	}
	defer unlock()
	if m.shared.remove(&m.shared.reserved, holder, t.key()) {
		m.releaseAddresses(t)
		m.Networks.Release(holder)
	}
	return nil
}

// attach makes the task's stack, or has it in that of its allocation.
func (s *start) attach(ctx context.Context) error {
	m, t := s.m, s.t
	holder := t.holder()
	unlock, err := m.shared.changing.Lock(ctx, holder)
	if err != nil {
		return err
	}
	defer unlock()
	m.shared.add(&m.shared.attached, holder, t.key())
	e, err := m.Networks.Reserve(holder, s.plan.networkRequest()) // another task may have had to take another link
	if err != nil {
		return err
	}
	for err == nil {
		if err := t.connect(e); err != nil {
			return err
		}
		fault("network", "recorded")
		if err = m.Networks.Attach(ctx, e); err == nil {
			m.Event(t.id(), "network", connectedText(e))
			return nil
		}
		if errors.Is(err, network.ErrLinkTaken) {
			e, err = m.Networks.Another(holder) // which bounds how many are tried
		}
	}
	return refusedByNetwork(err)
}

func connectedText(e network.Endpoint) string {
	text := "network " + e.Network
	switch a, b := e.Addr4.IsValid(), e.Addr6.IsValid(); {
	case a && b:
		text += fmt.Sprintf(": %s and %s", e.Addr4, e.Addr6)
	case a:
		text += ": " + e.Addr4.String()
	case b:
		text += ": " + e.Addr6.String()
	default:
		text += ": loopback alone"
	}
	return text
}

// detach takes the stack away with the last task in it.
func (m *Manager) detach(ctx context.Context, t *task, _ string) error {
	e := t.endpointOf()
	if e == nil {
		return nil
	}
	holder := t.holder()
	unlock, err := m.shared.changing.Lock(ctx, holder)
	if err != nil {
		return err
	}
	defer unlock()
	if !m.shared.remove(&m.shared.attached, holder, t.key()) {
		return nil
	}
	return m.Networks.Detach(ctx, *e)
}

// publish leads the ports to the task.
func (s *start) publish(ctx context.Context) error {
	i := s.t.snapshot()
	if err := s.m.Networks.Publish(ctx, networkTask(i, s.t.key(), *s.t.endpointOf())); err != nil {
		return refusedByNetwork(err)
	}
	return nil
}

// withdraw lets go of the ports of the host too.
func (m *Manager) withdraw(ctx context.Context, t *task, _ string) error {
	if err := m.Networks.Withdraw(ctx, t.key()); err != nil {
		return err
	}
	m.releasePorts(t)
	return nil
}

// connected tells whether the task is connected by freejail, and not with the host's own addresses.
func (s *start) connected() bool { return !s.plan.onHost() }

// filtered tells whether the rules of the host know of the task, and ports of the host lead to it.
func (s *start) filtered() bool { return s.plan.led() }

// adoptNetworks has what tasks of an earlier daemon have on networks be theirs, before another gets it.
func (m *Manager) adoptNetworks() {
	for _, t := range m.all() {
		t.mu.Lock()
		e, reserved, attached := t.endpoint, t.began("address"), t.began("network")
		t.mu.Unlock()
		holder := t.holder()
		if reserved {
			m.shared.add(&m.shared.reserved, holder, t.key())
		}
		if attached {
			m.shared.add(&m.shared.attached, holder, t.key())
		}
		if t.isPublished() {
			m.adoptPorts(t)
		}
		if e == nil || !reserved {
			continue
		}
		if err := m.Networks.Adopt(holder, *e); err != nil {
			m.Log.Error("recovery: network", "task", t.id(), "error", err)
			m.Event(t.id(), "network", "it is cut off from its network, whose record is not valid: "+err.Error())
		}
	}
}

// sweepNetworks has the host's networks be as those tasks need them that may run on.
func (m *Manager) sweepNetworks(ctx context.Context) error {
	var live []network.Task
	for _, t := range m.all() {
		t.mu.Lock()
		if t.endpoint != nil && t.began("publish") && !m.otherBoot(t) && t.info.State != client.Exited {
			live = append(live, networkTask(t.info, t.key(), *t.endpoint))
		}
		t.mu.Unlock()
	}
	return m.Networks.Sweep(ctx, live)
}
