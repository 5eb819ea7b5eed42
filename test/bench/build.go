package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/internal/mount"
)

// The base that is built on: 250 MB in 7,000 files, half of it compressible.
const (
	baseFiles = 7000
	baseSize  = 250_000_000 / baseFiles
)

// building measures on a memory file system: building again what did not
// change, and making a layer for one file of many.
func (b *bench) building(ctx context.Context) (err error) {
	dir := b.path("building")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: dir, Options: []string{"size=4294967296",
		"mode=755"}}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mount.UnmountUnder(dir)) }()
	if err := b.warmCache(ctx, dir); err != nil {
		return err
	}
	return b.oneChange(ctx, dir)
}

const benchJailfile = `FROM base.tar
COPY site /srv/site
COPY prog /bin/prog
WORKDIR /srv
RUN ["/bin/prog", "program", "exit"]
ENV A=b
ENTRYPOINT ["/bin/prog"]
`

func (b *bench) warmCache(ctx context.Context, dir string) error {
	bin := os.Getenv("FREEJAIL_BUILD_BIN")
	if bin == "" {
		return errors.New("FREEJAIL_BUILD_BIN is not set; `make bench` sets it")
	}
	context := filepath.Join(dir, "context")
	if err := writeContext(ctx, dir, context); err != nil {
		return err
	}
	command := func(args ...string) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			cmd := exec.CommandContext(ctx, args[0], args[1:]...)
			cmd.Env = append(os.Environ(), "TMPDIR="+dir)
			begin := time.Now()
			out, err := cmd.CombinedOutput()
			took := time.Since(begin)
			if err != nil {
				err = fmt.Errorf("%q: %w: %s", args, err, out)
			}
			return took, err
		}
	}
	cache, store := filepath.Join(dir, "cache"), filepath.Join(dir, "store")
	warm := command(bin, "build", "-q", "--cache", cache, "--store", store, "-t", "bench", context)
	if _, err := warm(); err != nil { // the first one executes everything
		return err
	}
	change := 0
	anew := func(run func() (time.Duration, error)) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			change++
			if err := os.WriteFile(filepath.Join(context, "site", "page7"), fmt.Appendf(nil, "change %d", change),
				0o644); err != nil {
				return 0, err
			}
			return run()
		}
	}
	changed := []contestant{{name: "freejail-build", run: anew(warm)}}
	contestants := []contestant{
		{name: "freejail-build, the cache warm", run: warm},
		{name: "the same, and the image written to an archive", run: command(bin, "build", "-q", "--cache", cache, "-o",
			filepath.Join(dir, "out.tar"), context)},
		{name: "freejail-build --no-cache", run: command(bin, "build", "-q", "--no-cache", "--store", store, "-t",
			"bench", context)},
	}
	if other := b.buildah(dir, context); other != nil {
		again := command(other...)
		if _, err := again(); err != nil {
			return err
		}
		contestants = append(contestants, contestant{name: "buildah build --layers, its cache warm", run: again,
			least: 1 / 0.3})
		changed = append(changed, contestant{name: "buildah build --layers", run: anew(again), least: 1 / 0.5})
	} else {
		fmt.Printf("\nbuildah is left out: it is not here\n")
	}
	base := fmt.Sprintf("on %d MB in %d files", baseFiles*baseSize/1_000_000, baseFiles)
	if err := contest(5, "Building what did not change, "+base, contestants...); err != nil {
		return err
	}
	return contest(5, "Building after a change of one of the 1,000 files that are copied, "+base, changed...)
}

// buildah is the command that builds the same; nil where there is none.
func (b *bench) buildah(dir, context string) []string {
	bin, err := exec.LookPath("buildah")
	if err != nil || runtime.GOOS != "linux" {
		return nil
	}
	return []string{bin, "--root", filepath.Join(dir, "buildah"), "--runroot", filepath.Join(dir, "buildah-run"),
		"--storage-driver", "overlay",
		"build", "-q", "--layers", "--isolation", "chroot", "--network", "host", "--from", "oci-archive:" +
			filepath.Join(context, "base.tar"), "-f", filepath.Join(context, "Jailfile"), context}
}

// writeContext writes the base, the Jailfile and what it copies, and waits until
// the times of all of it tell of later changes.
func writeContext(ctx context.Context, dir, context string) error {
	if err := os.MkdirAll(filepath.Join(context, "site"), 0o755); err != nil {
		return err
	}
	set := filepath.Join(dir, "base.tar")
	if err := writeFile(set, baseTar); err != nil {
		return err
	}
	host := ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
	if _, err := build.Archive(ctx, []build.Set{{File: set}}, build.Options{Output: filepath.Join(context, "base.tar"),
		Platform: host, TempDir: dir}); err != nil {
		return err
	}
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(context, "site", fmt.Sprintf("page%d", i)), fmt.Appendf(nil, "page %d", i),
			0o644); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	prog, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(filepath.Join(context, "prog"), prog, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(context, ".jailignore"), []byte("base.tar\n"), 0o644)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(context, "Jailfile"), []byte(benchJailfile), 0o644)
	}
	time.Sleep(3 * time.Second)
	return err
}

// baseTar is the same at every call.
func baseTar(w io.Writer) error {
	tw := tar.NewWriter(w)
	random := rand.NewChaCha8([32]byte{})
	content := make([]byte, baseSize)
	for i := range baseFiles {
		random.Read(content[:baseSize/2]) // the rest stays zeros
		if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/share/d%d/f%d", i/50, i), Mode: 0o644,
			Size: baseSize}); err != nil {
			return err
		}
		if _, err := tw.Write(content); err != nil {
			return err
		}
	}
	return tw.Close()
}

// touching is a Runner whose command changes one file; it notes when it is done.
type touching struct{ done *time.Time }

func (r touching) Run(_ context.Context, c build.Command) error {
	err := os.WriteFile(filepath.Join(c.Root, "tree", "d77", "f7700"), []byte(c.Args[1]), 0o644)
	*r.done = time.Now()
	return err
}

const manyFiles = 20_000

// oneChange measures the way from a command's end to the next step.
func (b *bench) oneChange(ctx context.Context, dir string) (err error) {
	source := filepath.Join(dir, "many")
	for i := range manyFiles {
		sub := filepath.Join(source, "tree", fmt.Sprintf("d%d", i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%d", i)), fmt.Appendf(nil, "%d", i),
			0o644); err != nil {
			return err
		}
	}
	step := func(dir, dataset string) func() (time.Duration, error) {
		return func() (time.Duration, error) { return b.stepTime(ctx, dir, source, dataset) }
	}
	contestants := []contestant{{name: "by a walk of the tree, on tmpfs", run: step(dir, "")}}
	if os.Getenv("FREEJAIL_TEST_ZPOOL") != "" {
		pool := fmt.Sprintf("fj-bench%d", os.Getpid())
		remove, perr := memoryPool(ctx, pool, b.path("pool"))
		if perr != nil {
			return perr
		}
		defer func() { err = errors.Join(err, remove()) }()
		contestants = append([]contestant{
			{name: "by a walk of the tree, on the same pool", run: step(b.path("pool"), "")},
			{name: "by what ZFS tells", run: step(dir, pool), most: 1.0 / 20}}, contestants...)
	} else {
		fmt.Printf("\nZFS is left out: FREEJAIL_TEST_ZPOOL names no pool\n")
	}
	return contest(3, fmt.Sprintf("A layer for one changed file of %d", manyFiles), contestants...)
}

// memoryPool makes a ZFS pool on a memory disk, mounted at dir.
func memoryPool(ctx context.Context, name, dir string) (remove func() error, err error) {
	disk, err := command(ctx, "mdconfig", "-a", "-t", "swap", "-s", "2g")
	if err != nil {
		return nil, err
	}
	clean := context.WithoutCancel(ctx)
	detach := func() error { _, err := command(clean, "mdconfig", "-d", "-u", disk); return err }
	if _, err := command(ctx, "zpool", "create", "-m", dir, name, disk); err != nil {
		return nil, errors.Join(err, detach())
	}
	return func() error {
		_, err := command(clean, "zpool", "destroy", "-f", name)
		return errors.Join(err, detach())
	}, nil
}

// command returns the line that a program of the system prints.
func command(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%q: %w: %s", args, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// stepTime builds an image with several such commands, and gives the least time
// that one took: the first also has the whole tree recorded.
func (b *bench) stepTime(ctx context.Context, dir, source, dataset string) (least time.Duration, err error) {
	text := "FROM scratch\nCOPY tree /tree\nRUN [\"x\", \"0\"]\nRUN [\"x\", \"1\"]\nRUN [\"x\", \"2\"]\nRUN [\"x\", " +
		"\"3\"]\nWORKDIR /\n"
	if err := os.WriteFile(filepath.Join(source, "Jailfile"), []byte(text), 0o644); err != nil {
		return 0, err
	}
	var done time.Time
	least = time.Hour
	o := build.Options{Context: source, Output: filepath.Join(dir, "many.tar"), TempDir: dir, ZFSDataset: dataset,
		Runner: func(string) (build.Runner, error) { return touching{&done}, nil },
		Progress: func(string) {
			if !done.IsZero() {
				least = min(least, time.Since(done))
			}
			done = time.Time{}
		}}
	_, err = build.Build(ctx, o)
	return least, err
}
