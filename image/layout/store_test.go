package layout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/unpack"
	"github.com/freejail/freejail/internal/testoci"
)

var ctx = context.Background()

func TestImportKindsOfArchives(t *testing.T) {
	l := newLayout(layerOf(t, file("f", "x")), layerOf(t, file("g", "y")), layerOf(t), layerOf(t)).Seal(t)
	plain := l.Tar(t)
	for name, path := range map[string]string{
		"directory": l.Dir(t), "tar": writeTemp(t, plain), "gzip": writeTemp(t, gz(t, plain)),
		"zstd": writeTemp(t, zst(t, plain))} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, image.Limits{})
			img, err := s.Import(ctx, path, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			if img.Name != "test:1.0" || img.Digest != l.Index.Manifests[0].Digest || img.Manifest == nil ||
				len(img.Layers) != 4 {
				t.Errorf("it has become %+v", img)
			}
			root := t.TempDir()
			if err := unpack.Image(ctx, s, img, root, nil); err != nil {
				t.Fatal(err)
			}
			if got := brief(t, root); got != "f=x g=y" {
				t.Errorf("it unpacks to %s", got)
			}
			if left, err := os.ReadDir(filepath.Join(s.dir, tempDir)); err != nil || len(left) > 0 {
				t.Errorf("temporary files stay: %v %v", left, err)
			}
		})
	}
}

// The archive was compressed by xz(1), as FreeBSD's own images are; its config
// spells "cmd" in lower case, as theirs do.
func TestImportXZ(t *testing.T) {
	s := newStore(t, image.Limits{})
	img, err := s.ImportFor(ctx, "testdata/image.tar.xz", "", ocispec.Platform{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if img.Config.OS != "freebsd" || fmt.Sprint(img.Config.Config.Cmd) != "[/bin/sh]" {
		t.Errorf("the config is %+v", img.Config)
	}
	root := t.TempDir()
	if err := unpack.Image(ctx, s, img, root, nil); err != nil {
		t.Fatal(err)
	}
	if got := brief(t, root); got != "etc/motd=hello\n" {
		t.Errorf("it unpacks to %q", got)
	}
}

// A refused image leaves the store as it was.
func TestRefusedImages(t *testing.T) {
	layer := layerOf(t, file("f", strings.Repeat("x", 5000)))
	manifest := func(text string) func(*testoci.Layout) {
		return func(l *testoci.Layout) { l.Config.Config.Labels = map[string]string{image.ManifestLabel: text} }
	}
	spoil := func(l *testoci.Layout, b []byte, d ocispec.Descriptor) {
		l.Files["blobs/sha256/"+d.Digest.Encoded()] = b
	}
	for name, c := range map[string]struct {
		before func(*testoci.Layout) // the config and manifest are written
		after  func(*testoci.Layout) // they are
		want   string
	}{
		"unknown layer type": {before: func(
			l *testoci.Layout) {
			l.Manifest.Layers[0].MediaType = "application/x-rar"
		}, want: `layer 1: unknown layer type "application/x-rar"`},
		"wrong size of a layer": {before: func(l *testoci.Layout) { l.Manifest.Layers[0].Size++ },
			want: "its descriptor says"},
		"negative size": {before: func(l *testoci.Layout) { l.Manifest.Layers[0].Size = -1 }, want: "layer 1"},
		"too large": {before: func(l *testoci.Layout) { l.Manifest.Layers[0].Size = 1 << 40 },
			want: "limits { image_size }"},
		"layer with sha512": {before: func(l *testoci.Layout) {
			l.Manifest.Layers[0].Digest = digest.NewDigestFromEncoded("sha512", strings.Repeat("a", 128))
		}, want: "layer 1: digest"},
		"digest upwards": {before: func(
			l *testoci.Layout) {
			l.Manifest.Layers[0].Digest = "sha256:../../../../etc/passwd"
		}, want: "layer 1: digest"},
		"no such layer": {before: func(l *testoci.Layout) {
			l.Manifest.Layers[0].Digest = digest.FromString(
				"none")
		}, want: "is missing"},
		"fewer DiffIDs": {before: func(l *testoci.Layout) { l.Config.RootFS.DiffIDs = nil },
			want: "has 1 layers, its config names 0"},
		"bad DiffID": {before: func(l *testoci.Layout) { l.Config.RootFS.DiffIDs[0] = "x" },
			want: "rootfs.diff_ids[0]"},
		"other architecture": {before: func(l *testoci.Layout) { l.Config.Architecture = "vax" },
			want: "/vax, wanted is"},
		"config of a chart": {before: func(l *testoci.Layout) {
			l.Manifest.Config = l.Blob("application/vnd.cncf.helm.config.v1+json", []byte("{}"))
		}, want: "not that of an image"},
		"config is no JSON": {before: func(l *testoci.Layout) {
			l.Manifest.Config = l.Blob(
				ocispec.MediaTypeImageConfig, []byte("{"))
		}, want: "image config: "},
		"unknown field": {before: manifest(`{"schemaVersion": 1, "privileged": true}`),
			want: "manifest: privileged: "},
		"wrong type": {before: manifest(`{"schemaVersion": 1, "ports": [{"name": "a", "port": "80"}]}`),
			want: "manifest: ports[0].port: "},
		"manifest is no JSON": {before: manifest(`yes`), want: "manifest: "},
		"content of the layer": {after: func(l *testoci.Layout) {
			spoil(l, append(bytes.Clone(layer[:len(layer)-1]),
				1), l.Manifest.Layers[0])
		}, want: "digest mismatch"},
		"layer cut off": {after: func(l *testoci.Layout) { spoil(l, layer[:100], l.Manifest.Layers[0]) },
			want: "blob sha256:"},
		"layer with more": {after: func(l *testoci.Layout) {
			spoil(l, append(bytes.Clone(layer), 0),
				l.Manifest.Layers[0])
		}, want: "blob sha256:"},
		"content of the config": {after: func(l *testoci.Layout) { spoil(l, []byte("{}"), l.Manifest.Config) },
			want: "blob sha256:"},
		"content of the manifest": {after: func(l *testoci.Layout) {
			d := l.Index.Manifests[0]
			b := bytes.Clone(l.Files["blobs/sha256/"+d.Digest.Encoded()])
			b[len(b)-2]++
			spoil(l, b, d)
		}, want: "digest mismatch"},
		"no index": {after: func(l *testoci.Layout) { delete(l.Files, "index.json") },
			want: "not an OCI layout or oci-archive"},
		"index no JSON": {after: func(l *testoci.Layout) { l.Files["index.json"] = []byte("{") },
			want: "image index: "},
		"index of itself": {after: func(l *testoci.Layout) {
			l.Files["index.json"] = []byte(
				`{"schemaVersion": 2, "manifests": []}`)
		}, want: "names no image"},
		"index digest": {after: func(l *testoci.Layout) { l.Index.Manifests[0].Digest = "x"; l.Reindex(t) },
			want: "image index: digest"},
		"index type": {after: func(l *testoci.Layout) {
			l.Index.Manifests[0].MediaType = "text/html"
			l.Reindex(
				t)
		}, want: "neither an image manifest nor an index"},
		"index size": {after: func(l *testoci.Layout) { l.Index.Manifests[0].Size = 1 << 50; l.Reindex(t) },
			want: "limit"},
		"other platform": {after: func(l *testoci.Layout) {
			l.Index.Manifests[0].Platform = &ocispec.Platform{OS: "plan9", Architecture: "mips"}
			l.Reindex(t)
		}, want: "there are: plan9/mips"},
		"a name for the terminal": {after: func(l *testoci.Layout) {
			l.Index.Manifests[0].Annotations[refName] = "web\x1b[2J"
			l.Reindex(t)
		}, want: "image name"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLayout(layer)
			if c.before != nil {
				c.before(l)
			}
			l.Seal(t)
			if c.after != nil {
				c.after(l)
			}
			s := newStore(t, image.Limits{})
			putLayers(t, s, "other", layerOf(t, file("o", "o")))
			before := listing(t, s.dir)
			for _, p := range []string{l.Dir(t), writeTemp(t, l.Tar(t))} {
				_, err := s.Import(ctx, p, "", nil)
				wantError(t, err, c.want)
				sameListing(t, "the store", listing(t, s.dir), before)
			}
		})
	}
}

func TestArchivesThatAreNone(t *testing.T) {
	l := newLayout(layerOf(t, file("f", strings.Repeat("x", 5000)))).Seal(t)
	plain := l.Tar(t)
	cases := map[string][]byte{"empty": nil, "text": []byte("no archive at all"), "gzip of text": gz(t, []byte("text")),
		"gzip without end": gz(t, plain)[:200], "zstd without end": zst(t, plain)[:100],
		"xz of nothing": []byte("\xfd7zXZ\x00"),
		"index twice":   layerOf(t, file("index.json", "{}"), file("index.json", "{}"))}
	for cut := 100; cut < len(plain)-1024; cut += 700 {
		cases[fmt.Sprint("cut at ", cut)] = plain[:cut]
	}
	for name, b := range cases {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, image.Limits{})
			before := listing(t, s.dir)
			p := writeTemp(t, b)
			_, err := s.Import(ctx, p, "", nil)
			wantError(t, err, p)
			sameListing(t, "the store", listing(t, s.dir), before)
		})
	}
}

func TestArchiveBombs(t *testing.T) {
	name := "blobs/sha256/" + strings.Repeat("0", 64)
	for what, b := range map[string][]byte{
		"one blob":            gz(t, layerOf(t, file(name, strings.Repeat("\x00", 4<<20)))),
		"what is passed over": gz(t, layerOf(t, file("readme", strings.Repeat("\x00", 4<<20)))),
	} {
		t.Run(what, func(t *testing.T) {
			s := newStore(t, image.Limits{ImageBytes: 1 << 20})
			before := listing(t, s.dir)
			_, err := s.Import(ctx, writeTemp(t, b), "", nil)
			wantError(t, err, "archive ")
			sameListing(t, "the store", listing(t, s.dir), before)
		})
	}
}

func TestIndexInAnIndex(t *testing.T) {
	l := newLayout(layerOf(t, file("f", "x"))).Seal(t)
	inner := l.JSON(t, ocispec.MediaTypeImageIndex, l.Index)
	inner.Annotations = map[string]string{refName: "v1", "io.containerd.image.name": "example.org/web:v1"}
	l.Index.Manifests = []ocispec.Descriptor{inner}
	img, err := newStore(t, image.Limits{}).Import(ctx, writeTemp(t, l.Reindex(t).Tar(t)), "", nil)
	if err != nil || img.Name != "example.org/web:v1" {
		t.Errorf("got %+v, %v", img, err)
	}
	for range 6 {
		l.Index.Manifests = []ocispec.Descriptor{l.JSON(t, ocispec.MediaTypeImageIndex, l.Index)}
	}
	_, err = newStore(t, image.Limits{}).Import(ctx, writeTemp(t, l.Reindex(t).Tar(t)), "", nil)
	wantError(t, err, "too many indexes")
}

// Imports of one archive and of another with a common layer, removals and
// collections run into each other; in the end all that has a name is whole.
func TestConcurrentImports(t *testing.T) {
	common := layerOf(t, file("common", strings.Repeat("c", 100_000)))
	good := newLayout(common, layerOf(t, file("a", "a"))).Seal(t)
	other := newLayout(common, layerOf(t, file("b", "b"))).Seal(t)
	bad := newLayout(common, layerOf(t, file("bad", "b")))
	bad.Manifest.Layers[1].Size++ // found after the common layer was copied
	bad.Seal(t)
	s := newStore(t, image.Limits{})
	var wg sync.WaitGroup
	paths := []string{writeTemp(t, good.Tar(t)), good.Dir(t), writeTemp(t, other.Tar(t)), writeTemp(t, bad.Tar(t)),
		bad.Dir(t)}
	for i := range 40 {
		wg.Go(func() {
			k := i % len(paths)
			_, err := s.Import(ctx, paths[k], []string{"good", "good", "other", "bad", "bad"}[k], nil)
			if (err != nil) != (k >= 3) {
				t.Errorf("import of %d: %v", k, err)
			}
			if _, err := s.GC(ctx); err != nil {
				t.Errorf("collection: %v", err)
			}
		})
	}
	wg.Wait()
	for name, want := range map[string]int{"good": 2, "other": 2} {
		img, err := s.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		root := t.TempDir()
		if err := unpack.Image(ctx, s, img, root, nil); err != nil {
			t.Error(err)
		}
		if n := len(listing(t, root)) - 1; n != want {
			t.Errorf("%s has %d files", name, n)
		}
	}
	if list, err := list(s); err != nil || len(list) != 2 {
		t.Errorf("the store has %v, %v", list, err)
	}
	if len(s.pins) > 0 {
		t.Errorf("blobs stay pinned: %v", s.pins)
	}
	blobs, err := os.ReadDir(filepath.Join(s.dir, blobDir))
	if err != nil || len(blobs) != 7 { // two of each but the common layer
		t.Errorf("the store has %d blobs, want 7 (%v)", len(blobs), err)
	}
}

func TestNamesDigestsAndCollection(t *testing.T) {
	s := newStore(t, image.Limits{})
	a := putLayers(t, s, "web", layerOf(t, file("f", "a")))
	b := putLayers(t, s, "db:1", layerOf(t, file("f", "b")))
	for ref, want := range map[string]digest.Digest{"web": a.Digest, "web:latest": a.Digest, "db:1": b.Digest,
		a.Digest.String():                   a.Digest,
		"sha256:" + b.Digest.Encoded()[:12]: b.Digest, "sha256:" + b.Digest.Encoded()[:63]: b.Digest} {
		if img, err := s.Get(ref); err != nil || img.Digest != want {
			t.Errorf("%q gives %v, %v", ref, img, err)
		}
	}
	for _, ref := range []string{"", "db", "web:1", a.Digest.Encoded(), a.Digest.Encoded()[:12], "sha256:" +
		a.Digest.Encoded()[:11], "sha256:", "sha256:web", "../web"} {
		if _, err := s.Get(ref); !errors.Is(err, image.ErrNotFound) {
			t.Errorf("%q gives %v", ref, err)
		}
	}
	if freed, err := s.GC(ctx); err != nil || freed != 0 {
		t.Errorf("a collection with nothing to do freed %d bytes, %v", freed, err)
	}
	c := putLayers(t, s, "web:latest", layerOf(t, file("f", "c"))) // the same name
	if img, err := s.Get("web"); err != nil || img.Digest != c.Digest {
		t.Errorf("the name still means %v, %v", img, err)
	}
	if freed, err := s.GC(ctx); err != nil || freed == 0 {
		t.Errorf("what lost its name is kept: %d, %v", freed, err)
	}
	if err := s.Remove(b.Digest.String()); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("db:1"); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	again, err := OpenStore(s.dir, image.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := list(again)
	if err != nil || len(list) != 1 || list[0].Digest != c.Digest {
		t.Errorf("opened again it has %v, %v", list, err)
	}
}

func TestAddedBlobsSurviveACollection(t *testing.T) {
	s := newStore(t, image.Limits{})
	d, err := s.Add(ctx, ocispec.MediaTypeImageLayer, strings.NewReader("layer"))
	if err != nil {
		t.Fatal(err)
	}
	if freed, err := s.GC(ctx); err != nil || freed != 0 {
		t.Errorf("%d bytes were freed, %v", freed, err)
	}
	if _, err := s.Put(ctx, "x", hostConfig(digest.FromString("layer")), []ocispec.Descriptor{d}, nil); err != nil {
		t.Error(err)
	}
	if _, err := s.Put(ctx, "x y", hostConfig(), nil, nil); err == nil {
		t.Error("a bad name is taken")
	}
	d.Digest = digest.FromString("none")
	_, err = s.Put(ctx, "x", hostConfig(d.Digest), []ocispec.Descriptor{d}, nil)
	wantError(t, err, "layer 1 is missing")
}

func TestExportComesBack(t *testing.T) {
	s := newStore(t, image.Limits{})
	layer := layerOf(t, file("f", "x"))
	img := putLayers(t, s, "web:1.0", layer, layer)
	var a, b, c bytes.Buffer
	dir := filepath.Join(t.TempDir(), "new", "layout")
	if err := errors.Join(s.Export(ctx, "web:1.0", &a), s.Export(ctx, img.Digest.String(), &b),
		s.WriteLayout(ctx, "web:1.0", dir)); err != nil {
		t.Fatal(err)
	}
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.WriteArchive(ctx, &c), l.Close()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the same image gives two archives")
	}
	for name, p := range map[string]string{"archive": writeTemp(t, a.Bytes()), "layout": dir,
		"archive of the layout": writeTemp(t, c.Bytes())} {
		var last image.Progress
		got, err := newStore(t, image.Limits{}).Import(ctx, p, "", func(p image.Progress) { last = p })
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if last.Size == 0 || last.Done != last.Size {
			t.Errorf("%s: told at the end: %+v", name, last)
		}
		if got.Digest != img.Digest || got.Name != "web:1.0" || got.ChainID != img.ChainID {
			t.Errorf("%s: it comes back as %+v", name, got)
		}
	}
	if err := s.WriteLayout(ctx, "web:1.0", dir); err == nil {
		t.Error("a directory that is not empty is taken")
	}
	if err := s.Export(ctx, "none", &a); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	// A spoilt blob must not go out as if it were good.
	if err := os.WriteFile(s.path(img.Layers[0].Digest), bytes.Repeat([]byte("x"), int(img.Layers[0].Size)),
		0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Export(ctx, "web:1.0", &a), "digest mismatch")
}

// A FIFO among a layout's files must not make the import wait for a writer.
func TestLayoutOfSpecialFiles(t *testing.T) {
	l := newLayout(layerOf(t, file("f", "x"))).Seal(t)
	layer := "blobs/sha256/" + l.Manifest.Layers[0].Digest.Encoded()
	for _, name := range []string{"index.json", layer} {
		d := l.Dir(t)
		p := filepath.Join(d, name)
		if err := errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o600)); err != nil {
			t.Fatal(err)
		}
		_, err := newStore(t, image.Limits{}).Import(ctx, d, "", nil)
		wantError(t, err, "not a regular file")
		secret := writeTemp(t, []byte("secret"))
		if err := errors.Join(os.Remove(p), os.Symlink(secret, p)); err != nil {
			t.Fatal(err)
		}
		_, err = newStore(t, image.Limits{}).Import(ctx, d, "", nil)
		wantError(t, err, "escapes")
	}
}

func TestFullDisk(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("no tmpfs can be mounted: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	s, err := OpenStore(filepath.Join(dir, "store"), image.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil { // or it keeps the file system busy
			t.Error(err)
		}
	})
	putLayers(t, s, "small", layerOf(t, file("f", "x")))
	before := listing(t, s.dir)
	first, second := strings.Repeat("x", 1<<20), strings.Repeat("y", 3<<20)
	l := newLayout(layerOf(t, file("a", first)), layerOf(t, file("b", second))).Seal(t)
	for _, p := range []string{l.Dir(t), writeTemp(t, l.Tar(t))} {
		_, err := s.Import(ctx, p, "", nil)
		wantError(t, err, "no space left", "no space left on device")
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("the reason is lost: %v", err)
		}
		sameListing(t, "the store", listing(t, s.dir), before)
	}
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	big := newStore(t, image.Limits{})
	wantError(t, unpack.Image(ctx, big, putLayers(t, big, "big", layerOf(t, file("b", second))), root, nil),
		"no space left", `entry "b"`)
}
