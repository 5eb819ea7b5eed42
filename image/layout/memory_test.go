package layout

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/testoci"
)

// Small archives whose documents are millions of the smallest elements are
// refused, all at once, with the memory of few. Ranges of ports are not: few are read.
func TestDocumentsOfManyElements(t *testing.T) {
	elements := func(n int) string { return "[" + strings.Repeat("{},", n) + "{}]" }
	numbers := func(n int) string { return "[" + strings.Repeat("0,", n) + "0]" }
	const n = 1 << 20
	seal := func(change func(l *testoci.Layout)) []byte {
		l := newLayout(layerOf(t, file("f", "x")))
		l.Seal(t)
		change(l)
		return gz(t, l.Tar(t))
	}
	manifest := func(l *testoci.Layout, text string) {
		d := l.Blob(ocispec.MediaTypeImageManifest, []byte(text))
		l.Index.Manifests = []ocispec.Descriptor{d}
		l.Reindex(t)
	}
	config := func(l *testoci.Layout, text string) {
		l.Manifest.Config = l.Blob(ocispec.MediaTypeImageConfig, []byte(text))
		l.Seal(t)
	}
	label := func(l *testoci.Layout, text string) {
		l.Manifest.Config = ocispec.Descriptor{}
		l.Config.Config.Labels = map[string]string{image.ManifestLabel: text}
		l.Seal(t)
	}
	var bombs []string
	for name, change := range map[string]func(l *testoci.Layout){
		"index": func(l *testoci.Layout) {
			l.Files["index.json"] = []byte(`{"schemaVersion":2,"manifests":` + elements(n) + `}`)
		},
		"layers": func(l *testoci.Layout) {
			manifest(l, `{"schemaVersion":2,"config":{"digest":"x"},"layers":`+elements(n)+`}`)
		},
		"history": func(l *testoci.Layout) { config(l, `{"os":"linux","history":`+elements(n)+`}`) },
		"environment": func(l *testoci.Layout) {
			config(l, `{"os":"linux","config":{"Env":`+strings.ReplaceAll(numbers(n), "0", `""`)+`}}`)
		},
		"names": func(l *testoci.Layout) {
			var b strings.Builder
			for i := range n / 8 {
				fmt.Fprintf(&b, `"%d":0,`, i)
			}
			config(l, `{`+b.String()+`"os":"linux"}`)
		},
		"ports": func(l *testoci.Layout) { label(l, `{"schemaVersion":1,"ports":`+elements(n/4)+`}`) },
		"mistakes": func(l *testoci.Layout) {
			label(l, `{"schemaVersion":1,"ports":[`+strings.Repeat(`{"a":1,"b":1},`, 1000)+`{}]}`)
		},
		"ranges": func(l *testoci.Layout) {
			l.Manifest.Config = ocispec.Descriptor{}
			l.Config.Config.ExposedPorts = map[string]struct{}{}
			for i := range 50_000 {
				l.Config.Config.ExposedPorts[fmt.Sprintf("%d-65535", i+1)] = struct{}{}
			}
			l.Seal(t)
		},
		"long": func(l *testoci.Layout) {
			config(l, `{"os":"linux","author":"`+strings.Repeat("x", document.MaxDescription)+`"}`)
		},
		"many layers": func(l *testoci.Layout) {
			for range document.MaxLayers {
				l.Manifest.Layers = append(l.Manifest.Layers, l.Manifest.Layers[0])
				l.Config.RootFS.DiffIDs = append(l.Config.RootFS.DiffIDs, l.Config.RootFS.DiffIDs[0])
			}
			l.Manifest.Config = ocispec.Descriptor{}
			l.Seal(t)
		},
	} {
		path := writeTemp(t, seal(change))
		s := newStore(t, image.Limits{})
		if _, err := s.Import(ctx, path, "", nil); (err == nil) != (name == "ranges") {
			t.Errorf("%s: the error is %v", name, err)
		} else if err != nil && len(err.Error()) > 100_000 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
		bombs = append(bombs, path)
	}
	s := newStore(t, image.Limits{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	done := make(chan error)
	for i := range 64 {
		go func() {
			_, err := s.Import(ctx, bombs[i%len(bombs)], "", nil)
			done <- err
		}()
	}
	peak := uint64(0)
	for range 64 {
		<-done
		runtime.ReadMemStats(&after)
		peak = max(peak, after.HeapInuse-min(before.HeapInuse, after.HeapInuse))
	}
	t.Logf("64 imports take %d MiB", peak>>20)
	if peak > 512<<20 {
		t.Errorf("64 imports take %d MiB", peak>>20)
	}
}

// A name that is read from the store is read one image at a time.
func TestAllImagesOneByOne(t *testing.T) {
	s := newStore(t, image.Limits{})
	for _, name := range []string{"b", "a", "c"} {
		putLayers(t, s, name, layerOf(t, file(name, name)))
	}
	var names []string
	for img, err := range s.All() {
		if err != nil {
			t.Fatal(err)
		}
		if names = append(names, img.Name); img.Name == "b" {
			break
		}
	}
	if fmt.Sprint(names) != "[a b]" {
		t.Errorf("the images are %v", names)
	}
}
