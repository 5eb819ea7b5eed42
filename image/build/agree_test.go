package build

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
	"github.com/freejail/freejail/internal/testoci"
)

// checked is what validate says of an image, without what a start needs beside files.
func checked(ctx context.Context, t *testing.T, at string) (faults []string) {
	t.Helper()
	e, err := layout.Examine(ctx, at, image.Limits{}, func(ocispec.Platform) bool { return true })
	check(t, err)
	defer e.Close()
	for _, img := range e.Images {
		check(t, Check(ctx, e.Layout, img, "", &e.Findings))
	}
	for _, f := range e.List {
		if f.Severity == image.Error {
			faults = append(faults, f.String())
		}
	}
	return faults
}

// unpacked imports an image as a host does, and unpacks it.
func unpacked(ctx context.Context, t *testing.T, at string) error {
	t.Helper()
	s, err := layout.OpenStore(t.TempDir(), image.Limits{})
	check(t, err)
	defer s.Close()
	img, err := s.ImportFor(ctx, at, "x", ocispec.Platform{}, nil)
	if err != nil {
		return err
	}
	return unpack.Image(ctx, s, img, t.TempDir(), nil)
}

func agree(t *testing.T, name, at string, refused ...bool) {
	t.Helper()
	faults, err := checked(t.Context(), t, at), unpacked(t.Context(), t, at)
	if (len(faults) > 0) != (err != nil) {
		t.Errorf("%s: validate: %q\nunpack: %v", name, faults, err)
	}
	if len(refused) > 0 && refused[0] != (err != nil) {
		t.Errorf("%s: unpack: %v, to be refused: %v", name, err, refused[0])
	}
}

// What validate calls an error is refused, and what it does not is unpacked.
func TestValidateAgreesWithUnpackOnLayers(t *testing.T) {
	needRoot(t)
	for _, a := range testoci.Attacks() {
		var layers [][]byte
		for _, items := range a.Layers {
			for i := range items {
				for _, s := range []*string{&items[i].Name, &items[i].Linkname, &items[i].Raw[1]} {
					*s = strings.ReplaceAll(*s, "HOST", "/nowhere/host")
				}
			}
			layers = append(layers, testoci.Tar(t, items...))
		}
		agree(t, a.Name, testoci.NewLayout(layers...).Seal(t).Dir(t), a.Want != "")
	}
	f, d, l := testoci.File, testoci.Dir, testoci.Symlink
	deep := func(n int) string { return strings.Repeat("d/", n) }
	for name, items := range map[string][]testoci.Item{
		"250 deep": {f(deep(250)+"f", "")}, "255 deep": {f(deep(255)+"f", "")}, "256 deep": {f(deep(256)+"f", "")},
		"257 deep": {f(deep(257)+"f", "")}, "a directory 256 deep": {d(deep(256))}, "a directory 257 deep": {d(deep(257))},
		"a name of 255": {f(strings.Repeat("n", 255), "")}, "a name of 256": {f(strings.Repeat("n", 256), "")},
		"a link of 4095": {l("l", strings.Repeat("x", 4095))}, "a link of 4096": {l("l", strings.Repeat("x", 4096))},
		"40 links": links(40), "41 links": links(41),
		"no entries":         {},
		"a socket":           {{Header: tar.Header{Name: "s", Typeflag: 's', Mode: 0o644}}},
		"a contiguous file":  {{Header: tar.Header{Name: "c", Typeflag: tar.TypeCont, Mode: 0o644}}},
		"the root":           {d("./"), d("/"), f("f", "x")},
		"a file and slashes": {f("//a//b/./c", "x")},
		"a FIFO":             {testoci.Special(tar.TypeFifo, "d/f"), testoci.Hardlink("g", "d/f")},
		"devices":            {testoci.Special(tar.TypeChar, "dev/null"), testoci.Special(tar.TypeBlock, "sda")},
		"a link to a device": {testoci.Special(tar.TypeChar, "dev/null"), testoci.Hardlink("dev/x", "dev/null")},
		"of aufs": {f(".wh..wh.aufs", ""), d(".wh..wh.plnk"), f(".wh..wh.plnk/1", "x"),
			testoci.Hardlink("a", ".wh..wh.plnk/1")},
		"a link to aufs, later": {testoci.Hardlink("a", ".wh..wh.plnk/1")},
		"a whiteout of aufs":    {f("d/.wh..wh.aufs", "")},
		"hard link by ..":       {d("a"), f("f", "x"), testoci.Hardlink("g", "a/../f")},
		"hard link to a parent": {f("a/f", "x"), testoci.Hardlink("a", "a/f")},
		"hard link to itself":   {f("f", "x"), l("d", "."), testoci.Hardlink("d/f", "f")},
		"whiteout by a file":    {f("f", "x"), f("f/.wh.x", "")},
		"opaque of a file":      {f("f", "x"), f("f/.wh..wh..opq", "")},
		"whiteout by a link":    {l("l", "nowhere"), f("l/.wh.x", "")},
		"an old time":           {{Header: tar.Header{Name: "t", Typeflag: tar.TypeReg, Format: tar.FormatPAX}}},
	} {
		agree(t, name, testoci.NewLayout(testoci.Tar(t, items...)).Seal(t).Dir(t))
	}
}

// links are n that lead to a directory one through the other, and a file behind them.
func links(n int) []testoci.Item {
	out := []testoci.Item{testoci.Dir("d"), testoci.Symlink("l1", "d")}
	for i := 2; i <= n; i++ {
		out = append(out, testoci.Symlink(fmt.Sprint("l", i), fmt.Sprint("l", i-1)))
	}
	return append(out, testoci.File(fmt.Sprintf("l%d/f", n), "x"))
}

func TestValidateAgreesWithUnpackOnDocuments(t *testing.T) {
	layer := testoci.Tar(t, testoci.File("f", "x"))
	config := func(change func(c map[string]any)) func(*testoci.Layout) {
		return func(l *testoci.Layout) {
			b, err := json.Marshal(l.Config)
			check(t, err)
			c := map[string]any{}
			check(t, json.Unmarshal(b, &c))
			change(c)
			l.Manifest.Config = l.JSON(t, ocispec.MediaTypeImageConfig, c)
		}
	}
	inner := func(key string, v any) func(*testoci.Layout) {
		return config(func(c map[string]any) { c["config"].(map[string]any)[key] = v })
	}
	index := func(change func(l *testoci.Layout, d *ocispec.Descriptor)) func(*testoci.Layout) {
		return func(l *testoci.Layout) { change(l, &l.Index.Manifests[0]); l.Reindex(t) }
	}
	for name, c := range map[string]struct {
		before, after func(*testoci.Layout)
		refused       bool
	}{
		"plain":             {nil, nil, false},
		"no mediaType":      {func(l *testoci.Layout) { l.Manifest.MediaType = "" }, nil, false},
		"another mediaType": {func(l *testoci.Layout) { l.Manifest.MediaType = "application/json" }, nil, true},
		"schema 1":          {func(l *testoci.Layout) { l.Manifest.SchemaVersion = 1 }, nil, true},
		"null everywhere": {config(func(c map[string]any) {
			c["config"], c["history"], c["created"] = map[string]any{"Entrypoint": nil, "Cmd": nil, "Labels": nil, "Env": nil,
				"ExposedPorts": nil, "Volumes": nil, "OnBuild": nil, "Healthcheck": nil}, nil, nil
		}), nil, false},
		"docker's fields": {config(func(c map[string]any) {
			c["docker_version"], c["container"], c["id"], c["parent"] = "24.0", "x", "y", "z"
			c["container_config"] = map[string]any{"Cmd": []string{"a"}, "Hostname": "h", "Tty": true}
			c["config"].(map[string]any)["Image"] = "sha256:x"
			c["moby.buildkit.cache.v0"], c["throwaway"] = "x", true
		}), nil, false},
		"ArgsEscaped":   {inner("ArgsEscaped", true), nil, false},
		"Healthcheck":   {inner("Healthcheck", map[string]any{"Test": []string{"NONE"}, "Interval": 1}), nil, false},
		"Env without =": {inner("Env", []string{"A", "B=", "C=1"}), nil, false},
		"Cmd as text":   {inner("Cmd", "sh"), nil, true},
		"history of more": {config(func(c map[string]any) {
			c["history"] = []map[string]any{{"created_by": "a"}, {"created_by": "b"}, {"created_by": "c"}}
		}), nil, false},
		"history of none":    {config(func(c map[string]any) { c["history"] = []any{} }), nil, false},
		"a variant":          {config(func(c map[string]any) { c["variant"], c["os.version"] = "v8", "15.0" }), nil, false},
		"no platform":        {config(func(c map[string]any) { delete(c, "os"); delete(c, "architecture") }), nil, false},
		"no rootfs.type":     {config(func(c map[string]any) { c["rootfs"].(map[string]any)["type"] = "" }), nil, false},
		"a DiffID of others": {config(func(c map[string]any) { c["rootfs"].(map[string]any)["diff_ids"] = []string{"x"} }), nil, true},
		"fewer DiffIDs":      {config(func(c map[string]any) { c["rootfs"].(map[string]any)["diff_ids"] = nil }), nil, true},
		"a wrong DiffID": {config(func(c map[string]any) {
			c["rootfs"].(map[string]any)["diff_ids"] = []digest.Digest{digest.FromString("x")}
		}), nil, true},
		"a bad manifest label": {inner("Labels", map[string]string{image.ManifestLabel: "{}"}), nil, true},
		"foreign layer": {func(l *testoci.Layout) {
			l.Manifest.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
		}, nil, false},
		"foreign layer missing": {func(l *testoci.Layout) {
			l.Manifest.Layers[0].MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
			delete(l.Files, "blobs/sha256/"+l.Manifest.Layers[0].Digest.Encoded())
		}, nil, true},
		"layer of another type": {func(l *testoci.Layout) { l.Manifest.Layers[0].MediaType = "application/vnd.in-toto+json" },
			nil, true},
		"layer's size":   {func(l *testoci.Layout) { l.Manifest.Layers[0].Size++ }, nil, true},
		"no layers":      {func(l *testoci.Layout) { l.Manifest.Layers, l.Config.RootFS.DiffIDs = []ocispec.Descriptor{}, nil }, nil, false},
		"no annotations": {nil, index(func(_ *testoci.Layout, d *ocispec.Descriptor) { d.Annotations = nil }), false},
		"attestation": {nil, index(func(l *testoci.Layout, d *ocispec.Descriptor) {
			a := l.JSON(t, ocispec.MediaTypeImageManifest, map[string]any{"schemaVersion": 2, "config": l.Manifest.Config,
				"layers": []any{map[string]any{"mediaType": "application/vnd.in-toto+json", "digest": l.Manifest.Layers[0].Digest, "size": 2}}})
			a.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
			l.Index.Manifests = append(l.Index.Manifests, a)
		}), false},
		"cosign's signature": {nil, index(func(l *testoci.Layout, d *ocispec.Descriptor) {
			s := l.JSON(t, ocispec.MediaTypeImageManifest, map[string]any{"schemaVersion": 2, "config": l.Manifest.Config,
				"layers": []any{}})
			s.Annotations = map[string]string{ocispec.AnnotationRefName: "sha256-" + d.Digest.Encoded() + ".sig"}
			l.Index.Manifests = append(l.Index.Manifests, s)
		}), false},
		"a nested index": {nil, index(func(l *testoci.Layout, d *ocispec.Descriptor) {
			*d = l.JSON(t, ocispec.MediaTypeImageIndex, l.Index)
		}), false},
		"docker's list in OCI's": {nil, index(func(l *testoci.Layout, d *ocispec.Descriptor) {
			*d = l.JSON(t, "application/vnd.docker.distribution.manifest.list.v2+json", map[string]any{"schemaVersion": 2,
				"mediaType": "application/vnd.docker.distribution.manifest.list.v2+json", "manifests": l.Index.Manifests})
		}), false},
		"another type than the descriptor's": {nil, index(func(l *testoci.Layout, d *ocispec.Descriptor) {
			d.MediaType = "application/vnd.docker.distribution.manifest.v2+json"
		}), true},
		"Docker's schema 1": {nil, index(func(l *testoci.Layout, d *ocispec.Descriptor) {
			d.MediaType = "application/vnd.docker.distribution.manifest.v1+prettyjws"
		}), true},
		"a chart": {func(l *testoci.Layout) {
			l.Manifest.Config = l.Blob("application/vnd.cncf.helm.config.v1+json", []byte("{}"))
		}, nil, true},
		"indexes in indexes": {nil, index(func(l *testoci.Layout, d *ocispec.Descriptor) {
			for range image.MaxIndexes {
				l.Index.Manifests = []ocispec.Descriptor{l.JSON(t, ocispec.MediaTypeImageIndex, l.Index)}
			}
		}), true},
		"one less": {nil, index(func(l *testoci.Layout, d *ocispec.Descriptor) {
			for range image.MaxIndexes - 1 {
				l.Index.Manifests = []ocispec.Descriptor{l.JSON(t, ocispec.MediaTypeImageIndex, l.Index)}
			}
		}), false},
	} {
		l := testoci.NewLayout(layer)
		l.Config.RootFS.Type = "layers"
		if c.before != nil {
			c.before(l)
		}
		l.Seal(t)
		if c.after != nil {
			c.after(l)
		}
		agree(t, name, l.Dir(t), c.refused)
		agree(t, name+" (archive)", testoci.WriteTemp(t, l.Tar(t)), c.refused)
	}
	agree(t, "compressed twice", packedLayout(t, layer, testoci.Gzip(t, testoci.Gzip(t, layer))), true)
	agree(t, "cut off", packedLayout(t, layer, testoci.Gzip(t, layer)[:50]), true)
	agree(t, "zstd as gzip", packedLayout(t, layer, testoci.Zstd(t, layer)), false)
	agree(t, "with more behind", packedLayout(t, layer, append(testoci.Gzip(t, layer), "more"...)), true)
	agree(t, "nothing", packedLayout(t, layer, nil), true)
	agree(t, "garbage", packedLayout(t, layer, bytes.Repeat([]byte("x"), 2000)), true)
}

// packedLayout has a layer typed gzip that is whatever is given.
func packedLayout(t *testing.T, layer, packed []byte) string {
	t.Helper()
	l := testoci.NewLayout(layer)
	l.Manifest.Layers[0] = l.Blob(ocispec.MediaTypeImageLayerGzip, packed)
	return l.Seal(t).Dir(t)
}
