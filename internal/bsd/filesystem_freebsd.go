package bsd

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// confSize is sizeof(struct xvfsconf) of sys/mount.h on 64-bit systems, and
// confName and confType where its vfc_name and vfc_typenum are.
const (
	confSize = 48
	confName = 8
	confType = 24
)

// FileSystems are the numbers of the file system types that the kernel has now.
func FileSystems() (map[string]uint32, error) {
	b, err := unix.SysctlRaw("vfs.conflist")
	out := map[string]uint32{}
	for ; len(b) >= confSize; b = b[confSize:] {
		out[unix.ByteSliceToString(b[confName:confName+16])] = binary.NativeEndian.Uint32(b[confType:])
	}
	return out, err
}

// TypeOf is the type of the file system on which the files themselves lie. Of a mount by nullfs(4) statfs(2) has that
// one's number in f_type (nullfs_statfs in sys/fs/nullfs/null_vfsops.c), and nullfs in f_fstypename.
func TypeOf(st *unix.Statfs_t) (string, error) {
	known, err := FileSystems()
	for name, n := range known {
		if n == st.Type {
			return name, err
		}
	}
	return unix.ByteSliceToString(st.Fstypename[:]), err
}

var errDescriptors = errors.New("it leads into an fdescfs, where names are the descriptors of whoever looks them up")

// CheckNames is an error where an opened directory is of an fdescfs, also through nullfs(4): this process would find
// what it has open itself there, and with nodup be led into that (fdesc_lookup and fdesc_get_ino_alloc in
// sys/fs/fdescfs/fdesc_vnops.c).
func CheckNames(dir int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(dir, &st); err != nil {
		return fmt.Errorf("fstatfs: %w", err)
	}
	name := unix.ByteSliceToString(st.Fstypename[:])
	if name == "nullfs" {
		var err error
		if name, err = TypeOf(&st); err != nil {
			return err
		}
	}
	if name == "fdescfs" {
		return errDescriptors
	}
	return nil
}
