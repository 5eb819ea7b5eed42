package build

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/freejail/freejail/image"
)

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFirst(t *testing.T) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "x.tar")
	write(t, dir, map[string]string{"Jailfile": "FROM scratch\nNAME web\nCOPY web /bin/web\nCOPY conf /etc/\nPORT http 8080/tcp service=web check=http:/healthz\nENTRYPOINT [\"/bin/web\"]\n", "web": "x", "conf/a": "b", "conf/d/e": "f"})
	img, err := Build(context.Background(), Options{Context: dir, Output: out, Progress: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	s, err := image.OpenStore(t.TempDir(), image.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Import(context.Background(), out, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != img.Digest || got.Name != "web" {
		t.Error(got.Digest, img.Digest, got.Name)
	}
	root := t.TempDir()
	if err := s.Unpack(context.Background(), got, root, nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, "etc/d/e"))
	if string(b) != "f" || err != nil {
		t.Error(string(b), err)
	}
}
