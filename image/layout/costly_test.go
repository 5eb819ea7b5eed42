package layout

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/testoci"
)

// faulty is an image of n layers whose tables are none.
func faulty(t testing.TB, n int) *parts {
	text := `{"entries":[{}`
	table := testoci.Zstd(t, []byte(text))
	l := newLayout()
	l.Config.RootFS.DiffIDs, l.Manifest.Layers = nil, nil
	for i := range n {
		b := append([]byte(bytesOf(int64(1000+i), 66<<10)), "12345678"...)
		at := len(b)
		d := l.Blob(ocispec.MediaTypeImageLayerZstd, append(b, table...))
		d.Annotations = map[string]string{
			"io.containers.zstd-chunked.manifest-checksum": digest.FromBytes(table).String(),
			"io.containers.zstd-chunked.manifest-position": fmt.Sprintf("%d:%d:%d:1", at, len(table), len(text)),
		}
		l.Manifest.Layers = append(l.Manifest.Layers, d)
		l.Config.RootFS.DiffIDs = append(l.Config.RootFS.DiffIDs, d.Digest)
	}
	return &parts{Layout: l.Seal(t)}
}

// Tables that are no good are read once, and few of them, however many layers of others have them.
func TestFewTablesAreRead(t *testing.T) {
	s := newStore(t, image.Limits{})
	p := faulty(t, 100)
	if _, err := s.Fetch(ctx, p, p.Index.Manifests[0], "other.example/x:1", FetchOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		before := len(s.misleading)
		fetched(t, s, chunkedImage(t, manyFiles(int64(1000+i)), nil), fmt.Sprintf("registry.example/x%d:1", i%2),
			FetchOptions{})
		if read := len(s.misleading) - before; read == 0 || read > maxTried {
			t.Errorf("%d: %d tables were read and are not read again, of those that may be %d", i, read, maxTried)
		}
	}
}
