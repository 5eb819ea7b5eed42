package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var longAgo = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

// item is one entry of a layer under test.
type item struct {
	tar.Header
	body string
	raw  [2]string // a PAX record before it, which a writer would not allow
}

func own(h tar.Header) tar.Header {
	h.Uid, h.Gid, h.ModTime = os.Geteuid(), os.Getegid(), longAgo
	return h
}

func file(name, body string) item {
	return item{Header: own(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body))}), body: body}
}

func dir(name string) item {
	return item{Header: own(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755})}
}

func symlink(name, to string) item {
	return item{Header: own(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777})}
}

func hardlink(name, to string) item {
	return item{Header: own(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644})}
}

func special(kind byte, name string) item {
	return item{Header: own(tar.Header{Typeflag: kind, Name: name, Mode: 0o666, Devmajor: 1, Devminor: 3})}
}

func (i item) mode(m int64) item { i.Mode = m; return i }

func layerOf(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		h := i.Header
		if i.raw[0] != "" {
			b.Write(paxRecord(t, i.raw[0], i.raw[1]))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("entry %q: %v", h.Name, err)
		}
		if _, err := w.Write([]byte(i.body)); err != nil {
			t.Fatal(err)
		}
	}
	// One that is cut off ends the archive.
	if last := len(items) - 1; last >= 0 && int64(len(items[last].body)) < items[last].Size {
		return b.Bytes()
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// paxRecord is an extended header for the entry that follows.
func paxRecord(t testing.TB, key, value string) []byte {
	t.Helper()
	n := len(key) + len(value) + 3
	text := fmt.Sprintf("%d %s=%s\n", n+len(fmt.Sprint(n+2)), key, value)
	if len(text) != n+len(fmt.Sprint(n+2)) {
		t.Fatalf("the record %q does not have its length", text)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "pax", Size: int64(len(text)), Format: tar.FormatUSTAR}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	h := b.Bytes()
	h[156] = tar.TypeXHeader
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h[:512] {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zst(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

func newStore(t testing.TB, l Limits) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir(), l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func hostConfig(diffs ...digest.Digest) ocispec.Image {
	return ocispec.Image{Platform: ocispec.Platform{OS: HostPlatforms()[0].OS, Architecture: runtime.GOARCH},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: diffs}}
}

// putLayers makes an image of plain layers in a store.
func putLayers(t testing.TB, s *Store, name string, layers ...[]byte) *Image {
	t.Helper()
	var diffs []digest.Digest
	var blobs []ocispec.Descriptor
	for _, l := range layers {
		d, err := s.Add(context.Background(), ocispec.MediaTypeImageLayer, bytes.NewReader(l))
		if err != nil {
			t.Fatal(err)
		}
		diffs, blobs = append(diffs, digest.FromBytes(l)), append(blobs, d)
	}
	img, err := s.Put(context.Background(), name, hostConfig(diffs...), blobs, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// unpackLayers unpacks layers into a new directory.
func unpackLayers(t testing.TB, layers ...[]byte) (string, error) {
	t.Helper()
	s := newStore(t, Limits{})
	root := t.TempDir()
	return root, s.Unpack(context.Background(), putLayers(t, s, "test", layers...), root, nil)
}

// layout is an OCI layout in memory whose parts a test can spoil.
type layout struct {
	files    map[string][]byte
	index    ocispec.Index
	manifest ocispec.Manifest
	config   ocispec.Image
	layers   [][]byte
}

func newLayout(layers ...[]byte) *layout {
	l := &layout{files: map[string][]byte{}, layers: layers, config: hostConfig()}
	l.manifest = ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, b := range layers {
		l.config.RootFS.DiffIDs = append(l.config.RootFS.DiffIDs, digest.FromBytes(b))
		l.manifest.Layers = append(l.manifest.Layers, l.blob(ocispec.MediaTypeImageLayer, b))
	}
	return l
}

func (l *layout) blob(mediaType string, b []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	l.files["blobs/sha256/"+d.Digest.Encoded()] = b
	return d
}

func (l *layout) json(t testing.TB, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return l.blob(mediaType, b)
}

// seal writes config, manifest and index; the result can still be spoilt.
func (l *layout) seal(t testing.TB) *layout {
	t.Helper()
	if l.manifest.Config.MediaType == "" {
		l.manifest.Config = l.json(t, ocispec.MediaTypeImageConfig, l.config)
	}
	d := l.json(t, ocispec.MediaTypeImageManifest, l.manifest)
	d.Annotations = map[string]string{refName: "test:1.0"}
	l.index = ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{d}}
	return l.reindex(t)
}

func (l *layout) reindex(t testing.TB) *layout {
	t.Helper()
	b, err := json.Marshal(l.index)
	if err != nil {
		t.Fatal(err)
	}
	l.files["index.json"], l.files["oci-layout"] = b, []byte(layoutText)
	return l
}

func (l *layout) tar(t testing.TB) []byte {
	t.Helper()
	var items []item
	for _, name := range slices.Sorted(maps.Keys(l.files)) {
		items = append(items, file(name, string(l.files[name])))
	}
	return layerOf(t, items...)
}

func (l *layout) dir(t testing.TB) string {
	t.Helper()
	d := t.TempDir()
	for name, b := range l.files {
		p := filepath.Join(d, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func writeTemp(t testing.TB, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(p, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

// listing is what a tree holds: names, types, modes, contents and link targets.
func listing(t testing.TB, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		text := fi.Mode().String()
		switch {
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			text += " " + string(b)
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			text = "-> " + to
		}
		rel, err := filepath.Rel(root, p)
		out[rel] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sameListing(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	for name, g := range got {
		if w, ok := want[name]; !ok {
			t.Errorf("%s: %s is there: %s", what, name, g)
		} else if g != w {
			t.Errorf("%s: %s is %q, want %q", what, name, g, w)
		}
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			t.Errorf("%s: %s is missing", what, name)
		}
	}
}

func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("there is no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error %q does not have %q in it", err, p)
		}
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// list are all images of a store.
func list(s *Store) (out []*Image, errs error) {
	for img, err := range s.All() {
		if errs = errors.Join(errs, err); err == nil {
			out = append(out, img)
		}
	}
	return out, errs
}
