package build

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
)

// layersOf makes an image of raw layers.
func layersOf(t *testing.T, layers ...string) (*layout.Store, *image.Image) {
	t.Helper()
	s, err := layout.OpenStore(t.TempDir(), image.Limits{})
	check(t, err)
	c := ocispec.Image{Platform: freebsd, RootFS: ocispec.RootFS{Type: "layers"}}
	var list []ocispec.Descriptor
	for _, l := range layers {
		d, err := s.Add(t.Context(), ocispec.MediaTypeImageLayer, strings.NewReader(l))
		check(t, err)
		list = append(list, d)
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromString(l))
	}
	img, err := s.Put(t.Context(), "x", c, list, nil)
	check(t, err)
	return s, img
}

func (n *node) list(at string, out map[string]string) {
	for name, c := range n.names {
		p := path.Join(at, name)
		out[p] = fmt.Sprintf("%c %s", c.kind, c.link)
		if c.kind != tar.TypeSymlink {
			out[p] = fmt.Sprintf("%c %o %d:%d", c.kind, c.mode, c.uid, c.gid)
		}
		c.list(p, out)
	}
}

func listDir(t *testing.T, dir string) map[string]string {
	t.Helper()
	root, err := os.OpenRoot(dir)
	check(t, err)
	defer root.Close()
	got, err := record(t.Context(), root)
	check(t, err)
	out := map[string]string{}
	for name, s := range got {
		switch s.mode.Type() {
		case fs.ModeSymlink:
			out[name] = fmt.Sprintf("%c %s", tar.TypeSymlink, s.link)
		case fs.ModeNamedPipe:
			out[name] = fmt.Sprintf("%c %o %d:%d", tar.TypeFifo, tarMode(s.mode), s.uid, s.gid)
		case fs.ModeDir:
			out[name] = fmt.Sprintf("%c %o %d:%d", tar.TypeDir, tarMode(s.mode), s.uid, s.gid)
		default:
			out[name] = fmt.Sprintf("%c %o %d:%d", tar.TypeReg, tarMode(s.mode), s.uid, s.gid)
		}
	}
	return out
}

// What the view says of layers is what unpacking makes of them.
func TestTheViewIsWhatIsUnpacked(t *testing.T) {
	needRoot(t)
	d := func(name string) tar.Header {
		return tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o751, Uid: 5, Gid: 6}
	}
	f := func(name string) tar.Header {
		return tar.Header{Name: name, Mode: 0o640, Uid: 1, Gid: 2, Linkname: "x"}
	}
	l := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}
	}
	h := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	p := func(name string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeFifo, Mode: 0o622, Uid: 1, Gid: 2}
	}
	c := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeChar, Devmajor: 1} }
	for name, layers := range map[string][][]tar.Header{
		"FIFOs":   {{p("a"), d("d"), p("d/b"), f("f")}, {f("a"), p("d"), p("f"), h("h", "f")}},
		"devices": {{d("dev"), c("dev/null"), f("dev/f")}, {c("dev/f")}},
		"aufs": {{f(".wh..wh.aufs"), d(".wh..wh.orph"), d(".wh..wh.plnk"), f(".wh..wh.plnk/1"),
			h("a", ".wh..wh.plnk/1")}, {f("b"), c(".wh..wh.plnk/2"), f("c")}},
		"plain": {{d("a"), f("a/b"), f("made/parents/c"), l("l", "a"), h("hard", "a/b")}},
		"through links": {{d("usr/home"), l("home", "usr/home"), l("abs", "/usr/home"), l("up", "../../usr")},
			{f("home/x"), f("abs/y"), f("up/z"), d("home/d")}},
		"links in links":          {{d("a/b"), l("c", "a"), l("d", "/c/b"), l("e", "d/../..")}, {f("d/f"), f("e/g")}},
		"dangling parent":         {{l("l", "no/where")}, {f("l/x")}},
		"directory over link":     {{d("a"), f("a/x"), l("l", "a")}, {d("l"), f("l/y")}},
		"directory over file":     {{f("a")}, {d("a"), f("a/b")}},
		"file over directory":     {{d("a"), f("a/b"), d("a/c")}, {f("a")}},
		"link over directory":     {{d("a"), f("a/b"), d("c")}, {l("a", "c"), f("a/x")}},
		"directory again":         {{d("a"), f("a/b")}, {{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o700}}},
		"whiteout":                {{d("a"), f("a/b"), f("a/c")}, {f("a/.wh.b"), f(".wh.none"), f("gone/.wh.x")}},
		"whiteout of a directory": {{d("a/b"), f("a/b/c")}, {f(".wh.a")}},
		"whiteout spares":         {{d("a"), f("a/b"), f("a/c")}, {f("a/new"), f("a/b"), f("a/.wh.b"), f(".wh.a")}},
		"opaque": {{d("a"), f("a/b"), d("a/d"), f("a/d/e")},
			{d("a/d"), f("a/d/f"), f("a/.wh..wh..opq")}},
		"opaque twice": {{d("a"), f("a/b"), d("a/d"), f("a/d/e")}, {f("a/.wh..wh..opq"), f("a/x"), d("a"),
			d("a/d"), f("a/d/y"), f("a/.wh..wh..opq")}, {f("a/n"), f("a/d/.wh..wh..opq"), f("a/.wh..wh..opq")}},
		"whiteout through a link": {{d("a"), f("a/b"), l("l", "a")}, {f("l/.wh.b")}},
		"whiteout then again":     {{d("a"), f("a/b")}, {f(".wh.a"), d("a"), f("a/c")}},
		"hard links": {{f("a"), l("s", "a"), h("b", "a"), h("t", "s")},
			{h("c", "b"), f("a"), h("b", "c2/../a")}},
	} {
		var texts []string
		for _, list := range layers {
			texts = append(texts, tarOf(t, list...))
		}
		s, img := layersOf(t, texts...)
		dir := t.TempDir()
		unpacked := unpack.Image(t.Context(), s, img, dir, nil)
		b := &work{builder: &builder{store: s}, view: newView(), layers: img.Layers}
		var seen error
		for i := range img.Layers {
			if seen = b.lookAt(t.Context(), i, func(int) {}); seen != nil {
				break
			}
		}
		if unpacked != nil || seen != nil {
			if (unpacked == nil) != (seen == nil) {
				t.Errorf("%s: unpacking: %v, view: %v", name, unpacked, seen)
			}
			continue
		}
		got, want := map[string]string{}, listDir(t, dir)
		b.view.root.list("", got)
		if !maps.Equal(got, want) {
			t.Errorf("%s: the view has\n%s\nunpacked is\n%s", name, mapText(got), mapText(want))
		}
	}
}

func mapText(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, "  "+k+": "+m[k])
	}
	return strings.Join(out, "\n")
}

func TestCheck(t *testing.T) {
	good := make1(t, files{"prog": "#!x"}, "FROM scratch\nCOPY prog /bin/\nWORKDIR /srv\nUSER 80\nENV "+
		"PATH=/sbin:/bin\nENTRYPOINT [\"prog\"]\nVOLUME /data\n")
	var found image.Findings
	if err := Check(t.Context(), good.store.Layout, good.img, "", &found); err != nil || len(found.List) > 0 {
		t.Errorf("%v %v", found.List, err)
	}
	bad := make1(t, files{"text": "x"}, "FROM scratch\nCOPY text /bin/prog\nCOPY text /data\nUSER nobody\nENTRYPOINT "+
		"[\"/bin/prog\"]\nVOLUME /data\nWRITABLE /data\n")
	for _, want := range []string{`the program "/bin/prog" is not an executable file`, `no user "nobody"`,
		"volumes[0].path: not a directory in the image: /data", "writable[0]: not a directory in the image: /data"} {
		findings(t, bad.store, bad.img, want)
	}
	s, img := layersOf(t, tarOf(t, tar.Header{Name: "../x"}, tar.Header{Name: "dev", Typeflag: tar.TypeChar},
		tar.Header{Name: "a/.wh.b/c"}))
	for _, want := range []string{`layer 1: entry "../x"`, `entry "dev": device nodes`, `entry "a/.wh.b/c"`} {
		findings(t, s, img, want)
	}
	if err := unpack.Image(t.Context(), s, img, t.TempDir(), nil); err == nil {
		t.Error("what has faults was unpacked")
	}
	img.Config.RootFS.DiffIDs[0] = digest.FromString("other")
	findings(t, s, img, "its content has the digest")
	cut := tarOf(t, someTar...)
	s, img = layersOf(t, cut[:len(cut)-2200])
	findings(t, s, img, "layer 1: unexpected EOF")
}

// What the start refuses of a configuration is told before.
func TestCheckOfTheConfiguration(t *testing.T) {
	m := make1(t, files{"prog": "#!x"}, "FROM --platform=freebsd/amd64 scratch\nCOPY prog /bin/\n"+
		"ENTRYPOINT [\"/bin/prog\"]\n")
	c := &m.img.Config.Config
	for v, want := range map[string]string{"/..": "Volumes: \"/..\"", "/dev/x": "the system's own", "data": "not an absolute",
		"/bin/prog": "not a directory in the image: /bin/prog"} {
		c.Volumes = map[string]struct{}{v: {}}
		findings(t, m.store, m.img, want)
	}
	c.Volumes = map[string]struct{}{"/data": {}, "/bin": {}}
	c.StopSignal = "37"
	findings(t, m.store, m.img, "stop-signal: config: StopSignal: signal 37: FreeBSD has no signal of this number")
	c.StopSignal, m.img.Manifest.Stop.Signal = "SIGRTMIN+3", "SIGSTKFLT"
	findings(t, m.store, m.img, "stop-signal: manifest: stop.signal")
	m.img.Manifest.Stop.Signal = "sigquit"
	var found image.Findings
	if err := Check(t.Context(), m.store.Layout, m.img, "", &found); err != nil || found.Errors() > 0 {
		t.Errorf("%v %v", found.List, err)
	}
}

func findings(t *testing.T, s *layout.Store, img *image.Image, want string) {
	t.Helper()
	var found image.Findings
	check(t, Check(t.Context(), s.Layout, img, "", &found))
	if found.Errors() == 0 || !slices.ContainsFunc(found.List,
		func(f image.Finding) bool { return strings.Contains(f.String(), want) }) {
		t.Errorf("%v\nwant %q", found.List, want)
	}
}

func TestUmociUnpacks(t *testing.T) {
	umoci := os.Getenv("UMOCI_BIN")
	if _, err := os.Stat(umoci); err != nil {
		t.Skip("UMOCI_BIN does not name umoci:", err)
	}
	needRoot(t)
	dir, out := t.TempDir(), t.TempDir()
	files{"Jailfile": everyVerb, "prog": "#!x", "t/a/b": "1", "Child": "FROM " + filepath.Join(out, "base") +
		"\nCOPY t /\nADD x.tar /opt/\nCOPY --chown=7:8 t/a/b /opt/bin/prog\n", "x.tar": tarOf(t,
		someTar...)}.write(t, dir)
	_, err := Build(t.Context(), Options{Context: dir, Output: filepath.Join(out, "base") + "/",
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}})
	check(t, err)
	_, err = Build(t.Context(), Options{Context: dir, File: filepath.Join(dir, "Child"),
		Output: filepath.Join(out, "child") + "/"})
	check(t, err)
	bundle := filepath.Join(out, "bundle")
	text, err := command(t, umoci, "unpack", "--image", filepath.Join(out, "child")+":web", bundle)
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	s, err := layout.OpenStore(t.TempDir(), image.Limits{})
	check(t, err)
	img, err := s.ImportFor(t.Context(), filepath.Join(out, "child"), "", ocispec.Platform{}, nil)
	check(t, err)
	own := t.TempDir()
	check(t, unpack.Image(t.Context(), s, img, own, nil))
	if got, want := listDir(t, filepath.Join(bundle, "rootfs")), listDir(t, own); !maps.Equal(got, want) {
		t.Errorf("umoci unpacks\n%s\nfreejail\n%s", mapText(got), mapText(want))
	}
}

// What a hostile layer has does not all stay in memory.
func TestAViewIsBounded(t *testing.T) {
	text := strings.Repeat("x", maxText)
	var users []tar.Header
	for i := range maxTexts/maxText + 1 {
		users = append(users, tar.Header{Name: fmt.Sprintf("%d/passwd", i), Linkname: text})
	}
	maze := []tar.Header{{Name: "d", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "d/l0", Typeflag: tar.TypeSymlink, Linkname: "."}}
	for i := 1; i < maxLinks; i++ {
		maze = append(maze, tar.Header{Name: fmt.Sprint("d/l", i), Typeflag: tar.TypeSymlink,
			Linkname: strings.Repeat("../d/", 400) + fmt.Sprint("l", i-1)})
	}
	maze = append(maze, tar.Header{Name: fmt.Sprint("d/l", maxLinks-1, "/f"), Linkname: "x"})
	for want, layer := range map[string][]tar.Header{
		"passwd and group have more than": users,
		"longer than 255 bytes":           {{Name: strings.Repeat("n", 256), Linkname: "x"}},
		"the target of the symbolic link is longer": {{Name: "l", Typeflag: tar.TypeSymlink,
			Linkname: strings.Repeat("l/", 3000)}},
		"steps lead there": maze,
	} {
		if err := newView().apply(strings.NewReader(tarOf(t, layer...))); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A small layer of whiteouts cannot take the time of millions: each is an entry,
// each name that is hidden a step, and a marker that comes again is nothing.
func TestWhiteoutsAreCounted(t *testing.T) {
	const entries = 2000
	d := tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}
	list := []tar.Header{d}
	for i := range entries {
		list = append(list, tar.Header{Name: fmt.Sprint("d/f", i), Linkname: "x"})
	}
	for range entries {
		list = append(list, tar.Header{Name: "d/" + ".wh..wh..opq"}, d, tar.Header{Name: ".wh.d"})
	}
	v := newView()
	check(t, v.apply(strings.NewReader(tarOf(t, list...))))
	if got := maxEntries - v.left; got != int64(len(list)) {
		t.Errorf("%d of %d entries are counted", got, len(list))
	}
	if v.steps < entries || v.steps > 10*entries {
		t.Errorf("it took %d steps", v.steps)
	}
	if n := len(v.get("d").names); n != entries {
		t.Errorf("of what the layer itself made %d are left", n)
	}
	v.left = 1
	err := v.apply(strings.NewReader(tarOf(t, tar.Header{Name: ".wh.none"}, tar.Header{Name: ".wh.none"})))
	if err == nil || !strings.Contains(err.Error(), "more than 1000000 entries") {
		t.Error(err)
	}
	// Directories that only whiteouts name are gone through once in each layer, within the steps.
	v = newView()
	check(t, v.apply(strings.NewReader(tarOf(t, list[:entries+1]...))))
	v.steps = baseSteps + entrySteps*(maxEntries-v.left) - entries/2
	err = v.apply(strings.NewReader(tarOf(t, tar.Header{Name: "d/" + ".wh..wh..opq"})))
	if err == nil || !strings.Contains(err.Error(), "steps") {
		t.Error(err)
	}
}
