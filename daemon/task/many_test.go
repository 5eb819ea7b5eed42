package task

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/jail"
)

// A task that runs, and writes nothing now, is a few KiB of the daemon and no goroutine, also when its log is kept.
func TestManyAreSmall(t *testing.T) {
	const n, most = 200, 8 << 10
	needsNodes(t)
	h := &fakeHost{t: t, dir: t.TempDir()}
	h.started = func(p jail.Process) { // it has its output open
		for _, f := range []*os.File{p.Stdout, p.Stderr} {
			fd, err := unix.Dup(int(f.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
		}
	}
	m := h.manager()
	start := func(i int) {
		t.Helper()
		if err := h.startOn(m, client.TaskSpec{ID: fmt.Sprintf("t%d", i), Image: "prog"}); err != nil {
			t.Fatal(err)
		}
	}
	start(0) // what all of them share
	before := inUse()
	for i := range n {
		start(i + 1)
	}
	for patience := time.Now().Add(time.Minute); waiting() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(patience) {
			t.Fatalf("%d goroutines for %d tasks", waiting(), n)
		}
	}
	each := (inUse() - before) / n
	t.Logf("%d bytes each", each)
	if each > most {
		t.Errorf("%d bytes of memory for each of %d tasks, want at most %d", each, n, most)
	}
	for _, tk := range m.list() {
		m.endOutputs(tk)
	}
}

// inUse is what is not free of the heap, and all stacks, in bytes.
func inUse() int64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first has taken from pools
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc + s.StackInuse)
}

// waiting counts the goroutines that methods of this package's types have begun.
func waiting() int {
	b := make([]byte, 1<<20)
	return strings.Count(string(b[:runtime.Stack(b, true)]), "created by github.com/freejail/freejail/daemon/task.(")
}
