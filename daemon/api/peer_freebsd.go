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

// socketPeer tells who has the other end of a connection; atHome is an error where that is elsewhere, see home.admits.
func socketPeer(fd int) (p peer, atHome func() error, err error) {
	x, err := unix.GetsockoptXucred(fd, solLocal, unix.LOCAL_PEERCRED)
	if err != nil {
		return peer{uid: -1}, nil, err
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(x)), unix.SizeofXucred)
	p = peer{uid: int(x.Uid), pid: int(int32(binary.NativeEndian.Uint32(b[xucredPid:])))}
	for _, g := range x.Groups[:min(max(0, int(x.Ngroups)), len(x.Groups))] { // the kernel tells the first 16
		p.groups = append(p.groups, int(g))
	}
	pid, unknown := p.pid, errors.New("the client's process is unknown")
	if pid <= 0 {
		return p, func() error { return unknown }, nil
	}
	process, gone := bsd.FindProcess(pid)
	if gone != nil {
		return p, func() error { return errors.Join(unknown, gone) }, nil
	}
	p.login = process.Login()
	return p, func() error {
		own, err := ownHome()
		if err != nil {
			return err
		}
		return own.admits(fd, pid, process)
	}, nil
}

// home is where this process is, which it does not leave: its jail and its root directory.
type home struct {
	jid  int
	root bsd.File
}

var ownHome = untilKnown(func() (h home, err error) {
	own, err := bsd.FindProcess(os.Getpid())
	if err != nil {
		return h, err
	}
	dir, err := os.Open("/")
	if err != nil {
		return h, err
	}
	h.jid = own.JID()
	h.root, err = bsd.DescribeFile(dir)
	return h, errors.Join(err, dir.Close())
})

// admits refuses processes of jails, and with another root directory than the
// daemon's jail or host. The process is the one that has the other end of the
// connection, not another that got its pid since.
func (h home) admits(fd, pid int, process bsd.Process) error {
	if jid := process.JID(); jid != h.jid {
		return fmt.Errorf("process %d is in jail %d: only root of the host may talk to the freejail daemon", pid, jid)
	}
	return sameRoot(fd, pid, h.root)
}

// sameRoot wants the process at the other end of a connection to have our root
// directory.
func sameRoot(fd, pid int, root bsd.File) error {
	conn, err := bsd.Describe(fd)
	if err != nil {
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
