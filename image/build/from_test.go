package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
)

func TestFromAStoreAndALayout(t *testing.T) {
	s, err := layout.OpenStore(t.TempDir(), image.Limits{})
	check(t, err)
	inStore := func(o *Options) { o.Store = s }
	_, err = try(t, files{"f": "1"}, "FROM scratch\nNAME base\nCOPY f /\n", inStore)
	check(t, err)
	m, err := try(t, files{"g": "2"}, "FROM base\nNAME child\nCOPY g /\n", inStore)
	check(t, err)
	m.has("f", "1")
	if _, err := s.Get("child"); err != nil {
		t.Error(err)
	}
	n := 0
	for _, err := range s.All() {
		check(t, err)
		n++
	}
	if n != 2 {
		t.Errorf("the store has %d images", n)
	}
	if _, err := try(t, files{}, "FROM nobody\n", inStore); err == nil ||
		!strings.Contains(err.Error(), `no such image "nobody"`) {
		t.Error(err)
	}
	if _, err := try(t, files{}, "FROM scratch\n", inStore); err == nil || !strings.Contains(err.Error(), "no name") {
		t.Error(err)
	}
	for _, wrong := range []string{"linux", "freebsd"} {
		_, err := try(t, files{}, "FROM base\n",
			func(o *Options) { o.Store, o.Platform.OS, o.Platform.Architecture = s, wrong, "riscv64" })
		if err == nil || !strings.Contains(err.Error(), "want "+wrong+"/riscv64") {
			t.Error(err)
		}
	}
	check(t, s.WriteLayout(t.Context(), "child", filepath.Join(t.TempDir(), "layout")))
	dir := t.TempDir()
	check(t, s.WriteLayout(t.Context(), "child", filepath.Join(dir, "base")))
	files{"Jailfile": "FROM ./base\nENV A=b\n"}.write(t, dir)
	img, err := Build(t.Context(), Options{Context: dir, Output: filepath.Join(dir, "out") + "/"})
	check(t, err)
	if img.Config.OS != "freebsd" || len(img.Layers) != 2 {
		t.Errorf("%+v", img)
	}
	if _, err := os.Stat(filepath.Join(dir, "out", "index.json")); err != nil {
		t.Error(err)
	}
	_, err = Build(t.Context(), Options{Context: dir, Output: filepath.Join(dir, "out")})
	if err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Error(err)
	}
	check(t, os.Symlink("base/blobs", filepath.Join(dir, "elsewhere")))
	files{"c/Jailfile": "FROM ../base\n"}.write(t, dir)
	for _, o := range []string{"base/index.json", "base/new/x.tar", "elsewhere/x.tar", "base/blobs/sub/"} {
		_, err := Build(t.Context(), Options{Context: filepath.Join(dir, "c"), Output: dir + "/" + o})
		if err == nil || !strings.Contains(err.Error(), "base, which is an input of this build") {
			t.Errorf("%s: %v", o, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".out-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
