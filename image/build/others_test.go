package build

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/image/layout"
)

// A directory that the image goes to can belong to somebody who exchanges what
// is made there.
func TestAnOutputThatIsExchanged(t *testing.T) {
	host := t.TempDir()
	victim := filepath.Join(host, "victim")
	check(t, os.Mkdir(victim, 0o700))
	files{"secret": "s"}.write(t, victim)
	dir := t.TempDir()
	parent, err := os.OpenRoot(dir)
	check(t, err)
	defer parent.Close()
	exchange := func(to string) {
		check(t, os.Rename(filepath.Join(dir, ".out-1"), filepath.Join(dir, "moved")))
		check(t, os.Symlink(to, filepath.Join(dir, ".out-1")))
	}
	o := &output{parent: parent, name: "out", temp: ".out-1"}
	err = o.layout(func(make layout.Maker) error {
		exchange(victim)
		f, err := make("oci-layout")
		if err == nil {
			err = f.Close()
		}
		return err
	})
	if err == nil {
		t.Error("a layout was written through a link")
	}
	check(t, os.RemoveAll(dir+"/moved"))
	err = o.layout(func(layout.Maker) error { exchange(victim); return nil })
	t.Log(err)
	check(t, os.RemoveAll(dir+"/out"))
	check(t, os.RemoveAll(dir+"/moved"))
	err = o.archive(func(w io.Writer) error {
		exchange(filepath.Join(victim, "secret"))
		_, err := io.WriteString(w, "image")
		return err
	})
	t.Log(err)
	if fi, err := os.Stat(victim); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the victim's mode: %v %v", fi.Mode(), err)
	}
	if b, err := os.ReadFile(victim + "/secret"); err != nil || string(b) != "s" {
		t.Errorf("the victim's file: %q %v", b, err)
	}
	if left, err := os.ReadDir(victim); err != nil || len(left) != 1 {
		t.Errorf("the victim has %v: %v", left, err)
	}
}

// An image is not written through a link, nor in place of one or of a device or a FIFO.
func TestAnOutputThatIsALink(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	check(t, os.Mkdir(victim, 0o700))
	files{"f": "s"}.write(t, victim)
	for name, to := range map[string]string{"x.tar": victim + "/f", "y.tar": victim, "z/": victim, "gone.tar": victim +
		"/none", "file/": victim + "/f"} {
		dir := t.TempDir()
		files{"Jailfile": "FROM scratch\n"}.write(t, dir)
		out := filepath.Join(t.TempDir(), strings.TrimSuffix(name, "/"))
		check(t, os.Symlink(to, out))
		if strings.HasSuffix(name, "/") {
			out += "/"
		}
		_, err := Build(t.Context(), Options{Context: dir, Output: out, Platform: freebsd})
		if err == nil || !strings.Contains(err.Error(), "is a link to "+to) {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(filepath.Dir(filepath.Clean(out))); err != nil || len(left) != 1 {
			t.Errorf("%s: %v are left: %v", name, left, err)
		}
	}
	if b, err := os.ReadFile(victim + "/f"); err != nil || string(b) != "s" {
		t.Errorf("%q %v", b, err)
	}
	if left, err := os.ReadDir(victim); err != nil || len(left) != 1 {
		t.Errorf("the victim has %v: %v", left, err)
	}
}

func TestAnOutputThatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	files{"Jailfile": "FROM scratch\n"}.write(t, dir)
	out := filepath.Join(t.TempDir(), "x.tar")
	check(t, mkfifo(out))
	_, err := Build(t.Context(), Options{Context: dir, Output: out, Platform: freebsd})
	if err == nil || !strings.Contains(err.Error(), "is a FIFO, not a regular file") {
		t.Error(err)
	}
	if fi, err := os.Lstat(out); err != nil || fi.Mode().IsRegular() {
		t.Errorf("%v %v", fi, err)
	}
}

// A layout takes the place of an empty directory, and of nothing else.
func TestALayoutReplacesOnlyAnEmptyDirectory(t *testing.T) {
	dir := t.TempDir()
	files{"Jailfile": "FROM scratch\n", "o/empty/": "", "o/full/f": "x", "o/file": "x"}.write(t, dir)
	for name, want := range map[string]string{"new/": "", "empty/": "", "empty2": "", "full/": "is not empty",
		"full": "is not empty", "file/": "not a directory"} {
		if name == "empty2" {
			check(t, os.Mkdir(dir+"/o/empty2", 0o755))
		}
		_, err := Build(t.Context(), Options{Context: dir, Output: filepath.Join(dir, "o") + "/" + name,
			Platform: freebsd})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if _, serr := os.Stat(filepath.Join(dir, "o", name, "index.json")); (serr == nil) != (want == "") {
			t.Errorf("%s: %v", name, serr)
		}
	}
	for _, f := range []string{"full/f", "file"} {
		if b, err := os.ReadFile(dir + "/o/" + f); err != nil || string(b) != "x" {
			t.Errorf("%s: %q %v", f, b, err)
		}
	}
}

// What others can change is no cache: they could put layers into it.
func TestACacheOfOthers(t *testing.T) {
	dir := t.TempDir()
	files{"Jailfile": "FROM scratch\n"}.write(t, dir)
	try := func(cache string) error {
		_, err := Build(t.Context(), Options{Context: dir, Output: filepath.Join(t.TempDir(), "x.tar"), Cache: cache,
			Platform: freebsd})
		return err
	}
	shared := t.TempDir()
	check(t, os.Chmod(shared, 0o777))
	above := filepath.Join(shared, "cache")
	for _, cache := range []string{shared, above} {
		if err := try(cache); err == nil || !strings.Contains(err.Error(), "can be changed by others") {
			t.Errorf("%s: %v", cache, err)
		}
	}
	check(t, os.Chmod(shared, 0o777|fs.ModeSticky)) // as /tmp is
	check(t, try(above))
	needRoot(t)
	own := t.TempDir()
	check(t, os.Chown(own, 1001, 1001))
	link := filepath.Join(t.TempDir(), "link")
	check(t, os.Symlink(own+"/cache", link))
	for _, cache := range []string{own, own + "/cache", link} {
		if err := try(cache); err == nil || !strings.Contains(err.Error(), "owner 1001") {
			t.Errorf("%s: %v", cache, err)
		}
	}
}

// FROM a path in the context does not lead out of it, and what was looked at is
// what is imported.
func TestABaseInTheContext(t *testing.T) {
	other := base(t, files{"f": "x"}, "FROM scratch\nCOPY f /\n")
	layout := filepath.Join(t.TempDir(), "layout")
	m := make1(t, files{"f": "x"}, "FROM scratch\nCOPY f /\n")
	check(t, m.store.WriteLayout(t.Context(), m.img.Name, layout))
	for name, p := range map[string]struct{ to, want string }{
		"FROM ./base.tar": {other, "a link leads out of the context"},
		"FROM ./base":     {layout, "a link leads out of the context"},
		"FROM scratch\nCOPY --from=./base.tar /f /\n": {other, "a link leads out of the context"},
	} {
		dir := t.TempDir()
		files{"Jailfile": name + "\n"}.write(t, dir)
		check(t, os.Symlink(p.to, filepath.Join(dir, "base"+filepath.Ext(p.to))))
		if err := buildHostile(t.Context(), t, "", dir); err == nil || !strings.Contains(err.Error(), p.want) {
			t.Errorf("%s: %v, want %s", name, err, p.want)
		}
	}
	dir := t.TempDir()
	files{"Jailfile": "FROM ./base.tar\n"}.write(t, dir)
	trap(t, dir+"/base.tar", "", false)
	if err := buildHostile(t.Context(), t, "", dir); err == nil || !strings.Contains(err.Error(), "FIFO") {
		t.Error(err)
	}
	inside := t.TempDir()
	files{"Jailfile": "FROM ./link.tar\n", "link.tar": "-> base.tar"}.write(t, inside)
	b, err := os.ReadFile(other)
	check(t, errors.Join(err, os.WriteFile(inside+"/base.tar", b, 0o644)))
	check(t, buildHostile(t.Context(), t, "", inside))
}
