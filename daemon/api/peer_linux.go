package api

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socketPeer tells who has the other end of a connection; atHome is an error where that is not at home, see admit.
func socketPeer(fd int) (p peer, atHome func() error, err error) {
	u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return peer{uid: -1}, nil, err
	}
	p = peer{uid: int(u.Uid), pid: int(u.Pid)}
	if p.groups, err = peerGroups(fd); err != nil {
		return p, nil, err
	}
	p.groups = append(p.groups, int(u.Gid))
	// 4294967295 stands for none.
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/loginuid", p.pid)); err == nil {
		if l, err := user.LookupId(strings.TrimSpace(string(b))); err == nil {
			p.login = l.Username
		}
	}
	pid := p.pid
	return p, func() error { return admit(pid) }, nil
}

// maxGroups is NGROUPS_MAX of limits.h.
const maxGroups = 65536

// peerGroups are the supplementary groups that the client had when it connected.
func peerGroups(fd int) ([]int, error) {
	for n := uint32(64); ; n = maxGroups {
		groups := make([]uint32, n)
		size := n * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == unix.ERANGE && n < maxGroups:
			continue
		case errno != 0:
			return nil, fmt.Errorf("groups of the client: %w", errno)
		}
		var out []int
		for _, g := range groups[:size/4] {
			out = append(out, int(g))
		}
		return out, nil
	}
}

// admit refuses processes of containers: of another PID or user namespace, or
// with another root directory.
func admit(pid int) error {
	if pid <= 0 {
		return errors.New("the client is in another PID namespace")
	}
	for _, ns := range []string{"pid", "user"} {
		own, err1 := os.Readlink("/proc/self/ns/" + ns)
		its, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if err1 != nil || err2 != nil || own != its {
			return fmt.Errorf("process %d is in a container: only root of the host may talk to the freejail daemon",
				pid)
		}
	}
	own, err1 := os.Stat("/proc/self/root/")
	its, err2 := os.Stat(fmt.Sprintf("/proc/%d/root/", pid))
	if err1 != nil || err2 != nil || !os.SameFile(own, its) {
		return fmt.Errorf("process %d has another root directory: only root of the host may talk to the freejail "+
			"daemon", pid)
	}
	return nil
}
