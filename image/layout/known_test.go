package layout

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
)

// An image that was read before is what is on the disk now: under its name, with its own documents, or not at all.
func TestWhatIsKnownIsOnTheDisk(t *testing.T) {
	s := newStore(t, image.Limits{})
	one, two := putLayers(t, s, "web", layerOf(t, file("f", "1"))), putLayers(t, s, "db", layerOf(t, file("f", "2")))
	get := func(name string, want *image.Image) *image.Image {
		t.Helper()
		img, err := s.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		if img.Digest != want.Digest || img.Name != name && img.Digest.String() != name {
			t.Errorf("%s is %s %s, want %s", name, img.Name, img.Digest, want.Digest)
		}
		return img
	}
	for range 2 {
		get("web", one)
		get("db", two)
	}
	// The other name, of as many letters, in a file of the same size.
	for i, to := range []*image.Image{two, one, two} {
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: to.Digest}
		if err := s.setName(named(d, "web")); err != nil {
			t.Fatal(err)
		}
		if got := get("web", to); got.ChainID != to.ChainID {
			t.Errorf("time %d: it has another chain", i)
		}
	}
	if err := s.Remove("db"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("db"); err == nil {
		t.Error("a name that was removed is known")
	}
	manifest, config, err := s.Description(two)
	if err != nil {
		t.Fatal(err)
	}
	m, err := document.ReadManifest(manifest, ocispec.MediaTypeImageManifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []struct {
		name string
		text []byte
	}{{blobName(m.Config.Digest), config}, {blobName(two.Digest), manifest}} {
		name := filepath.Join(s.dir, b.name)
		bad := slices.Clone(b.text)
		bad[len(bad)/2] ^= 1
		for _, damage := range []func() error{
			func() error { return os.Remove(name) },
			func() error { return os.WriteFile(name, bad, 0o600) },
		} {
			get("web", two)
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Get("web"); err == nil {
				t.Errorf("%s is damaged, and the image known", b.name)
			}
			if err := os.WriteFile(name, b.text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	get("web", two)
}

// Whoever appends to what an image has leaves the image of others as it is.
func TestKnownImagesAreNobodysToAppendTo(t *testing.T) {
	s := newStore(t, image.Limits{})
	putLayers(t, s, "web", layerOf(t, file("f", "1")), layerOf(t, file("g", "1")), layerOf(t, file("h", "1")))
	img, err := s.Get("web")
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Get("web")
	if err != nil {
		t.Fatal(err)
	}
	if again == img || !reflect.DeepEqual(again, img) {
		t.Errorf("it is read as %+v, then as %+v", img, again)
	}
	var look func(path string, v reflect.Value)
	look = func(path string, v reflect.Value) {
		switch v.Kind() {
		case reflect.Pointer:
			if !v.IsNil() {
				look(path, v.Elem())
			}
		case reflect.Struct:
			for i := range v.NumField() {
				look(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case reflect.Slice:
			if v.Len() != v.Cap() {
				t.Errorf("%s has room for %d more", path, v.Cap()-v.Len())
			}
			for i := range v.Len() {
				look(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
			}
		}
	}
	look("image", reflect.ValueOf(again))
}

// Few images are kept, those that were asked for last, and not more bytes of them than are allowed.
func TestFewImagesAreKnown(t *testing.T) {
	s := newStore(t, image.Limits{})
	var all []*image.Image
	for i := range maxKnown + 3 {
		all = append(all, putLayers(t, s, fmt.Sprintf("i%d", i), layerOf(t, file("f", fmt.Sprint(i)))))
	}
	for _, img := range all {
		for _, name := range []string{"i0", img.Name} {
			if _, err := s.Get(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	known := func(img *image.Image) bool {
		return s.known.images[describedAs{img.Digest, ocispec.MediaTypeImageManifest}] != nil
	}
	if n := len(s.known.images); n != maxKnown || !known(all[0]) || known(all[1]) || !known(all[len(all)-1]) {
		t.Errorf("%d are known, want %d; %v %v %v", n, maxKnown, known(all[0]), known(all[1]), known(all[len(all)-1]))
	}
	var size int64
	for _, k := range s.known.images {
		size += k.size
	}
	if size != s.known.size {
		t.Errorf("they have %d bytes, not %d", size, s.known.size)
	}
	s.known.size += maxKnownSize - 1
	if _, err := s.Get("i1"); err != nil {
		t.Fatal(err)
	}
	if n := len(s.known.images); n > 0 {
		t.Errorf("%d are kept beyond the bytes", n)
	}
}

// What an image takes in memory counts, whatever its documents are made of, and one that takes very much is not kept.
func TestKnownImagesTakeWhatCounts(t *testing.T) {
	list := func(element string, n int) string { return "[" + strings.Repeat(element+",", n) + element + "]" }
	names := func(value string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"%d/tcp":%s,`, i%65536+1, value)
		}
		return "{" + strings.TrimSuffix(b.String(), ",") + "}"
	}
	const zone = `{"created":"2020-01-01T00:00:00+01:07"}`
	for name, config := range map[string]func(n int) string{
		"history":     func(n int) string { return `"history":` + list("{}", n) },
		"times":       func(n int) string { return `"history":` + list(zone, n/4) },
		"environment": func(n int) string { return `"config":{"Env":` + list(`""`, n) + `}` },
		"letters":     func(n int) string { return `"config":{"Env":` + list(`"xy"`, n) + `}` },
		"labels":      func(n int) string { return `"config":{"Labels":` + names(`""`, n) + `}` },
		"volumes":     func(n int) string { return `"config":{"Volumes":` + names(`{}`, n) + `}` },
		"text":        func(n int) string { return `"author":"` + strings.Repeat("x", n*10) + `"` },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, image.Limits{})
			put := func(name string, n int) ocispec.Descriptor {
				t.Helper()
				img, err := s.PutConfig(ctx, name, json.RawMessage(`{"architecture":"amd64","os":"linux",
					"rootfs":{"type":"layers","diff_ids":[]},`+config(n)+`}`), nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: img.Digest}
			}
			large := put("large", 30_000)
			memory := func() int64 {
				var m runtime.MemStats
				runtime.GC()
				runtime.GC() // what is in a sync.Pool goes with the second
				runtime.ReadMemStats(&m)
				return int64(m.HeapAlloc)
			}
			before := memory()
			img, err := s.describe(large)
			if err != nil {
				t.Fatal(err)
			}
			takes, counts := memory()-before, clip(reflect.ValueOf(img).Elem())
			t.Logf("it takes %d bytes, %d count", takes, counts)
			if takes > counts+counts/8+128<<10 || len(s.known.images) > 0 || s.known.size != 0 {
				t.Errorf("it takes %d bytes, %d count; %d images are kept", takes, counts, len(s.known.images))
			}
			if img, err = s.describe(put("small", 500)); err != nil {
				t.Fatal(err)
			}
			if n, least := len(s.known.images), clip(reflect.ValueOf(img).Elem()); n != 1 || s.known.size < least {
				t.Errorf("%d images with %d bytes are kept, want one with at least %d", n, s.known.size, least)
			}
		})
	}
}
