// Package testoci makes layers, and layouts that a test can spoil.
package testoci

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
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

// LongAgo is the time of entries.
var LongAgo = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

// Item is one entry of a layer under test.
type Item struct {
	tar.Header
	Body string
	Raw  [2]string // a PAX record before it, which a writer would not allow
}

func own(h tar.Header) tar.Header {
	h.Uid, h.Gid, h.ModTime = os.Geteuid(), os.Getegid(), LongAgo
	return h
}

// File is a regular file.
func File(name, body string) Item {
	return Item{Header: own(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body))}),
		Body: body}
}

// Dir is a directory.
func Dir(name string) Item {
	return Item{Header: own(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755})}
}

// Symlink is a symbolic link.
func Symlink(name, to string) Item {
	return Item{Header: own(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777})}
}

// Hardlink is a hard link.
func Hardlink(name, to string) Item {
	return Item{Header: own(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644})}
}

// Special is a device or a FIFO.
func Special(kind byte, name string) Item {
	return Item{Header: own(tar.Header{Typeflag: kind, Name: name, Mode: 0o666, Devmajor: 1, Devminor: 3})}
}

// WithMode gives it another mode.
func (i Item) WithMode(m int64) Item { i.Mode = m; return i }

// Tar writes a layer.
func Tar(t testing.TB, items ...Item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		h := i.Header
		if i.Raw[0] != "" {
			b.Write(paxRecord(t, i.Raw[0], i.Raw[1]))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("entry %q: %v", h.Name, err)
		}
		if _, err := w.Write([]byte(i.Body)); err != nil {
			t.Fatal(err)
		}
	}
	// One that is cut off ends the archive.
	if last := len(items) - 1; last >= 0 && int64(len(items[last].Body)) < items[last].Size {
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
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "pax", Size: int64(len(text)),
		Format: tar.FormatUSTAR}); err != nil {
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

// Gzip compresses.
func Gzip(t testing.TB, b []byte) []byte {
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

// Zstd compresses.
func Zstd(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// HostConfig is the config of an image for this host.
func HostConfig(diffs ...digest.Digest) ocispec.Image {
	return ocispec.Image{Platform: ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: diffs}}
}

// Store is what PutLayers needs of a store, whose images are of type I.
type Store[I any] interface {
	Add(ctx context.Context, mediaType string, r io.Reader) (ocispec.Descriptor, error)
	Put(ctx context.Context, name string, cfg ocispec.Image, layers []ocispec.Descriptor,
		annotations map[string]string) (I, error)
}

// PutLayers makes an image of plain layers in a store.
func PutLayers[I any](t testing.TB, s Store[I], name string, layers ...[]byte) I {
	t.Helper()
	var diffs []digest.Digest
	var blobs []ocispec.Descriptor
	for _, l := range layers {
		d, err := s.Add(t.Context(), ocispec.MediaTypeImageLayer, bytes.NewReader(l))
		if err != nil {
			t.Fatal(err)
		}
		diffs, blobs = append(diffs, digest.FromBytes(l)), append(blobs, d)
	}
	img, err := s.Put(t.Context(), name, HostConfig(diffs...), blobs, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// Layout is an OCI layout in memory whose parts a test can spoil.
type Layout struct {
	Files    map[string][]byte
	Index    ocispec.Index
	Manifest ocispec.Manifest
	Config   ocispec.Image
	Layers   [][]byte
}

// NewLayout has plain layers, and is to be sealed.
func NewLayout(layers ...[]byte) *Layout {
	l := &Layout{Files: map[string][]byte{}, Layers: layers, Config: HostConfig()}
	l.Manifest = ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest}
	for _, b := range layers {
		l.Config.RootFS.DiffIDs = append(l.Config.RootFS.DiffIDs, digest.FromBytes(b))
		l.Manifest.Layers = append(l.Manifest.Layers, l.Blob(ocispec.MediaTypeImageLayer, b))
	}
	return l
}

// Blob adds one.
func (l *Layout) Blob(mediaType string, b []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	l.Files["blobs/sha256/"+d.Digest.Encoded()] = b
	return d
}

// JSON adds a document.
func (l *Layout) JSON(t testing.TB, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return l.Blob(mediaType, b)
}

// Seal writes config, manifest and index; the result can still be spoilt.
func (l *Layout) Seal(t testing.TB) *Layout {
	t.Helper()
	if l.Manifest.Config.MediaType == "" {
		l.Manifest.Config = l.JSON(t, ocispec.MediaTypeImageConfig, l.Config)
	}
	d := l.JSON(t, ocispec.MediaTypeImageManifest, l.Manifest)
	d.Annotations = map[string]string{ocispec.AnnotationRefName: "test:1.0"}
	l.Index = ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{d}}
	return l.Reindex(t)
}

// Reindex writes a changed index.
func (l *Layout) Reindex(t testing.TB) *Layout {
	t.Helper()
	b, err := json.Marshal(l.Index)
	if err != nil {
		t.Fatal(err)
	}
	l.Files["index.json"], l.Files["oci-layout"] = b, []byte(`{"imageLayoutVersion":"1.0.0"}`)
	return l
}

// Tar gives it as an archive.
func (l *Layout) Tar(t testing.TB) []byte {
	t.Helper()
	var items []Item
	for _, name := range slices.Sorted(maps.Keys(l.Files)) {
		items = append(items, File(name, string(l.Files[name])))
	}
	return Tar(t, items...)
}

// Dir writes it as a directory.
func (l *Layout) Dir(t testing.TB) string {
	t.Helper()
	d := t.TempDir()
	for name, b := range l.Files {
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

// WriteTemp writes an archive and gives its path.
func WriteTemp(t testing.TB, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(p, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

// Listing is what a tree holds: names, types, modes, contents and link targets.
func Listing(t testing.TB, root string) map[string]string {
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

// SameListing compares two trees.
func SameListing(t testing.TB, what string, got, want map[string]string) {
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

// WantError wants all the parts in an error.
func WantError(t testing.TB, err error, parts ...string) {
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

// NeedRoot skips a test that others cannot run.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// Brief is a tree as one line; directories show by what is in them.
func Brief(t testing.TB, root string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if e.Type()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(p)
			out = append(out, rel+">"+to)
			return err
		}
		if e.Type() == fs.ModeNamedPipe {
			out = append(out, rel+"|")
			return nil
		}
		b, err := os.ReadFile(p)
		out = append(out, rel+"="+string(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}
