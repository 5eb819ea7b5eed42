package jail

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags of jail_set(2) and jail_get(2), sys/jail.h.
const (
	jailCreate = 0x01
	jailDying  = 0x08
)

// The kernel writes its reasons into a buffer of this size.
const errmsgSize = 1024

// jailParam is one name and value of jail_set(2) or jail_get(2); a buffer that
// jail_get fills is a value too.
type jailParam struct {
	name  string
	value []byte
}

// jailCall runs jail_set(2) or jail_get(2) and returns the jail's id. The
// kernel's message comes with the errno.
func jailCall(trap uintptr, params []jailParam, flags int) (jid int, message string, err error) {
	errmsg := make([]byte, errmsgSize)
	params = append(params, jailParam{"errmsg", errmsg})
	iov := make([]unix.Iovec, 0, 2*len(params))
	for _, p := range params {
		iov = append(iov, iovec(cstring(p.name)), iovec(p.value))
	}
	r, _, errno := unix.Syscall(trap, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)), uintptr(flags))
	runtime.KeepAlive(params)
	if errno != 0 {
		return 0, text(errmsg), errno
	}
	return int(r), "", nil
}

func iovec(b []byte) unix.Iovec {
	if len(b) == 0 {
		return unix.Iovec{}
	}
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}

// text is a C string.
func text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

func word(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

// jailGet finds a jail that is not dying by its name or, with none, the first
// one after a jid.
func jailGet(name string, after int) (Info, error) {
	key := jailParam{"lastjid", word(after)}
	nameBuf := make([]byte, 256)
	params := []jailParam{key}
	if name != "" {
		params[0] = jailParam{"name", cstring(name)}
	} else {
		params = append(params, jailParam{"name", nameBuf})
	}
	path := make([]byte, 1024)
	jid, msg, err := jailCall(unix.SYS_JAIL_GET, append(params, jailParam{"path", path}), 0)
	if errors.Is(err, unix.ENOENT) {
		return Info{}, ErrNotFound
	}
	if err != nil {
		return Info{}, &Error{Op: "look up", Jail: name, Message: msg, Err: err}
	}
	if name == "" {
		name = text(nameBuf)
	}
	return Info{Name: name, JID: jid, Root: text(path)}, nil
}

func jailRemove(jid int) error {
	// EINVAL is the answer for a jail that is not there.
	if _, _, errno := unix.Syscall(unix.SYS_JAIL_REMOVE, uintptr(jid), 0, 0); errno != 0 && errno != unix.EINVAL {
		return errno
	}
	return nil
}

// sysctl reads into old and writes value, each where it is not empty. It
// returns how much the kernel has.
func sysctl(mib []int32, old, value []byte) (int, error) {
	n := uintptr(len(old))
	_, _, errno := unix.Syscall6(unix.SYS___SYSCTL, uintptr(unsafe.Pointer(&mib[0])), uintptr(len(mib)),
		uintptr(unsafe.Pointer(unsafe.SliceData(old))), uintptr(unsafe.Pointer(&n)),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// sysctlNumber is a sysctl's number by its name: {0, 3} tells it.
func sysctlNumber(name string) ([]int32, error) {
	oid := make([]byte, 24*4)
	n, err := sysctl([]int32{0, 3}, oid, []byte(name))
	if err != nil {
		return nil, fmt.Errorf("sysctl %s: %w", name, err)
	}
	return query(0, oid[:n])[2:], nil
}

const paramTree = "security.jail.param."

// jailParams reads the types of all parameters that the kernel offers, by
// walking their sysctls: {0, 2} is the next one, {0, 1} its name, {0, 4} its
// format.
func jailParams() (map[string]paramType, error) {
	oid := make([]byte, 24*4)
	n, err := sysctl([]int32{0, 3}, oid, []byte(strings.TrimSuffix(paramTree, ".")))
	if err != nil {
		return nil, fmt.Errorf("sysctl %s: %w", paramTree, err)
	}
	out := map[string]paramType{}
	buf := make([]byte, 1024)
	for {
		if n, err = sysctl(query(2, oid[:n]), oid, nil); errors.Is(err, unix.ENOENT) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("sysctl after %s: %w", paramTree, err)
		}
		if _, err = sysctl(query(1, oid[:n]), buf, nil); err != nil {
			return nil, fmt.Errorf("name of a sysctl: %w", err)
		}
		name, ours := strings.CutPrefix(text(buf), paramTree)
		if !ours {
			return out, nil
		}
		if _, err = sysctl(query(4, oid[:n]), buf, nil); err != nil {
			return nil, fmt.Errorf("format of sysctl %s: %w", name, err)
		}
		t := paramType{ctl: binary.NativeEndian.Uint32(buf) & ctlMask, format: text(buf[4:])}
		// allow.mount and ip4 are nodes as well: their own value is a
		// child with an empty name.
		out[strings.TrimSuffix(name, ".")] = t
	}
}

func query(what int32, oid []byte) []int32 {
	mib := []int32{0, what}
	for ; len(oid) >= 4; oid = oid[4:] {
		mib = append(mib, int32(binary.NativeEndian.Uint32(oid)))
	}
	return mib
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
	return text(out), nil
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
