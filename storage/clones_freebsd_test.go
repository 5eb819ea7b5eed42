package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/freejail/freejail/internal/mount"
)

// settled waits until no clone is to be made or destroyed.
func (z *zfsDriver) settled(t *testing.T) {
	t.Helper()
	z.clones.mu.Lock()
	worked := z.clones.worked
	z.clones.mu.Unlock()
	if worked != nil {
		<-worked
	}
}

// withChain has a chain c1 of one file.
func withChain(t *testing.T) *zfsDriver {
	z := openFor(t, "zfs").(*zfsDriver)
	check(t, ensure(t.Context(), z, "c1", fill))
	return z
}

// warm has spares be ready for one start, by a task that has come and gone.
func (z *zfsDriver) warm(t *testing.T, o Options) {
	t.Helper()
	if _, err := z.Create(t.Context(), "c1", "first", o); err != nil {
		t.Fatal(err)
	}
	check(t, z.Remove(t.Context(), "first"))
	z.settled(t)
}

// on is the dataset of a task's root.
func (z *zfsDriver) on(t *testing.T, root string) string {
	t.Helper()
	at, err := mount.At(root)
	if err != nil || at.Target != root {
		t.Fatalf("%+v %v", at, err)
	}
	return at.Source
}

// below are the datasets below one.
func (z *zfsDriver) below(t *testing.T, name string) []string {
	t.Helper()
	names, err := z.children(z.parent + "/" + name)
	check(t, err)
	return names
}

func get(t *testing.T, property, name string) string {
	t.Helper()
	out, err := exec.Command("zfs", "get", "-Hpo", "value", property, name).Output()
	check(t, err)
	return strings.TrimSpace(string(out))
}

// The second root of an image is a clone that was there, with its quota; nothing of it is another task's.
func TestSpares(t *testing.T) {
	for name, o := range map[string]Options{"no quota": {}, "quota": {DiskBytes: 8 << 20}} {
		t.Run(name, func(t *testing.T) {
			z, ctx := withChain(t), t.Context()
			z.warm(t, o)
			var before []string
			for i := range 3 {
				ready := z.below(t, "spares")
				root, err := z.Create(ctx, "c1", "t", o)
				if err != nil {
					t.Fatal(err)
				}
				on := z.on(t, root)
				if !slices.Contains(ready, filepath.Base(on)) || slices.Contains(before, on) {
					t.Errorf("root %d is on %s; ready were %q, and used before %q", i, on, ready, before)
				}
				before = append(before, on)
				if got := get(t, "quota", on); got != fmt.Sprint(o.DiskBytes) {
					t.Errorf("its quota is %s", got)
				}
				names, err := filepath.Glob(root + "/*")
				check(t, err)
				if len(names) != 1 {
					t.Errorf("a task begins with %q", names)
				}
				check(t, os.WriteFile(filepath.Join(root, "mine"), []byte("mine"), 0o600))
				if _, err := z.Create(ctx, "c1", "t", o); !errors.Is(err, fs.ErrExist) {
					t.Errorf("a second root of one task: %v", err)
				}
				if out, err := exec.Command("zpool", "sync").CombinedOutput(); err != nil {
					t.Fatalf("%v %s", err, out)
				}
				if n, err := z.RootOwn(ctx, "t"); err != nil || n == 0 {
					t.Errorf("it wrote %d bytes: %v", n, err)
				}
				if have, err := z.Tasks(ctx); err != nil || !slices.Equal(have, []string{"t"}) {
					t.Errorf("roots are of %q: %v", have, err)
				}
				check(t, z.Remove(ctx, "t"))
				if have, err := z.Tasks(ctx); err != nil || len(have) > 0 {
					t.Errorf("left: %q %v", have, err)
				}
				if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("its mount point: %v", err)
				}
				z.settled(t)
				if slices.Contains(z.below(t, "spares"), filepath.Base(on)) {
					t.Errorf("%s is left", on)
				}
			}
			if n := len(z.below(t, "spares")); n != maxOfKind {
				t.Errorf("after four starts there are %d spares", n)
			}
		})
	}
}

// Tasks that start at once have a root each, whether there is a spare for them or not.
func TestSparesOfManyStarts(t *testing.T) {
	z, ctx := withChain(t), t.Context()
	z.warm(t, Options{})
	var mu sync.Mutex
	var wait sync.WaitGroup
	used := map[string]int{}
	for i := range 12 {
		wait.Go(func() {
			id := fmt.Sprintf("t%d", i)
			root, err := z.Create(ctx, "c1", id, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			on := z.on(t, root)
			mu.Lock()
			used[on]++
			mu.Unlock()
			if i%2 == 0 {
				check(t, z.Remove(ctx, id))
			}
		})
	}
	wait.Wait()
	if len(used) != 12 {
		t.Errorf("12 tasks had the roots %v", used)
	}
	if have, err := z.Tasks(ctx); err != nil || len(have) != 6 {
		t.Errorf("roots are of %q: %v", have, err)
	}
	if err := z.RemoveChain(ctx, "c1"); !errors.Is(err, ErrInUse) {
		t.Errorf("to remove the chain of what runs: %v", err)
	}
	for i := 1; i < 12; i += 2 {
		check(t, z.Remove(ctx, fmt.Sprintf("t%d", i)))
	}
	// At once, while clones of it are made and destroyed.
	check(t, z.RemoveChain(ctx, "c1"))
	z.settled(t)
	if left := z.below(t, "spares"); len(left) > 0 {
		t.Errorf("spares of a chain that is gone: %q", left)
	}
}

// A daemon that was killed leaves spares, and roots on what was one. The next one knows which is which.
func TestSparesOfAnEarlierDaemon(t *testing.T) {
	z, ctx := withChain(t), t.Context()
	z.warm(t, Options{})
	root, err := z.Create(ctx, "c1", "runs", Options{})
	if err != nil {
		t.Fatal(err)
	}
	z.settled(t)
	on := filepath.Base(z.on(t, root))
	if len(z.below(t, "spares")) < 2 {
		t.Fatalf("there are %q", z.below(t, "spares"))
	}
	// As if it was killed after the unmount of a root.
	zfsRun(t, "clone", z.chain("c1")+"@chain", z.parent+"/spares/unmounted")
	d, err := Open("zfs", z.dir, Config{ZFSDataset: z.parent})
	if err != nil {
		t.Fatal(err)
	}
	next := d.(*zfsDriver)
	next.settled(t)
	if left := next.below(t, "spares"); !slices.Equal(left, []string{on}) {
		t.Errorf("left are %q, want %s", left, on)
	}
	if have, err := next.Tasks(ctx); err != nil || !slices.Equal(have, []string{"runs"}) {
		t.Errorf("roots are of %q: %v", have, err)
	}
	if err := next.RemoveChain(ctx, "c1"); !errors.Is(err, ErrInUse) {
		t.Errorf("to remove the chain of what runs: %v", err)
	}
	if _, err := os.Stat(filepath.Join(root, "etc", "a")); err != nil {
		t.Error(err)
	}
	check(t, next.Remove(ctx, "runs"))
	check(t, next.RemoveChain(ctx, "c1"))
	if left := next.below(t, "spares"); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
	z.clones.mu.Lock()
	defer z.clones.mu.Unlock()
	z.clones.stocks = map[spareKind]*stock{} // of the one that was killed
}

// Who ends leaves no spare, which an older daemon would not know, and roots that are in use.
func TestRest(t *testing.T) {
	z, ctx := withChain(t), t.Context()
	z.warm(t, Options{})
	if n := len(z.below(t, "spares")); n != 1 {
		t.Fatalf("%d spares", n)
	}
	if _, err := z.Create(ctx, "c1", "runs", Options{}); err != nil {
		t.Fatal(err)
	}
	check(t, z.Rest(ctx)) // while others are made
	if n := len(z.below(t, "spares")); n != 1 {
		t.Errorf("%d are left, want the root", n)
	}
	ended, end := context.WithCancel(ctx)
	end()
	if err := z.Rest(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("one that may not wait: %v", err)
	}
	check(t, z.Remove(ctx, "runs"))
}

// A root has the properties that the operator gives roots; what tasks sync is as the operator has it.
func TestPropertiesOfRoots(t *testing.T) {
	z, ctx := withChain(t), t.Context()
	for _, c := range []struct {
		property, of, sync string
		spares             bool
	}{{"dedup=off", "", "standard", true}, {"sync=always", "", "always", true},
		{"sync=standard", "/roots", "standard", false}} {
		zfsRun(t, "set", c.property, z.parent+c.of)
		d, err := Open("zfs", z.dir, Config{ZFSDataset: z.parent})
		if err != nil {
			t.Fatal(err)
		}
		next := d.(*zfsDriver)
		for i := range 2 {
			root, err := next.Create(ctx, "c1", "t", Options{})
			if err != nil {
				t.Fatal(err)
			}
			on := next.on(t, root)
			if spare := strings.HasPrefix(on, z.parent+"/spares/"); spare != c.spares || get(t, "sync", on) != c.sync {
				t.Errorf("with %s root %d is on %s, whose sync is %s", c.property, i, on, get(t, "sync", on))
			}
			check(t, next.Remove(ctx, "t"))
			next.settled(t)
		}
		check(t, next.Rest(ctx))
	}
}

// What somebody holds is told, and goes when that is gone.
func TestSnapshotsOfSpares(t *testing.T) {
	z, ctx := withChain(t), t.Context()
	z.warm(t, Options{})
	root, err := z.Create(ctx, "c1", "t", Options{})
	if err != nil {
		t.Fatal(err)
	}
	on := z.on(t, root)
	zfsRun(t, "snapshot", on+"@auto")
	zfsRun(t, "clone", on+"@auto", z.parent+"/kept")
	check(t, z.Remove(ctx, "t"))
	z.settled(t)
	if told := z.Leftovers(); len(told) != 1 || !strings.Contains(told[0], on) {
		t.Errorf("told is %q", told)
	}
	if err := z.RemoveChain(ctx, "c1"); !errors.Is(err, ErrInUse) {
		t.Errorf("to remove its chain: %v", err)
	}
	zfsRun(t, "destroy", z.parent+"/kept")
	check(t, z.RemoveChain(ctx, "c1"))
	if told := z.Leftovers(); len(told) > 0 {
		t.Errorf("still told is %q", told)
	}
}

// A spare that somebody destroyed or mounted keeps no task from starting. What is mounted elsewhere is nobody's root,
// and is told until it is unmounted.
func TestSparesOfSomebody(t *testing.T) {
	z, ctx := withChain(t), t.Context()
	start := func(not string) {
		t.Helper()
		root, err := z.Create(ctx, "c1", "t", Options{})
		if err != nil {
			t.Fatal(err)
		}
		if on := z.on(t, root); on == not {
			t.Errorf("it is on %s", on)
		}
		check(t, z.Remove(ctx, "t"))
		z.settled(t)
	}
	z.warm(t, Options{})
	for _, name := range z.below(t, "spares") {
		zfsRun(t, "destroy", z.parent+"/spares/"+name)
	}
	start("")
	if told := z.Leftovers(); len(told) > 0 {
		t.Errorf("told is %q", told)
	}
	z.clones.mu.Lock()
	mine := z.clones.stocks[spareKind{"c1", 0}].ready[0]
	z.clones.mu.Unlock()
	at := filepath.Join(t.TempDir(), "mine")
	check(t, os.Mkdir(at, 0o700))
	check(t, mount.Do(mount.Mount{Type: "zfs", Source: mine, Target: at}))
	defer mount.UnmountUnder(at)
	start(mine)
	if told := z.Leftovers(); len(told) != 1 || !strings.Contains(told[0], at) {
		t.Errorf("told is %q", told)
	}
	if err := z.RemoveChain(ctx, "c1"); !errors.Is(err, ErrInUse) {
		t.Errorf("to remove the chain: %v", err)
	}
	d, err := Open("zfs", z.dir, Config{ZFSDataset: z.parent})
	if err != nil {
		t.Fatal(err)
	}
	next := d.(*zfsDriver)
	next.settled(t)
	if have, err := next.Tasks(ctx); err != nil || len(have) > 0 {
		t.Errorf("roots are of %q: %v", have, err)
	}
	if _, err := os.Stat(filepath.Join(at, "etc", "a")); err != nil {
		t.Errorf("it was unmounted: %v", err)
	}
	check(t, mount.UnmountUnder(at))
	for _, z := range []*zfsDriver{next, z} {
		check(t, z.RemoveChain(ctx, "c1"))
		if told := z.Leftovers(); len(told) > 0 {
			t.Errorf("still told is %q", told)
		}
	}
}

// A root that somebody mounted over is not forgotten.
func TestRootsMountedOver(t *testing.T) {
	z, ctx := withChain(t), t.Context()
	root, err := z.Create(ctx, "c1", "t", Options{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: root}))
	if err := z.Remove(ctx, "t"); err == nil || !strings.Contains(err.Error(), "tmpfs is mounted over the root of task t") {
		t.Errorf("to remove it: %v", err)
	}
	if have, err := z.Tasks(ctx); err != nil || !slices.Equal(have, []string{"t"}) {
		t.Errorf("roots are of %q: %v", have, err)
	}
	at, err := mount.At(root)
	check(t, err)
	check(t, at.Unmount(false))
	check(t, z.Remove(ctx, "t"))
	if have, err := z.Tasks(ctx); err != nil || len(have) > 0 {
		t.Errorf("left are roots of %q: %v", have, err)
	}
}

// ownPool is a driver on a small pool that is nobody else's.
func ownPool(t *testing.T) (z *zfsDriver, name string) {
	if os.Getenv("FREEJAIL_TEST_ZPOOL") == "" {
		t.Skip("FREEJAIL_TEST_ZPOOL names no pool")
	}
	dir := t.TempDir()
	name = fmt.Sprintf("freejail-test-%d", os.Getpid())
	disk := filepath.Join(dir, "disk")
	check(t, os.WriteFile(disk, nil, 0o600))
	check(t, os.Truncate(disk, 96<<20))
	poolRun(t, "create", "-O", "mountpoint=none", name, disk)
	t.Cleanup(func() { poolRun(t, "destroy", "-f", name) })
	d, err := Open("zfs", filepath.Join(dir, "state"), Config{ZFSDataset: name + "/freejail"})
	if err != nil {
		t.Fatal(err)
	}
	z = d.(*zfsDriver)
	t.Cleanup(func() { check(t, z.Rest(context.Background())) })
	check(t, ensure(t.Context(), z, "c1", fill))
	return z, name
}

func poolRun(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("zpool", args...).CombinedOutput(); err != nil {
		t.Fatalf("zpool %q: %v %s", args, err, out)
	}
}

// On a full pool what is behind a start and an end leaves nothing, and what was full is free again.
func TestSparesOfAFullPool(t *testing.T) {
	z, pool := ownPool(t)
	ctx := t.Context()
	root, err := z.Create(ctx, "c1", "full", Options{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(root, "much"))
	check(t, err)
	block := make([]byte, 1<<20)
	_, err = rand.Read(block)
	check(t, err)
	for err == nil {
		if _, err = f.Write(block); err == nil {
			err = f.Sync()
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("to fill it: %v", err)
	}
	_ = f.Close()
	z.settled(t)
	for range 3 {
		if _, err := z.Create(ctx, "c1", "t", Options{}); err != nil {
			t.Logf("a start on a full pool: %v", err)
		}
		check(t, z.Remove(ctx, "t"))
		z.settled(t)
	}
	check(t, z.Remove(ctx, "full"))
	z.settled(t)
	poolRun(t, "sync", pool)
	if _, err := z.Create(ctx, "c1", "t", Options{}); err != nil {
		t.Errorf("a start on one that is not full any more: %v", err)
	}
	check(t, z.Remove(ctx, "t"))
	check(t, z.RemoveChain(ctx, "c1"))
	if left, told := z.below(t, "spares"), z.Leftovers(); len(left) > 0 || len(told) > 0 {
		t.Errorf("left are %q, told %q", left, told)
	}
}

// A pool with spares can be exported. When it is back tasks start, and its images can be removed.
func TestSparesOfAPoolThatWasAway(t *testing.T) {
	z, pool := ownPool(t)
	ctx := t.Context()
	z.warm(t, Options{})
	disk := filepath.Dir(z.dir)
	poolRun(t, "export", pool)
	if _, err := z.Create(ctx, "c1", "t", Options{}); err == nil {
		t.Error("a task started without the pool")
	}
	z.settled(t)
	check(t, z.Rest(ctx))
	poolRun(t, "import", "-d", disk, pool)
	if left := z.below(t, "spares"); len(left) == 0 {
		t.Fatal("nothing was left")
	}
	if _, err := z.Create(ctx, "c1", "t", Options{}); err != nil {
		t.Error(err)
	}
	check(t, z.Remove(ctx, "t"))
	check(t, z.RemoveChain(ctx, "c1"))
	if left, told := z.below(t, "spares"), z.Leftovers(); len(left) > 0 || len(told) > 0 {
		t.Errorf("left are %q, told %q", left, told)
	}
}
