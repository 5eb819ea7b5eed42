package layout

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/testoci"
)

func everything(ocispec.Platform) bool { return true }

// examine examines what is at a path, until the test ends.
func examine(t *testing.T, path string) (*Examination, error) {
	t.Helper()
	e, err := Examine(ctx, path, image.Limits{}, everything)
	if err == nil {
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return e, err
}

// What was extracted goes too where an examination is broken off.
func TestExamineLeavesNothing(t *testing.T) {
	l := newLayout(layerOf(t, file("f", "x"))).Seal(t)
	l.Index.Manifests[0].Platform = &l.Config.Platform
	archive := writeTemp(t, l.Reindex(t).Tar(t))
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err := Examine(ctx, archive, image.Limits{}, func(ocispec.Platform) bool { cancel(); return true })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("broken off: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// Each case spoils an image in one way, which has one name.
func TestExamine(t *testing.T) {
	layer := layerOf(t, file("f", strings.Repeat("x", 5000)))
	spoil := func(l *testoci.Layout, b []byte, d ocispec.Descriptor) {
		l.Files["blobs/sha256/"+d.Digest.Encoded()] = b
	}
	label := func(text string) func(*testoci.Layout) {
		return func(l *testoci.Layout) { l.Config.Config.Labels = map[string]string{image.ManifestLabel: text} }
	}
	for name, c := range map[string]struct {
		before, after func(*testoci.Layout) // the config and manifest are written
		want          string                // severities and codes
	}{
		"nothing wrong": {want: ""},
		"no index": {after: func(l *testoci.Layout) { delete(l.Files, "index.json") },
			want: "error index-missing"},
		"index is no JSON": {after: func(l *testoci.Layout) { l.Files["index.json"] = []byte("{") },
			want: "error index-malformed"},
		"index of nothing": {after: func(l *testoci.Layout) { l.Index.Manifests = nil; l.Reindex(t) },
			want: "error index-empty"},
		"no oci-layout": {after: func(l *testoci.Layout) { delete(l.Files, "oci-layout") },
			want: "warning layout-file"},
		"another layout": {after: func(l *testoci.Layout) {
			l.Files["oci-layout"] = []byte(
				`{"imageLayoutVersion":"9"}`)
		}, want: "warning layout-version"},
		"something in index": {after: func(l *testoci.Layout) {
			l.Index.Manifests[0].MediaType = "text/html"
			l.Reindex(
				t)
		}, want: "warning media-type, error no-image"},
		"malformed digest": {after: func(
			l *testoci.Layout) {
			l.Index.Manifests[0].Digest = "sha256:../../x"
			l.Reindex(t)
		}, want: "error digest-malformed"},
		"manifest missing": {after: func(l *testoci.Layout) {
			l.Index.Manifests[0].Digest = digest.FromString(
				"x")
			l.Reindex(t)
		}, want: "error blob-missing"},
		"manifest's size": {after: func(l *testoci.Layout) { l.Index.Manifests[0].Size++; l.Reindex(t) },
			want: "error blob-size"},
		"platform of index": {after: func(l *testoci.Layout) {
			l.Index.Manifests[0].Platform = &ocispec.Platform{OS: "plan9", Architecture: "mips"}
			l.Reindex(t)
		}, want: "error platform"},
		"layer missing": {after: func(l *testoci.Layout) { delete(l.Files, blobName(l.Manifest.Layers[0].Digest)) },
			want: "error blob-missing"},
		"layer changed": {after: func(l *testoci.Layout) {
			spoil(l, append(bytes.Clone(layer[1:]), 1),
				l.Manifest.Layers[0])
		}, want: "error blob-digest"},
		"layer cut off": {after: func(l *testoci.Layout) { spoil(l, layer[1:], l.Manifest.Layers[0]) },
			want: "error blob-size, error blob-digest"},
		"layer's size": {before: func(l *testoci.Layout) { l.Manifest.Layers[0].Size-- }, want: "error blob-size"},
		"layer's type": {before: func(l *testoci.Layout) { l.Manifest.Layers[0].MediaType = "application/x-rar" },
			want: "error media-type"},
		"layer twice": {before: func(l *testoci.Layout) {
			l.Manifest.Layers = append(l.Manifest.Layers, l.Manifest.Layers[0])
			l.Config.RootFS.DiffIDs = append(l.Config.RootFS.DiffIDs, l.Config.RootFS.DiffIDs[0])
		}, want: "note layer-twice"},
		"fewer DiffIDs": {before: func(l *testoci.Layout) { l.Config.RootFS.DiffIDs = nil },
			want: "error diff-ids"},
		"malformed DiffID": {before: func(l *testoci.Layout) { l.Config.RootFS.DiffIDs[0] = "x" },
			want: "error digest-malformed"},
		"rootfs of no layers": {before: func(l *testoci.Layout) { l.Config.RootFS.Type = "tree" },
			want: "warning config-malformed"},
		"config is no JSON": {before: func(l *testoci.Layout) {
			l.Manifest.Config = l.Blob(
				ocispec.MediaTypeImageConfig, []byte("{"))
		}, want: "error config-malformed"},
		"config of a chart": {before: func(l *testoci.Layout) {
			l.Manifest.Config = l.Blob("application/vnd.cncf.helm.config.v1+json", []byte("{}"))
		}, want: "warning media-type, error no-image"},
		"manifest's version": {before: func(l *testoci.Layout) { l.Manifest.SchemaVersion = 1 },
			want: "error manifest-malformed"},
		"manifest's type": {before: func(l *testoci.Layout) { l.Manifest.MediaType = ocispec.MediaTypeImageIndex },
			want: "error media-type"},
		"attestations": {after: func(l *testoci.Layout) {
			unknown := &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
			l.Index.Manifests = append(l.Index.Manifests, ocispec.Descriptor{Platform: unknown,
				MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x")})
			l.Reindex(t)
		}, want: "note artifact"},
		"attestations alone": {after: func(l *testoci.Layout) {
			l.Index.Manifests[0].ArtifactType = "application/spdx+json"
			l.Reindex(t)
		}, want: "note artifact, error no-image"},
		"one platform of two": {after: func(l *testoci.Layout) {
			l.Index.Manifests[0].Platform = &l.Config.Platform
			l.Index.Manifests = append(l.Index.Manifests, ocispec.Descriptor{
				Platform:  &ocispec.Platform{OS: "linux", Architecture: "s390x"},
				MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x")})
			l.Reindex(t)
		}, want: "warning blob-missing"},
		"one name of two": {after: func(l *testoci.Layout) {
			l.Manifest.Annotations = map[string]string{"x": "y"}
			other := l.JSON(t, ocispec.MediaTypeImageManifest, l.Manifest)
			other.Annotations = l.Index.Manifests[0].Annotations
			l.Index.Manifests = append(l.Index.Manifests, other)
			l.Reindex(t)
		}, want: "error name-ambiguous"},
		"indexes in indexes": {after: func(l *testoci.Layout) {
			for range image.MaxIndexes {
				l.Index.Manifests = []ocispec.Descriptor{l.JSON(t, ocispec.MediaTypeImageIndex, l.Index)}
			}
			l.Reindex(t)
		}, want: "error index-depth"},
		"Docker's schema 1": {after: func(l *testoci.Layout) {
			l.Index.Manifests[0].MediaType = "application/vnd.docker.distribution.manifest.v1+prettyjws"
			l.Reindex(t)
		}, want: "warning media-type, error no-image"},
		"foreign layer": {before: func(l *testoci.Layout) {
			l.Manifest.Layers[0].MediaType = document.DockerForeign + ".gzip"
		}, want: ""},
		"foreign layer missing": {before: func(l *testoci.Layout) {
			l.Manifest.Layers[0].MediaType = document.DockerForeign + ".gzip"
			delete(l.Files, blobName(l.Manifest.Layers[0].Digest))
		}, want: "error blob-missing"},
		"more history": {before: func(l *testoci.Layout) { l.Config.History = make([]ocispec.History, 2) },
			want: "warning history"},
		"history that fits": {
			before: func(l *testoci.Layout) { l.Config.History = []ocispec.History{{EmptyLayer: true}, {}} }, want: ""},
		"freejail manifest": {before: label(`{"schemaVersion":1,"x":1,"wait":0}`),
			want: "error freejail-manifest, error freejail-manifest"},
		"freejail manifest ok": {before: label(`{"schemaVersion":1}`), want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLayout(layer)
			l.Config.RootFS.Type = "layers"
			if c.before != nil {
				c.before(l)
			}
			l.Seal(t)
			if c.after != nil {
				c.after(l)
			}
			e, err := examine(t, l.Dir(t))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range e.List {
				got = append(got, string(f.Severity)+" "+f.Code)
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("found %v, want %q", e.List, c.want)
			}
			if e.Errors() == 0 && !strings.Contains(c.want, "media-type") && len(e.Images) != 1 {
				t.Errorf("%d images can be looked at", len(e.Images))
			}
		})
	}
}
