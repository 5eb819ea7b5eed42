package jail

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// birth is all that a child needs between its fork and its exec, made ready
// before: the child may not allocate. Package syscall's own ForkExec would not
// do. Its child has every descriptor of ours until the exec, and
// jail_attach(2) refuses a process that has a directory open, as another
// start or an unpack of ours may have at any time.
type birth struct {
	jid        int
	files      [3]int // from firstFree on, as are report and gate
	report     int
	gate       int      // read before the program runs; 0 without a terminal
	groups     []uint32 // the first becomes the effective one
	uid, gid   uint32
	tty        *byte // the terminal's path in the jail; nil without one
	dir, prog  *byte
	argv, envv []*byte
	limits     []limit
	inherited  inheritance
	processors []byte
	normal     rtprio
	noAction   sigaction

	failed [2]uint32 // step and errno
}

// In the child, closed by the exec.
const (
	reportFD  = 3
	gateFD    = 4
	firstFree = gateFD + 1
)

// limit is one of setrlimit(2).
type limit struct {
	resource uintptr
	value    unix.Rlimit
}

// Steps of a child.
const (
	stepFiles = iota + 1
	stepOrdinary
	stepAttach
	stepTerminal
	stepUser
	stepDir
	stepLimit
	stepProcessors
	stepExec
)

// birthError says at which step a child failed.
type birthError struct {
	step int
	err  syscall.Errno
}

func (e *birthError) Error() string { return e.err.Error() }
func (e *birthError) Unwrap() error { return e.err }

// forkExec returns a child's pid when the child runs its program. The caller
// keeps others from reaping it meanwhile. A terminal, where the files are one, is
// closed before the program runs: the kernel waits for what it wrote to be read
// when the last descriptor is closed, and throws it away when the program has
// ended before that.
func (b *birth) forkExec(files [3]*os.File, terminal *os.File, u *unborn) (int, error) {
	r, report, err := pipe("report of the child")
	if err != nil {
		return 0, err
	}
	defer r.Close()
	ends := []*os.File{files[0], files[1], files[2], report}
	var opened *os.File
	if terminal != nil {
		gate, w, err := pipe("gate of the child")
		if err != nil {
			return 0, errors.Join(err, report.Close())
		}
		defer gate.Close()
		defer w.Close() // if it was not reached
		opened, ends = w, append(ends, gate)
	}
	fds, err := duplicate(ends)
	if err = errors.Join(err, report.Close()); err != nil {
		closeAll(fds)
		return 0, err
	}
	copy(b.files[:], fds)
	b.report = fds[3]
	if terminal != nil {
		b.gate = fds[4]
	}
	pid, errno := u.fork(b)
	defer u.remove(pid)
	closeAll(fds)
	if terminal != nil {
		_ = errors.Join(terminal.Close(), opened.Close()) // nothing was written to them
	}
	if errno != 0 {
		return 0, fmt.Errorf("fork: %w", errno)
	}
	var said [8]byte
	if _, err := io.ReadFull(r, said[:]); err != nil { // closed by the exec
		return pid, nil
	}
	wait6(idPID, pid, waitExited)
	return 0, &birthError{int(binary.NativeEndian.Uint32(said[:])), syscall.Errno(binary.NativeEndian.Uint32(said[4:]))}
}

func pipe(name string) (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}

// duplicate moves the descriptors out of the way of those that they become.
func duplicate(files []*os.File) (out []int, err error) {
	for _, f := range files {
		dup, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, firstFree)
		if err != nil {
			return out, fmt.Errorf("descriptors of the process: %w", err)
		}
		out = append(out, dup)
	}
	return out, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd) // duplicates that nothing was written to
	}
}

// fork forks, and knows the child until it is removed.
func (u *unborn) fork(b *birth) (int, syscall.Errno) {
	u.forking.RLock()
	defer u.forking.RUnlock()
	pid, errno := bsd.Fork(syscall.SYS_FORK, 0, 0, b)
	runtime.KeepAlive(b)
	if errno == 0 {
		u.add(int(pid))
	}
	return int(pid), errno
}

// Run is the child: it attaches and runs the program. It returns when a step has failed and was reported.
//
//go:norace
//go:nosplit
func (b *birth) Run() {
	errno := b.becomeFiles()
	step := stepFiles
	if errno == 0 {
		step = stepOrdinary
		errno = b.becomeOrdinary()
	}
	if errno == 0 {
		step = stepAttach
		_, _, errno = syscall.RawSyscall(syscall.SYS_JAIL_ATTACH, uintptr(b.jid), 0, 0)
	}
	bsd.Forked()
	if errno == 0 {
		step = stepOrdinary
		errno = b.becomeHeard()
	}
	if errno == 0 {
		step = stepProcessors
		_, _, errno = syscall.RawSyscall6(unix.SYS_CPUSET_SETAFFINITY, cpuLevelWhich, cpuWhichPID, ^uintptr(0),
			uintptr(len(b.processors)), uintptr(unsafe.Pointer(&b.processors[0])), 0)
	}
	if errno == 0 {
		step = stepTerminal
		errno = b.becomeSession()
	}
	if errno == 0 {
		step = stepUser
		errno = b.becomeUser()
	}
	if errno == 0 {
		step = stepDir
		_, _, errno = syscall.RawSyscall(syscall.SYS_CHDIR, uintptr(unsafe.Pointer(b.dir)), 0, 0)
	}
	for i := 0; errno == 0 && i < len(b.limits); i++ {
		step = stepLimit
		_, _, errno = syscall.RawSyscall(syscall.SYS_SETRLIMIT, b.limits[i].resource,
			uintptr(unsafe.Pointer(&b.limits[i].value)), 0)
	}
	if errno == 0 {
		step = stepExec
		_, _, errno = syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(b.prog)),
			uintptr(unsafe.Pointer(&b.argv[0])), uintptr(unsafe.Pointer(&b.envv[0])))
	}
	b.failed = [2]uint32{uint32(step), uint32(errno)}
	syscall.RawSyscall(syscall.SYS_WRITE, reportFD, uintptr(unsafe.Pointer(&b.failed)), unsafe.Sizeof(b.failed))
}

// becomeFiles leaves the child nothing but its three files and the report.
//
//go:norace
//go:nosplit
func (b *birth) becomeFiles() syscall.Errno {
	for i := range b.files {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_DUP2, uintptr(b.files[i]), uintptr(i), 0); errno != 0 {
			return errno
		}
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(b.report), unix.F_DUP2FD_CLOEXEC,
		reportFD); errno != 0 {
		return errno
	}
	if b.gate == 0 {
		_, _, errno := syscall.RawSyscall(unix.SYS_CLOSE_RANGE, gateFD, math.MaxUint32, 0)
		return errno
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(b.gate), unix.F_DUP2FD_CLOEXEC,
		gateFD); errno != 0 {
		return errno
	}
	if _, _, errno := syscall.RawSyscall(unix.SYS_CLOSE_RANGE, firstFree, math.MaxUint32, 0); errno != 0 {
		return errno
	}
	// until it is closed
	_, _, errno := syscall.RawSyscall(syscall.SYS_READ, gateFD, uintptr(unsafe.Pointer(&b.failed)), 1)
	return errno
}

//go:norace
//go:nosplit
func (b *birth) becomeSession() syscall.Errno {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0); errno != 0 {
		return errno
	}
	if _, _, errno := syscall.RawSyscall(sysSetlogin, uintptr(unsafe.Pointer(&loginName)), 0, 0); errno != 0 ||
		b.tty == nil {
		return errno
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, 0, unix.TIOCSCTTY, 0); errno != 0 {
		return errno
	}
	// The jail's devfs has owners of its own, root at first, so that the path
	// counts and not the descriptor; it shows a terminal from outside only to
	// whom it controls. A jail that shows no terminals has no path.
	syscall.RawSyscall(syscall.SYS_LCHOWN, uintptr(unsafe.Pointer(b.tty)), uintptr(b.uid), math.MaxUint32)
	return 0
}

//go:norace
//go:nosplit
func (b *birth) becomeUser() syscall.Errno {
	// setgroups(2), by the number that Go knows, takes the effective group for
	// the first of the list.
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(b.groups)),
		uintptr(unsafe.Pointer(&b.groups[0])), 0); errno != 0 {
		return errno
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGID, uintptr(b.gid), 0, 0); errno != 0 {
		return errno
	}
	_, _, errno := syscall.RawSyscall(syscall.SYS_SETUID, uintptr(b.uid), 0, 0)
	return errno
}
