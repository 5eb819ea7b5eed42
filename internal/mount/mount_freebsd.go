package mount

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Do mounts a file system by nmount(2). unionfs and tmpfs take no source.
//
// nullfs cannot cover what shows the source already, as for a directory that is
// to be read-only in a tree that is not: there an empty tmpfs comes between.
func Do(m Mount) error {
	err := nmount(m)
	if m.Type != "nullfs" || !errors.Is(err, unix.EDEADLK) {
		return err
	}
	if between := nmount(Mount{Type: "tmpfs", Target: m.Target, Options: []string{"ro", "size=65536", "mode=755"}}); between != nil {
		return errors.Join(err, between)
	}
	if err := nmount(m); err != nil {
		return errors.Join(err, Unmount(m.Target))
	}
	return nil
}

func nmount(m Mount) error {
	var iov []unix.Iovec
	add := func(name string, value []byte) {
		iov = append(iov, iovec(append([]byte(name), 0)), iovec(value))
	}
	text := func(name, value string) { add(name, append([]byte(value), 0)) }
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
			add(name, nil)
		}
	}
	for name, value := range m.Binary {
		add(name, value)
	}
	errmsg := make([]byte, 255)
	add("errmsg", errmsg)
	_, _, errno := unix.Syscall(unix.SYS_NMOUNT, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)), uintptr(flags))
	if errno != 0 {
		return &Error{Op: "mount", Type: m.Type, Source: m.Source, Target: m.Target, Message: unix.ByteSliceToString(errmsg), Err: errno}
	}
	return nil
}

func iovec(b []byte) unix.Iovec {
	if len(b) == 0 {
		return unix.Iovec{}
	}
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}

func unmount(target string) error { return unix.Unmount(target, 0) }

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

// List returns all mounts in the order in which they were made.
func List() ([]Info, error) {
	n, err := unix.Getfsstat(nil, unix.MNT_NOWAIT)
	if err != nil {
		return nil, err
	}
	var buf []unix.Statfs_t
	for n >= len(buf) { // else others may have been mounted meanwhile, and are cut off
		buf = make([]unix.Statfs_t, n+8)
		if n, err = unix.Getfsstat(buf, unix.MNT_NOWAIT); err != nil {
			return nil, err
		}
	}
	out := make([]Info, 0, n)
	for _, s := range buf[:n] {
		out = append(out, Info{Type: unix.ByteSliceToString(s.Fstypename[:]), Source: unix.ByteSliceToString(s.Mntfromname[:]), Target: unix.ByteSliceToString(s.Mntonname[:]),
			id: fmt.Sprintf("FSID:%d:%d", s.Fsid.Val[0], s.Fsid.Val[1])})
	}
	return out, nil
}

// confSize is sizeof(struct xvfsconf) of sys/mount.h on 64-bit systems, and
// confName where its vfc_name is.
const (
	confSize = 48
	confName = 8
)

// Known reports whether the kernel has a file system type now. It may still
// load a module for it at the first mount.
func Known(fstype string) bool {
	b, err := unix.SysctlRaw("vfs.conflist")
	if err != nil {
		return false
	}
	for ; len(b) >= confSize; b = b[confSize:] {
		if unix.ByteSliceToString(b[confName:confName+16]) == fstype {
			return true
		}
	}
	return false
}
