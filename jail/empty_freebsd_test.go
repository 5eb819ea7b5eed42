package jail

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// emptied closes when a jail is found empty.
func (f *fixture) emptied(name string) <-chan struct{} {
	c := make(chan struct{})
	go func() { f.m.WaitEmpty(name); close(c) }()
	return c
}

// goOn lets the programs of the jails end that wait for it.
func (f *fixture) goOn() {
	if err := os.WriteFile(filepath.Join(f.root, "tmp/go"), nil, 0o644); err != nil {
		f.Fatal(err)
	}
}

// Who waits for a jail to be empty neither takes the end of a command from who
// asked for it, nor waits for one for ever.
func TestWaitEmptyBesideExecs(t *testing.T) {
	f := setup(t)
	name := f.create(Limits{})
	pid, r := f.start(name, "/bin/prog", "inside-gate")
	f.ready(r)
	empty := f.emptied(name)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				p, _ := f.process("/bin/prog", "inside-exit7")
				xpid, err := f.m.Exec(t.Context(), name, p)
				if err != nil {
					t.Error(err)
					return
				}
				if e := <-f.m.Wait(xpid); !e.Known || e.Code != 7 {
					t.Errorf("a command: %+v", e)
				}
			}
		})
	}
	wg.Wait()
	select {
	case <-empty:
		t.Error("the main process is left and it is not said")
	default:
	}
	f.goOn()
	if e := f.exit(pid); !e.Known || e.Code != 7 {
		t.Errorf("the main process: %+v", e)
	}
	<-empty
}

// A zombie is its parent's: to wait for its end takes no time of a processor.
func TestWaitEmptyBesideAZombie(t *testing.T) {
	f := setup(t)
	name := f.create(Limits{})
	_, r := f.start(name, "/bin/prog", "inside-zombie")
	f.ready(r)
	s, err := f.m.find("find", name)
	if err != nil {
		t.Fatal(err)
	}
	for { // until the child is one
		all, err1 := f.m.processesOf(s.jid)
		living, err2 := f.m.livingOf(s.jid)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if len(all) == 2 && len(living) == 1 {
			break
		}
	}
	empty := f.emptied(name)
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	time.Sleep(2 * time.Second)
	if took := used() - before; took > time.Second {
		t.Errorf("in two seconds the wait took %s of a processor", took)
	}
	select {
	case <-empty:
		t.Error("a process is left and it is not said")
	default:
	}
	f.goOn()
	<-empty
}

// A process that ends when its daemon was just replaced, before the next one has
// adopted it, still has its exit code.
func TestAnEndBeforeTheAdoption(t *testing.T) {
	f := setup(t)
	name := f.create(Limits{})
	pid, r := f.start(name, "/bin/prog", "inside-term")
	f.ready(r)
	start, err := StartTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	f.m.mu.Lock() // as a daemon that has just begun
	delete(f.m.jails, name)
	f.m.mu.Unlock()
	f.m.procs.forget(pid)
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		f.m.reapOrphans()
		time.Sleep(tick)
	}
	if err := f.m.Adopt(name, pid, start); err != nil {
		t.Fatal(err)
	}
	if e := f.exit(pid); !e.Known || e.Code != 3 {
		t.Errorf("it ended as %+v", e)
	}
}
