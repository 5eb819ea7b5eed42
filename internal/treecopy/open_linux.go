package treecopy

import (
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

const oPath = unix.O_PATH

// reopen opens for reading what is open as a place.
func reopen(f *os.File) (*os.File, error) {
	defer runtime.KeepAlive(f)
	name := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	return os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

var specials = map[int64]string{unix.PROC_SUPER_MAGIC: "proc", unix.SYSFS_MAGIC: "sysfs", unix.DEBUGFS_MAGIC: "debugfs",
	unix.TRACEFS_MAGIC: "tracefs", unix.SECURITYFS_MAGIC: "securityfs", unix.BPF_FS_MAGIC: "bpf",
	unix.CGROUP_SUPER_MAGIC: "cgroup", unix.CGROUP2_SUPER_MAGIC: "cgroup2", unix.DEVPTS_SUPER_MAGIC: "devpts",
	unix.NSFS_MAGIC: "nsfs", 0x19800202: "mqueue"}

// special is the name of a special file system.
func special(f *os.File) (string, error) {
	var st unix.Statfs_t
	err := unix.Fstatfs(int(f.Fd()), &st)
	return specials[int64(st.Type)], err
}
