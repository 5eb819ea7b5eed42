package nfsroot

import (
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// moduleThere looks for a kernel module that a mount would load.
func moduleThere(name string) bool {
	if runtime.GOOS == "freebsd" {
		for _, dir := range []string{"/boot/kernel", "/boot/modules"} {
			if _, err := os.Stat(filepath.Join(dir, name+".ko")); err == nil {
				return true
			}
		}
		return false
	}
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	dir := filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]), "kernel/fs", name)
	_, err := os.Stat(dir)
	return err == nil
}
