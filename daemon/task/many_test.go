package task

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
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

// However many tasks come at once, few take the steps of their starts at a time; one that is stopped waits no longer.
func TestFewStartAtOnce(t *testing.T) {
	needsNodes(t)
	h := &fakeHost{t: t, dir: t.TempDir(), many: true}
	var at, most atomic.Int32
	h.started = func(jail.Process) {
		for n := at.Add(1); ; {
			if old := most.Load(); n <= old || most.CompareAndSwap(old, n) {
				break
			}
		}
		time.Sleep(time.Millisecond)
		at.Add(-1)
	}
	m := h.manager()
	m.starting = make(lane, 3)
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			if err := h.startOn(m, client.TaskSpec{ID: fmt.Sprintf("t%d", i), Image: "prog"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := most.Load(); n > 3 {
		t.Errorf("%d at once, want at most 3", n)
	}
	for range cap(m.starting) {
		m.starting <- struct{}{}
	}
	ended := make(chan error)
	go func() { ended <- h.startOn(m, client.TaskSpec{ID: "late", Image: "prog"}) }()
	for !m.stopsStart("late") {
		time.Sleep(time.Millisecond)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "was stopped while it was starting") {
		t.Errorf("error %v", err)
	}
	for _, tk := range m.list() {
		m.endOutputs(tk)
	}
}

// stopsStart ends the start of a task that is there.
func (m *Manager) stopsStart(id string) bool {
	t, err := m.find(id)
	return err == nil && m.stopStart(t)
}
