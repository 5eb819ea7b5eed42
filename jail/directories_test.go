package jail

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// holdDirectories keeps one directory open and opens others all the time, as
// an unpack does, until the test ends.
func (f *fixture) holdDirectories() {
	f.Helper()
	held, err := os.Open(f.root)
	if err != nil {
		f.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				r, err := os.OpenRoot(f.root)
				if err != nil {
					f.Error(err)
					return
				}
				if _, err := r.Stat("tmp"); err != nil {
					f.Error(err)
				}
				r.Close()
			}
		})
	}
	f.Cleanup(func() { close(done); wg.Wait(); held.Close() })
}

// FreeBSD lets no process with an open directory into a jail, and a child has
// the descriptors of its parent.
func TestStartBesideOpenDirectories(t *testing.T) {
	f := setup(t)
	f.holdDirectories()
	var wg sync.WaitGroup
	pids := make([]int, 20)
	for i := range pids {
		name := f.create(Limits{})
		first, _ := f.process("/bin/prog", "inside-gate")
		second, _ := f.process("/bin/prog", "inside-exit7")
		wg.Go(func() {
			var err error
			if pids[i], err = f.m.Start(t.Context(), name, first); err != nil {
				t.Error(err)
				return
			}
			pid, err := f.m.Exec(t.Context(), name, second)
			if err != nil {
				t.Error(err)
			} else if e := <-f.m.Wait(pid); e.Code != 7 {
				t.Errorf("exec: %+v", e)
			}
		})
	}
	wg.Wait()
	if err := os.WriteFile(filepath.Join(f.root, "tmp/go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if pid == 0 {
			continue // it did not start, which is told
		}
		if e := f.exit(pid); e.Code != 7 {
			t.Errorf("start: %+v", e)
		}
	}
}
