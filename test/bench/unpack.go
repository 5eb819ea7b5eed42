package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/testimage"
)

// The large image: 2000 files of 125 KiB, half of it compressible.
const (
	largeFiles = 2000
	largeSize  = 125 << 10
)

// unpacking compares import and unpacking of an image with what takes its
// layer or the whole of it apart otherwise.
func (b *bench) unpacking(ctx context.Context) error {
	layer, layout, archive := b.path("layer.tar.gz"), b.path("layout"), b.path("large.tar")
	if err := b.largeImage(ctx, layer, layout, archive); err != nil {
		return err
	}
	timed := func(f func(dir string) error) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			dir := b.path("unpacked")
			if err := os.Mkdir(dir, 0o755); err != nil {
				return 0, err
			}
			begin := time.Now()
			err := f(dir)
			took := time.Since(begin)
			return took, errors.Join(err, image.RemoveTree(dir))
		}
	}
	command := func(args ...string) error {
		out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", args[0], err, out)
		}
		return nil
	}
	contestants := []contestant{
		{"freejail, import of the archive and unpacking, all verified", timed(func(dir string) error { _, err := unpackedTree(ctx, archive, dir); return err })},
		{"tar -x of the layer, nothing verified", timed(func(dir string) error { return command("tar", "-xpf", layer, "-C", dir) })},
	}
	if umoci := os.Getenv("UMOCI_BIN"); umoci != "" {
		contestants = append(contestants, contestant{"umoci unpack of the layout", timed(func(dir string) error {
			return command(umoci, "unpack", "--image", layout+":large", dir)
		})})
	} else {
		fmt.Printf("\numoci is left out: it does not run on %s\n", runtime.GOOS)
	}
	return contest(3, fmt.Sprintf("Unpacking an image of %d MiB", largeFiles*largeSize>>20), contestants...)
}

// unpackedTree imports an archive into a store of its own and unpacks it.
func unpackedTree(ctx context.Context, archive, dir string) (root string, err error) {
	s, err := image.OpenStore(filepath.Join(dir, "store"), image.Limits{})
	if err != nil {
		return "", err
	}
	img, err := s.Import(ctx, archive, "bench", nil)
	if err != nil {
		return "", err
	}
	root = filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", err
	}
	return root, s.Unpack(ctx, img, root, nil)
}

func (b *bench) largeImage(ctx context.Context, layer, layout, archive string) error {
	plain := b.path("layer.tar")
	if err := writeFile(plain, largeTar); err != nil {
		return err
	}
	if err := writeFile(layer, func(w io.Writer) error {
		z := gzip.NewWriter(w)
		return errors.Join(largeTar(z), z.Close())
	}); err != nil {
		return err
	}
	s, err := image.OpenStore(b.path("largestore"), image.Limits{})
	if err != nil {
		return err
	}
	f, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer f.Close()
	d, err := s.Add(ctx, ocispec.MediaTypeImageLayerGzip, f)
	if err != nil {
		return err
	}
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}}
	if cfg.RootFS, err = testimage.RootFS(plain); err != nil {
		return err
	}
	if _, err := s.Put(ctx, "large", cfg, []ocispec.Descriptor{d}, nil); err != nil {
		return err
	}
	if err := s.WriteLayout(ctx, "large", layout); err != nil {
		return err
	}
	return writeFile(archive, func(w io.Writer) error { return s.Export(ctx, "large", w) })
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// largeTar is the same at every call.
func largeTar(w io.Writer) error {
	tw := tar.NewWriter(w)
	random := rand.NewChaCha8([32]byte{})
	content := make([]byte, largeSize)
	for i := range largeFiles {
		random.Read(content[:largeSize/2]) // the rest stays the first file's zeros
		if i%100 == 0 {
			if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/", i/100), Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
				return err
			}
		}
		if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/f%d", i/100, i), Mode: 0o644, Size: largeSize}); err != nil {
			return err
		}
		if _, err := tw.Write(content); err != nil {
			return err
		}
	}
	return tw.Close()
}
