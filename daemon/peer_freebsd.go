package daemon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
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
// daemon's jail or host. The process is the one that has the other end of the
// connection, not another that got its pid since.
func atHome(fd, pid int) error {
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
	return sameRoot(fd, pid)
}

// struct kinfo_file of sys/user.h, alike on amd64 and arm64 of FreeBSD 14 and 15.
const (
	kfSize    = 1392
	kfType    = 4   // int: kfVnode, kfSocket
	kfFD      = 8   // int: a descriptor, or kfRoot
	kfPCB     = 304 // uint64, of a socket: its own
	kfPeerPCB = 320 // uint64, of a unix socket: the other end's
	kfFSID    = 288 // uint64, of a file
	kfFileID  = 304 // uint64, of a file
	kfStatus  = 336 // uint16
	kfVnode   = 1
	kfSocket  = 2
	kfRoot    = -2 // KF_FD_TYPE_ROOT
	kfValid   = 1  // KF_ATTR_VALID
	fKinfo    = 22 // F_KINFO of sys/fcntl.h
)

// kfile is a struct kinfo_file, which may be cut off after its fields.
type kfile []byte

func (k kfile) int(at int) int       { return int(int32(binary.NativeEndian.Uint32(k[at:]))) }
func (k kfile) uint64(at int) uint64 { return binary.NativeEndian.Uint64(k[at:]) }
func (k kfile) valid() bool          { return binary.NativeEndian.Uint16(k[kfStatus:])&kfValid != 0 }

// kfileOf is what the kernel tells of a descriptor of ours.
func kfileOf(fd int) (kfile, error) {
	k := make(kfile, kfSize)
	binary.NativeEndian.PutUint32(k, kfSize)
	_, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), fKinfo, uintptr(unsafe.Pointer(&k[0])))
	if errno != 0 {
		return nil, fmt.Errorf("fcntl(F_KINFO): %w", errno)
	}
	return k, nil
}

// kfilesOf are what a process has open, its directories first.
func kfilesOf(pid int) (out []kfile, err error) {
	var b []byte
	for range 10 { // what it opens meanwhile has no room; while it is in execve(2) it cannot be told
		if b, err = unix.SysctlRaw("kern.proc.filedesc", pid); !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		return nil, fmt.Errorf("what process %d has open: %w", pid, err)
	}
	for len(b) > kfStatus+2 {
		n := kfile(b).int(0)
		if n <= kfStatus+2 || n > len(b) {
			return nil, errors.New("this kernel tells of open files in a layout that is not known here")
		}
		out, b = append(out, kfile(b[:n])), b[n:]
	}
	return out, nil
}

// sameRoot wants the process at the other end of a connection to have our root
// directory.
func sameRoot(fd, pid int) error {
	conn, err := kfileOf(fd)
	if err != nil {
		return err
	}
	dir, err := os.Open("/")
	if err != nil {
		return err
	}
	root, err := kfileOf(int(dir.Fd()))
	if err = errors.Join(err, dir.Close()); err != nil {
		return err
	}
	its, err := kfilesOf(pid)
	if err != nil {
		return err
	}
	other, home := conn.uint64(kfPeerPCB), false
	held := other != 0 && slices.ContainsFunc(its, func(k kfile) bool { return k.int(kfType) == kfSocket && k.uint64(kfPCB) == other })
	for _, k := range its {
		if k.int(kfFD) == kfRoot && k.int(kfType) == kfVnode {
			home = k.valid() && k.uint64(kfFSID) == root.uint64(kfFSID) && k.uint64(kfFileID) == root.uint64(kfFileID)
		}
	}
	switch {
	case !held:
		return fmt.Errorf("process %d, which asked, does not have the connection any more", pid)
	case !home:
		return fmt.Errorf("process %d has another root directory: only root of the host may talk to the freejail daemon", pid)
	}
	return nil
}
