package bsd

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSysctlText(t *testing.T) {
	for name, want := range map[string]string{"kern.ostype": "FreeBSD", "hw.pagesize": "4096", "kern.osrelease": "",
		"kern.racct.enable": ""} {
		got, err := SysctlText(name)
		if err != nil || want != "" && got != want || got == "" {
			t.Errorf("%s: %q %v, want %q", name, got, err, want)
		}
	}
	if v, err := SysctlText("kern.racct.enable"); err != nil || v != "0" && v != "1" {
		t.Errorf("kern.racct.enable: %q %v, a truth value of one byte", v, err)
	}
	if v, err := SysctlText("kern.securelevel"); err != nil || v != "-1" && v != "0" && v != "1" {
		t.Errorf("kern.securelevel: %q %v, may be negative", v, err)
	}
	for _, name := range []string{"no.such.sysctl", "kern.boottime"} { // a struct
		if v, err := SysctlText(name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %q, %v", name, v, err)
		}
	}
}

func TestHasModule(t *testing.T) {
	if !HasModule("ufs") || HasModule("no such module") || HasModule("\x00") {
		t.Errorf("ufs: %v, others: %v, %v", HasModule("ufs"), HasModule("no such module"), HasModule("\x00"))
	}
}

func TestSysctlsBelow(t *testing.T) {
	all, err := SysctlsBelow("security.jail.param")
	if f := all["sysvshm."]; err != nil || f != (Format{ctlInt, "E,jailsys"}) {
		t.Errorf("sysvshm, a node with a value: %+v %v", f, err)
	}
	if f := all["path"]; f.Type != ctlString {
		t.Errorf("path: %+v", f)
	}
	if _, err := SysctlsBelow("no.such.tree"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a tree that is not there: %v", err)
	}
}

func TestProcesses(t *testing.T) {
	self, err := FindProcess(os.Getpid())
	if err != nil || self.PID() != os.Getpid() || self.PPID() != os.Getppid() || self.Zombie() || self.RSS() == 0 {
		t.Errorf("pid %d, parent %d, zombie %v, resident %d, %v", self.PID(), self.PPID(), self.Zombie(), self.RSS(),
			err)
	}
	if age, err := self.Started(); err != nil || age <= 0 {
		t.Errorf("started %v after the boot: %v", age, err)
	}
	seen := false
	if err := EachProcess(func(p Process) { seen = seen || p.PID() == os.Getpid() }); err != nil || !seen {
		t.Errorf("among all: %v, %v", seen, err)
	}
	if _, err := FindProcess(99999999); !errors.Is(err, unix.ESRCH) {
		t.Errorf("no process: %v", err)
	}
}

func TestFiles(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	f, err := ours.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	theirs, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	conn, err := DescribeFile(f)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	root, err := DescribeFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := FilesOf(os.Getpid())
	connects, at := 0, 0
	for _, one := range all {
		if one.Connects(conn) {
			connects++
		}
		if one.Root() && one.Same(root) {
			at++
		}
	}
	if err != nil || connects != 1 || at != 1 {
		t.Errorf("%d descriptors are the other end, %d the root: %v", connects, at, err)
	}
	if conn.Connects(conn) {
		t.Error("a socket is its own other end")
	}
}

func TestEachRecord(t *testing.T) {
	two := append(append(Word(8), Word(1)...), append(Word(12), make([]byte, 8)...)...)
	for _, c := range []struct {
		b             []byte
		records, rest int
	}{
		{two, 2, 0}, {two[:18], 1, 10}, {Word(0), 0, 4}, {Word(-1), 0, 4}, {nil, 0, 0},
	} {
		n := 0
		if rest := EachRecord(c.b, func(Record) { n++ }); n != c.records || rest != c.rest {
			t.Errorf("%v: %d records, %d bytes left", c.b, n, rest)
		}
	}
}

func TestCall(t *testing.T) {
	_, message, err := Call(unix.SYS_JAIL_GET, []Param{Text("name", "no-such-jail")}, 0)
	if !errors.Is(err, unix.ENOENT) || !strings.Contains(message, "no-such-jail") {
		t.Errorf("%q, %v", message, err)
	}
}
