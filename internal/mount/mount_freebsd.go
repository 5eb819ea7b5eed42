package mount

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// Do mounts a file system on a target, from a source, whose paths are nobody
// else's to change. unionfs and tmpfs take no source.
func Do(m Mount) error {
	if m.From != nil {
		return &Error{Op: "mount", Type: m.Type, Target: m.Target,
			Err: errors.New("an opened source needs Descriptors")}
	}
	return nmount(m)
}

func nmount(m Mount) error {
	var params []bsd.Param
	text := func(name, value string) { params = append(params, bsd.Text(name, value)) }
	text("fstype", m.Type)
	text("fspath", m.Target)
	switch m.Type {
	case "nullfs", "unionfs":
		text("from", m.Source)
		text("target", m.Source)
	case "nfs":
		text("hostname", m.Source) // "from" is read by the kernel as an IPv4 address
	default:
		from := m.Source
		if from == "" {
			from = m.Type
		}
		text("from", from)
	}
	flags := 0
	for _, o := range m.Options {
		name, value, hasValue := strings.Cut(o, "=")
		switch {
		case o == "ro":
			flags |= unix.MNT_RDONLY
			text("ro", "")
		case o == "" || o == "rw":
		case hasValue:
			text(name, value)
		default:
			params = append(params, bsd.Param{Name: name})
		}
	}
	for name, value := range m.Binary {
		params = append(params, bsd.Param{Name: name, Value: value})
	}
	if _, message, err := bsd.Call(unix.SYS_NMOUNT, params, flags); err != nil {
		return &Error{Op: "mount", Type: m.Type, Source: m.Source, Target: m.Target, Message: message, Err: err}
	}
	return nil
}

func (m Info) unmount(force bool) error {
	flags := unix.MNT_BYFSID
	if force {
		flags |= unix.MNT_FORCE
	}
	return unix.Unmount(m.id, flags)
}

// nfssvc(2) and its call to give a mount up, from nfs/nfssvc.h.
const (
	sysNfssvc      = 155
	nfssvcForceDis = 0x40000000
)

// Abandon has all that wait for the server of an NFS mount fail, now and later.
// What is left to be done is to unmount it. Nothing mounted is no error.
func Abandon(target string) error {
	p, err := unix.BytePtrFromString(target)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall(sysNfssvc, nfssvcForceDis, uintptr(unsafe.Pointer(p)), 0)
	if errno != 0 && errno != unix.EINVAL {
		return &Error{Op: "abandon", Type: "nfs", Target: target, Err: errno}
	}
	return nil
}

// tables are buffers for what getfsstat(2) tells: 2.3 KB for each mount of the host, a few of which are looked for.
var tables = sync.Pool{New: func() any { return new([]unix.Statfs_t) }}

// list returns the mounts whose targets are wanted, in the order in which they were made.
func list(wanted func(target []byte) bool) (out []Info, err error) {
	buf := tables.Get().(*[]unix.Statfs_t)
	defer tables.Put(buf)
	n := 0
	for {
		if n, err = unix.Getfsstat(*buf, unix.MNT_NOWAIT); err != nil {
			return nil, err
		}
		if n < len(*buf) {
			break
		}
		if n, err = unix.Getfsstat(nil, unix.MNT_NOWAIT); err != nil { // others may be cut off
			return nil, err
		}
		*buf = make([]unix.Statfs_t, n+n/8+8)
	}
	for i := range (*buf)[:n] {
		st := &(*buf)[i]
		target, _, _ := bytes.Cut(st.Mntonname[:], []byte{0})
		if wanted(target) {
			out = append(out, info(st))
		}
	}
	return out, nil
}

func info(st *unix.Statfs_t) Info {
	return Info{Type: unix.ByteSliceToString(st.Fstypename[:]), Source: unix.ByteSliceToString(st.Mntfromname[:]),
		Target: unix.ByteSliceToString(st.Mntonname[:]), id: fmt.Sprintf("FSID:%d:%d", st.Fsid.Val[0], st.Fsid.Val[1])}
}

// confSize is sizeof(struct xvfsconf) of sys/mount.h on 64-bit systems, and
// confName and confType where its vfc_name and vfc_typenum are.
const (
	confSize = 48
	confName = 8
	confType = 24
)

// Known reports whether the kernel has a file system type now. It may still
// load a module for it at the first mount.
func Known(fstype string) bool {
	known, err := types()
	_, ok := known[fstype]
	return err == nil && ok
}

// TypeOf is the type of the file system on which the files themselves lie. Of a mount by nullfs(4) statfs(2) has that
// one's number in f_type (nullfs_statfs in sys/fs/nullfs/null_vfsops.c), and nullfs in f_fstypename.
func TypeOf(st *unix.Statfs_t) (string, error) {
	known, err := types()
	for name, n := range known {
		if n == st.Type {
			return name, err
		}
	}
	return unix.ByteSliceToString(st.Fstypename[:]), err
}

// types are the numbers of the file system types that the kernel has now.
func types() (map[string]uint32, error) {
	b, err := unix.SysctlRaw("vfs.conflist")
	out := map[string]uint32{}
	for ; len(b) >= confSize; b = b[confSize:] {
		out[unix.ByteSliceToString(b[confName:confName+16])] = binary.NativeEndian.Uint32(b[confType:])
	}
	return out, err
}

// Load loads the kernel module of a file system by its name.
func Load(fstype string) error { return bsd.LoadModule(fstype) }
