package host

import "golang.org/x/sys/unix"

// Memory is the physical memory of the host, in bytes.
func Memory() (uint64, error) {
	var i unix.Sysinfo_t
	err := unix.Sysinfo(&i)
	return i.Totalram * uint64(i.Unit), err
}
