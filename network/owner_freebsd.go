package network

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// A jail without a process owns a stack; those of tasks are its children, and share it without
// the right to change it. That its root is the state directory tells whose it is. What it may do itself
// bounds what its children may: package jail widens it.

// ownerPrefix begins the names of these jails.
const ownerPrefix = "fjnet-"

// JAIL_CREATE and JAIL_SYS_NEW of sys/jail.h.
const jailCreate, jailNew = 1, 1

// ownerJail makes a stack's jail, or finds it.
func (s *kernelStacks) ownerJail(name string) (int, error) {
	jid, err := s.findOwner(name)
	if jid != 0 || err != nil {
		return jid, err
	}
	params := []bsd.Param{bsd.Text("name", name), bsd.Text("path", s.dir), {Name: "persist"},
		{Name: "vnet", Value: bsd.Word(jailNew)}, {Name: "enforce_statfs", Value: bsd.Word(0)}}
	jid, message, err := bsd.Call(unix.SYS_JAIL_SET, params, jailCreate)
	switch {
	case errors.Is(err, unix.EEXIST): // another task of its allocation was faster
		return s.findOwner(name)
	case errors.Is(err, unix.EINVAL) && !bsd.SysctlOn("kern.features.vimage"):
		err = errors.New("this kernel has no network stacks of their own: it needs options VIMAGE")
	}
	if err != nil {
		return 0, fmt.Errorf("make jail %s for a network stack: %s: %w", name, message, err)
	}
	return jid, nil
}

// findOwner returns 0 where there is no such jail.
func (s *kernelStacks) findOwner(name string) (int, error) {
	path := make([]byte, pathSize)
	params := []bsd.Param{bsd.Text("name", name), {Name: "path", Value: path}}
	jid, message, err := bsd.Call(unix.SYS_JAIL_GET, params, 0)
	if errors.Is(err, unix.ENOENT) || name == "" {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("jail %s: %s: %w", name, message, err)
	}
	if root := unix.ByteSliceToString(path); root != s.dir {
		return 0, fmt.Errorf("jail %s is not of this state directory, but of %s", name, root)
	}
	return jid, nil
}

// pathSize and jailNameSize are MAXPATHLEN and MAXHOSTNAMELEN of sys/param.h.
const pathSize, jailNameSize = 1024, 256

// owners are the names of all stacks of this state directory.
func (s *kernelStacks) owners() (names []string, err error) {
	for after := 0; ; {
		name, path := make([]byte, jailNameSize), make([]byte, pathSize)
		after, _, err = bsd.Call(unix.SYS_JAIL_GET, []bsd.Param{{Name: "lastjid", Value: bsd.Word(after)},
			{Name: "name", Value: name}, {Name: "path", Value: path}}, 0)
		if errors.Is(err, unix.ENOENT) {
			return names, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list jails: %w", err)
		}
		one := unix.ByteSliceToString(name)
		if strings.HasPrefix(one, ownerPrefix) && !strings.Contains(one, ".") && unix.ByteSliceToString(path) == s.dir {
			names = append(names, one)
		}
	}
}

// removeJail removes a jail with those below it, whose processes end with it.
func removeJail(jid int) error {
	// EINVAL is the answer for a jail that is not there.
	if _, _, errno := unix.Syscall(unix.SYS_JAIL_REMOVE, uintptr(jid), 0, 0); errno != 0 && errno != unix.EINVAL {
		return fmt.Errorf("remove jail %d: %w", jid, errno)
	}
	return nil
}
