package mount

import (
	"bytes"
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
	if err := nmount(m); err != nil {
		return err
	}
	if m.Type != "nfs" { // whose server may be away by now
		if at, err := At(m.Target); err == nil && at.Type == m.Type {
			own.add(at)
		}
	}
	return nil
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
	err := unix.Unmount(m.id, flags)
	if err == nil || isGone(err) {
		own.remove(m)
	}
	return err
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

// listing is held for the table of one listing: getfsstat(2) tells 2.3 KB of each mount of the host, a few of which are
// looked for.
var listing struct {
	sync.Mutex
	count int // of listings, for tests
}

// list returns the mounts whose targets are wanted, in the order in which they were made. The table is memory that goes
// back to the kernel, not to the garbage collector: it is larger than all else of a daemon with many tasks.
func list(wanted func(target []byte) bool) (out []Info, err error) {
	listing.Lock()
	defer listing.Unlock()
	listing.count++
	for {
		n, err := unix.Getfsstat(nil, unix.MNT_NOWAIT)
		if err != nil {
			return nil, err
		}
		most := n + n/8 + 8 // others may mount meanwhile
		b, err := unix.Mmap(-1, 0, most*int(unsafe.Sizeof(unix.Statfs_t{})), unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return nil, fmt.Errorf("memory for the list of mounts: %w", err)
		}
		table := unsafe.Slice((*unix.Statfs_t)(unsafe.Pointer(&b[0])), most)
		if n, err = unix.Getfsstat(table, unix.MNT_NOWAIT); err == nil && n < most {
			out = infos(table[:n], wanted)
		}
		if err = errors.Join(err, unix.Munmap(b)); err != nil || n < most {
			return out, err
		}
	}
}

func infos(table []unix.Statfs_t, wanted func(target []byte) bool) (out []Info) {
	for i := range table {
		target, _, _ := bytes.Cut(table[i].Mntonname[:], []byte{0})
		if wanted(target) {
			out = append(out, info(&table[i]))
		}
	}
	return out
}

func info(st *unix.Statfs_t) Info {
	return Info{Type: unix.ByteSliceToString(st.Fstypename[:]), Source: unix.ByteSliceToString(st.Mntfromname[:]),
		Target: unix.ByteSliceToString(st.Mntonname[:]), id: fsid(st.Fsid.Val).text()}
}

// Known reports whether the kernel has a file system type now. It may still
// load a module for it at the first mount.
func Known(fstype string) bool {
	known, err := bsd.FileSystems()
	_, ok := known[fstype]
	return err == nil && ok
}

// TypeOf is the type of the file system on which the files themselves lie, also of a mount by nullfs(4).
func TypeOf(st *unix.Statfs_t) (string, error) { return bsd.TypeOf(st) }

// Load loads the kernel module of a file system by its name.
func Load(fstype string) error { return bsd.LoadModule(fstype) }
