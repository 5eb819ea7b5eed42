package mount

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// racedMounts is how often the race is run; FREEJAIL_RACES asks for more.
func racedMounts() int {
	if n, err := strconv.Atoi(os.Getenv("FREEJAIL_RACES")); err == nil {
		return n
	}
	return 2000
}

// Whoever can write to a directory can exchange it for a link at any moment. What
// was opened is what is mounted, and what is mounted on.
func TestMountsGoNowhereElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	for _, kind := range []string{"tmpfs", "nullfs", "onto a file", "from a file"} {
		t.Run(kind, func(t *testing.T) { raceMounts(t, kind) })
	}
}

func raceMounts(t *testing.T, kind string) {
	dir := realTemp(t)
	victim, root, shared := dir+"/victim", dir+"/root", dir+"/shared"
	for _, d := range []string{victim, root + "/data", shared + "/a", shared + "/x"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{victim + "/f", shared + "/a/f", shared + "/x/f"} {
		if err := os.WriteFile(f, []byte(f), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := Do(Mount{Type: "nullfs", Source: shared, Target: root + "/data"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := UnmountUnder(dir); err != nil {
			t.Error(err)
		}
	})
	stop := exchange(t, shared, victim)
	hits := mountOften(t, dir, kind)
	if n := stop(); n < 100 {
		t.Errorf("the directory was exchanged %d times only", n)
	}
	if hits == 0 {
		t.Error("nothing was ever mounted")
	}
	left, err := Below(dir)
	for _, m := range left {
		if m.Target != root+"/data" {
			t.Errorf("left: %s on %s", m.Type, m.Target)
		}
	}
	if b, rerr := os.ReadFile(victim + "/f"); err != nil || rerr != nil || string(b) != victim+"/f" {
		t.Errorf("the host's file reads %q: %v %v", b, err, rerr)
	}
}

// mountOften mounts on data/a, and what shared/a is, and takes it all down again.
func mountOften(t *testing.T, dir, kind string) (hits int) {
	root := dir + "/root"
	by, err := OpenDescriptors(dir + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	for range racedMounts() {
		if mountRaced(by, r, kind, dir) == nil {
			hits++
		}
		list, err := Below(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			if !strings.HasPrefix(m.Target, root+"/data") && !strings.HasPrefix(m.Target, dir+"/fd") {
				t.Fatalf("%s is mounted on %s", m.Type, m.Target)
			}
		}
		if b, err := os.ReadFile(dir + "/victim/f"); err != nil || string(b) != dir+"/victim/f" {
			t.Fatalf("the host's file reads %q: %v", b, err)
		}
		for _, m := range list {
			if m.Target != root+"/data" && m.Target != dir+"/fd" {
				if err := m.Unmount(false); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := errors.Join(by.Close(), r.Close()); err != nil {
		t.Error(err)
	}
	return hits
}

func mountRaced(by *Descriptors, r *Root, kind, dir string) error {
	open, target, m := r.Dir, "/data/a", Mount{Type: "tmpfs", Options: []string{"size=65536"}}
	if kind != "tmpfs" {
		source := "a"
		switch kind {
		case "onto a file":
			open, target, source = r.File, "/data/a/f", "x/f"
		case "from a file":
			open, target, source = r.File, "/data/x/f", "a/f"
		}
		shared, err := OpenPath(dir + "/shared")
		if err != nil {
			return err
		}
		from, _, err := OpenIn(shared, source)
		if err = errors.Join(err, shared.Close()); err != nil {
			return err
		}
		defer from.Close()
		m = Mount{Type: "nullfs", From: from}
	}
	p, err := open(target)
	if err != nil {
		return err
	}
	return errors.Join(by.On(p, m), p.Close())
}

// exchange puts a link to victim in the place of the directory a, and back, until
// it is stopped, and tells how often.
func exchange(t *testing.T, shared, victim string) (stop func() int) {
	a, l := filepath.Join(shared, "a"), filepath.Join(shared, "l")
	if err := os.Symlink(victim, l); err != nil {
		t.Fatal(err)
	}
	var over atomic.Bool
	done := make(chan int)
	go func() {
		n := 0
		for ; !over.Load(); n++ {
			// What is mounted on here keeps its name as long; a task elsewhere would have it unmounted.
			if err := swap(a, l); err != nil && !errors.Is(err, unix.EBUSY) {
				t.Error(err)
				break
			}
		}
		done <- n
	}()
	stop = sync.OnceValue(func() int { over.Store(true); return <-done })
	t.Cleanup(func() { stop() })
	return stop
}
