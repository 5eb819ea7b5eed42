package jail

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
	"github.com/freejail/freejail/internal/mount"
)

// prepare has nothing to do: the test's program needs no device.
func prepare(testing.TB, string) {}

// leaveReaper gives orphans to init, as the end of a daemon does.
func leaveReaper(t *testing.T) {
	const release = 3 // PROC_REAP_RELEASE
	if err := procctl(release, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := procctl(procReapAcquire, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func isZombie(pid int) bool {
	p, err := bsd.FindProcess(pid)
	must(err)
	return p.Zombie()
}

func removeBehindBack(m *Manager, name string) error {
	s, err := m.find("remove", name)
	if err != nil {
		return err
	}
	return jailRemove(s.jid)
}

// mountDev lets a jail see terminals.
func mountDev(t testing.TB, root string) {
	dev := filepath.Join(root, "dev")
	if err := mount.Do(mount.Mount{Type: "devfs", Target: dev}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.UnmountUnder(dev); err != nil {
			t.Error(err)
		}
	})
}

// usualSignals are those of a task; a host with one processor has no others to be confined to.
var usualSignals = fmt.Sprint(" ignored [] blocked [0 0 0 0] rtprio false processors ", runtime.NumCPU() > 1,
	" login root daemon")

// signals are those that are ignored or blocked, and how the process is scheduled.
func signals() string {
	runtime.LockOSThread()
	in, err := readInherited()
	must(err)
	var mask [4]uint32
	_, _, errno := unix.Syscall(unix.SYS_SIGPROCMASK, 1, 0, uintptr(unsafe.Pointer(&mask)))
	if errno != 0 {
		must(errno)
	}
	const kiClass = 484 // sys/user.h
	p, err := bsd.FindProcess(unix.Getpid())
	must(err)
	login := fmt.Sprint(" login ", p.Login(), " ", unix.ByteSliceToString(p.Record[kiClass:kiClass+18]))
	return fmt.Sprint(" ignored ", in.ignored, " blocked ", mask, " rtprio ", in.rtprio, " processors ",
		runtime.NumCPU() > 1, login)
}

// becomeOdd is what a shell may have made of a daemon.
func becomeOdd() error {
	syscall.Umask(0o077)
	signal.Ignore(syscall.SIGHUP, syscall.SIGTSTP, syscall.SIGUSR2)
	errs := []error{unix.Setpriority(unix.PRIO_PROCESS, 0, 7)}
	for r, n := range map[int]int64{unix.RLIMIT_CPU: 900, unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: 200} {
		errs = append(errs, unix.Setrlimit(r, &unix.Rlimit{Cur: n, Max: n}))
	}
	mask := [4]uint32{1 << (syscall.SIGUSR1 - 1)}
	one, err := cpuMask("0")
	for number, name := range map[uintptr]string{sysSetlogin: "alice", sysSetloginclass: "odd"} {
		b := cstring(name)
		if _, _, errno := unix.Syscall(number, uintptr(unsafe.Pointer(&b[0])), 0, 0); errno != 0 {
			errs = append(errs, errno)
		}
	}
	_, _, errno1 := unix.Syscall(unix.SYS_SIGPROCMASK, sigSetmask, uintptr(unsafe.Pointer(&mask)), 0)
	_, _, errno2 := unix.Syscall6(unix.SYS_CPUSET_SETAFFINITY, cpuLevelWhich, cpuWhichPID, ^uintptr(0),
		uintptr(len(one)), uintptr(unsafe.Pointer(&one[0])), 0)
	for _, errno := range []syscall.Errno{errno1, errno2} {
		if errno != 0 {
			errs = append(errs, errno)
		}
	}
	return errors.Join(append(errs, err)...)
}

// insideNest makes a jail in the jail and runs in it.
func insideNest() {
	// JAIL_ATTACH
	_, msg, err := bsd.Call(unix.SYS_JAIL_SET, []bsd.Param{bsd.Text("path", "/"), bsd.Text("name", "nest"),
		{Name: "persist"}}, jailCreate|4)
	if err != nil {
		must(fmt.Errorf("%s: %w", msg, err))
	}
	fmt.Println("ready")
	eat := os.Getenv("EAT") != ""
	awaitFile("/tmp/go")
	if eat {
		inside("eat")
	}
}

const ordinaryNice = 0

func lookAtMemory(m *Manager) { m.enforceMemory() }

// tryAddresses is of the development host, whose kernel does not confine by itself.
func tryAddresses() {}
