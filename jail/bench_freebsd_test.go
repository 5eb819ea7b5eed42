package jail

import (
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// BenchmarkBareStart is what BenchmarkStart does, by system calls alone.
func BenchmarkBareStart(b *testing.B) {
	f := setup(b)
	for b.Loop() {
		jid, msg, err := bsd.Call(unix.SYS_JAIL_SET,
			[]bsd.Param{bsd.Text("name", f.name()), bsd.Text("path", f.root), {Name: "persist"}}, jailCreate)
		if err != nil {
			b.Fatal(msg, err)
		}
		pid, err := syscall.ForkExec("/bin/prog", []string{"/bin/prog", "inside-nothing"},
			&syscall.ProcAttr{Env: []string{}, Files: []uintptr{f.m.null.Fd(), f.m.null.Fd(), f.m.null.Fd()},
				Sys: &syscall.SysProcAttr{Jail: jid}})
		if err == nil {
			_, err = syscall.Wait4(pid, nil, 0, nil)
		}
		if err != nil {
			b.Fatal(err)
		}
		if err := jailRemove(jid); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkJail8 is the same by jail(8).
func BenchmarkJail8(b *testing.B) {
	f := setup(b)
	for b.Loop() {
		if out, err := exec.Command("jail", "-c", "name="+f.name(), "path="+f.root, "command=/bin/prog",
			"inside-nothing").CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
}
