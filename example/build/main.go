// Command build makes the example images: it compiles each program for a
// system and builds its Jailfile into DIR/NAME.tar. Run it from the
// repository's root.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/build"
)

var images = []string{"web", "greedy"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var p ocispec.Platform
	flag.StringVar(&p.OS, "os", runtime.GOOS, "system that the images are for")
	flag.StringVar(&p.Architecture, "arch", runtime.GOARCH, "architecture that the images are for")
	dir := flag.String("o", "build/images", "directory that the archives go to")
	flag.Parse()
	if err := all(ctx, p, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "example/build:", err)
		os.Exit(1)
	}
}

func all(ctx context.Context, p ocispec.Platform, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range images {
		if err := one(ctx, p, dir, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// one has a context of its own, with only the program in it.
func one(ctx context.Context, p ocispec.Platform, dir, name string) error {
	work, err := os.MkdirTemp("", "fjimage")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := compile(ctx, p, name, filepath.Join(work, name)); err != nil {
		return err
	}
	epoch, err := build.EpochFromEnv()
	if err != nil {
		return err
	}
	out := filepath.Join(dir, name+".tar")
	img, err := build.Build(ctx, build.Options{Context: work, File: filepath.Join("example", name, build.DefaultFile),
		Output: out, Platform: p, Epoch: epoch})
	if err != nil {
		return err
	}
	fmt.Printf("%-7s %s  %s/%s  %s\n", name, img.Digest.Encoded()[:12], p.OS, p.Architecture, out)
	return nil
}

func compile(ctx context.Context, p ocispec.Platform, name, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out,
		"./example/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.OS, "GOARCH="+p.Architecture)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}
