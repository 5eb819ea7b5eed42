package network

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
)

// stackForm is of the names of stacks, as stackName makes them. They are names of files and of jails.
var stackForm = regexp.MustCompile(`^fjnet-[A-Za-z][A-Za-z0-9_+-]{0,79}$`)

// named refuses an endpoint whose names no Manager gives: they lead to files, jails and interfaces.
func (e Endpoint) named() error {
	switch {
	case e.Stack != "" && !stackForm.MatchString(e.Stack):
		return fmt.Errorf("%q is not the name of a network stack of freejail's", e.Stack)
	case e.Link != "" && !isLinkName(e.Link):
		return fmt.Errorf("%q is not the name of a link of freejail's", e.Link)
	}
	return nil
}

// given refuses what the network of an endpoint, as it was when it was given, could never have given to a holder.
func (e Endpoint) given(holder string) error {
	stack := ""
	if e.Mode.OwnStack() {
		stack = stackName(holder)
	}
	linked := e.Mode == NAT || e.Mode == Bridged
	switch {
	case e.Stack != stack:
		return fmt.Errorf("network stack %q is not that of %s, %q", e.Stack, holder, stack)
	case e.As.Name != e.Network || e.As.Mode != e.Mode:
		return fmt.Errorf("network %q, %s, is recorded as %q, %s", e.Network, e.Mode, e.As.Name, e.As.Mode)
	case linked != (e.Link != "") || linked != (e.MAC != ""):
		return fmt.Errorf("link %q with MAC %q is not what mode %s gives", e.Link, e.MAC, e.Mode)
	case linked && !e.madeMAC():
		return fmt.Errorf("MAC %s is not made of its addresses", e.MAC)
	}
	if err := e.named(); err != nil {
		return err
	}
	if e.Mode != None {
		for _, err := range e.As.validate() {
			return fmt.Errorf("as it is recorded: %w", err)
		}
	}
	for i, f := range e.As.families() {
		if a := [...]netip.Addr{e.Addr4, e.Addr6}[i]; a.IsValid() && (!f.pool.Contains(a) || e.As.reserved()[a]) {
			return fmt.Errorf("address %s is not one that network %s gives (%s)", a, e.Network, e.As.pools())
		}
	}
	return nil
}

func (e Endpoint) madeMAC() bool {
	for try := range maxLinks {
		if e.MAC == macOf(e, try) {
			return true
		}
	}
	return false
}

// Adopt takes over what an earlier daemon has given to a holder.
func (m *Manager) Adopt(holder string, e Endpoint) error {
	if err := e.given(holder); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if had, ok := m.endpoints[holder]; ok {
		if !had.same(e) {
			return fmt.Errorf("%s has two network stacks in its records", holder)
		}
		return nil
	}
	if other, what := m.holderOf(e); other != "" {
		return fmt.Errorf("%s of %s is also that of %s", what, holder, other)
	}
	m.note(holder, e)
	if e.Mode == Alias {
		m.aliases[holder] = e
	}
	return nil
}

// holderOf is who has a thing of an endpoint, and which. The caller locks.
func (m *Manager) holderOf(e Endpoint) (holder, what string) {
	for _, a := range e.addrs() {
		if other := m.pool.held[a]; other != "" {
			return other, "address " + a.String()
		}
	}
	if other := m.links[e.Link]; other != "" {
		return other, "link " + e.Link
	}
	if other := m.named[e.Stack]; other != "" {
		return other, "network stack " + e.Stack
	}
	return "", ""
}

// has tells whether a holder has an endpoint, by Reserve or Adopt. The caller locks.
func (m *Manager) has(e Endpoint) bool {
	holder, _ := m.holderOf(e)
	return holder != "" && m.endpoints[holder].same(e)
}

// others tells whose an endpoint is that is to be taken away and that its holder was not given.
func (m *Manager) others(e Endpoint) error {
	if err := e.named(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if other, what := m.holderOf(e); other != "" && !m.endpoints[other].same(e) {
		return fmt.Errorf("%s is that of %s", what, other)
	}
	return nil
}

// adopted are the tasks whose endpoints were.
func (m *Manager) adopted(tasks []Task) []Task {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(tasks), func(t Task) bool { return !m.has(t.Endpoint) })
}

// same tells whether endpoints are one stack.
func (e Endpoint) same(o Endpoint) bool {
	return e.Network == o.Network && e.Stack == o.Stack && e.Link == o.Link && e.MAC == o.MAC && e.Addr4 == o.Addr4 &&
		e.Addr6 == o.Addr6
}
