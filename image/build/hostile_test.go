package build

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// trap is a FIFO with a writer that waits. A build that opens it, or with mayOpen
// one that reads it, is told, and does not hang the test.
func trap(t *testing.T, name, text string, mayOpen bool) {
	t.Helper()
	check(t, mkfifo(name))
	var fell atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return
		}
		fell.Store(!mayOpen)
		_, err = f.WriteString(text + strings.Repeat("\n", 1<<20)) // more than fits in
		fell.Store(!mayOpen || err == nil)
		_ = f.Close() // nobody may read it
	}()
	t.Cleanup(func() {
		if fell.Load() {
			t.Errorf("%s was opened", name)
		}
		for { // until the writer has got so far that it can be woken
			f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
			check(t, err)
			check(t, f.Close())
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
}

// places are where a build finds a file of the context by itself.
var places = map[string]struct {
	name    string
	context files
}{
	"Jailfile":     {"Jailfile", nil},
	"Bastillefile": {"Bastillefile", nil},
	".jailignore":  {".jailignore", files{"Jailfile": "FROM scratch\n"}},
	"INCLUDE":      {"part", files{"Jailfile": "FROM scratch\nINCLUDE part\n"}},
	"template":     {"www/Bastillefile", files{"Jailfile": "FROM scratch\nINCLUDE www\n", "www/": ""}},
	"COPY":         {"file", files{"Jailfile": "FROM scratch\nCOPY file /\n"}},
	"COPY *":       {"file", files{"Jailfile": "FROM scratch\nCOPY fil* /\n"}},
	"COPY in":      {"file", files{"Jailfile": "FROM scratch\nCOPY file/* /\n"}},
	"ADD":          {"file", files{"Jailfile": "FROM scratch\nADD file /\n"}},
	"CP":           {"www/file", files{"Bastillefile": "INCLUDE www\n", "www/Bastillefile": "CP file /\n"}},
	"OVERLAY":      {"file", files{"Bastillefile": "OVERLAY file\n"}},
	"explicit":     {"Other", files{"Jailfile": "FROM scratch\n"}},
}

func buildHostile(ctx context.Context, t *testing.T, place, dir string) error {
	o := Options{Context: dir, Output: filepath.Join(t.TempDir(), "x.tar"), TempDir: t.TempDir(), Platform: freebsd}
	if place == "explicit" {
		o.File = filepath.Join(dir, "Other")
	}
	if _, err := os.Lstat(filepath.Join(dir, BastilleFile)); err == nil {
		o.From = "scratch"
	}
	_, err := Build(ctx, o)
	if left, rerr := os.ReadDir(o.TempDir); rerr != nil || len(left) > 0 {
		t.Errorf("the build left %v: %v", left, rerr)
	}
	if _, serr := os.Lstat(o.Output); err != nil && !errors.Is(serr, fs.ErrNotExist) {
		t.Error("it failed, and there is an image")
	}
	return err
}

// Nothing of a context leads out of it, and nothing in it makes a build wait.
func TestAContextShowsNothingOfTheHost(t *testing.T) {
	const secret = "root:hunter2:0:0"
	host := t.TempDir()
	files{"secret": secret + "\n", "part/Bastillefile": secret + "\n"}.write(t, host)
	up := strings.Repeat("../", 40)
	kinds := map[string]func(t *testing.T, at string){
		"link":    func(t *testing.T, at string) { check(t, os.Symlink(host+"/secret", at)) },
		"link up": func(t *testing.T, at string) { check(t, os.Symlink(up+host[1:]+"/secret", at)) },
		"link twice": func(t *testing.T, at string) {
			check(t, os.Symlink(host, at+".d"))
			check(t, os.Symlink(filepath.Base(at)+".d/secret", at))
		},
		"directory": func(t *testing.T, at string) { check(t, os.Symlink(host+"/part", at)) },
		"FIFO":      func(t *testing.T, at string) { trap(t, at, secret+"\n", false) },
		"to a FIFO": func(t *testing.T, at string) {
			trap(t, at+".f", secret+"\n", false)
			check(t, os.Symlink(filepath.Base(at)+".f", at))
		},
		"socket": func(t *testing.T, at string) {
			t.Chdir(filepath.Dir(at)) // its path may be too long
			l, err := net.Listen("unix", filepath.Base(at))
			check(t, err)
			t.Cleanup(func() { l.Close() })
		},
		"device": func(t *testing.T, at string) {
			needRoot(t)
			if out, err := command(t, "mknod", at, "c", "1", "3"); err != nil {
				t.Skip("no device can be made here: ", out)
			}
		},
		"hard link": func(t *testing.T, at string) {
			needRoot(t)
			other := filepath.Join(filepath.Dir(filepath.Dir(at)), "secret")
			check(t, os.WriteFile(other, []byte(secret+"\n"), 0o600))
			check(t, os.Chown(filepath.Dir(at), 1001, 1001))
			check(t, os.Link(other, at))
		},
		"moved": func(t *testing.T, at string) { // it has one link, as a file whose other one is removed
			needRoot(t)
			check(t, os.WriteFile(at, []byte(secret+"\n"), 0o600))
			check(t, os.Chown(filepath.Dir(at), 1001, 1001))
		},
		"hard link by a group": func(t *testing.T, at string) {
			needRoot(t)
			check(t, os.WriteFile(at, []byte(secret+"\n"), 0o600))
			check(t, os.Chown(filepath.Dir(at), 0, 1001))
			check(t, os.Chmod(filepath.Dir(at), 0o2775))
		},
		"hard link by anybody": func(t *testing.T, at string) {
			check(t, os.WriteFile(at, []byte(secret+"\n"), 0o600))
			check(t, os.Chmod(filepath.Dir(at), 0o1777))
		},
		"link to a hard link": func(t *testing.T, at string) {
			needRoot(t)
			evil := filepath.Join(filepath.Dir(at), "evil")
			check(t, os.MkdirAll(evil, 0o755))
			check(t, os.Chown(evil, 1001, 1001))
			check(t, os.WriteFile(evil+"/x", []byte(secret+"\n"), 0o600))
			check(t, os.Symlink("evil/x", at))
		},
	}
	for place, p := range places {
		for kind, put := range kinds {
			t.Run(place+"/"+kind, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "c")
				check(t, os.Mkdir(dir, 0o755))
				p.context.write(t, dir)
				put(t, filepath.Join(dir, p.name))
				err := buildHostile(t.Context(), t, place, dir)
				if err == nil || strings.Contains(err.Error(), "hunter2") {
					t.Fatalf("want it refused: %v", err)
				}
				if !strings.Contains(err.Error(), filepath.Base(p.name)) {
					t.Errorf("it does not name the file: %v", err)
				}
				t.Log(err)
			})
		}
	}
}

// Hard links that the context's owner has made of files of his own are files like others.
func TestHardLinksOfTheContextsOwn(t *testing.T) {
	dir := t.TempDir()
	files{"a": "x", "Jailfile": "FROM scratch\nCOPY a b /\n"}.write(t, dir)
	check(t, os.Link(dir+"/a", dir+"/b"))
	if os.Geteuid() == 0 {
		check(t, os.Chown(dir, 1001, 1001))
		check(t, os.Chown(dir+"/a", 1001, 1001))
	}
	check(t, buildHostile(t.Context(), t, "", dir))
}

// Whose directory a file lies in decides what is taken, and not how many links it has.
func TestWhoMayHavePutAFileThere(t *testing.T) {
	needRoot(t)
	type owned struct {
		uid, gid int
		mode     os.FileMode
	}
	root := owned{0, 0, 0o755}
	for name, c := range map[string]struct {
		context, dir, file owned
		refused            string // by whom it may have been put there
	}{
		"root's checkout":             {root, root, owned{0, 0, 0o600}, ""},
		"root's, with another's file": {root, root, owned{1001, 1001, 0o600}, ""},
		"a user's": {owned{1001, 1001, 0o700}, owned{1001, 1001, 0o755},
			owned{1001, 1001, 0o600}, ""},
		"a user's, with root's program": {owned{1001, 1001, 0o700}, owned{1001, 1001, 0o755}, owned{0, 0, 0o755},
			""},
		"a user's, with root's secret": {owned{1001, 1001, 0o755}, owned{1001, 1001, 0o755}, owned{0, 0, 0o600},
			"user 1001"},
		"a user's, with a group's secret": {owned{1001, 1001, 0o755}, owned{1001, 1001, 0o755}, owned{0, 0, 0o604},
			"user 1001"},
		"below a user's": {owned{1001, 1001, 0o755}, root, owned{0, 0, 0o600}, "user 1001"},
		"in root's private one below": {owned{1001, 1001, 0o755}, owned{0, 0, 0o700}, owned{0, 0, 0o644},
			"user 1001"},
		"a user's in a user's":             {root, owned{1001, 1001, 0o755}, owned{1002, 1002, 0o600}, "user 1001"},
		"a group's, with root's secret":    {root, owned{0, 1001, 0o2775}, owned{0, 1001, 0o600}, "group 1001"},
		"a group's, with the group's file": {root, owned{0, 1001, 0o2775}, owned{0, 1001, 0o640}, ""},
		"a group's, with anybody's file":   {root, owned{0, 1001, 0o2775}, owned{0, 0, 0o644}, ""},
		// daemon on both systems
		"a private group's":                {owned{1, 1, 0o775}, owned{1, 1, 0o775}, owned{1, 1, 0o600}, ""},
		"a private group's, root's secret": {owned{1, 1, 0o775}, owned{1, 1, 0o775}, owned{0, 0, 0o600}, "user 1"},
		"anybody's":                        {root, owned{0, 0, 0o1777}, owned{0, 0, 0o600}, "everybody"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			files{"d/f": "hunter2", "Jailfile": "FROM scratch\nCOPY d/f /\n"}.write(t, dir)
			for name, o := range map[string]owned{"": c.context, "d": c.dir, "d/f": c.file} {
				at := filepath.Join(dir, name)
				check(t, unix.Chown(at, o.uid, o.gid))
				check(t, unix.Chmod(at, uint32(o.mode)))
			}
			check(t, os.Chown(dir+"/Jailfile", c.context.uid, c.context.gid))
			err := buildHostile(t.Context(), t, "", dir)
			if c.refused == "" {
				check(t, err)
			} else if err == nil || !strings.Contains(err.Error(), "d/f in the context") ||
				!strings.Contains(err.Error(), "to which "+c.refused+" can write") {
				t.Errorf("want it refused for %s: %v", c.refused, err)
			}
		})
	}
}

// A hard link that is removed as soon as it is opened, or a directory that is exchanged, gives nothing.
func TestHardLinksThatComeAndGo(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	files{"secret": "hunter2", "sub/": "", "old/x": "x"}.write(t, dir)
	check(t, os.Chmod(dir+"/secret", 0o600))
	for _, own := range []string{"sub", "old", "old/x"} {
		check(t, os.Chown(filepath.Join(dir, own), 1001, 1001))
	}
	b := newBuilder(Options{Context: dir})
	var err error
	b.context, err = os.OpenRoot(dir)
	check(t, err)
	defer b.context.Close()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for at := dir + "/sub/x"; ; {
			select {
			case <-stop:
				return
			default:
			}
			_, _ = os.Link(dir+"/secret", at), os.Remove(at) // what fails is tried again
			_, _ = os.Rename(dir+"/sub", dir+"/s"), os.Rename(dir+"/old", dir+"/sub")
			_, _ = os.Rename(dir+"/sub", dir+"/old"), os.Rename(dir+"/s", dir+"/sub")
		}
	}()
	refused := 0
	for range 200_000 {
		f, _, err := b.openFile("sub/x")
		if err != nil {
			if strings.Contains(err.Error(), "user 1001 can write") {
				refused++
			}
			continue
		}
		text, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil || string(text) != "x" {
			t.Errorf("%q %v", text, err)
			break
		}
	}
	close(stop)
	<-done
	t.Logf("%d opens met the link", refused)
}

func TestAContextThatIsNone(t *testing.T) {
	dir := t.TempDir()
	trap(t, dir+"/fifo", "", false)
	if err := buildHostile(t.Context(), t, "", dir+"/fifo"); err == nil ||
		!strings.Contains(err.Error(), "not a directory") {
		t.Error(err)
	}
}

// -f may name a file that is elsewhere, for that is the operator's word.
func TestAJailfileElsewhere(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	files{"real": "FROM scratch\nCOPY f /\n", "link": "-> real"}.write(t, other)
	files{"f": "x"}.write(t, dir)
	for _, name := range []string{"real", "link"} {
		_, err := Build(t.Context(), Options{Context: dir, File: filepath.Join(other, name),
			Output: filepath.Join(t.TempDir(), "x.tar"), Platform: freebsd})
		check(t, err)
	}
	trap(t, other+"/fifo", "FROM scratch\n", false)
	_, err := Build(t.Context(), Options{Context: dir, File: other + "/fifo",
		Output: filepath.Join(t.TempDir(), "x.tar"), Platform: freebsd})
	if err == nil || !strings.Contains(err.Error(), "it is a FIFO") {
		t.Error(err)
	}
}

// The index of a layout in FROM is read before it is imported.
func TestALayoutWithAFIFO(t *testing.T) {
	dir := t.TempDir()
	files{"base/blobs/sha256/": "", "base/oci-layout": `{"imageLayoutVersion":"1.0.0"}`,
		"Jailfile": "FROM ./base\n"}.write(t, dir)
	trap(t, dir+"/base/index.json", "{}", true)
	_, err := Build(t.Context(), Options{Context: dir, Output: filepath.Join(t.TempDir(), "x.tar"), Cache: t.TempDir(),
		Platform: freebsd})
	if err == nil || !strings.Contains(err.Error(), "index.json") {
		t.Error(err)
	}
}
