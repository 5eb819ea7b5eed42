package interop

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/unpack"
)

// change does what a layer can do to a tree that came from lower ones.
func change(t *testing.T, root string) {
	t.Helper()
	p := func(name string) string { return filepath.Join(root, name) }
	check(t, os.RemoveAll(p("hidden")))
	check(t, os.Mkdir(p("hidden"), 0o700))
	check(t, os.WriteFile(p("hidden/c"), []byte("new"), 0o644))
	check(t, os.Remove(p("data/old")))
	check(t, os.RemoveAll(p("data/deep")))
	check(t, os.Remove(p("replaced")))
	check(t, os.Mkdir(p("replaced"), 0o755))
	check(t, os.WriteFile(p("replaced/file"), []byte("new"), 0o4711))
	check(t, unix.Chmod(p("replaced/file"), 0o4711))
	check(t, os.Link(p("replaced/file"), p("replaced/again")))
	check(t, os.Symlink("/etc", p("replaced/link")))
	check(t, os.Lchown(p("replaced/link"), 77, 78))
	check(t, os.Chown(p("empty"), 5, 6))
	then := time.Unix(1_700_000_000, 0)
	for _, name := range []string{"hidden", "hidden/c", "replaced", "replaced/file", "data", "."} {
		check(t, os.Chtimes(p(name), then, then))
	}
	ts := []unix.Timespec{{Sec: 1_700_000_000}, {Sec: 1_700_000_000}}
	check(t, unix.UtimesNanoAt(unix.AT_FDCWD, p("replaced/link"), ts, unix.AT_SYMLINK_NOFOLLOW))
}

func TestWeReadUmocis(t *testing.T) {
	need(t, "umoci")
	dir := t.TempDir()
	layout, bundle := filepath.Join(dir, "layout"), filepath.Join(dir, "bundle")
	call(t, "umoci", "init", "--layout", layout)
	call(t, "umoci", "new", "--image", layout+":it")
	call(t, "umoci", "unpack", "--image", layout+":it", bundle)
	root := filepath.Join(bundle, "rootfs")
	sample(t, root)
	call(t, "umoci", "repack", "--refresh-bundle", "--image", layout+":it", bundle)
	sameTree(t, "one layer", unpacked(t, layout), root)
	change(t, root)
	call(t, "umoci", "repack", "--image", layout+":it", bundle)
	sameTree(t, "two layers", unpacked(t, layout), root)
}

func TestWeReadBuildahs(t *testing.T) {
	need(t, "buildah")
	options := storage(t)
	container := call(t, join("buildah", options, "from", "scratch")...)
	root := call(t, join("buildah", options, "mount", container)...)
	sample(t, root)
	dir := t.TempDir()
	layout, archive := filepath.Join(dir, "layout"), filepath.Join(dir, "it.tar")
	commit := func(to ...string) {
		t.Helper()
		for _, d := range to {
			call(t, join("buildah", options, "commit", "--quiet", "--format", "oci", container, d)...)
		}
	}
	commit("base", "oci:"+layout+":it", "oci-archive:"+archive+":it")
	sameTree(t, "a layout with one layer", unpacked(t, layout), root)
	sameTree(t, "an archive with one layer", unpacked(t, archive), root)
	call(t, join("buildah", options, "rm", container)...)
	container = call(t, join("buildah", options, "from", "--pull-never", "base")...)
	root = call(t, join("buildah", options, "mount", container)...)
	change(t, root)
	check(t, os.Remove(archive))
	commit("oci-archive:" + archive + ":it")
	sameTree(t, "an archive with two layers", unpacked(t, archive), root)
}

func TestWeReadPodmans(t *testing.T) {
	need(t, "podman")
	options := storage(t)
	layout, _, root := ours(t, all[1])
	id := call(t, join("podman", options, "pull", "--quiet", "oci:"+layout)...)
	dir := lowerDir(t)
	archive, pushed := filepath.Join(dir, "it.tar"), filepath.Join(dir, "pushed")
	call(t, join("podman", options, "save", "--quiet", "--format", "oci-archive", "-o", archive, id)...)
	sameTree(t, "saved", unpacked(t, archive), root)
	for _, format := range []string{"gzip", "zstd"} {
		to := pushed + "-" + format
		call(t, join("podman", options, "push", "--quiet", "--compression-format", format, id, "oci:"+to+":it")...)
		sameTree(t, "pushed in "+format, unpacked(t, to), root)
	}
	plain := filepath.Join(dir, "plain.tar")
	check(t, os.WriteFile(plain, layerTar(t, layers[0]), 0o600))
	imported := call(t, join("podman", options, "import", "--quiet", plain)...)
	check(t, os.Remove(archive))
	call(t, join("podman", options, "save", "--quiet", "--format", "oci-archive", "-o", archive, imported)...)
	// With the fraction of a second: podman passes the archive on.
	tree := filepath.Join(dir, "tree")
	check(t, os.Mkdir(tree, 0o755))
	check(t, unpack.Archive(t.Context(), bytes.NewReader(layerTar(t, layers[0])), tree, image.Limits{}))
	sameTree(t, "imported", unpacked(t, archive), tree)
}
