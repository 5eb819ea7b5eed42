package jail

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// paramTypes reads the kernel's list at the first need, and again where a name
// is missing: a module that was loaded since may have brought it.
func (m *Manager) paramTypes(again bool) (map[string]paramType, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.types != nil && !again {
		return m.types, nil
	}
	types, err := jailParams()
	if err == nil {
		m.types = types
	}
	return types, err
}

func (m *Manager) paramType(name string) (paramType, error) {
	types, err := m.paramTypes(false)
	if err != nil {
		return paramType{}, err
	}
	t, ok := types[name]
	if !ok {
		return paramType{}, errUnknownParam
	}
	return t, nil
}

func (m *Manager) encode(name, value string) (bsd.Param, error) {
	var kname string
	var kvalue []byte
	err := errUnknownParam
	for _, again := range []bool{false, true} {
		if !errors.Is(err, errUnknownParam) {
			break
		}
		var types map[string]paramType
		if types, err = m.paramTypes(again); err == nil {
			kname, kvalue, err = encodeParam(types, name, value)
		}
	}
	if err != nil {
		return bsd.Param{}, fmt.Errorf("parameter %s: %w", name, err)
	}
	return bsd.Param{Name: kname, Value: kvalue}, nil
}

// params are a spec's parameters in the kernel's form.
func (m *Manager) params(s Spec) ([]bsd.Param, error) {
	out := []bsd.Param{bsd.Text("name", kernelName(s.Stack, s.Name)), bsd.Text("path", s.Root), {Name: "persist"}}
	if s.Hostname != "" {
		out = append(out, bsd.Text("host.hostname", s.Hostname))
	}
	if s.Stack != "" { // without this it has none of its addresses
		out = append(out, bsd.Param{Name: "ip4", Value: bsd.Word(jailInherit)},
			bsd.Param{Name: "ip6", Value: bsd.Word(jailInherit)})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Params)) {
		// A network stack of its own leaves no addresses to inherit.
		if (name == "ip4" || name == "ip6") && (s.Stack != "" || s.Params["vnet"] == "new") {
			continue
		}
		p, err := m.encode(name, s.Params[name])
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	if _, err := m.paramType("meta"); err == nil && len(s.Meta) > 0 {
		out = append(out, bsd.Text("meta", metaText(s.Meta)))
	}
	return out, nil
}

// Create makes a jail that lasts until Remove, and returns its id.
func (m *Manager) Create(ctx context.Context, s Spec) (int, error) {
	if err := s.check(); err != nil {
		return 0, err
	}
	if s.Linux && !hasLinux() {
		return 0, &Error{Op: "create", Jail: s.Name,
			Err: errors.New("the image is Linux's and this kernel does not run Linux programs: kldload linux64")}
	}
	params, err := m.prepare(s)
	if err != nil {
		return 0, &Error{Op: "create", Jail: s.Name, Err: err}
	}
	jid, msg, err := bsd.Call(unix.SYS_JAIL_SET, params, jailCreate)
	if err != nil {
		if msg == "" { // the kernel has no words where the path is at fault
			msg = "root " + s.Root
		}
		return 0, &Error{Op: "create", Jail: s.Name, Message: msg, Err: err}
	}
	st := &state{kernel: kernelName(s.Stack, s.Name), jid: jid, root: s.Root, notes: notes{Stack: s.Stack,
		Memory: s.Limits.MemoryBytes, OpenFiles: s.Limits.OpenFiles, InMemory: s.InMemory}}
	m.mu.Lock()
	m.jails[s.Name] = st
	m.mu.Unlock()
	if err = m.watchJail(jid); err == nil {
		err = m.limit(s, st)
	}
	if err != nil {
		return 0, errors.Join(&Error{Op: "limit", Jail: s.Name, Err: err}, m.Remove(ctx, s.Name))
	}
	return jid, nil
}

// prepare returns a spec's parameters when they can be put into force.
func (m *Manager) prepare(s Spec) ([]bsd.Param, error) {
	if err := m.checkStack(s); err != nil {
		return nil, err
	}
	params, err := m.params(s)
	if err == nil && s.Stack != "" {
		err = m.widen(s)
	}
	return params, err
}

// limit puts a spec's limits into force.
func (m *Manager) limit(s Spec, st *state) error {
	mask, err := cpuMask(s.Limits.CPUSet)
	if err == nil && mask != nil {
		err = cpusetJail(st.jid, mask)
	}
	if err != nil {
		return fmt.Errorf("cpuset %s: %w", s.Limits.CPUSet, err)
	}
	if st.Memory != 0 || st.OpenFiles != 0 || st.Stack != "" {
		if err := st.notes.write(m.noteFile(s.Name)); err != nil {
			return err
		}
	}
	if !m.racct {
		return nil
	}
	return addRules(st.kernel, s.Limits)
}

// renewRules has a jail that an earlier daemon made limited as one of ours; its name is the kernel's.
func (m *Manager) renewRules(name string, n notes) error {
	if !m.racct {
		return nil
	}
	for _, resource := range []string{"memoryuse", "shmsize", "openfiles"} {
		rule := "jail:" + name + ":" + resource
		if _, err := rctl(unix.SYS_RCTL_REMOVE_RULE, rule); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("rctl rule %s: %w", rule, err)
		}
	}
	return addRules(name, Limits{MemoryBytes: n.Memory})
}

func addRules(name string, l Limits) error {
	for _, rule := range rctlRules(name, l) {
		if _, err := rctl(unix.SYS_RCTL_ADD_RULE, rule); err != nil {
			return fmt.Errorf("rctl rule %s: %w", rule, err)
		}
	}
	return nil
}

// Unenforced names the limits that this host does not put into force.
func (m *Manager) Unenforced(l Limits) []string {
	var out []string
	if m.racct {
		return nil
	}
	const fix = "kern.racct.enable is off"
	if l.CPUPercent > 0 {
		out = append(out, "cpu: "+fix)
	}
	if l.MaxProcs > 0 {
		out = append(out, "processes: "+fix)
	}
	return out
}
