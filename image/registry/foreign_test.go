package registry

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/testoci"
)

// dockerArchive is what docker save writes.
func dockerArchive(t *testing.T) []byte {
	t.Helper()
	layer := testoci.Tar(t, testoci.File("f", "x"))
	config, err := json.Marshal(testoci.HostConfig(digest.FromBytes(layer)))
	if err != nil {
		t.Fatal(err)
	}
	return testoci.Tar(t, testoci.File("c.json", string(config)), testoci.File("l/layer.tar", string(layer)),
		testoci.File("manifest.json", `[{"Config":"c.json","RepoTags":["web:1.0"],"Layers":["l/layer.tar"]}]`))
}

// Docker's archives are read from as others are, and never written.
func TestCopyFromDockerArchives(t *testing.T) {
	c := &Client{}
	file, dir := testoci.WriteTemp(t, dockerArchive(t)), filepath.Join(t.TempDir(), "layout")
	for _, from := range []string{"docker-archive:" + file + ":web:1.0", "oci-archive:" + file} {
		src, err := ParseLocation(from)
		if err != nil {
			t.Fatal(err)
		}
		done, err := c.Copy(t.Context(), src, Location{Kind: Layout, Path: dir}, CopyOptions{})
		if err != nil || done.Name != "web:1.0" {
			t.Fatalf("%s: %v, %+v", from, err, done)
		}
	}
	l, err := layout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if idx, err := l.Index(); err != nil || len(idx.Manifests) != 1 {
		t.Errorf("%v %+v", err, idx)
	}
	for _, kind := range []Kind{DockerArchive, Dir} {
		to := Location{Kind: kind, Path: filepath.Join(t.TempDir(), "x")}
		_, err := c.Copy(t.Context(), Location{Kind: Layout, Path: dir}, to, CopyOptions{})
		if err == nil || !strings.Contains(err.Error(), "not supported as a destination") {
			t.Errorf("%s: %v", to, err)
		}
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.beside(&local{Layout: mustOpen(t, file)}, Location{Kind: Archive, Path: file})
	if after, rerr := os.ReadFile(file); rerr != nil || string(after) != string(before) || err == nil ||
		!strings.Contains(err.Error(), "no place for signatures") {
		t.Errorf("%v, %v", err, rerr)
	}
}

func mustOpen(t *testing.T, file string) *layout.Layout {
	t.Helper()
	l, err := layout.OpenArchive(t.Context(), file, image.Limits{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// A layer that need not be with its image is copied where it is.
func TestCopyOfForeignLayers(t *testing.T) {
	for _, there := range []bool{true, false} {
		l := testoci.NewLayout(testoci.Tar(t, testoci.File("f", "x")), testoci.Tar(t, testoci.File("g", "y")))
		l.Manifest.Layers[0].MediaType = document.DockerForeign + ".gzip"
		l.Manifest.Layers[0].URLs = []string{"https://registry.invalid/x"}
		layer := l.Manifest.Layers[0].Digest
		if !there {
			delete(l.Files, "blobs/sha256/"+layer.Encoded())
		}
		dir := filepath.Join(t.TempDir(), "to")
		_, err := (&Client{}).Copy(t.Context(), Location{Kind: Layout, Path: l.Seal(t).Dir(t)},
			Location{Kind: Layout, Path: dir}, CopyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		to, err := layout.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.StatBlob(layer); (err == nil) != there {
			t.Errorf("the layer was there: %v; at the destination: %v", there, err)
		}
		if idx, err := to.Index(); err != nil || idx.Manifests[0].Digest != l.Index.Manifests[0].Digest {
			t.Errorf("%v %+v", err, idx)
		}
		if err := to.Close(); err != nil {
			t.Error(err)
		}
	}
}
