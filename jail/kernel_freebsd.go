package jail

import (
	"errors"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// Flags of jail_set(2) and jail_get(2), sys/jail.h.
const (
	jailCreate = 0x01
	jailUpdate = 0x02
	jailDying  = 0x08

	jailInherit = 2 // JAIL_SYS_INHERIT
)

// jailGet finds a jail that is not dying by its name in the kernel or, with none, the first
// one after a jid.
func jailGet(name string, after int) (Info, error) {
	nameBuf, path := make([]byte, maxName+1), make([]byte, 1024)
	params := []bsd.Param{{Name: "lastjid", Value: bsd.Word(after)}, {Name: "name", Value: nameBuf}}
	if name != "" {
		params = []bsd.Param{bsd.Text("name", name)}
	}
	jid, msg, err := bsd.Call(unix.SYS_JAIL_GET, append(params, bsd.Param{Name: "path", Value: path}), 0)
	if errors.Is(err, unix.ENOENT) {
		return Info{}, ErrNotFound
	}
	if err != nil {
		return Info{}, &Error{Op: "look up", Jail: name, Message: msg, Err: err}
	}
	if name == "" {
		name = unix.ByteSliceToString(nameBuf)
	}
	return Info{Name: name, JID: jid, Root: unix.ByteSliceToString(path)}, nil
}

func jailRemove(jid int) error {
	// EINVAL is the answer for a jail that is not there.
	if _, _, errno := unix.Syscall(unix.SYS_JAIL_REMOVE, uintptr(jid), 0, 0); errno != 0 && errno != unix.EINVAL {
		return errno
	}
	return nil
}

// jailParams are the types of all parameters that the kernel offers.
func jailParams() (map[string]paramType, error) {
	formats, err := bsd.SysctlsBelow("security.jail.param")
	out := map[string]paramType{}
	for name, f := range formats {
		// allow.mount and ip4 are nodes as well: their own value is a
		// child with an empty name.
		out[strings.TrimSuffix(name, ".")] = paramType{ctl: f.Type, format: f.Text}
	}
	return out, err
}

// rctl calls one of rctl's system calls. Errno ENOSYS means that the kernel
// does not account for resources.
func rctl(trap uintptr, rule string) (string, error) {
	in, out := cstring(rule), make([]byte, 4096)
	_, _, errno := unix.Syscall6(trap, uintptr(unsafe.Pointer(&in[0])), uintptr(len(in)),
		uintptr(unsafe.Pointer(&out[0])), uintptr(len(out)), 0, 0)
	if errno != 0 {
		return "", errno
	}
	return unix.ByteSliceToString(out), nil
}

// cpusetJail confines a jail to processors.
func cpusetJail(jid int, mask []byte) error {
	_, _, errno := unix.Syscall6(unix.SYS_CPUSET_SETAFFINITY, cpuLevelWhich, cpuWhichJail, uintptr(jid),
		uintptr(len(mask)), uintptr(unsafe.Pointer(&mask[0])), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// Numbers of sys/procctl.h and sys/wait.h.
const (
	procSprotect        = 1
	pprotSet            = 1
	pprotClear          = 2
	procReapAcquire     = 2
	procTraceCtl        = 7
	procTraceCtlDisable = 2

	idPID, idAll, idJail = 0, 7, 12

	waitNoHang, waitNoWait, waitExited = 1, 8, 16
)

func procctl(command int, data unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_PROCCTL, idPID, uintptr(unix.Getpid()), uintptr(command), uintptr(data), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// wait6 is wait6(2): a pid, or 0 where there is no such child to reap.
func wait6(idType, id, options int) (pid int, ws unix.WaitStatus, self, children unix.Rusage) {
	var usage struct{ self, children unix.Rusage }
	for {
		r, _, errno := unix.Syscall6(unix.SYS_WAIT6, uintptr(idType), uintptr(id), uintptr(unsafe.Pointer(&ws)),
			uintptr(options), uintptr(unsafe.Pointer(&usage)), 0)
		switch errno {
		case 0:
			return int(r), ws, usage.self, usage.children
		case unix.EINTR:
		default: // ECHILD: none at all
			return 0, 0, unix.Rusage{}, unix.Rusage{}
		}
	}
}
