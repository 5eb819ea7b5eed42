package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// solLocal is SOL_LOCAL of sys/un.h.
const solLocal = 0

// xucredPid is where struct xucred of sys/ucred.h has cr_pid: at its end, in a
// union with a pointer.
const xucredPid = unix.SizeofXucred - 8

func socketPeer(fd int) (peer, error) {
	x, err := unix.GetsockoptXucred(fd, solLocal, unix.LOCAL_PEERCRED)
	if err != nil {
		return peer{uid: -1}, err
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(x)), unix.SizeofXucred)
	p := peer{uid: int(x.Uid), pid: int(int32(binary.NativeEndian.Uint32(b[xucredPid:])))}
	for _, g := range x.Groups[:min(max(0, int(x.Ngroups)), len(x.Groups))] { // the kernel tells the first 16
		p.groups = append(p.groups, int(g))
	}
	if k, err := bsd.FindProcess(p.pid); err == nil {
		p.login = k.Login()
	}
	return p, nil
}

// atHome refuses processes of jails, and with another root directory than the
// daemon's jail or host. The process is the one that has the other end of the
// connection, not another that got its pid since.
func atHome(fd, pid int) error {
	if pid <= 0 {
		return errors.New("the client's process is unknown")
	}
	its, err := bsd.FindProcess(pid)
	if err != nil {
		return err
	}
	own, err := bsd.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	if its.JID() != own.JID() {
		return fmt.Errorf("process %d is in jail %d: only root of the host may talk to the freejail daemon", pid,
			its.JID())
	}
	return sameRoot(fd, pid)
}

// sameRoot wants the process at the other end of a connection to have our root
// directory.
func sameRoot(fd, pid int) error {
	conn, err := bsd.Describe(fd)
	if err != nil {
		return err
	}
	dir, err := os.Open("/")
	if err != nil {
		return err
	}
	root, err := bsd.DescribeFile(dir)
	if err = errors.Join(err, dir.Close()); err != nil {
		return err
	}
	its, err := bsd.FilesOf(pid)
	if err != nil {
		return err
	}
	var held, home bool
	for _, f := range its {
		held = held || f.Connects(conn)
		home = home || f.Root() && f.Same(root)
	}
	switch {
	case !held:
		return fmt.Errorf("process %d, the client, no longer has the connection", pid)
	case !home:
		return fmt.Errorf("process %d has another root directory: only root of the host may talk to the freejail "+
			"daemon", pid)
	}
	return nil
}
