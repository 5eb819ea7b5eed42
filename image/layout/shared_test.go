package layout

import (
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/testoci"
)

// What a job's own credentials brought is nobody else's, whatever its name.
func TestShared(t *testing.T) {
	s := newStore(t, image.Limits{})
	for _, name := range []string{"registry.example/a:1", "registry.example/b:1", "registry.example/c:1"} {
		testoci.PutLayers(t, s, name, []byte(name))
	}
	if err := s.Update(func(idx *ocispec.Index) error {
		for i, d := range idx.Manifests {
			if d.Annotations[refName] == "registry.example/b:1" {
				idx.Manifests[i].Annotations[privateMark] = "true"
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	list, err := s.Shared(func(name string) bool { return name != "registry.example/c:1" })
	if err != nil || len(list) != 1 || list[0].Name != "registry.example/a:1" || len(list[0].Blobs) != 2 {
		t.Errorf("%+v %v", list, err)
	}
}
