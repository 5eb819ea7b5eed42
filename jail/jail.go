// Package jail makes jails, runs processes in them, and watches both. FreeBSD's
// backend is the kernel's own system calls; Linux's imitates a jail by runc, for
// development.
package jail

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// Spec is one jail to be made. Its root is mounted already.
type Spec struct {
	Name     string
	Root     string // absolute path on the host
	Hostname string
	// Params are jail parameters by their jail(8) names: "allow.raw_sockets":
	// "true", "sysvshm": "new", "ip4": "inherit", "ip4.addr": "10.0.0.1".
	Params map[string]string
	// Meta is kept with the jail by kernels that have room for it.
	Meta   map[string]string
	Limits Limits
	Linux  bool // the image is Linux's
	// InMemory are file handles of file systems whose content counts as memory of
	// the jail, where the kernel does not count it by itself.
	InMemory [][]byte
	// Stack is the network stack that the jail shares, by its name: the jail that owns it on
	// FreeBSD, the path of a network namespace on Linux. Empty is the host's.
	Stack string
	// Devices are what processes may use beside the usual ones. On FreeBSD devfs(5) decides instead.
	Devices []Device
}

// Device is a node by its number. Access is of r, w and m, as of Linux's cgroups.
type Device struct {
	Block        bool
	Major, Minor int64
	Access       string
}

// Limits of a jail; 0 means none. The reserve and the shares matter where
// jails compete; FreeBSD has neither.
type Limits struct {
	MemoryBytes        int64
	MemoryReserveBytes int64
	CPUShares          int64
	CPUPercent         int // 100 is one core
	MaxProcs           int64
	OpenFiles          int64
	CPUSet             string // "0-2,5"
}

// Process is a program to run in a jail. Args[0] is looked up in the jail, by
// PATH of Env where it has no slash. The files may be closed after the start.
type Process struct {
	Args                  []string
	Env                   []string
	Dir                   string // absolute, in the jail
	UID, GID              uint32
	Groups                []uint32
	Stdin, Stdout, Stderr *os.File
	// Rows and Cols are the size, in characters, of a terminal that is made for the
	// process; 0 leaves it to the system.
	Rows, Cols uint16
	// NoCore has the kernel write no core dump: nothing can end a process while
	// it writes one. Linux's kernel writes them elsewhere.
	NoCore bool
}

// Exit is how a process ended. Known is false where the system cannot tell.
type Exit struct {
	Code, Signal int
	Known        bool
	OOM          bool
	Reason       string
	At           time.Time
}

// Info is one jail of the host whose name begins as freejail's do.
type Info struct {
	Name string
	JID  int
	Root string
	PID  int // the first process, where the backend knows it
}

// Usage of a jail.
type Usage struct {
	UserTime, SysTime time.Duration
	RSS               uint64 // bytes
	// Memory is what counts for the jail's limit, in bytes: on FreeBSD what memory_freebsd.go says, on Linux what its
	// cgroup has, with the pages of files.
	Memory uint64
	// Cache are pages of files among Memory, in bytes; nil on FreeBSD, where they do not count.
	Cache *uint64
	// Swap is what it has there, in bytes. It is nil on FreeBSD, whose racct(4) counts what memory may take there.
	Swap  *uint64
	Procs []ProcUsage
}

// ProcUsage of one process in a jail.
type ProcUsage struct {
	PID               int
	Command           string
	UserTime, SysTime time.Duration
	RSS               uint64
}

// Config of a Manager.
type Config struct {
	StateDir string
	Runc     string // development hosts: the program; empty: see Runtime

	// Tests take a kernel for an older or differently configured one.
	withoutRacct, withoutEvents bool
}

// namePrefix is common to all of freejail's jails.
const namePrefix = "fj-"

var (
	// ErrNoProgram means that a jail has no such program.
	ErrNoProgram = errors.New("no such program in the image")
	// ErrNotExecutable means that a file is there, and cannot be executed.
	ErrNotExecutable = errors.New("cannot be executed")
	// ErrNotFound means that there is no such jail.
	ErrNotFound = errors.New("no such jail")
)

// Error is a failed operation on a jail, with the kernel's own words.
type Error struct {
	Op, Jail, Message string
	Err               error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s %s: ", e.Op, e.Jail)
	if e.Message != "" {
		s += e.Message + ": "
	}
	return s + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }
