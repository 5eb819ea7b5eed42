package boot

import (
	"encoding/hex"
	"fmt"

	"golang.org/x/sys/unix"
)

// id is ENXIO until the kernel has random numbers (sysctl_bootid in
// kern/kern_mib.c), which rc waits for before it starts anything of ours.
func id() (string, error) {
	b, err := unix.SysctlRaw("kern.boot_id")
	if err != nil {
		return "", fmt.Errorf("sysctl kern.boot_id: %w", err)
	}
	return hex.EncodeToString(b), nil
}
