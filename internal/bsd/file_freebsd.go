package bsd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct kinfo_file of sys/user.h, the same on amd64 and arm64 of FreeBSD
// 14 and 15. What lies behind kfStatus depends on the type.
const (
	fileSize = 1392

	kfType    = 4
	kfFD      = 8   // a descriptor, or kfRoot
	kfRefs    = 12  // references to the open file
	kfFSID    = 288 // of a file
	kfFileID  = 304 // of a file
	kfPCB     = 304 // of a socket
	kfShmSize = 312 // of shared memory, bytes
	kfPeerPCB = 320 // of a unix socket
	kfStatus  = 336
	kfPath    = 368

	kfVnode  = 1
	kfSocket = 2
	kfShm    = 8
	kfRoot   = -2 // KF_FD_TYPE_ROOT
	kfValid  = 1  // KF_ATTR_VALID
	fKinfo   = 22 // F_KINFO of sys/fcntl.h
)

// File is a struct kinfo_file, which may end within its path: what the kernel
// tells of something that a process has open.
type File struct{ Record }

// SharedMemory tells that of shm_open(2) and memfd_create(2): its size in bytes, how
// many have it open, and its name, if any.
func (f File) SharedMemory() (size, refs int64, name string, is bool) {
	if len(f.Record) <= kfPath || f.Int(kfType) != kfShm {
		return 0, 0, "", false
	}
	return f.Long(kfShmSize), int64(f.Int(kfRefs)), unix.ByteSliceToString(f.Record[kfPath:]), true
}

// Connects reports whether a socket is the other end of a unix socket.
func (f File) Connects(other File) bool {
	return f.Int(kfType) == kfSocket && other.Long(kfPeerPCB) != 0 && f.Long(kfPCB) == other.Long(kfPeerPCB)
}

// Root reports whether it is the root directory of a process, rather than one of
// its descriptors.
func (f File) Root() bool { return f.Int(kfFD) == kfRoot && f.Int(kfType) == kfVnode }

// Same reports whether it is a file that the kernel knows to be the same.
func (f File) Same(other File) bool {
	return f.valid() && f.Long(kfFSID) == other.Long(kfFSID) && f.Long(kfFileID) == other.Long(kfFileID)
}

func (f File) valid() bool { return binary.NativeEndian.Uint16(f.Record[kfStatus:])&kfValid != 0 }

// Describe tells of a descriptor of this process.
func Describe(fd int) (File, error) {
	k := make(Record, fileSize)
	binary.NativeEndian.PutUint32(k, fileSize)
	_, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), fKinfo, uintptr(unsafe.Pointer(&k[0])))
	if errno != 0 {
		return File{}, fmt.Errorf("fcntl(F_KINFO): %w", errno)
	}
	return File{k}, nil
}

// DescribeFile is Describe of an open file.
func DescribeFile(f *os.File) (File, error) {
	defer runtime.KeepAlive(f)
	return Describe(int(f.Fd()))
}

// FilesOf are what a process has open, its directories first.
func FilesOf(pid int) (out []File, err error) {
	var b []byte
	for range 10 { // what it opens meanwhile has no room; while it is in execve(2) it cannot be told
		b, err = unix.SysctlRaw("kern.proc.filedesc", pid)
		if !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		return nil, fmt.Errorf("open files of process %d: %w", pid, err)
	}
	rest := EachRecord(b, func(r Record) {
		if len(r) > kfStatus+2 {
			out = append(out, File{r})
		}
	})
	if rest != 0 {
		return nil, errors.New("this kernel's struct kinfo_file has another layout: freejail must be built for it")
	}
	return out, nil
}

// EachRecord calls f for each record of an answer; the first int of one is its
// length. It returns how many bytes at the end are no record.
func EachRecord(b []byte, f func(Record)) (rest int) {
	for r := Record(b); len(r) >= 4; r = r[r.Int(0):] {
		if size := r.Int(0); size <= 0 || size > len(r) {
			return len(r)
		}
		f(r[:r.Int(0)])
	}
	return 0
}
