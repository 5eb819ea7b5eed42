package unpack

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/testoci"
)

func TestLayersCannotLeaveTheRoot(t *testing.T) {
	for _, c := range testoci.Attacks() {
		t.Run(c.Name, func(t *testing.T) {
			host := t.TempDir()
			root := filepath.Join(host, "root")
			for p, text := range map[string]string{"victim": "untouched", "other/file": "untouched"} {
				p = filepath.Join(host, p)
				if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(p, []byte(text), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			before := listing(t, host)
			if err := os.Mkdir(root, 0o755); err != nil {
				t.Fatal(err)
			}
			err := unpackCase(t, c.Layers, host, root)
			if c.Want != "" {
				wantError(t, err, c.Want, "layer ", "entry ")
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
			if c.Inside != "" && err == nil {
				p := filepath.Join(root, strings.ReplaceAll(c.Inside, "HOST", host))
				if _, err := os.Lstat(p); err != nil {
					t.Error(err)
				}
			}
			if err := os.RemoveAll(root); err != nil {
				t.Fatalf("the tree cannot be removed: %v", err)
			}
			sameListing(t, "the host", listing(t, host), before)
		})
	}
}

func unpackCase(t *testing.T, layers [][]item, host, root string) error {
	t.Helper()
	var tars [][]byte
	for _, items := range layers {
		for i := range items {
			items[i].Name = strings.ReplaceAll(items[i].Name, "HOST", host)
			items[i].Linkname = strings.ReplaceAll(items[i].Linkname, "HOST", host)
			items[i].Raw[1] = strings.ReplaceAll(items[i].Raw[1], "HOST", host)
		}
		tars = append(tars, layerOf(t, items...))
	}
	s := newStore(t, image.Limits{})
	return Image(context.Background(), s, putLayers(t, s, "test", tars...), root, nil)
}
