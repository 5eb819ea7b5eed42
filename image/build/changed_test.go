package build

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
)

// whileCopying builds, and does something between the moment at which the
// context was hashed and that at which it is copied.
func (c *cachedBuild) whileCopying(lines string, do func()) error {
	c.Helper()
	check(c, os.WriteFile(filepath.Join(c.dir, "Jailfile"), []byte(lines), 0o644))
	o := Options{Context: c.dir, Output: filepath.Join(c.TempDir(), "x.tar"), Cache: c.cache, Platform: freebsd}
	o.Progress = func(text string) {
		if strings.HasPrefix(text, "line 2:") && !strings.HasSuffix(text, "(cached)") {
			do()
		}
	}
	_, err := Build(c.Context(), o)
	return err
}

// What is hashed is what is copied: else the cache would give others what nobody
// has looked at.
func TestWhatIsHashedIsWhatIsCopied(t *testing.T) {
	put := func(c *cachedBuild, name, text string) func() {
		return func() { check(c, os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o644)) }
	}
	for name, act := range map[string]struct {
		line string
		do   func(c *cachedBuild) func()
	}{
		"other bytes": {"COPY f /", func(c *cachedBuild) func() { return put(c, "f", "EVIL") }},
		"longer":      {"COPY f /", func(c *cachedBuild) func() { return put(c, "f", "good and more") }},
		"shorter":     {"COPY f /", func(c *cachedBuild) func() { return put(c, "f", "g") }},
		"passwd":      {"COPY passwd /etc/", func(c *cachedBuild) func() { return put(c, "passwd", "EVIL") }},
		"archive":     {"ADD x.tar /", func(c *cachedBuild) func() { return put(c, "x.tar", tarOf(c, someTar[0])) }},
		"exchanged": {"COPY f /", func(c *cachedBuild) func() {
			return func() { put(c, "evil", "EVIL")(); check(c, os.Rename(c.dir+"/evil", c.dir+"/f")) }
		}},
		"a link out": {"COPY f /", func(c *cachedBuild) func() {
			return func() { check(c, os.Remove(c.dir+"/f")); check(c, os.Symlink("/etc/passwd", c.dir+"/f")) }
		}},
		"a FIFO": {"COPY f /", func(c *cachedBuild) func() {
			return func() { check(c, os.Remove(c.dir+"/f")); trap(c.T, c.dir+"/f", "EVIL", false) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCachedBuild(t, files{"f": "good", "passwd": "a:*:1:1::/:/x\n", "x.tar": tarOf(t, someTar...)})
			err := c.whileCopying("FROM scratch\n"+act.line+"\n", act.do(c))
			var at *Error
			if !errors.As(err, &at) || at.Line != 2 {
				t.Errorf("it was built: %v", err)
			}
			t.Log(err)
		})
	}
}

// A file that is exchanged and put back leaves nothing in the cache.
func TestACacheIsNotPoisoned(t *testing.T) {
	c := newCachedBuild(t, files{"f": "good", "d/a": "good", "evil": "EVIL", "more/b": "EVIL"})
	for _, line := range []string{"COPY f /", "COPY d /d/"} {
		at, evil := c.dir+"/f", c.dir+"/evil"
		if strings.Contains(line, "d/") {
			at, evil = c.dir+"/d", c.dir+"/more"
		}
		swap := func(a, b string) {
			check(t, os.Rename(a, a+".old"))
			check(t, os.Rename(b, a))
			check(t, os.Rename(a+".old", b))
		}
		err := c.whileCopying("FROM scratch\n"+line+"\n", func() { swap(at, evil) })
		if err == nil {
			t.Errorf("%s: what was not hashed was copied", line)
		}
		swap(at, evil)
		img, _ := c.build("FROM scratch\n" + line + "\n")
		store, err := layout.OpenStore(t.TempDir(), image.Limits{})
		check(t, err)
		out := t.TempDir()
		check(t, os.WriteFile(filepath.Join(c.dir, "Jailfile"), []byte("FROM scratch\n"+line+"\n"), 0o644))
		_, err = Build(t.Context(), Options{Context: c.dir, Store: store, Tag: "x", Cache: c.cache, Platform: freebsd})
		check(t, err)
		check(t, unpack.Image(t.Context(), store, img, out, nil))
		check(t, filepath.WalkDir(out, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				b, rerr := os.ReadFile(p)
				if err = rerr; string(b) != "good" {
					t.Errorf("%s: the image has %s with %q", line, d.Name(), b)
				}
			}
			return err
		}))
	}
}
