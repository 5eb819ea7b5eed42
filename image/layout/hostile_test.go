package layout

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/image"
)

// The archive that images come in is hostile as well.
func TestArchiveCannotLeaveTheStore(t *testing.T) {
	for name, extra := range map[string]item{
		"dot dot":              file("../victim", "x"),
		"dot dot in a blob":    file("blobs/sha256/../../../../victim", "x"),
		"link for the blobs":   symlink("blobs", ".."),
		"link for the index":   symlink("index.json", "../../victim"),
		"hard link":            hardlink("victim", "../../victim"),
		"blob with a bad name": file("blobs/sha256/victim", "x"),
		"other algorithm":      file("blobs/md5/d41d8cd98f00b204e9800998ecf8427e", ""),
		"device":               special(tar.TypeChar, "blobs/sha256/"+strings.Repeat("0", 64)),
	} {
		t.Run(name, func(t *testing.T) {
			host := t.TempDir()
			s, err := OpenStore(filepath.Join(host, "a", "store"), image.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			for _, victim := range []string{"victim", "a/victim", "a/store/victim", "a/store/tmp/victim"} {
				if err := os.WriteFile(filepath.Join(host, victim), []byte("untouched"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			good := newLayout(layerOf(t, file("f", "x"))).Seal(t).Tar(t)
			bad := bytes.TrimRight(layerOf(t, extra), "\x00") // without its end
			bad = append(bad, make([]byte, (512-len(bad)%512)%512)...)
			img, err := s.Import(context.Background(), writeTemp(t, append(bad, good...)), "", nil)
			if err != nil {
				t.Fatalf("what is no part of a layout is to be passed over: %v", err)
			}
			want := map[string]string{}
			for name, text := range listing(t, host) {
				if !strings.HasPrefix(name, "a/store/blobs/sha256/") {
					want[name] = text
				}
			}
			for _, victim := range []string{"victim", "a/victim", "a/store/victim", "a/store/tmp/victim"} {
				if !strings.HasSuffix(want[victim], "untouched") {
					t.Errorf("%s has become %q", victim, want[victim])
				}
			}
			if len(want) != 12 || img.Name != "test:1.0" {
				t.Errorf("there is more than expected: %v", want)
			}
		})
	}
}
