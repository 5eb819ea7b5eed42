package build

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/internal/dataset"
)

// testPool makes a dataset in the pool that FREEJAIL_TEST_ZPOOL names.
func testPool(t testing.TB) string {
	pool := os.Getenv("FREEJAIL_TEST_ZPOOL")
	if pool == "" {
		t.Skip("FREEJAIL_TEST_ZPOOL names no pool")
	}
	needsRoot(t)
	name := fmt.Sprintf("%s/freejail-build-test-%d", pool, os.Getpid())
	_, err := dataset.Run(t.Context(), "create", "-o", "mountpoint="+t.TempDir(), name)
	check(t, err)
	t.Cleanup(func() {
		if _, err := dataset.Run(context.Background(), "destroy", "-R", "-f", name); err != nil {
			t.Error(err)
		}
	})
	return name
}

func needsRoot(t testing.TB) {
	if os.Geteuid() != 0 {
		t.Skip("owners need root")
	}
}

// changing is a Runner whose commands are seeds of changes to the root.
type changing struct {
	t    testing.TB
	each int
}

func (r changing) Run(_ context.Context, c Command) error {
	var seed uint64
	if _, err := fmt.Sscan(c.Args[1], &seed); err != nil {
		return err
	}
	m := &mutator{t: r.t, dir: c.Root, random: rand.New(rand.NewPCG(seed, 7)), n: int(seed) * 1000}
	for range r.each {
		m.change()
	}
	return nil
}

// layersBy builds an image and tells what its layers have.
func layersBy(t *testing.T, dir, lines string, runner Runner, change func(*Options)) []string {
	t.Helper()
	check(t, os.WriteFile(filepath.Join(dir, "Jailfile"), []byte(lines), 0o644))
	o := Options{Context: dir, Output: filepath.Join(t.TempDir(), "image.tar"),
		Platform: ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH},
		Runner:   func(string) (Runner, error) { return runner, nil }}
	var said []string
	o.Progress = func(text string) { said = append(said, text) }
	change(&o)
	img, err := Build(t.Context(), o)
	check(t, err)
	for _, s := range said {
		if strings.Contains(s, "tree is read: ") {
			t.Error(s)
		}
	}
	m := &made{T: t, path: o.Output}
	m.take(img)
	var out []string
	for i, l := range img.Layers {
		out = append(out, l.Digest.Encoded()[:12]+"\n  "+strings.Join(m.layer(i), "\n  "))
	}
	return out
}

// A step on ZFS makes the same layer as a walk does, bit for bit.
func TestZFSLayersAreTheWalks(t *testing.T) {
	pool := testPool(t)
	dir := t.TempDir()
	for i := range 60 {
		files{fmt.Sprintf("f/d%d/e/f%d", i%7, i): fmt.Sprint(i)}.write(t, dir)
	}
	build := func(lines string, change func(*Options)) []string {
		t.Helper()
		return layersBy(t, dir, lines, changing{t, 8}, change)
	}
	cache := t.TempDir()
	rounds := 12
	if testing.Short() {
		rounds = 1
	}
	for round := range rounds {
		text := "FROM scratch\nCOPY f /\n"
		for step := range 4 {
			text += fmt.Sprintf("RUN [\"x\", \"%d\"]\n", round*10+step)
		}
		text += "COPY f/d1 /again\n" + fmt.Sprintf("RUN [\"x\", \"%d\"]\n", round*10+9)
		walk := build(text, func(*Options) {})
		for _, kept := range []string{"", cache, cache} {
			got := build(text, func(o *Options) { o.ZFSDataset, o.Cache = pool, kept })
			if !slices.Equal(got, walk) {
				i := slices.IndexFunc(got, func(l string) bool { return !slices.Contains(walk, l) })
				t.Fatalf("%s\nwith ZFS layer %d is\n%s\nby a walk\n%s", text, i, got[max(i, 0)],
					walk[min(max(i, 0), len(walk)-1)])
			}
		}
		text += "RUN [\"x\", \"3\"]\n" // goes on from what is there
		walk = build(text, func(*Options) {})
		if got := build(text, func(o *Options) { o.ZFSDataset, o.Cache = pool, cache }); !slices.Equal(got, walk) {
			t.Errorf("going on from the cache the layers are\n%s\nby a walk\n%s", strings.Join(got, "\n"),
				strings.Join(walk, "\n"))
		}
	}
	out, err := dataset.Run(t.Context(), "list", "-H", "-o", "name", "-r", pool)
	check(t, err)
	if !strings.Contains(out, "/"+childPrefix) {
		t.Errorf("datasets: %s", out)
	}
	_, err = Prune(t.Context(), cache, 0, 0, nil)
	check(t, err)
	if out, err = dataset.Run(t.Context(), "list", "-H", "-o", "name", "-r", pool); err != nil ||
		strings.TrimSpace(out) != pool {
		t.Errorf("after pruning there are %s %v", out, err)
	}
}

// linking is a Runner whose commands make and remove names of a file.
type linking struct{}

func (linking) Run(_ context.Context, c Command) error {
	a, b := filepath.Join(c.Root, "a", "x"), filepath.Join(c.Root, "b", "y")
	switch c.Args[0] {
	case "link":
		return os.Link(a, b)
	case "unlink":
		return os.Remove(b)
	case "change":
		return os.WriteFile(a, []byte(c.Args[0]), 0o644)
	}
	return os.Chmod(a, 0o600)
}

// A file whose last name was removed, but not its first, is found when it is
// changed, though ZFS does not know its name any more.
func TestZFSFileWithoutAPath(t *testing.T) { fileWithoutAPath(t) }

func fileWithoutAPath(t *testing.T) (said []string) {
	t.Helper()
	pool := testPool(t)
	dir := t.TempDir()
	files{"f/a/x": "1", "f/b/z": "2"}.write(t, dir)
	text := "FROM scratch\nCOPY f /\nRUN [\"link\"]\nRUN [\"unlink\"]\nRUN [\"change\"]\nRUN [\"mode\"]\n"
	walk := layersBy(t, dir, text, linking{}, func(*Options) {})
	if len(walk) != 5 {
		t.Errorf("the layers are %q", walk)
	}
	by := func(o *Options) {
		o.ZFSDataset = pool
		next := o.Progress
		o.Progress = func(text string) { said = append(said, text); next(text) }
	}
	if got := layersBy(t, dir, text, linking{}, by); !slices.Equal(got, walk) {
		t.Errorf("with ZFS the layers are\n%s\nby a walk\n%s", strings.Join(got, "\n"), strings.Join(walk, "\n"))
	}
	return said
}

func TestZFSDatasetIsChecked(t *testing.T) {
	dir := t.TempDir()
	files{"Jailfile": "FROM scratch\n"}.write(t, dir)
	_, err := Build(t.Context(), Options{Context: dir, Output: filepath.Join(t.TempDir(), "x.tar"),
		ZFSDataset: "no-such-pool/x"})
	if err == nil || !strings.Contains(err.Error(), "zfs create -o mountpoint") {
		t.Error(err)
	}
}
