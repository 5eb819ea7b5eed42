package unpack

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/freejail/freejail/image"
)

// A layer like a base system's: many small files in many directories, some
// large ones, half of it compressible.
func BenchmarkUnpack(b *testing.B) {
	random := rand.New(rand.NewChaCha8([32]byte{}))
	var items []item
	size := int64(0)
	for d := range 300 {
		items = append(items, dir(fmt.Sprintf("usr/d%d", d)))
		for f := range 20 {
			body := make([]byte, 1<<random.IntN(15))
			for i := range body[:len(body)/2] {
				body[i] = byte(random.Uint32())
			}
			size += int64(len(body))
			items = append(items, file(fmt.Sprintf("usr/d%d/f%d", d, f), string(body)))
		}
	}
	layer := layerOf(b, items...)
	s := newStore(b, image.Limits{})
	img := putLayers(b, s, "bench", layer)
	b.SetBytes(size)
	for b.Loop() {
		root, err := os.MkdirTemp(b.TempDir(), "")
		if err != nil {
			b.Fatal(err)
		}
		if err := Image(ctx, s, img, root, nil); err != nil {
			b.Fatal(err)
		}
	}
}
