// Package testimage builds the images that tests and benchmarks run: their own
// binary as the only program, so that neither a compiler nor a network is
// needed.
package testimage

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Program is where the running binary, which must be static, lies in an image.
const Program = "/bin/prog"

// Spec is an image for this host.
type Spec struct {
	Name     string
	Manifest string            // the manifest's JSON; empty for none
	Cmd      []string          // arguments of Program
	Programs map[string]string // absolute path -> program of the host
	Files    map[string]string // absolute path -> content
	Zeros    map[string]int64  // absolute path -> bytes of a file that is empty but for its size
	Links    map[string]string // absolute path of a symbolic link -> what it says
	Labels   map[string]string // of the configuration, beside the manifest's
	User     string
	Volumes  []string // of the configuration
	Exposed  []string // ports of the configuration, such as 80/tcp
	Gzip     bool     // the layer is compressed
	Chunked  bool     // it is zstd:chunked
}

// manifestLabel is image.ManifestLabel.
const manifestLabel = "org.freejail.manifest"

// Write makes the image as an oci-archive in dir and returns its path.
func Write(_ context.Context, dir string, spec Spec) (path string, err error) {
	l, err := newLayer(dir, spec)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}}
	cfg.Config.Entrypoint, cfg.Config.Cmd, cfg.Config.User = []string{Program}, spec.Cmd, spec.User
	cfg.Config.Labels = maps.Clone(spec.Labels)
	if spec.Manifest != "" {
		if cfg.Config.Labels == nil {
			cfg.Config.Labels = map[string]string{}
		}
		cfg.Config.Labels[manifestLabel] = spec.Manifest
	}
	for _, v := range spec.Volumes {
		if cfg.Config.Volumes == nil {
			cfg.Config.Volumes = map[string]struct{}{}
		}
		cfg.Config.Volumes[v] = struct{}{}
	}
	for _, p := range spec.Exposed {
		if cfg.Config.ExposedPorts == nil {
			cfg.Config.ExposedPorts = map[string]struct{}{}
		}
		cfg.Config.ExposedPorts[p] = struct{}{}
	}
	cfg.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.plain}}
	path = filepath.Join(dir, spec.Name+".tar")
	return path, newArchive(path).write(spec.Name, cfg, l)
}

// RootFS tells the digest of the uncompressed layer in a file.
func RootFS(layer string) (ocispec.RootFS, error) {
	f, err := os.Open(layer)
	if err != nil {
		return ocispec.RootFS{}, err
	}
	defer f.Close()
	d, err := digest.FromReader(f)
	return ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{d}}, err
}

func writeLayer(w io.Writer, spec Spec) error {
	tw := tar.NewWriter(w)
	var errs []error
	put := func(h tar.Header, content io.Reader) {
		err := tw.WriteHeader(&h)
		if err == nil {
			_, err = io.Copy(tw, content)
		}
		errs = append(errs, err)
	}
	for _, d := range []string{"bin/", "dev/", "etc/", "proc/", "var/"} {
		errs = append(errs, tw.WriteHeader(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}))
	}
	errs = append(errs, tw.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}))
	self, err := os.Executable()
	errs = append(errs, err)
	programs := map[string]string{Program: self}
	maps.Copy(programs, spec.Programs)
	for name, from := range programs {
		prog, err := os.ReadFile(from)
		errs = append(errs, err)
		put(tar.Header{Name: name[1:], Mode: 0o755, Size: int64(len(prog))}, bytes.NewReader(prog))
	}
	for name, text := range spec.Files {
		put(tar.Header{Name: name[1:], Mode: 0o644, Size: int64(len(text))}, strings.NewReader(text))
	}
	for name, size := range spec.Zeros {
		put(tar.Header{Name: name[1:], Mode: 0o644, Size: size}, io.LimitReader(zeros{}, size))
	}
	for name, to := range spec.Links {
		errs = append(errs, tw.WriteHeader(&tar.Header{Name: name[1:], Typeflag: tar.TypeSymlink, Linkname: to,
			Mode: 0o777}))
	}
	return errors.Join(append(errs, tw.Close())...)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
