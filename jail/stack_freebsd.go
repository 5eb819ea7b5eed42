package jail

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// A jail that shares a network stack is in the kernel the child of the jail that owns it, and its name there is
// OWNER.NAME. Everywhere else it is NAME.

// ownerPrefix begins the names of owners.
const ownerPrefix = "fjnet-"

// maxName is the longest name of a jail: MAXHOSTNAMELEN of sys/param.h without its NUL.
const maxName = 255

var validOwner = regexp.MustCompile(`^` + ownerPrefix + `[A-Za-z0-9_+-]+$`)

// kernelName is a jail's name in the kernel.
func kernelName(stack, name string) string {
	if stack == "" {
		return name
	}
	return stack + "." + name
}

// ourName is the name of one of our jails by that in the kernel. Jails in jails are not ours.
func ourName(kernel string) (name string, ours bool) {
	owner, name, below := strings.Cut(kernel, ".")
	if !below {
		owner, name = ownerPrefix, kernel
	}
	return name, strings.HasPrefix(owner, ownerPrefix) && strings.HasPrefix(name, namePrefix) &&
		!strings.Contains(name, ".")
}

// eachJail calls f for all jails of this prison until it returns false.
func eachJail(f func(Info) bool) error {
	for after := 0; ; {
		i, err := jailGet("", after)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if after = i.JID; !f(i) {
			return nil
		}
	}
}

// findJail finds a jail of ours by its name, with the one that it has in the kernel.
func findJail(name string) (Info, error) {
	found, err := jailGet(name, 0)
	if !errors.Is(err, ErrNotFound) {
		return found, err
	}
	err = ErrNotFound
	if lerr := eachJail(func(i Info) bool {
		if one, ours := ourName(i.Name); ours && one == name {
			found, err = i, nil
		}
		return err != nil
	}); lerr != nil {
		return Info{}, lerr
	}
	return found, err
}

// checkStack refuses what would be another jail's, or another stack's.
func (m *Manager) checkStack(s Spec) error {
	kernel := kernelName(s.Stack, s.Name)
	if s.Stack != "" && !validOwner.MatchString(s.Stack) || len(kernel) > maxName {
		return fmt.Errorf("network stack %q: not the name of a jail that owns one", s.Stack)
	}
	for _, name := range []string{"vnet", "ip4.addr", "ip6.addr"} {
		if _, given := s.Params[name]; given && s.Stack != "" {
			return fmt.Errorf("parameter %s: a jail that shares a network stack cannot have it", name)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// Under another owner the kernel permits a jail of the same name.
	if st := m.jails[s.Name]; st != nil && !st.gone && !st.killed && st.kernel != kernel {
		return unix.EEXIST
	}
	return nil
}

// widen lets the owner of a stack do what a jail is to do that shares it: a child may do no more than its parent
// (kern_jail_set in kern/kern_jail.c, and sysv_msg.c, sysv_sem.c and sysv_shm.c). The owner has no process.
func (m *Manager) widen(s Spec) error {
	params := []bsd.Param{bsd.Text("name", s.Stack)}
	for _, name := range slices.Sorted(maps.Keys(s.Params)) {
		value, err := m.ownersValue(name, s.Params[name])
		if err != nil {
			return err
		}
		if value == "" {
			continue
		}
		p, err := m.encode(name, value)
		if err != nil {
			return err
		}
		params = append(params, p)
	}
	if len(params) == 1 {
		return nil
	}
	if _, message, err := bsd.Call(unix.SYS_JAIL_SET, params, jailUpdate); err != nil {
		return &Error{Op: "prepare", Jail: s.Stack, Message: message, Err: err}
	}
	return nil
}

// ownersValue is what an owner needs for a parameter of a child, or nothing.
func (m *Manager) ownersValue(name, value string) (string, error) {
	switch name {
	case "children.max":
		return oneLess("security.jail.children.max")
	case "zfs.mount_snapshot":
		return value, nil
	}
	t, err := m.paramType(name)
	if err != nil || name == "ip4" || name == "ip6" {
		return "", nil // encode tells of one that is not known
	}
	switch {
	case t.isBool() && strings.HasPrefix(name, "allow."):
		if on, err := parseBool(value); err != nil || !on {
			return "", err
		}
		return "true", nil
	case t.format == "E,jailsys" && value != "disable":
		return "inherit", nil
	}
	return "", nil
}

// oneLess is what a jail of this prison can have of something that is counted.
func oneLess(sysctl string) (string, error) {
	n, err := unix.SysctlUint32(sysctl)
	if err != nil || n == 0 {
		return "", err
	}
	return fmt.Sprint(n - 1), nil
}
