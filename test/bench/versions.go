package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/chunked"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/remove"
)

// versionRounds is how often the second version is fetched in each way.
const versionRounds = 3

// changedFile is the one that the second version has another of.
const changedFile = treeFiles / 2

// versions compares what the second version of an image, of which one file is another, costs a host that has the first:
// as one layer in zstd, and in zstd:chunked.
func (b *bench) versions(ctx context.Context) (err error) {
	port, stop, err := b.serveRegistry(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for _, parts := range []bool{false, true} {
		for v := 1; v <= 2; v++ {
			if err := b.pushVersion(ctx, versionRef(port, parts, v), parts, v); err != nil {
				return err
			}
		}
	}
	far, err := newLink(port)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, far.Close()) }()
	farPort := far.Addr().(*net.TCPAddr).Port
	came := map[string]int64{}
	contestants := []contestant{}
	add := func(name string, least float64, parts bool, run func(context.Context, string, string,
		func(func() error) (time.Duration, error)) (time.Duration, error)) {
		contestants = append(contestants, contestant{name: name, least: least, run: func() (time.Duration, error) {
			return run(ctx, versionRef(farPort, parts, 1), versionRef(farPort, parts, 2),
				func(second func() error) (time.Duration, error) {
					before, begin := far.sent(), time.Now()
					err := second()
					came[name] = far.sent() - before
					return time.Since(begin), err
				})
		}})
	}
	add("freejail, zstd:chunked", 0, true, b.versionHere)
	add("freejail, zstd", 0, false, b.versionHere)
	if _, err := exec.LookPath("podman"); err == nil && runtime.GOOS == "linux" {
		add("podman, zstd:chunked, its partial pulls off as they come", 1/0.6, true, b.versionPodman)
	} else {
		fmt.Printf("\npodman is left out: it is not here\n")
	}
	if err := contest(versionRounds, fmt.Sprintf("From the request to the first answer of the second version of an "+
		"image of %d MB, of which one file of %d is another, behind a link of %d Mbit/s", int(treeBytes/1e6), treeFiles,
		linkRate*8/1_000_000), contestants...); err != nil {
		return err
	}
	fmt.Println("  what came over the link for it:")
	for _, c := range contestants {
		fmt.Printf("  %-58s %10s\n", c.name, mib(uint64(came[c.name])))
	}
	return nil
}

func versionRef(port int, parts bool, v int) string {
	name := "zstd"
	if parts {
		name = "chunked"
	}
	return fmt.Sprintf("127.0.0.1:%d/bench/%s:%d", port, name, v)
}

// pushVersion makes a version of the image, whose tree is one layer, and pushes it.
func (b *bench) pushVersion(ctx context.Context, ref string, parts bool, v int) (err error) {
	dir, archive := b.path("store-version"), b.path("version.tar")
	s, err := layout.OpenStore(dir, image.Limits{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(), remove.Tree(dir)) }()
	own, err := s.Import(ctx, b.archive, "bench", nil)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	plain := digest.Canonical.Digester()
	annotations := make(chan map[string]string, 1)
	go func() {
		told, err := compressVersion(w, plain.Hash(), parts, v)
		annotations <- told
		w.CloseWithError(err)
	}()
	d, err := s.Add(ctx, ocispec.MediaTypeImageLayerZstd, r)
	if r.CloseWithError(err); err != nil {
		return err
	}
	d.Annotations = <-annotations
	cfg := own.Config
	cfg.Config.Cmd = []string{"program", "answer"}
	cfg.RootFS.DiffIDs = append([]digest.Digest{plain.Digest()}, own.Config.RootFS.DiffIDs...)
	layers := append([]ocispec.Descriptor{d}, own.Layers...)
	if _, err := s.Put(ctx, "version", cfg, layers, nil); err != nil {
		return err
	}
	if err := writeFile(archive, func(w io.Writer) error { return s.Export(ctx, "version", w) }); err != nil {
		return err
	}
	_, err = command(ctx, os.Getenv("FREEJAIL_BUILD_BIN"), "push", "-q", archive, ref)
	return errors.Join(err, os.Remove(archive))
}

func compressVersion(w io.Writer, plain io.Writer, parts bool, v int) (annotations map[string]string, err error) {
	if parts {
		z, err := chunked.NewWriter(w)
		if err != nil {
			return nil, err
		}
		err = errors.Join(versionTree(io.MultiWriter(z, plain), v), z.Close())
		return z.Annotations(), err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return nil, errors.Join(versionTree(io.MultiWriter(z, plain), v), z.Close())
}

// versionTree is baseTree, of which in the second version one file is another.
func versionTree(w io.Writer, v int) error {
	r, all := io.Pipe()
	go func() { all.CloseWithError(baseTree(all)) }()
	defer r.Close()
	tr, tw := tar.NewReader(r), tar.NewWriter(w)
	for files := 0; ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return tw.Close()
		}
		if err != nil {
			return err
		}
		content := io.Reader(tr)
		if h.Typeflag == tar.TypeReg {
			if files++; files == changedFile && v == 2 {
				text, err := io.ReadAll(tr)
				if err != nil {
					return err
				}
				slices.Reverse(text)
				content = bytes.NewReader(text)
			}
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, content); err != nil {
			return err
		}
	}
}

// versionHere has the daemon pull the first version and start a task of the second, and forget both.
func (b *bench) versionHere(ctx context.Context, first, second string,
	measured func(func() error) (time.Duration, error)) (took time.Duration, err error) {
	if _, err := b.daemon.Pull(ctx, client.PullRequest{Ref: first}, nil); err != nil {
		return 0, err
	}
	const id = "version"
	took, err = measured(func() error {
		_, err := b.daemon.Start(ctx, client.TaskSpec{ID: id, Owner: "cli", Image: second})
		if err == nil {
			err = until(ctx, "the first answer", answered)
		}
		return err
	})
	err = errors.Join(err, b.daemon.Destroy(ctx, id, true), b.daemon.RemoveImage(ctx, first),
		b.daemon.RemoveImage(ctx, second))
	_, gerr := b.daemon.GC(ctx, client.GCRequest{})
	return took, errors.Join(err, gerr)
}

// versionPodman does the same by podman.
func (b *bench) versionPodman(ctx context.Context, first, second string,
	measured func(func() error) (time.Duration, error)) (time.Duration, error) {
	return b.withPodman(ctx, func(podman func(...string) error) (time.Duration, error) {
		if err := podman("pull", "--quiet", "--tls-verify=false", first); err != nil {
			return 0, err
		}
		return measured(func() error {
			err := podman(append(runByPodman(), second)...)
			if err == nil {
				err = until(ctx, "the first answer", answered)
			}
			return err
		})
	})
}
