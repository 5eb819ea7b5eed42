package jail

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

// Numbers of sys/mman.h and sys/filio.h.
const (
	sysShmOpen2  = 571
	sysShmUnlink = 483
	shmLargePage = 4
	lpgConf      = 0x80306664 // FIOSSHMLPGCNF
)

// shmOpen opens an object by its name, or one without.
func shmOpen(name string, flags uintptr) *os.File {
	path := uintptr(1) // SHM_ANON
	if name != "" {
		b := cstring(name)
		defer runtime.KeepAlive(b)
		path = uintptr(unsafe.Pointer(&b[0]))
	}
	fd, _, errno := unix.Syscall6(sysShmOpen2, path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600, flags, 0, 0)
	if errno != 0 {
		must(errno)
	}
	return os.NewFile(fd, "shm")
}

// fill writes so many bytes, in pieces.
func fill(f *os.File, n int64) {
	must(f.Truncate(n))
	b := make([]byte, 1<<20)
	for i := range b {
		b[i] = 1
	}
	for ; n > 0; n -= int64(len(b)) {
		_, err := f.Write(b)
		must(err)
	}
}

const (
	much  = 160 << 20 // bytes
	piece = 16 << 20  // never resident beyond this, where memory is hidden
)

// insideShared has memory by a way that no process has it resident.
func insideShared(how string) {
	var keep []*os.File
	switch how {
	case "written":
		keep = append(keep, shmOpen("", 0))
		fill(keep[0], much)
	case "many":
		for range much >> 20 {
			f := shmOpen("", 0)
			fill(f, 1<<20)
			keep = append(keep, f)
		}
	case "named": // and open nowhere
		f := shmOpen("/named", 0)
		fill(f, much)
		must(f.Close())
	case "unlinked":
		f := shmOpen("/unlinked", 0)
		fill(f, much)
		b := cstring("/unlinked")
		if _, _, errno := unix.Syscall(sysShmUnlink, uintptr(unsafe.Pointer(&b[0])), 0, 0); errno != 0 {
			must(errno)
		}
		keep = append(keep, f)
	case "mapped": // not touched, and closed
		f := shmOpen("", 0)
		fill(f, much)
		_, err := unix.Mmap(int(f.Fd()), 0, much, unix.PROT_READ, unix.MAP_SHARED)
		must(err)
		must(f.Close())
	case "passed":
		passShared()
	case "large":
		f := shmOpen("", shmLargePage)
		conf := [12]int32{1} // psind
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), lpgConf, uintptr(unsafe.Pointer(&conf))); errno != 0 {
			must(errno)
		}
		must(f.Truncate(much))
		keep = append(keep, f)
	case "receive":
		b, oob := make([]byte, 1), make([]byte, 64)
		_, n, _, _, err := unix.Recvmsg(0, b, oob, 0)
		must(err)
		all, err := unix.ParseSocketControlMessage(oob[:n])
		must(err)
		_, err = unix.ParseUnixRights(&all[0])
		must(err)
	case "sparse":
		f := shmOpen("", 0)
		fill(f, 1<<20)
		must(f.Truncate(1 << 40))
		keep = append(keep, f)
	case "used": // as programs do: 40 MiB, open and mapped
		useShared(&keep)
	case "protected":
		for range much / piece {
			must(unix.Mprotect(touched(unix.MAP_PRIVATE, piece), unix.PROT_NONE))
		}
	case "inherited":
		inheritShared()
	case "copied": // from a file, and hidden
		f, err := os.Create("/tmp/copied")
		must(err)
		must(f.Truncate(much))
		b, err := unix.Mmap(int(f.Fd()), 0, much, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		must(err)
		for ; len(b) > 0; b = b[piece:] {
			touch(b[:piece])
			must(unix.Mprotect(b[:piece], unix.PROT_NONE))
		}
	case "forked": // what both have is there once
		touched(unix.MAP_PRIVATE, 40<<20)
		forkSleeper()
	case "mapped file":
		f, err := os.Create("/mem/file")
		must(err)
		fill(f, 40<<20)
		b, err := unix.Mmap(int(f.Fd()), 0, 40<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		must(err)
		touch(b)
	case "mappings":
		b, err := unix.Mmap(-1, 0, 70000*unix.Getpagesize(), unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
		must(err)
		for page := unix.Getpagesize(); len(b) > 0; b = b[2*page:] {
			must(unix.Mprotect(b[:page], unix.PROT_READ))
		}
	case "file":
		f, err := os.Create("/mem/file")
		must(err)
		fill(f, much)
	}
	kept = keep
}

var kept []*os.File

// passShared leaves an object to another process, and has it no more.
func passShared() {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(err)
	c := exec.Command("/bin/prog", "inside-shared")
	c.Env = []string{"HOW=receive"}
	c.Stdin, c.Stdout, c.Stderr = os.NewFile(uintptr(fds[1]), "socket"), os.Stdout, os.Stderr
	must(c.Start())
	must(c.Stdin.(*os.File).Close())
	f := shmOpen("", 0)
	fill(f, much)
	must(unix.Sendmsg(fds[0], []byte{1}, unix.UnixRights(int(f.Fd())), nil, 0))
	must(f.Close())
}

func touch(b []byte) {
	for i := 0; i < len(b); i += unix.Getpagesize() {
		b[i] = 1
	}
}

func touched(flags, n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|flags)
	must(err)
	touch(b)
	return b
}

// forkSleeper leaves a copy of this process that does nothing.
func forkSleeper() {
	pid, _, errno := unix.RawSyscall(unix.SYS_FORK, 0, 0, 0)
	for pid == 0 && errno == 0 { // the child, which has this thread alone
		unix.RawSyscall6(unix.SYS_SELECT, 0, 0, 0, 0, 0, 0)
	}
	if errno != 0 {
		must(errno)
	}
}

// inheritShared leaves memory to a child that does not touch it.
func inheritShared() {
	b, err := unix.Mmap(-1, 0, much, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_SHARED)
	must(err)
	forkSleeper()
	for at := 0; at < much; at += piece {
		touch(b[at : at+piece])
		must(unix.MunmapPtr(unsafe.Pointer(&b[at]), piece))
	}
}

func useShared(keep *[]*os.File) {
	f := shmOpen("", 0)
	fill(f, 40<<20)
	b, err := unix.Mmap(int(f.Fd()), 0, 40<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(err)
	for i := range b {
		b[i]++
	}
	*keep = append(*keep, f)
}

func TestSharedMemoryCounts(t *testing.T) {
	f := setup(t)
	hidden := []string{"protected", "inherited", "copied"}
	for _, how := range append(hidden, "written", "many", "named", "unlinked", "mapped", "passed", "large") {
		t.Run(how, func(t *testing.T) {
			name := f.createSpec(Spec{Limits: Limits{MemoryBytes: 64 << 20}})
			p, _ := f.process("/bin/prog", "inside-shared")
			p.Env = []string{"HOW=" + how}
			pid, err := f.m.Start(t.Context(), name, p)
			if err != nil {
				t.Fatal(err)
			}
			if e := f.exit(pid); !e.OOM { // what is mapped can be resident by then
				t.Errorf("%+v", e)
			}
			if err := f.m.Remove(t.Context(), name); err != nil {
				t.Error(err)
			}
		})
	}
}

// survives starts a program that has much, but not too much, and looks on.
func (f *fixture) survives(how string, s Spec, meanwhile func()) {
	f.Helper()
	s.Limits = Limits{MemoryBytes: 64 << 20}
	name := f.createSpec(s)
	p, r := f.process("/bin/prog", "inside-shared")
	p.Env = []string{"HOW=" + how}
	pid, err := f.m.Start(f.Context(), name, p)
	if err != nil {
		f.Fatal(err)
	}
	p.Stdout.Close()
	f.ready(r)
	meanwhile()
	time.Sleep(4 * lookTick) // the looks that could take it for too much
	if all, err := f.m.Stats(); err != nil || all[name].Memory == 0 || all[name].Memory > 64<<20 {
		f.Errorf("%s: %d bytes of memory, of 64 MiB: %v", how, all[name].Memory, err)
	}
	if err := f.m.Signal(name, pid, unix.SIGKILL); err != nil {
		f.Errorf("%s: it was ended: %v", how, err)
	}
	if e := f.exit(pid); e.OOM || e.Reason != "" {
		f.Errorf("%s: %+v", how, e)
	}
	if err := f.m.Remove(f.Context(), name); err != nil {
		f.Error(err)
	}
}

// What is only reserved, or resident anyhow, does not count twice.
func TestSharedMemoryOfOrdinaryPrograms(t *testing.T) {
	f := setup(t)
	for _, how := range []string{"sparse", "used", "forked"} {
		f.survives(how, Spec{}, func() {})
	}
}

// An object of another that has the same size is not the jail's.
func TestSharedMemoryOfOthers(t *testing.T) {
	f := setup(t)
	f.survives("sparse", Spec{}, func() {
		other := shmOpen("", 0)
		fill(other, much)
		must(other.Truncate(1 << 40))
		t.Cleanup(func() { other.Close() })
	})
}

// A process with more mappings than can be looked at is none whose memory is known.
func TestTooManyMappings(t *testing.T) {
	f := setup(t)
	name := f.createSpec(Spec{Limits: Limits{MemoryBytes: 64 << 20}})
	p, _ := f.process("/bin/prog", "inside-shared")
	p.Env = []string{"HOW=mappings"}
	pid, err := f.m.Start(t.Context(), name, p)
	if err != nil {
		t.Fatal(err)
	}
	if e := f.exit(pid); !e.OOM || !strings.Contains(e.Reason, "65530 mappings") {
		t.Errorf("%+v", e)
	}
}

// memoryAt mounts a tmpfs in the root and returns its handle.
func (f *fixture) memoryAt(dir string) []byte {
	f.Helper()
	at, err := mount.OpenRoot(f.root)
	if err != nil {
		f.Fatal(err)
	}
	defer at.Close()
	point, err := at.Dir("/" + dir)
	if err != nil {
		f.Fatal(err)
	}
	defer point.Close()
	mem := filepath.Join(f.root, dir)
	if err := mount.Do(mount.Mount{Type: "tmpfs", Target: mem, Options: []string{"size=1073741824"}}); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := mount.UnmountUnder(mem); err != nil {
			f.Error(err)
		}
	})
	handle, err := point.Handle()
	if err != nil {
		f.Fatal(err)
	}
	return handle
}

// A file in memory that is mapped too is there once.
func TestMappedFilesInMemoryCountOnce(t *testing.T) {
	f := setup(t)
	f.survives("mapped file", Spec{InMemory: [][]byte{f.memoryAt("mem")}}, func() {})
}

// A process cannot end while it is looked at.
func TestLongLooksAreShortened(t *testing.T) {
	f := setup(t)
	k := &f.m.looks
	for _, long := range []bool{true, false} {
		k.mu.Lock()
		k.m = map[int]*look{-1: {busy: long, begun: time.Now().Add(-2 * lookWalk)}}
		k.mu.Unlock()
		lookAtMemory(f.m)
		if n, err := unix.SysctlUint32(skipResident); err != nil || (n == 1) != long {
			t.Errorf("%d %v, want %v", n, err, long)
		}
	}
}

// What lies in a tmpfs is memory of who has it.
func TestFilesInMemoryCount(t *testing.T) {
	f := setup(t)
	name := f.createSpec(Spec{Limits: Limits{MemoryBytes: 64 << 20}, InMemory: [][]byte{f.memoryAt("mem")}})
	p, _ := f.process("/bin/prog", "inside-shared")
	p.Env = []string{"HOW=file"}
	pid, err := f.m.Start(t.Context(), name, p)
	if err != nil {
		t.Fatal(err)
	}
	if e := f.exit(pid); !e.OOM {
		t.Errorf("%+v", e)
	}
}
