package storage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/freejail/freejail/internal/mount"
)

// eachDriver runs a test with every driver that there is, on a directory of its
// own; it skips those that this host lacks.
func eachDriver(t *testing.T, test func(*testing.T, Driver)) {
	for _, kind := range []string{"nfs", "overlay", "readonly", "union", "zfs"} {
		t.Run(kind, func(t *testing.T) { test(t, openFor(t, kind)) })
	}
}

func openFor(t *testing.T, kind string) Driver {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, ok := drivers[kind]; !ok {
		t.Skipf("%s has no driver %s", runtime.GOOS, kind)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{}
	if kind == "zfs" {
		pool := os.Getenv("FREEJAIL_TEST_ZPOOL")
		if pool == "" {
			t.Skip("FREEJAIL_TEST_ZPOOL names no pool")
		}
		cfg.ZFSDataset = pool + "/freejail-storage-test"
	}
	d, err := Open(kind, dir, cfg)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { destroy(t, cfg.ZFSDataset) })
	if r, ok := d.(Rester); ok {
		t.Cleanup(func() { check(t, r.Rest(context.Background())) })
	}
	t.Cleanup(func() {
		if err := mount.UnmountUnder(dir); err != nil {
			t.Error(err)
		}
	})
	return d
}

func fill(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "etc", "a"), []byte("image"), 0o640); err != nil {
		return err
	}
	if err := os.Chown(filepath.Join(dir, "etc", "a"), 5, 7); err != nil {
		return err
	}
	return os.Link(filepath.Join(dir, "etc", "a"), filepath.Join(dir, "etc", "b"))
}

// ensure does not keep the chain.
func ensure(ctx context.Context, d Driver, chain string, unpack func(string) error) error {
	release, err := d.EnsureChain(ctx, []string{chain}, func(dir string, _, _ int) error { return unpack(dir) })
	if err == nil {
		release()
	}
	return err
}

// Each driver has a row in the first table of its page: what a root is, and where.
func TestDriversAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/storage.md")
	if os.IsNotExist(err) {
		t.Skip("the documentation is not here")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range Kinds() {
		if !regexp.MustCompile("(?m)^\\| `" + kind + "` (\\| [^|]+ ){2}\\|$").Match(page) {
			t.Errorf("docs/storage.md has no row of %s", kind)
		}
	}
}

func TestConformance(t *testing.T) { eachDriver(t, conform) }

func conform(t *testing.T, d Driver) {
	ctx := t.Context()
	bad := errors.New("cannot unpack")
	if err := ensure(ctx, d, "half", func(dir string) error { return errors.Join(fill(dir), bad) }); !errors.Is(err,
		bad) {
		t.Fatalf("a failed unpack: %v", err)
	}
	if _, err := d.Create(ctx, "half", "t0", Options{}); err == nil {
		t.Error("a half-made chain can be used")
	}
	var unpacked atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := ensure(ctx, d, "c1", func(dir string) error { unpacked.Add(1); return fill(dir) }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := unpacked.Load(); n != 1 {
		t.Errorf("unpacked %d times", n)
	}
	one, err := d.Create(ctx, "c1", "one", Options{Writable: []string{"/etc"}})
	if err != nil {
		t.Fatal(err)
	}
	two, err := d.Create(ctx, "c1", "two", Options{Writable: []string{"/etc"}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(one, "etc", "a")
	if err := os.WriteFile(file, []byte("one"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(one, "etc", "b")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(two, "etc", "a")); err != nil || string(b) != "image" {
		t.Errorf("the other task sees %q, %v", b, err)
	}
	if fi, err := os.Stat(filepath.Join(two, "etc", "b")); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("mode: %v %v", fi, err)
	}
	if err := d.RemoveChain(ctx, "c1"); !errors.Is(err, ErrInUse) {
		t.Errorf("to remove a chain in use: %v", err)
	}
	if n, err := d.ChainSize(ctx, "c1"); err != nil || n <= 0 || n > 1<<20 {
		t.Errorf("it takes %d bytes: %v", n, err)
	}
	waiting(t, d)
	if _, err := d.Create(ctx, "c1", "one", Options{}); err == nil {
		t.Error("a second root for one task")
	}
	for _, name := range []string{"../x", "", "a/b", ".."} {
		if _, err := d.Create(ctx, "c1", name, Options{}); err == nil {
			t.Errorf("task %q was taken", name)
		}
	}
	for _, task := range []string{"one", "two", "one", "never"} {
		if err := d.Remove(ctx, task); err != nil {
			t.Errorf("remove %s: %v", task, err)
		}
	}
	again, err := d.Create(ctx, "c1", "one", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(again, "etc", "a")); err != nil || string(b) != "image" {
		t.Errorf("what was written outlived its task: %q, %v", b, err)
	}
	if tasks, err := d.Tasks(ctx); err != nil || !slices.Equal(tasks, []string{"one"}) {
		t.Errorf("tasks: %v %v", tasks, err)
	}
	if err := errors.Join(d.Remove(ctx, "one"), d.RemoveChain(ctx, "c1")); err != nil {
		t.Error(err)
	}
	if chains, err := d.Chains(ctx); err != nil || len(chains) != 0 {
		t.Errorf("chains: %v %v", chains, err)
	}
}

// Images that have their first layers in common need those once, where the
// driver can share them; each has its own files whatever it does.
func TestCommonLayers(t *testing.T) { eachDriver(t, common) }

func common(t *testing.T, d Driver) {
	ctx := t.Context()
	applied := map[string]int{}
	image := func(layers ...string) []string {
		var chains []string
		for i := range layers {
			chains = append(chains, strings.Join(layers[:i+1], "-"))
		}
		release, err := d.EnsureChain(ctx, chains, func(dir string, first, end int) error {
			for _, l := range layers[first:end] {
				applied[l]++
				if err := os.WriteFile(filepath.Join(dir, "last"), []byte(l), 0o644); err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(dir, l), nil, 0o644); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		release()
		return chains
	}
	has := func(chain string, names ...string) {
		t.Helper()
		root, err := d.Create(ctx, chain, "t", Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { check(t, d.Remove(ctx, "t")) }()
		if b, err := os.ReadFile(filepath.Join(root, "last")); err != nil || string(b) != names[len(names)-1] {
			t.Errorf("%s: the last layer is %q: %v", chain, b, err)
		}
		entries, err := os.ReadDir(root)
		check(t, err)
		var got []string
		for _, e := range entries {
			if !slices.Contains([]string{"last", "tmp", "var"}, e.Name()) { // what a read-only root gets
				got = append(got, e.Name())
			}
		}
		if slices.Sort(names); !slices.Equal(got, names) {
			t.Errorf("%s has %v, want %v", chain, got, names)
		}
	}
	web, db := image("base", "lib", "web"), image("base", "lib", "db")
	has(web[2], "base", "lib", "web")
	has(db[2], "base", "lib", "db")
	if d.Name() == "zfs" {
		if applied["base"] != 1 || applied["lib"] != 1 {
			t.Errorf("common layers were applied again: %v", applied)
		}
		if err := d.RemoveChain(ctx, "base-lib"); !errors.Is(err, ErrInUse) {
			t.Errorf("to remove what other chains are made of: %v", err)
		}
	}
	for _, c := range []string{web[2], db[2], "base-lib", "base"} {
		check(t, d.RemoveChain(ctx, c))
	}
	if chains, err := d.Chains(ctx); err != nil || len(chains) != 0 {
		t.Errorf("chains: %v %v", chains, err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// Who waits for a chain goes when its context ends, and no chain has to wait
// for another one's unpacking. What is held stays.
func waiting(t *testing.T, d Driver) {
	t.Helper()
	begun, end := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		release, err := d.EnsureChain(t.Context(), []string{"slow"},
			func(dir string, _, _ int) error { close(begun); <-end; return fill(dir) })
		if err != nil {
			t.Error(err)
			return
		}
		if err := d.RemoveChain(t.Context(), "slow"); !errors.Is(err, ErrInUse) {
			t.Errorf("to remove a chain that is held: %v", err)
		}
		release()
		release() // more than once does no harm
		if err := d.RemoveChain(t.Context(), "slow"); err != nil {
			t.Error(err)
		}
	})
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ensure(ctx, d, "slow", fill); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting ended with %v", err)
	}
	if err := ensure(t.Context(), d, "quick", fill); err != nil {
		t.Error(err)
	}
	close(end)
	if err := d.RemoveChain(t.Context(), "quick"); err != nil {
		t.Error(err)
	}
	if err := d.RemoveChain(t.Context(), "none"); err != nil {
		t.Error(err)
	}
}

func TestUnknownDriver(t *testing.T) {
	if _, err := Open("floppy", t.TempDir(), Config{}); err == nil {
		t.Error("a driver that does not exist was opened on", runtime.GOOS)
	}
}
