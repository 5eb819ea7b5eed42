package api

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"

	"golang.org/x/sys/unix"
)

func socketPeer(fd int) (peer, error) {
	u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return peer{uid: -1}, err
	}
	p := peer{uid: int(u.Uid), pid: int(u.Pid)}
	// 4294967295 stands for none.
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/loginuid", p.pid)); err == nil {
		if l, err := user.LookupId(strings.TrimSpace(string(b))); err == nil {
			p.login = l.Username
		}
	}
	return p, nil
}

// atHome refuses processes of containers: of another PID or user namespace, or
// with another root directory.
func atHome(_, pid int) error {
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
