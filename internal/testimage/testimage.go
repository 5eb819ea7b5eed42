// Package testimage builds the images that tests run: their own binary as the
// only program, so that a test needs neither a compiler nor a network.
package testimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// Program is where the running test's binary lies in an image.
const Program = "/bin/prog"

// Spec is an image for this host.
type Spec struct {
	Name     string
	Manifest string            // the manifest's JSON; empty for none
	Cmd      []string          // arguments of Program
	Files    map[string]string // absolute path -> content
}

// Archive writes the image as an oci-archive and returns its path. The archive
// lasts as long as the test.
func Archive(t testing.TB, spec Spec) string {
	t.Helper()
	layer := layer(t, spec.Files)
	s, err := image.OpenStore(t.TempDir(), image.Limits{})
	check(t, err)
	sum := sha256.Sum256(layer)
	d, err := s.Add(t.Context(), ocispec.MediaTypeImageLayer, bytes.NewReader(layer))
	check(t, err)
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}}
	cfg.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum[:]))}}
	cfg.Config.Entrypoint = []string{Program}
	cfg.Config.Cmd = spec.Cmd
	if spec.Manifest != "" {
		cfg.Config.Labels = map[string]string{image.ManifestLabel: spec.Manifest}
	}
	_, err = s.Put(t.Context(), spec.Name, cfg, []ocispec.Descriptor{d}, nil)
	check(t, err)
	path := filepath.Join(t.TempDir(), spec.Name+".tar")
	f, err := os.Create(path)
	check(t, err)
	check(t, s.Export(t.Context(), spec.Name, f))
	check(t, f.Close())
	return path
}

func layer(t testing.TB, files map[string]string) []byte {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	prog, err := os.Open(self)
	check(t, err)
	defer prog.Close()
	fi, err := prog.Stat()
	check(t, err)
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, d := range []string{"bin/", "dev/", "etc/", "proc/", "tmp/", "var/"} {
		mode := int64(0o755)
		if d == "tmp/" {
			mode = 0o1777
		}
		check(t, tw.WriteHeader(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: mode}))
	}
	check(t, tw.WriteHeader(&tar.Header{Name: Program[1:], Mode: 0o755, Size: fi.Size()}))
	_, err = io.Copy(tw, prog)
	check(t, err)
	for name, text := range files {
		check(t, tw.WriteHeader(&tar.Header{Name: name[1:], Mode: 0o644, Size: int64(len(text))}))
		_, err = io.WriteString(tw, text)
		check(t, err)
	}
	check(t, tw.Close())
	return buf.Bytes()
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
