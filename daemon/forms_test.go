package daemon

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/testimage"
)

// reformed writes the blobs of an oci-archive in the forms that docker save and skopeo's
// dir have: each with a manifest.json, and names of its own for the blobs.
func reformed(t *testing.T, archive string) (docker, dir string) {
	t.Helper()
	l, err := layout.OpenArchive(t.Context(), archive, image.Limits{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := l.Find("", nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.ReadBlob(d)
	var m ocispec.Manifest
	if err = errors.Join(err, json.Unmarshal(b, &m)); err != nil {
		t.Fatal(err)
	}
	config, layer := m.Config.Digest, m.Layers[0].Digest
	dir, docker = t.TempDir(), filepath.Join(t.TempDir(), "docker.tar")
	blob := func(hex string) string { return filepath.Join(l.Dir(), "blobs/sha256", hex) }
	for _, d := range []string{config.Encoded(), layer.Encoded()} {
		if err := os.Link(blob(d), filepath.Join(dir, d)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(docker)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(f)
	put := func(name, from string) {
		in, oerr := os.Open(from)
		fi, serr := os.Stat(from)
		if err := errors.Join(oerr, serr); err != nil {
			t.Fatal(err)
		}
		err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: fi.Size()})
		_, cerr := io.Copy(tw, in)
		if err := errors.Join(err, cerr, in.Close()); err != nil {
			t.Fatal(err)
		}
	}
	list := filepath.Join(t.TempDir(), "manifest.json")
	text := fmt.Sprintf(`[{"Config":"%s.json","RepoTags":["prog:1"],"Layers":["l/layer.tar"]}]`, config.Encoded())
	if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	put("l/layer.tar", blob(layer.Encoded()))
	put(config.Encoded()+".json", blob(config.Encoded()))
	put("manifest.json", list)
	if err := errors.Join(tw.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return docker, dir
}

// An image of every form starts, without a manifest and with no permit, whatever ports it
// exposes; two such images are no conflict.
func TestImagesOfEveryFormStart(t *testing.T) {
	c, _ := daemonAt(t, shortDir(t), "")
	archive, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "prog", Cmd: []string{"sleep"},
		Exposed: []string{"80/tcp", "53/udp", "9000-9100"}})
	if err != nil {
		t.Fatal(err)
	}
	docker, dir := reformed(t, archive)
	for id, path := range map[string]string{"form-oci": archive, "form-docker": docker, "form-dir": dir} {
		info, err := c.Start(t.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: path})
		if err != nil {
			t.Errorf("%s: %v", id, err)
			continue
		}
		t.Cleanup(func() {
			if err := c.Destroy(context.WithoutCancel(t.Context()), id, true); err != nil {
				t.Error(err)
			}
		})
		if len(info.Ports) == 0 || !info.Ports[0].Exposed {
			t.Errorf("%s: its ports are %+v", id, info.Ports)
		}
	}
}
