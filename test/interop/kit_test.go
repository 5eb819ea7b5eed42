// Package interop tests that freejail and other programs read each other's
// images, with equal trees of files.
package interop

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
	"github.com/freejail/freejail/internal/mount"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// need skips a test where a program is not installed: `make interop` does that.
func need(t *testing.T, program string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("owners of files need root")
	}
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed: %v", program, err)
	}
}

// call runs a program with its configuration and its temporary files in the
// test's own directory, and returns what it prints.
func call(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home, "XDG_RUNTIME_DIR="+home)
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	if err := cmd.Run(); err != nil {
		t.Fatalf("%q: %v: %s", args, err, messages.String())
	}
	return strings.TrimSpace(out.String())
}

// entry makes one of a layer.
func entry(kind byte, name string, mode int64, change ...func(*tar.Header)) *tar.Header {
	h := &tar.Header{Typeflag: kind, Name: name, Mode: mode, ModTime: time.Unix(981_173_106, 0), Format: tar.FormatPAX}
	for _, f := range change {
		f(h)
	}
	return h
}

func to(target string) func(*tar.Header) { return func(h *tar.Header) { h.Linkname = target } }

func owner(uid, gid int) func(*tar.Header) {
	return func(h *tar.Header) { h.Uid, h.Gid = uid, gid }
}

func at(sec, nsec int64) func(*tar.Header) {
	return func(h *tar.Header) { h.ModTime = time.Unix(sec, nsec) }
}

func xattr(name, value string) func(*tar.Header) {
	return func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr." + name: value} }
}

// layers have all that a tree can have, and all that a layer can do to the ones
// below it. The content of a file is its name. Every layer names the directories
// that it changes: what time the others have is not the same with all programs.
var layers = [][]*tar.Header{
	{
		entry(tar.TypeDir, "./", 0o755),
		entry(tar.TypeDir, "bin/", 0o755),
		entry(tar.TypeReg, "bin/su", 0o4755),
		entry(tar.TypeReg, "bin/write", 0o2755, owner(0, 4)),
		entry(tar.TypeLink, "bin/su2", 0o4755, to("bin/su")),
		entry(tar.TypeSymlink, "bin/sh", 0o777, to("/bin/su"), owner(12, 13)),
		entry(tar.TypeDir, "data/", 0o750, owner(1001, 1002), at(1_600_000_000, 0)),
		entry(tar.TypeReg, "data/old", 0o600, owner(1001, 1002), at(1_600_000_001, 123_000_000)),
		entry(tar.TypeReg, "data/stays", 0o440, owner(4_000_000_000, 3_000_000_000)),
		entry(tar.TypeDir, "data/deep/", 0o700),
		entry(tar.TypeReg, "data/deep/gone", 0o644),
		entry(tar.TypeDir, "hidden/", 0o755),
		entry(tar.TypeReg, "hidden/a", 0o644),
		entry(tar.TypeReg, "hidden/b", 0o644),
		entry(tar.TypeDir, "tmp/", 0o1777),
		entry(tar.TypeReg, "replaced", 0o644),
		entry(tar.TypeReg, "ümlaut "+strings.Repeat("long", 40), 0o644),
		entry(tar.TypeSymlink, "dangling", 0o777, to("../../nowhere")),
		entry(tar.TypeReg, "labelled", 0o644, xattr("user.freejail", "value")),
		entry(tar.TypeReg, "empty", 0),
		entry(tar.TypeDir, "service/", 0o755),
		entry(tar.TypeFifo, "service/ok", 0o622, owner(5, 6)),
	},
	{
		entry(tar.TypeDir, "data/", 0o711, owner(1001, 0), at(1_650_000_000, 0)),
		entry(tar.TypeReg, "data/.wh.old", 0),
		entry(tar.TypeReg, ".wh.replaced", 0),
		entry(tar.TypeDir, "hidden/", 0o700, at(1_650_000_002, 0)),
		entry(tar.TypeReg, "hidden/.wh..wh..opq", 0),
		entry(tar.TypeReg, "hidden/c", 0o644),
		entry(tar.TypeDir, "bin/", 0o755, at(1_650_000_004, 0)),
		entry(tar.TypeReg, "bin/su", 0o755, at(1_650_000_003, 0)), // su2 keeps what it was
	},
	{
		entry(tar.TypeDir, "data/", 0o711, owner(1001, 0), at(1_650_000_005, 0)),
		entry(tar.TypeReg, "data/.wh.deep", 0),
		entry(tar.TypeDir, "replaced/", 0o755),
		entry(tar.TypeReg, "replaced/new", 0o644),
		entry(tar.TypeLink, "replaced/new2", 0o644, to("replaced/new")),
	},
}

func layerTar(t *testing.T, list []*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range list {
		h := *e
		content := ""
		if h.Typeflag == tar.TypeReg && !strings.Contains(h.Name, ".wh.") {
			content = strings.Repeat(h.Name, 1000)
			h.Size = int64(len(content))
		}
		check(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, content)
		check(t, err)
	}
	check(t, w.Close())
	return b.Bytes()
}

var compressions = map[string]func(io.Writer) io.WriteCloser{
	ocispec.MediaTypeImageLayer:     func(w io.Writer) io.WriteCloser { return plain{w} },
	ocispec.MediaTypeImageLayerGzip: func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	ocispec.MediaTypeImageLayerZstd: func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w)
		if err != nil {
			panic(err)
		}
		return z
	},
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

// ours is an image of the layers, by freejail: as a layout and as an archive,
// with the tree that freejail unpacks.
func ours(t *testing.T, mediaType string) (ociDir, archive, root string) {
	t.Helper()
	dir := lowerDir(t)
	s, err := layout.OpenStore(filepath.Join(dir, "store"), image.Limits{})
	check(t, err)
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH},
		RootFS: ocispec.RootFS{Type: "layers"}}
	cfg.Config.Cmd = []string{"/bin/su"}
	cfg.Config.Labels = map[string]string{image.ManifestLabel: `{"schemaVersion":1,"summary":"all kinds of files"}`}
	var blobs []ocispec.Descriptor
	for _, l := range layers {
		b := layerTar(t, l)
		var packed bytes.Buffer
		z := compressions[mediaType](&packed)
		_, err := z.Write(b)
		check(t, errors.Join(err, z.Close()))
		d, err := s.Add(t.Context(), mediaType, &packed)
		check(t, err)
		blobs, cfg.RootFS.DiffIDs = append(blobs, d), append(cfg.RootFS.DiffIDs, digest.FromBytes(b))
	}
	_, err = s.Put(t.Context(), "all:1.0", cfg, blobs, nil)
	check(t, err)
	ociDir, archive = filepath.Join(dir, "layout"), filepath.Join(dir, "all.tar")
	check(t, s.WriteLayout(t.Context(), "all:1.0", ociDir))
	f, err := os.Create(archive)
	check(t, err)
	check(t, errors.Join(s.Export(t.Context(), "all:1.0", f), f.Close()))
	return ociDir, archive, unpacked(t, ociDir)
}

// lowerDir has a path that podman takes for a name of an image.
func lowerDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "interop-")
	check(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// unpacked is what freejail makes of an archive or a layout directory, and its
// manifest must have come along.
func unpacked(t *testing.T, path string) (root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "root")
	check(t, os.Mkdir(root, 0o755))
	s, err := layout.OpenStore(t.TempDir(), image.Limits{})
	check(t, err)
	img, err := s.ImportFor(t.Context(), path, "it", ocispec.Platform{}, nil)
	check(t, err)
	check(t, unpack.Image(t.Context(), s, img, root, nil))
	return root
}

// tree tells all of a file tree but times of access and the root directory
// itself, which not every program puts into its layers.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	out, links := map[string]string{}, map[uint64]string{}
	check(t, filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("%o %d:%d %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch {
		case rel == ".":
			return nil
		case e.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			out[rel] = text + " -> " + to
			return err
		case e.Type().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d bytes %x", len(b), sha256.Sum256(b))
			if st.Nlink > 1 {
				if links[st.Ino] == "" {
					links[st.Ino] = rel
				}
				text += " = " + links[st.Ino]
			}
		}
		out[rel] = text
		return nil
	}))
	return out
}

func sameTree(t *testing.T, what, got, want string) {
	t.Helper()
	g, w := tree(t, got), tree(t, want)
	for name := range w {
		if g[name] != w[name] {
			t.Errorf("%s: %s is\n  %s, want\n  %s", what, name, g[name], w[name])
		}
	}
	for name := range g {
		if _, ok := w[name]; !ok {
			t.Errorf("%s: %s should not be there: %s", what, name, g[name])
		}
	}
}

// storage are the arguments that give podman and buildah storage of their own.
func storage(t *testing.T) []string {
	t.Helper()
	dir := lowerDir(t) // podman takes no long one
	t.Cleanup(func() {
		if err := mount.UnmountUnder(dir); err != nil {
			t.Error(err)
		}
	})
	return []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver",
		"vfs"}
}

func join(program string, options []string, args ...string) []string {
	return slices.Concat([]string{program}, options, args)
}

// sample makes a tree of files for other programs to make an image of. They
// write times in whole seconds.
func sample(t *testing.T, dir string) {
	t.Helper()
	check(t, unpack.Archive(t.Context(), bytes.NewReader(layerTar(t, layers[0])), dir, image.Limits{}))
	then := time.Unix(1_600_000_001, 0)
	check(t, os.Chtimes(filepath.Join(dir, "data/old"), then, then))
}
