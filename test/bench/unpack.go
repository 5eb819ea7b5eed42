package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/remove"
	"github.com/freejail/freejail/internal/testimage"
)

// unpacking compares the unpacking of one image, its layer in gzip and in zstd,
// with other programs that do so, on a file system in memory.
func (b *bench) unpacking(ctx context.Context) (err error) {
	dir := b.path("memory")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mount.UnmountUnder(dir)) }()
	if err := mount.Do(mount.Mount{Type: "tmpfs", Target: dir}); err != nil {
		return err
	}
	u := &unpacking{dir: dir, build: os.Getenv("FREEJAIL_BUILD_BIN")}
	if u.build == "" {
		return errors.New("FREEJAIL_BUILD_BIN is not set; `make bench` sets it")
	}
	plain := u.path("layer.tar")
	if err := writeFile(plain, baseTree); err != nil {
		return err
	}
	for _, k := range []kind{
		{"gzip", ocispec.MediaTypeImageLayerGzip, func(w io.Writer) (io.WriteCloser, error) {
			return gzip.NewWriter(w),
				nil
		}},
		{"zstd", ocispec.MediaTypeImageLayerZstd,
			func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }},
	} {
		if err := u.compare(ctx, plain, k); err != nil {
			return err
		}
	}
	return nil
}

// kind is a way to compress a layer.
type kind struct {
	name, mediaType string
	compress        func(io.Writer) (io.WriteCloser, error)
}

type unpacking struct {
	dir, build string
	used       map[string][]usage
}

func (u *unpacking) path(name string) string { return filepath.Join(u.dir, name) }

func (u *unpacking) compare(ctx context.Context, plain string, k kind) error {
	u.used = map[string][]usage{}
	layer, layoutDir, archive := u.path("layer."+k.name), u.path("layout-"+k.name), u.path(k.name+".tar")
	if err := u.makeImage(ctx, plain, layer, layoutDir, archive, k); err != nil {
		return err
	}
	var list []contestant
	add := func(name, program string, most float64, args func(dir string) []string) {
		if _, err := exec.LookPath(program); err != nil {
			fmt.Printf("\n%s is left out: it is not here\n", name)
			return
		}
		list = append(list, contestant{name: name, most: most,
			run: func() (time.Duration, error) { return u.run(ctx, name, program, args) }})
	}
	most := 0.8
	if runtime.GOOS == "freebsd" {
		most = 1
		add("bsdtar -x of the layer, and sha256 of it beside that", "sh", 0, func(dir string) []string {
			return []string{"-c", `sha256 -q "$0" & bsdtar -xpf "$0" -C "$1" && wait $!`, layer, dir}
		})
	}
	add("bsdtar -x of the layer, nothing verified", "bsdtar", 0,
		func(dir string) []string { return []string{"-xpf", layer, "-C", dir} })
	list = append(list, contestant{name: "decompression alone, into nothing, as freejail-build has it",
		run: func() (time.Duration, error) { return decompression(layer) }},
		contestant{name: "SHA-256 alone, of what it unpacks to",
			run: func() (time.Duration, error) { return hashing(plain) }})
	add("freejail-build unpack of the layout, all verified", u.build, most,
		func(dir string) []string { return []string{"unpack", layoutDir, dir} })
	add("freejail-build unpack of the archive, all verified", u.build, most,
		func(dir string) []string { return []string{"unpack", archive, dir} })
	if k.name == "gzip" {
		add("umoci unpack of the layout", os.Getenv("UMOCI_BIN"), 0,
			func(dir string) []string { return []string{"unpack", "--image", layoutDir + ":base", dir} })
	}
	add("podman pull of the layout, into its vfs storage", "podman", 0, func(dir string) []string {
		return []string{"--root", dir, "--runroot", dir + "-run", "--storage-driver", "vfs", "pull", "--quiet", "oci:" +
			layoutDir + ":base"}
	})
	what := fmt.Sprintf("Unpacking %d MB in %d files from a layer in %s, on a file system in memory",
		int(treeBytes/1e6), treeFiles, k.name)
	if err := contest(5, what, list...); err != nil {
		return err
	}
	fmt.Println("  the most memory, and the median of the time of processors:")
	for _, c := range list {
		if len(u.used[c.name]) == 0 {
			continue
		}
		var memory int64
		var cpu []time.Duration
		for _, used := range u.used[c.name] {
			memory, cpu = max(memory, used.KiB), append(cpu, used.CPU)
		}
		fmt.Printf("  %-58s %10s %10s\n", c.name, mib(uint64(memory)<<10), round(median(cpu)))
	}
	return errors.Join(os.RemoveAll(layoutDir), os.Remove(layer), os.Remove(archive))
}

// hashing is what no unpacking that verifies a layer's DiffID can take less than: one processor does it from the first
// byte to the last.
func hashing(plain string) (took time.Duration, err error) {
	f, err := os.Open(plain)
	if err != nil {
		return 0, err
	}
	begin, h := time.Now(), sha256.New()
	_, err = io.Copy(h, f)
	return time.Since(begin), errors.Join(err, f.Close())
}

// decompression is what no unpacking can take less than on one processor.
func decompression(layer string) (took time.Duration, err error) {
	f, err := os.Open(layer)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	begin := time.Now()
	z, err := blob.Decompress(f)
	if err == nil {
		_, err = blob.Copy(io.Discard, z)
	}
	return time.Since(begin), err
}

// run lets a program fill a new directory.
func (u *unpacking) run(ctx context.Context, name, program string, args func(dir string) []string) (
	time.Duration, error) {
	dir := u.path("unpacked")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	used, err := measured(ctx, u.dir, append([]string{program}, args(dir)...))
	if err != nil {
		return 0, err
	}
	u.used[name] = append(u.used[name], used)
	if err := countFiles(dir); err != nil {
		return 0, err
	}
	for _, d := range []string{dir, dir + "-run"} {
		if err := errors.Join(mount.UnmountUnder(d), remove.Tree(d)); err != nil {
			return 0, err
		}
	}
	return used.Wall, nil
}

// usage is what a program took.
type usage struct {
	Wall, CPU time.Duration
	KiB       int64 // resident, at most
}

// measured runs a program as a child of a small process: a child's memory
// counts from its fork on, when it is that of its parent.
func measured(ctx context.Context, tmp string, args []string) (u usage, err error) {
	self, err := os.Executable()
	if err != nil {
		return u, err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{"program", "measure"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	var messages strings.Builder
	cmd.Stderr = &messages
	out, err := cmd.Output()
	if err != nil {
		return u, fmt.Errorf("%w: %s", err, messages.String())
	}
	return u, json.Unmarshal(out, &u)
}

func measure(args []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return err
	}
	s := cmd.ProcessState
	u := usage{Wall: time.Since(begin), CPU: s.UserTime() + s.SystemTime()}
	if ru, ok := s.SysUsage().(*syscall.Rusage); ok {
		u.KiB = ru.Maxrss
	}
	return json.NewEncoder(os.Stdout).Encode(u)
}

// countFiles makes sure that a program has done its work.
func countFiles(dir string) error {
	n := 0
	err := filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			n++
		}
		return err
	})
	if err == nil && n < treeFiles {
		err = fmt.Errorf("%d files were unpacked, want %d", n, treeFiles)
	}
	return err
}

func (u *unpacking) makeImage(ctx context.Context, plain, layer, layoutDir, archive string, k kind) error {
	if err := writeFile(layer, func(w io.Writer) error {
		z, err := k.compress(w)
		if err != nil {
			return err
		}
		f, err := os.Open(plain)
		if err != nil {
			return err
		}
		_, err = io.Copy(z, f)
		return errors.Join(err, z.Close(), f.Close())
	}); err != nil {
		return err
	}
	s, err := layout.OpenStore(u.path("store"), image.Limits{})
	if err != nil {
		return err
	}
	defer s.Close()
	f, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer f.Close()
	d, err := s.Add(ctx, k.mediaType, f)
	if err != nil {
		return err
	}
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}}
	if cfg.RootFS, err = testimage.RootFS(plain); err != nil {
		return err
	}
	if _, err := s.Put(ctx, "base", cfg, []ocispec.Descriptor{d}, nil); err != nil {
		return err
	}
	if err := s.WriteLayout(ctx, "base", layoutDir); err != nil {
		return err
	}
	err = writeFile(archive, func(w io.Writer) error { return s.Export(ctx, "base", w) })
	return errors.Join(err, s.Close(), os.RemoveAll(u.path("store")))
}

// unpackedTree imports an archive into a store of its own and unpacks it.
func unpackedTree(ctx context.Context, archive, dir string) (root string, err error) {
	s, err := layout.OpenStore(filepath.Join(dir, "store"), image.Limits{})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	img, err := s.Import(ctx, archive, "bench", nil)
	if err != nil {
		return "", err
	}
	root = filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", err
	}
	return root, unpack.Image(ctx, s, img, root, nil)
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
