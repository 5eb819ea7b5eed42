package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
)

// frame is the beginning of a zstd stream with a window: RFC 8878, 3.1.1.1.
func frame(windowLog int) []byte {
	return []byte{0x28, 0xb5, 0x2f, 0xfd, 0, byte(windowLog-10) << 3, 0x01, 0, 0}
}

// singleFrame has a window as large as the content that it says it has.
func singleFrame(size uint32) []byte {
	return append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0}, byte(size), byte(size>>8), byte(size>>16), byte(size>>24), 1, 0, 0)
}

// What a decoder takes is known, and bounded, before it takes it.
func TestWindowsAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		head []byte
		want int64 // 0 is an error
	}{
		"usual":                   {frame(21), 2 * usualWindow},
		"large":                   {frame(27), 2 * maxWindow},
		"too large":               {frame(28), 0},
		"as large as its content": {singleFrame(16 << 20), 32 << 20},
		"too large a content":     {singleFrame(200 << 20), 0},
	} {
		got, err := decoderMemory(buffered(bytes.NewReader(c.head)))
		if got != c.want && c.want != 0 || (err == nil) != (c.want != 0) {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	// A later frame gets no larger window than was reserved.
	z, err := newZstd(bytes.NewReader(append(zst(t, []byte("x")), frame(27)...)))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if _, err := z.Read(make([]byte, 100)); err == nil {
		_, err = z.Read(make([]byte, 100))
		wantError(t, err, "window")
	}
}

// Unpackings wait for memory, and one that waits can be cancelled.
func TestUnpackingsWaitForMemory(t *testing.T) {
	layer := layerOf(t, file("f", "x"))
	s := newStore(t, Limits{})
	img := putLayers(t, s, "test", layer)
	if err := memory.Acquire(ctx, maxMemory-unpackMemory+1); err != nil {
		t.Fatal(err)
	}
	waiting, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- s.Unpack(waiting, img, t.TempDir(), nil) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("without memory: %v", err)
	}
	memory.Release(maxMemory - unpackMemory + 1)
	if err := s.Unpack(ctx, img, t.TempDir(), nil); err != nil {
		t.Error(err)
	}
	if !memory.TryAcquire(maxMemory) {
		t.Fatal("memory is still taken")
	}
	memory.Release(maxMemory)
}

// Small archives whose documents are millions of the smallest elements are
// refused, all at once, with the memory of few.
func TestDocumentsOfManyElements(t *testing.T) {
	elements := func(n int) string { return "[" + strings.Repeat("{},", n) + "{}]" }
	numbers := func(n int) string { return "[" + strings.Repeat("0,", n) + "0]" }
	const n = 1 << 20
	seal := func(change func(l *layout)) []byte {
		l := newLayout(layerOf(t, file("f", "x")))
		l.seal(t)
		change(l)
		return gz(t, l.tar(t))
	}
	manifest := func(l *layout, text string) {
		d := l.blob(ocispec.MediaTypeImageManifest, []byte(text))
		l.index.Manifests = []ocispec.Descriptor{d}
		l.reindex(t)
	}
	config := func(l *layout, text string) {
		l.manifest.Config = l.blob(ocispec.MediaTypeImageConfig, []byte(text))
		l.seal(t)
	}
	label := func(l *layout, text string) {
		l.manifest.Config = ocispec.Descriptor{}
		l.config.Config.Labels = map[string]string{ManifestLabel: text}
		l.seal(t)
	}
	var bombs []string
	for name, change := range map[string]func(l *layout){
		"index":   func(l *layout) { l.files["index.json"] = []byte(`{"schemaVersion":2,"manifests":` + elements(n) + `}`) },
		"layers":  func(l *layout) { manifest(l, `{"schemaVersion":2,"config":{"digest":"x"},"layers":`+elements(n)+`}`) },
		"history": func(l *layout) { config(l, `{"os":"linux","history":`+elements(n)+`}`) },
		"environment": func(l *layout) {
			config(l, `{"os":"linux","config":{"Env":`+strings.ReplaceAll(numbers(n), "0", `""`)+`}}`)
		},
		"names": func(l *layout) {
			var b strings.Builder
			for i := range n / 8 {
				fmt.Fprintf(&b, `"%d":0,`, i)
			}
			config(l, `{`+b.String()+`"os":"linux"}`)
		},
		"ports": func(l *layout) { label(l, `{"schemaVersion":1,"ports":`+elements(n/4)+`}`) },
		"mistakes": func(l *layout) {
			label(l, `{"schemaVersion":1,"ports":[`+strings.Repeat(`{"a":1,"b":1},`, 1000)+`{}]}`)
		},
		"long": func(l *layout) {
			config(l, `{"os":"linux","author":"`+strings.Repeat("x", document.MaxDescription)+`"}`)
		},
		"many layers": func(l *layout) {
			for range document.MaxLayers {
				l.manifest.Layers = append(l.manifest.Layers, l.manifest.Layers[0])
				l.config.RootFS.DiffIDs = append(l.config.RootFS.DiffIDs, l.config.RootFS.DiffIDs[0])
			}
			l.manifest.Config = ocispec.Descriptor{}
			l.seal(t)
		},
	} {
		path := writeTemp(t, seal(change))
		s := newStore(t, Limits{})
		if _, err := s.Import(ctx, path, "", nil); err == nil {
			t.Errorf("%s: it is taken", name)
		} else if len(err.Error()) > 100_000 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
		bombs = append(bombs, path)
	}
	s := newStore(t, Limits{})
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
		if err := <-done; err == nil {
			t.Error("one is taken")
		}
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
	s := newStore(t, Limits{})
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
