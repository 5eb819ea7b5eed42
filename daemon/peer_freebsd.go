package daemon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
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
	if k, err := kinfo(p.pid); err == nil {
		p.login = unix.ByteSliceToString(k[kiLogin : kiLogin+kiLoginSize])
	}
	return p, nil
}

// struct kinfo_proc of sys/user.h, alike on amd64 and arm64.
const (
	kinfoSize   = 1088
	kiJid       = 592
	kiLogin     = 420
	kiLoginSize = 18
)

// kinfo reads one process by the sysctl kern.proc.pid.
func kinfo(pid int) ([]byte, error) {
	b, err := unix.SysctlRaw("kern.proc.pid", pid)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	if len(b) != kinfoSize || binary.NativeEndian.Uint32(b) != kinfoSize {
		return nil, errors.New("this kernel tells of processes in a layout that is not known here")
	}
	return b, nil
}

// atHome refuses processes of jails, and with another root directory than the
// daemon's jail or host.
func atHome(pid int) error {
	if pid <= 0 {
		return errors.New("the process that asks is not known")
	}
	its, err := kinfo(pid)
	if err != nil {
		return err
	}
	own, err := kinfo(os.Getpid())
	if err != nil {
		return err
	}
	jid := func(k []byte) uint32 { return binary.NativeEndian.Uint32(k[kiJid:]) }
	if jid(its) != jid(own) {
		return fmt.Errorf("process %d is in jail %d: only root of the host may talk to the freejail daemon", pid, jid(its))
	}
	return nil
}
