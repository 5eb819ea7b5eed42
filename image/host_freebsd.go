package image

import "golang.org/x/sys/unix"

// hostRelease is the version of this FreeBSD, such as "15.1-RELEASE"; empty
// where the kernel does not say.
func hostRelease() string {
	release, err := unix.Sysctl("kern.osrelease")
	if err != nil {
		return ""
	}
	return release
}
