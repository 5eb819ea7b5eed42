package jail

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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

const much = 160 << 20 // bytes

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
	for _, how := range []string{"written", "many", "named", "unlinked", "mapped", "passed", "large"} {
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

// What is only reserved, or resident anyhow, does not count twice.
func TestSharedMemoryOfOrdinaryPrograms(t *testing.T) {
	f := setup(t)
	for _, how := range []string{"sparse", "used"} {
		name := f.createSpec(Spec{Limits: Limits{MemoryBytes: 64 << 20}})
		p, r := f.process("/bin/prog", "inside-shared")
		p.Env = []string{"HOW=" + how}
		pid, err := f.m.Start(t.Context(), name, p)
		if err != nil {
			t.Fatal(err)
		}
		p.Stdout.Close()
		f.ready(r)
		time.Sleep(3 * sharedTick) // the looks that could take it for too much
		if err := f.m.Signal(name, pid, unix.SIGKILL); err != nil {
			t.Errorf("%s: it was ended: %v", how, err)
		}
		if e := f.exit(pid); e.OOM || e.Reason != "" {
			t.Errorf("%s: %+v", how, e)
		}
	}
}

// What lies in a tmpfs is memory of who has it.
func TestFilesInMemoryCount(t *testing.T) {
	f := setup(t)
	at, err := mount.OpenRoot(f.root)
	if err != nil {
		t.Fatal(err)
	}
	point, err := at.Dir("/mem")
	if err != nil {
		t.Fatal(err)
	}
	mem := filepath.Join(f.root, "mem")
	if err := mount.Do(mount.Mount{Type: "tmpfs", Target: mem, Options: []string{"size=1073741824"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.UnmountUnder(mem); err != nil {
			t.Error(err)
		}
	})
	handle, err := point.Handle()
	if err != nil {
		t.Fatal(err)
	}
	point.Close()
	at.Close()
	name := f.createSpec(Spec{Limits: Limits{MemoryBytes: 64 << 20}, InMemory: [][]byte{handle}})
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
