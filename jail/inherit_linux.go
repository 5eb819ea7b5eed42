package jail

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A process of a jail has nothing of whoever started the daemon: it gets these
// limits, umask 022 and no protection of ours.

const usualUmask = 0o022

// usualFiles may a process have open that has no limit of its own, as a service
// of systemd's, of which it can have the soft limit raised.
const (
	usualFiles    = 1024
	usualFilesMax = 524288
)

// usualLimits are soft and hard, by setrlimit(2)'s numbers.
var usualLimits = map[int][2]uint64{
	unix.RLIMIT_NOFILE: {usualFiles, usualFilesMax}, unix.RLIMIT_STACK: {8 << 20, unix.RLIM_INFINITY},
	unix.RLIMIT_MEMLOCK: {8 << 20, 8 << 20}, unix.RLIMIT_CPU: unlimited, unix.RLIMIT_FSIZE: unlimited,
	unix.RLIMIT_DATA: unlimited,
	unix.RLIMIT_CORE: unlimited, unix.RLIMIT_RSS: unlimited, unix.RLIMIT_NPROC: unlimited, unix.RLIMIT_AS: unlimited,
}

var unlimited = [2]uint64{unix.RLIM_INFINITY, unix.RLIM_INFINITY}

// rlimitNames are runc's.
var rlimitNames = map[int]string{
	unix.RLIMIT_NOFILE: "RLIMIT_NOFILE", unix.RLIMIT_STACK: "RLIMIT_STACK", unix.RLIMIT_MEMLOCK: "RLIMIT_MEMLOCK",
	unix.RLIMIT_CPU: "RLIMIT_CPU", unix.RLIMIT_FSIZE: "RLIMIT_FSIZE", unix.RLIMIT_DATA: "RLIMIT_DATA",
	unix.RLIMIT_CORE: "RLIMIT_CORE", unix.RLIMIT_RSS: "RLIMIT_RSS", unix.RLIMIT_NPROC: "RLIMIT_NPROC",
	unix.RLIMIT_AS: "RLIMIT_AS",
}

// rlimits of each process of a jail. A host that does not let us raise limits,
// being a container itself, has us keep its own.
func rlimits(l Limits) []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	for _, r := range slices.Sorted(maps.Keys(usualLimits)) {
		soft, hard := usualLimits[r][0], usualLimits[r][1]
		if r == unix.RLIMIT_NOFILE && l.OpenFiles > 0 {
			soft, hard = uint64(l.OpenFiles), uint64(l.OpenFiles)
		}
		var own unix.Rlimit
		if err := unix.Getrlimit(r, &own); err != nil {
			continue // not known here
		}
		if hard > own.Max && unix.Setrlimit(r, &unix.Rlimit{Cur: own.Cur, Max: hard}) != nil {
			hard = own.Max
		}
		out = append(out, specs.POSIXRlimit{Type: rlimitNames[r], Soft: min(soft, hard), Hard: hard})
	}
	return out
}

const oomScoreFile = "/proc/self/oom_score_adj"

// Protect has the kernel choose others before this process when memory runs out.
func Protect() error {
	if err := os.WriteFile(oomScoreFile, []byte("-500"), 0o644); err != nil {
		return fmt.Errorf("protect the daemon when memory runs out: %w", err)
	}
	return nil
}

// usualOOMScore is a task's where this process is protected; nil is ours.
func usualOOMScore() *int {
	b, err := os.ReadFile(oomScoreFile)
	if err != nil {
		return nil // no such file: nothing to take back
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err != nil || n >= 0 {
		return nil
	}
	return new(int)
}
