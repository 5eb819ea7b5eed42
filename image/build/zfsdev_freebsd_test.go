package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/dataset"
)

// This host's kernel is one that is asked itself.
func TestZFSDevice(t *testing.T) {
	p, err := openPool(t.Context(), testPool(t), unix.LOCK_SH)
	check(t, err)
	defer p.close()
	z, err := openZFSDevice(p.name, p.lock)
	check(t, err)
	check(t, z.snapshot(p.name+"@one"))
	if err := z.snapshot(p.name + "@one"); err != unix.EEXIST {
		t.Error(err)
	}
	check(t, z.Close())
}

// The whole tree is read where the kernel is another.
func TestZFSFileWithoutAPathByWalk(t *testing.T) {
	was := zfsDeviceFile
	t.Cleanup(func() { zfsDeviceFile = was })
	zfsDeviceFile = filepath.Join(t.TempDir(), "none")
	said := fileWithoutAPath(t)
	if want := "the whole tree is read after each step"; !slices.ContainsFunc(said,
		func(s string) bool { return strings.HasPrefix(s, want) && strings.Contains(s, zfsDeviceFile) }) {
		t.Errorf("nothing is said of it: %q", said)
	}
}

// The places of the fields are those that the kernel's header leads to.
func TestZFSCommand(t *testing.T) {
	var c zfsCmd
	for name, is := range map[string][2]uintptr{
		"zc_nvlist_src": {unsafe.Offsetof(c.source), 1024},
		"zc_value":      {unsafe.Offsetof(c.value), 1072},
		"zc_cookie":     {unsafe.Offsetof(c.cookie), 3400},
		"zc_obj":        {unsafe.Offsetof(c.object), 3440},
		"zc_stat":       {unsafe.Offsetof(c.stat), 4480},
	} {
		if is[0] != is[1] {
			t.Errorf("%s is at %d, not %d", name, is[0], is[1])
		}
	}
}

// What the kernel tells, beside zfs diff and a walk: of a tree of 20,000 files in 200
// directories a step changes, renames, makes and removes ten, or 500 in 25 directories
// or here and there.
func BenchmarkZFSChanges(b *testing.B) {
	b.Run("10 in a directory", func(b *testing.B) { benchmarkChanges(b, 10, func(n int) int { return n }) })
	b.Run("500 in 25 directories", func(b *testing.B) {
		benchmarkChanges(b, 500, func(n int) int { return n/20*800 + n%20 })
	})
	b.Run("500 everywhere", func(b *testing.B) { benchmarkChanges(b, 500, func(n int) int { return n * 37 }) })
}

func benchmarkChanges(b *testing.B, count int, file func(n int) int) {
	ctx := b.Context()
	p, err := openPool(ctx, testPool(b), unix.LOCK_SH)
	check(b, err)
	defer p.close()
	from, err := p.create(ctx, "")
	check(b, err)
	name := func(child string, n int) string {
		return filepath.Join(p.root(child), fmt.Sprintf("usr/lib/dir%d/file%d", n/100, n%100))
	}
	for n := range 20000 {
		check(b, os.MkdirAll(filepath.Dir(name(from, n)), 0o755))
		check(b, os.WriteFile(name(from, n), make([]byte, 600+n/20), 0o644))
	}
	check(b, p.done(ctx, from))
	child, err := p.create(ctx, from)
	check(b, err)
	for n := range count {
		switch file := name(child, file(n)); n % 10 {
		case 0:
			check(b, os.Remove(file))
		case 1:
			check(b, os.Rename(file, file+".moved"))
		case 2:
			check(b, os.WriteFile(file+".new", []byte("new"), 0o644))
		default:
			check(b, os.WriteFile(file, []byte("changed"), 0o644))
		}
	}
	check(b, p.done(ctx, child))
	old, err := os.OpenRoot(p.root(from))
	check(b, err)
	defer old.Close()
	now, err := os.OpenRoot(p.root(child))
	check(b, err)
	defer now.Close()
	ask := func() (int, error) {
		was, is, err := (&zfsTree{pool: p}).ask(ctx, from, child, old, now, newLinkIndex())
		return len(diff(was, is)), err
	}
	walk := func() (int, error) {
		was, err1 := record(ctx, old)
		is, err2 := record(ctx, now)
		return len(diff(was, is)), errors.Join(err1, err2)
	}
	asked, err1 := ask()
	walked, err2 := walk()
	if check(b, errors.Join(err1, err2)); asked != walked {
		b.Errorf("%d changes, %d by a walk", asked, walked)
	}
	for _, c := range []struct {
		what string
		do   func() error
	}{
		{"kernel", func() error { _, err := p.device.diff(ctx, p.at(from), p.at(child), doneName); return err }},
		{"zfs diff", func() error {
			_, err := dataset.Run(ctx, "diff", "-F", "-H", p.dataset(from)+doneName, p.dataset(child)+doneName)
			return err
		}},
		{"kernel, and to look at what differs", func() error { _, err := ask(); return err }},
		{"walk", func() error { _, err := walk(); return err }},
	} {
		b.Run(c.what, func(b *testing.B) {
			for b.Loop() {
				check(b, c.do())
			}
		})
	}
}
