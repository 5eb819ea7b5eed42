// Package testimage builds the images that tests and benchmarks run: their own
// binary as the only program, so that neither a compiler nor a network is
// needed.
package testimage

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"runtime"

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
	Links    map[string]string // absolute path of a symbolic link -> what it says
	Labels   map[string]string // of the configuration, beside the manifest's
	User     string
}

// manifestLabel is image.ManifestLabel.
const manifestLabel = "org.freejail.manifest"

// Write makes the image as an oci-archive in dir and returns its path.
func Write(_ context.Context, dir string, spec Spec) (path string, err error) {
	layer, err := layer(spec)
	if err != nil {
		return "", err
	}
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}}
	cfg.Config.Entrypoint, cfg.Config.Cmd, cfg.Config.User = []string{Program}, spec.Cmd, spec.User
	cfg.Config.Labels = maps.Clone(spec.Labels)
	if spec.Manifest != "" {
		if cfg.Config.Labels == nil {
			cfg.Config.Labels = map[string]string{}
		}
		cfg.Config.Labels[manifestLabel] = spec.Manifest
	}
	cfg.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}}
	path = filepath.Join(dir, spec.Name+".tar")
	a := newArchive()
	return path, a.write(path, spec.Name, a.json(cfg), a.blob(ocispec.MediaTypeImageLayer, layer))
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

func layer(spec Spec) ([]byte, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	var errs []error
	for _, d := range []string{"bin/", "dev/", "etc/", "proc/", "var/"} {
		errs = append(errs, tw.WriteHeader(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}))
	}
	errs = append(errs, tw.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}))
	put := func(name string, mode int64, content []byte) {
		errs = append(errs, tw.WriteHeader(&tar.Header{Name: name[1:], Mode: mode, Size: int64(len(content))}))
		_, err := tw.Write(content)
		errs = append(errs, err)
	}
	programs := maps.Clone(spec.Programs)
	if programs == nil {
		programs = map[string]string{}
	}
	programs[Program] = self
	for name, from := range programs {
		prog, err := os.ReadFile(from)
		errs = append(errs, err)
		put(name, 0o755, prog)
	}
	for name, text := range spec.Files {
		put(name, 0o644, []byte(text))
	}
	for name, to := range spec.Links {
		errs = append(errs, tw.WriteHeader(&tar.Header{Name: name[1:], Typeflag: tar.TypeSymlink, Linkname: to,
			Mode: 0o777}))
	}
	errs = append(errs, tw.Close())
	return buf.Bytes(), errors.Join(errs...)
}
