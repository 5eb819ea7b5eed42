package image

import (
	"bytes"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func everything(ocispec.Platform) bool { return true }

// Each case spoils an image in one way, which has one name.
func TestExamine(t *testing.T) {
	layer := layerOf(t, file("f", strings.Repeat("x", 5000)))
	spoil := func(l *layout, b []byte, d ocispec.Descriptor) { l.files["blobs/sha256/"+d.Digest.Encoded()] = b }
	label := func(text string) func(*layout) {
		return func(l *layout) { l.config.Config.Labels = map[string]string{ManifestLabel: text} }
	}
	for name, c := range map[string]struct {
		before, after func(*layout) // the config and manifest are written
		want          string        // severities and codes
	}{
		"nothing wrong":      {want: ""},
		"no index":           {after: func(l *layout) { delete(l.files, "index.json") }, want: "error index-missing"},
		"index is no JSON":   {after: func(l *layout) { l.files["index.json"] = []byte("{") }, want: "error index-malformed"},
		"index of nothing":   {after: func(l *layout) { l.index.Manifests = nil; l.reindex(t) }, want: "error index-empty"},
		"no oci-layout":      {after: func(l *layout) { delete(l.files, "oci-layout") }, want: "warning layout-file"},
		"another layout":     {after: func(l *layout) { l.files["oci-layout"] = []byte(`{"imageLayoutVersion":"9"}`) }, want: "warning layout-version"},
		"something in index": {after: func(l *layout) { l.index.Manifests[0].MediaType = "text/html"; l.reindex(t) }, want: "warning media-type"},
		"malformed digest":   {after: func(l *layout) { l.index.Manifests[0].Digest = "sha256:../../x"; l.reindex(t) }, want: "error digest-malformed"},
		"manifest missing":   {after: func(l *layout) { l.index.Manifests[0].Digest = digest.FromString("x"); l.reindex(t) }, want: "error blob-missing"},
		"manifest's size":    {after: func(l *layout) { l.index.Manifests[0].Size++; l.reindex(t) }, want: "error blob-size"},
		"platform of index": {after: func(l *layout) {
			l.index.Manifests[0].Platform = &ocispec.Platform{OS: "plan9", Architecture: "mips"}
			l.reindex(t)
		}, want: "error platform"},
		"layer missing": {after: func(l *layout) { delete(l.files, blobName(l.manifest.Layers[0].Digest)) }, want: "error blob-missing"},
		"layer changed": {after: func(l *layout) { spoil(l, append(bytes.Clone(layer[1:]), 1), l.manifest.Layers[0]) }, want: "error blob-digest"},
		"layer cut off": {after: func(l *layout) { spoil(l, layer[1:], l.manifest.Layers[0]) }, want: "error blob-size, error blob-digest"},
		"layer's size":  {before: func(l *layout) { l.manifest.Layers[0].Size-- }, want: "error blob-size"},
		"layer's type":  {before: func(l *layout) { l.manifest.Layers[0].MediaType = "application/x-rar" }, want: "error media-type"},
		"layer twice": {before: func(l *layout) {
			l.manifest.Layers = append(l.manifest.Layers, l.manifest.Layers[0])
			l.config.RootFS.DiffIDs = append(l.config.RootFS.DiffIDs, l.config.RootFS.DiffIDs[0])
		}, want: "note layer-twice"},
		"fewer DiffIDs":        {before: func(l *layout) { l.config.RootFS.DiffIDs = nil }, want: "error diff-ids"},
		"malformed DiffID":     {before: func(l *layout) { l.config.RootFS.DiffIDs[0] = "x" }, want: "error digest-malformed"},
		"rootfs of no layers":  {before: func(l *layout) { l.config.RootFS.Type = "tree" }, want: "warning config-malformed"},
		"config is no JSON":    {before: func(l *layout) { l.manifest.Config = l.blob(ocispec.MediaTypeImageConfig, []byte("{")) }, want: "error config-malformed"},
		"config of a chart":    {before: func(l *layout) { l.manifest.Config = l.blob("application/vnd.cncf.helm.config.v1+json", []byte("{}")) }, want: "warning media-type"},
		"manifest's version":   {before: func(l *layout) { l.manifest.SchemaVersion = 1 }, want: "error manifest-malformed"},
		"manifest's type":      {before: func(l *layout) { l.manifest.MediaType = ocispec.MediaTypeImageIndex }, want: "error media-type"},
		"more history":         {before: func(l *layout) { l.config.History = make([]ocispec.History, 2) }, want: "warning history"},
		"history that fits":    {before: func(l *layout) { l.config.History = []ocispec.History{{EmptyLayer: true}, {}} }, want: ""},
		"freejail manifest":    {before: label(`{"schemaVersion":1,"x":1,"wait":0}`), want: "error freejail-manifest, error freejail-manifest"},
		"freejail manifest ok": {before: label(`{"schemaVersion":1}`), want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLayout(layer)
			l.config.RootFS.Type = "layers"
			if c.before != nil {
				c.before(l)
			}
			l.seal(t)
			if c.after != nil {
				c.after(l)
			}
			e, err := Examine(ctx, l.dir(t), Limits{}, everything)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Layout.Close()
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

func TestFindingsAreBounded(t *testing.T) {
	var f Findings
	for range 10_000 {
		f.Add(Error, "code", "where", "text")
	}
	f.Add(Note, "code", "where", "text")
	if len(f.List) != maxFindings+2 || f.Errors() != 10_000 || f.List[maxFindings].Code != "more" {
		t.Errorf("%d findings are kept, %d errors counted", len(f.List), f.Errors())
	}
}
