package treecopy

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const much = 1 << 40

// plant makes files in a directory: "d/" a directory, "l->to" a link, else a file of that content.
func plant(t *testing.T, dir string, files ...string) *os.File {
	t.Helper()
	for _, f := range files {
		link, to, is := strings.Cut(f, "->")
		name, content, _ := strings.Cut(f, "=")
		switch {
		case is:
			check(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, link)), 0o755))
			check(t, os.Symlink(to, filepath.Join(dir, link)))
		case strings.HasSuffix(f, "/"):
			check(t, os.MkdirAll(filepath.Join(dir, f), 0o755))
		default:
			check(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
			check(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
		}
	}
	root, err := os.Open(dir)
	check(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

// tree has a line for each file below a directory.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	check(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		check(t, err)
		rel, _ := filepath.Rel(dir, p)
		switch {
		case p == dir:
			return nil
		case e.IsDir():
			rel += "/"
		case e.Type() == fs.ModeSymlink:
			to, err := os.Readlink(p)
			check(t, err)
			rel += "->" + to
		default:
			b, err := os.ReadFile(p)
			check(t, err)
			rel += "=" + string(b)
		}
		lines = append(lines, rel)
		return nil
	}))
	return strings.Join(lines, " ")
}

func sent(t *testing.T, root *os.File, name string, o Options) (*bytes.Buffer, error) {
	t.Helper()
	var b bytes.Buffer
	if o.MaxBytes == 0 {
		o.MaxBytes = much
	}
	err := Send(t.Context(), root, name, false, o, &b)
	return &b, err
}

// A destination means what it means to docker cp.
func TestPlaces(t *testing.T) {
	for _, c := range []struct{ src, dst, want string }{
		{"f", "/none", "none=1"}, {"f", "/none/", "!"}, {"f", "/none/x", "!"}, {"f", "/file", "file=1"}, {"f", "/file/", "!"},
		{"f", "/dir", "dir/f=1"}, {"f", "/dir/", "dir/f=1"}, {"f", "/dir/g", "dir/g=1"}, {"f", "/link", "dir/f=1"},
		{"f", "/flink", "file=1"}, {"f", "/out", "real/f=1"}, {"f", "/", "f=1"},
		{"d", "/none", "none/ none/x=2"}, {"d", "/none/", "none/ none/x=2"}, {"d", "/none/x", "!"}, {"d", "/file", "!"},
		{"d", "/dir", "dir/d/ dir/d/x=2"}, {"d/.", "/dir", "dir/x=2"}, {"d/.", "/none", "none/ none/x=2"},
		{"d/", "/dir", "dir/d/ dir/d/x=2"}, {"d", "/link/e", "dir/e/ dir/e/x=2"}, {"f/.", "/dir", "!"}, {"f/", "/dir", "!"},
		{"l", "/dir", "dir/l->d"}, {"l/", "/dir", "dir/l/ dir/l/x=2"}, {".", "/dir", "dir/d/ dir/d/x=2 dir/f=1 dir/l->d"},
	} {
		from := plant(t, t.TempDir(), "f=1", "d/x=2", "l->d")
		dir := t.TempDir()
		to := plant(t, dir, "file=0", "dir/", "real/", "link->dir", "flink->/file", "out->../../real")
		archive, err := sent(t, from, c.src, Options{})
		if err == nil {
			_, _, contents := Names(c.src)
			err = Receive(t.Context(), to, c.dst, Source{Name: filepath.Base(c.src), Contents: contents},
				Options{MaxBytes: much}, archive)
		}
		got := tree(t, dir)
		for _, was := range []string{"dir/", "real/", "link->dir", "flink->/file", "out->../../real"} {
			got = strings.TrimSpace(strings.Replace(" "+got+" ", " "+was+" ", " ", 1))
		}
		got = strings.TrimSpace(strings.Replace(" "+got+" ", " file=0 ", " ", 1))
		if c.want == "!" && (err == nil || got != "") || c.want != "!" && (err != nil || got != c.want) {
			t.Errorf("%s to %s: %q %v, want %s", c.src, c.dst, got, err, c.want)
		}
	}
}

// No path and no link leads out of the tree that is read.
func TestNothingFromOutside(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, "secret=no", "out/secret=no")
	root := plant(t, filepath.Join(dir, "root"), "secret=yes", "d/up->../../secret", "d/abs->"+filepath.Join(dir, "secret"),
		"deep->../../../../../secret", "dir->"+dir, "loop->loop", "dirup->../out")
	for name, want := range map[string]string{"../secret": "yes", "/../../secret": "yes", "/deep/.": "!", "/dir/secret": "!",
		"/dir/.": "!", "loop/": "!", "dirup/secret": "!", "d/../../secret": "yes"} {
		b, err := sent(t, root, name, Options{})
		if (want == "!") != (err != nil) || strings.Contains(b.String(), "no") && err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var b bytes.Buffer
	for _, name := range []string{"d/up", "deep"} { // what they name is within
		check(t, Send(t.Context(), root, name, true, Options{MaxBytes: much}, &b))
	}
	if err := Send(t.Context(), root, "d/abs", true, Options{MaxBytes: much}, &b); err == nil {
		t.Error("a link led out of the root")
	}
	b.Reset()
	check(t, Send(t.Context(), root, "/", false, Options{MaxBytes: much}, &b))
	if got := b.String(); strings.Contains(got, "no\x00") {
		t.Error("something of outside was copied")
	}
}

func TestWhatIsCopied(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	root := plant(t, dir, "d/f=one", "d/l->/etc/passwd", "d/sub/x=2")
	check(t, os.Link(filepath.Join(dir, "d/f"), filepath.Join(dir, "d/g")))
	check(t, unix.Mkfifo(filepath.Join(dir, "d/fifo"), 0o600))
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	check(t, err)
	defer l.Close()
	check(t, os.Rename(filepath.Join(dir, "s"), filepath.Join(dir, "d/socket")))
	check(t, os.WriteFile(filepath.Join(dir, "d/holes"), nil, 0o600))
	check(t, os.Truncate(filepath.Join(dir, "d/holes"), 64<<20))
	check(t, os.Chmod(filepath.Join(dir, "d/sub"), 0o500))
	check(t, unix.Chmod(filepath.Join(dir, "d/f"), 0o4755))
	then := time.Unix(1e9, 0)
	check(t, os.Chtimes(filepath.Join(dir, "d/sub"), then, then))
	for _, owners := range []bool{false, true} {
		var left []string
		o := Options{MaxBytes: much, Owners: owners, Problem: func(name, why string) { left = append(left, name+": "+why) }}
		b, err := sent(t, root, "d", o)
		check(t, err)
		slices.Sort(left)
		if got := strings.Join(left, "; "); got != "d/fifo: left out: it is a FIFO; d/socket: left out: it is a socket" {
			t.Errorf("left out: %s", got)
		}
		at := filepath.Join(to, fmt.Sprint(owners))
		check(t, os.Mkdir(at, 0o755))
		dest := plant(t, at)
		check(t, Receive(t.Context(), dest, "/d", Source{Name: "d"}, o, b))
		var f, g, holes, sub unix.Stat_t
		check(t, errors.Join(unix.Stat(at+"/d/f", &f), unix.Stat(at+"/d/g", &g), unix.Stat(at+"/d/holes", &holes),
			unix.Stat(at+"/d/sub", &sub)))
		want := map[bool]uint32{false: 0o755, true: 0o4755}[owners]
		if f.Ino != g.Ino || uint32(f.Mode)&0o7777 != want {
			t.Errorf("owners %v: links %d and %d, mode %o", owners, f.Ino, g.Ino, f.Mode)
		}
		if holes.Size != 64<<20 || holes.Blocks*512 > 1<<20 {
			t.Errorf("holes: %d bytes, %d blocks", holes.Size, holes.Blocks)
		}
		if sec, _ := sub.Mtim.Unix(); uint32(sub.Mode)&0o777 != 0o500 || sec != 1e9 {
			t.Errorf("a directory: %o %d", sub.Mode, sec)
		}
		if to, err := os.Readlink(at + "/d/l"); err != nil || to != "/etc/passwd" {
			t.Errorf("a link: %s %v", to, err)
		}
	}
}

type entry struct {
	name, link string
	kind       byte
}

func archive(t *testing.T, entries ...entry) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: 0o644}
		if e.kind == tar.TypeReg {
			h.Size = 4
		}
		check(t, w.WriteHeader(h))
		if e.kind == tar.TypeReg {
			_, err := io.WriteString(w, "evil")
			check(t, err)
		}
	}
	check(t, w.Close())
	return &b
}

// Whatever an archive says, and whatever links lie in the tree, nothing is written outside of the destination.
func TestHostileArchives(t *testing.T) {
	const reg, dir, sym, hard = tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink
	for name, entries := range map[string][]entry{
		"up":                   {{"../evil", "", reg}},
		"up within":            {{"a/../../evil", "", reg}},
		"through a link":       {{"l", "/", sym}, {"l/evil", "", reg}},
		"through a link there": {{"out/evil", "", reg}},
		"through two":          {{"a", "", dir}, {"a/l", "..", sym}, {"a/l/evil", "", reg}},
		"a link for a dir":     {{"d", "", dir}, {"d", "/", sym}},
		"a directory over":     {{"out", "", dir}, {"out/evil", "", reg}},
		"a file over a dir":    {{"have", "", reg}},
		"hard link out":        {{"h", "../secret", hard}},
		"hard link absolute":   {{"h", "/etc/passwd", hard}, {"h", "", reg}},
		"hard link to a file":  {{"h", "file", hard}},
		"hard link to a link":  {{"l", "../secret", sym}, {"h", "l", hard}},
		"hard link via a link": {{"x/f", "", reg}, {"h", "out/f", hard}},
		"the place itself":     {{"./", "", dir}, {".", "", reg}},
		"NUL":                  {{"a\x00b", "", reg}},
		"deep":                 {{strings.Repeat("d/", 300) + "f", "", reg}},
	} {
		t.Run(name, func(t *testing.T) {
			host := t.TempDir()
			plant(t, host, "secret=no")
			root := plant(t, filepath.Join(host, "root"), "dest/file=mine", "dest/have/", "dest/out->../..", "secret=mine",
				"dest/x/")
			var b bytes.Buffer
			if name != "NUL" {
				_, err := io.Copy(&b, archive(t, entries...))
				check(t, err)
			}
			err := Receive(t.Context(), root, "/dest", Source{}, Options{MaxBytes: much}, &b)
			if err == nil && name != "NUL" {
				t.Error("no error")
			}
			got := tree(t, host)
			for _, kept := range []string{"secret=no", "root/secret=mine", "root/dest/file=mine", "root/dest/out->../.."} {
				if !strings.Contains(got, kept) {
					t.Errorf("no %s in %s", kept, got)
				}
			}
			if strings.Count(got, "evil=") > 0 {
				t.Errorf("written: %s", got)
			}
		})
	}
}

// A device and a FIFO are told, not made; a file that is there is replaced, not written to.
func TestReplaced(t *testing.T) {
	host := t.TempDir()
	root := plant(t, host, "dest/l->../other", "other=mine", "dest/f=mine")
	check(t, os.Link(filepath.Join(host, "dest/f"), filepath.Join(host, "linked")))
	told := 0
	err := Receive(t.Context(), root, "/dest", Source{}, Options{MaxBytes: much, Problem: func(string, string) { told++ }},
		archive(t, entry{"l", "", tar.TypeReg}, entry{"f", "", tar.TypeReg}, entry{"dev", "", tar.TypeChar},
			entry{"fifo", "", tar.TypeFifo}))
	check(t, err)
	if got := tree(t, host); got != "dest/ dest/f=evil dest/l=evil linked=mine other=mine" || told != 2 {
		t.Errorf("%s, %d told", got, told)
	}
}

func TestBounds(t *testing.T) {
	root := plant(t, t.TempDir(), "d/a=12345", "d/b=12345")
	if _, err := sent(t, root, "d", Options{MaxBytes: 9}); err == nil || !strings.Contains(err.Error(), "more than 9") {
		t.Errorf("sent: %v", err)
	}
	b, err := sent(t, root, "d", Options{})
	check(t, err)
	err = Receive(t.Context(), root, "/e", Source{Name: "d"}, Options{MaxBytes: 9}, b)
	if err == nil || !strings.Contains(err.Error(), "more than 9") {
		t.Errorf("received: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the task ended")
	cancel(gone)
	if err := Send(ctx, root, "d", false, Options{MaxBytes: much}, io.Discard); !errors.Is(err, gone) {
		t.Errorf("after the end: %v", err)
	}
	err = Receive(t.Context(), root, "/none", Source{Name: "x"}, Options{MaxBytes: much}, strings.NewReader(""))
	if err == nil {
		t.Error("an empty archive")
	}
}

// What is kept of a tree is bounded over all of its directories, before more is read.
func TestNamesAreBounded(t *testing.T) {
	dir := t.TempDir()
	root := plant(t, dir, "d/a=1", "d/b=1", "d/e/f=1")
	for _, s := range []*sender{{entries: maxEntries - 2}, {listed: maxNames - 2}} {
		if _, err := s.list(root); err != nil { // "d" alone
			t.Errorf("one more: %v", err)
		}
		s.ctx, s.out = t.Context(), tar.NewWriter(io.Discard)
		if err := s.entry(root, "d", "d", 0); err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("several more: %v", err)
		}
	}
	r := &receiver{names: maxNames - 3, way: way{{dir: root}}}
	h := &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}
	check(t, r.dir(root, "new", "new", h))
	if err := r.dir(root, "x", "x", h); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("received: %v", err)
	}
}

// Of a directory's header nothing is kept but what the directory gets.
func TestHeadersAreNotKept(t *testing.T) {
	root := plant(t, t.TempDir())
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	const dirs, record = 64, 512 << 10
	records := map[string]string{"FREEJAIL.much": strings.Repeat("x", record)}
	for i := range dirs {
		check(t, w.WriteHeader(&tar.Header{Name: fmt.Sprint("d", i, "/"), Typeflag: tar.TypeDir, Mode: 0o755,
			Format: tar.FormatPAX, PAXRecords: records}))
	}
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before, after := heap(), 0
	from := io.MultiReader(&b, readFunc(func([]byte) (int, error) { after = heap(); return 0, io.EOF }),
		bytes.NewReader(make([]byte, 1024)))
	check(t, Receive(t.Context(), root, "/", Source{}, Options{MaxBytes: much}, from))
	runtime.KeepAlive(&b)
	if kept := after - before; after == 0 || kept > dirs*record/4 {
		t.Errorf("%d bytes are kept of %d directories", kept, dirs)
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// Links that there is no room for are sent as files, and told.
func TestLinksAreBounded(t *testing.T) {
	dir := t.TempDir()
	root := plant(t, dir, "d/a=1", "d/c=2")
	check(t, errors.Join(os.Link(dir+"/d/a", dir+"/d/b"), os.Link(dir+"/d/c", dir+"/d/e")))
	var told []string
	var b bytes.Buffer
	s := &sender{ctx: t.Context(), out: tar.NewWriter(&b), seen: map[file]string{}, links: names(maxNames - len("d/a")),
		o: Options{MaxBytes: much, Problem: func(name, _ string) { told = append(told, name) }}}
	check(t, s.entry(root, "d", "d", 0))
	check(t, s.out.Close())
	kinds := ""
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		check(t, err)
		kinds += string(h.Typeflag)
	}
	if kinds != "50100" || strings.Join(told, " ") != "d/c d/e" {
		t.Errorf("entries of the kinds %s, told %q", kinds, told)
	}
}

// hook does something at the first write.
type hook struct {
	io.Writer
	do func()
}

func (h *hook) Write(p []byte) (int, error) {
	if h.do != nil {
		h.do()
		h.do = nil
	}
	return h.Writer.Write(p)
}

// A file that becomes shorter does not spoil the archive, and is told.
func TestShorter(t *testing.T) {
	dir := t.TempDir()
	root := plant(t, dir, "d/a="+strings.Repeat("x", 1<<20), "d/b=2")
	var b bytes.Buffer
	var told []string
	w := &hook{&b, func() { check(t, os.Truncate(filepath.Join(dir, "d/a"), 10)) }}
	check(t, Send(t.Context(), root, "d/a", false, Options{MaxBytes: much, Problem: func(name, why string) {
		told = append(told, name+" "+why)
	}}, w))
	if len(told) != 1 || !strings.Contains(told[0], "shorter") {
		t.Errorf("told: %q", told)
	}
	r := tar.NewReader(&b)
	h, err := r.Next()
	check(t, err)
	if n, err := io.Copy(io.Discard, r); err != nil || n != h.Size || n != 1<<20 {
		t.Errorf("%d bytes of %d: %v", n, h.Size, err)
	}
}

// swap exchanges two names all the time, until stop.
func swap(t *testing.T, a, b string) (stop func()) {
	done, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for {
			select {
			case <-done:
				return
			default:
			}
			for _, names := range [][2]string{{a, a + "~"}, {b, a}, {a, b}, {a + "~", a}} {
				for os.Rename(names[0], names[1]) != nil { // what was received is in the way
					_ = os.RemoveAll(names[1]) // more may be received meanwhile: then it is tried again
				}
			}
		}
	}()
	return func() { close(done); <-over }
}

// A tree in which a directory and a file become links to the host's and back, all the time, gives nothing of the
// host's, and takes nothing there.
func TestRaces(t *testing.T) {
	host := t.TempDir()
	plant(t, host, "outside/f=SECRET", "outside/only=SECRET")
	dir := filepath.Join(host, "root")
	root := plant(t, dir, "top/d/f=1", "top/f=1", "top/dl->"+filepath.Join(host, "outside"),
		"top/fl->"+filepath.Join(host, "outside/f"))
	defer swap(t, filepath.Join(dir, "top/d"), filepath.Join(dir, "top/dl"))()
	defer swap(t, filepath.Join(dir, "top/f"), filepath.Join(dir, "top/fl"))()
	before := tree(t, filepath.Join(host, "outside"))
	wrote := 0
	for range 500 {
		for _, name := range []string{"top", "top/d/", "top/d/f", "top/f"} {
			var b bytes.Buffer
			_ = Send(t.Context(), root, name, name == "top/f", Options{MaxBytes: much}, &b) // it may be anything
			if strings.Contains(b.String(), "SECRET") {
				t.Fatalf("%s: something of the host was copied", name)
			}
		}
		for _, e := range []entry{{"d/evil", "", tar.TypeReg}, {"d/sub/evil", "", tar.TypeReg}, {"f", "", tar.TypeReg}} {
			if Receive(t.Context(), root, "/top", Source{}, Options{MaxBytes: much}, archive(t, e)) == nil {
				wrote++
			}
		}
	}
	if after := tree(t, filepath.Join(host, "outside")); after != before {
		t.Errorf("outside: %s, was %s", after, before)
	}
	if wrote == 0 {
		t.Error("nothing was ever written: the race is none")
	}
}

// A directory in which all may write keeps the bit that keeps them from each other's files; no other special bit stays.
func TestSticky(t *testing.T) {
	from, to := plant(t, t.TempDir()), t.TempDir()
	dir := from.Name() + "/d"
	check(t, os.Mkdir(dir, 0o755))
	check(t, unix.Chmod(dir, 0o7777))
	b, err := sent(t, from, "/d", Options{MaxBytes: 1})
	check(t, err)
	check(t, Receive(t.Context(), plant(t, to), "/", Source{Name: "d"}, Options{MaxBytes: 1}, b))
	if fi, err := os.Stat(to + "/d"); err != nil || fi.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
}
