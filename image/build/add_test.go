package build

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/freejail/freejail/image/unpack"
)

var someTar = []tar.Header{
	{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 9},
	{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 1, Gid: 2, Uname: "bob"},
	{Name: "./bin/prog", Mode: 0o4755, Uid: 3, Gid: 4, Linkname: "program"},
	{Name: "bin/hard", Typeflag: tar.TypeLink, Linkname: "./bin/prog"},
	{Name: "deep/er/f", Linkname: "text"},
	{Name: "sh", Typeflag: tar.TypeSymlink, Linkname: "bin/prog", Mode: 0o777},
}

func TestAddUnpacks(t *testing.T) {
	plain := tarOf(t, someTar...)
	var gz, zst bytes.Buffer
	w := gzip.NewWriter(&gz)
	_, err := w.Write([]byte(plain))
	check(t, err)
	check(t, w.Close())
	z, err := zstd.NewWriter(&zst)
	check(t, err)
	_, err = z.Write([]byte(plain))
	check(t, err)
	check(t, z.Close())
	for name, text := range map[string]string{"x.tar": plain, "x.tgz": gz.String(), "x.weird": zst.String()} {
		context := files{name: text, "f": "plain"}
		m := make1(t, context, "FROM scratch\nADD "+name+" f /opt/\n")
		m.want(0, "5 opt/ 755 0:0", "5 opt/bin/ 750 1:2", "0 opt/bin/prog 4755 3:4",
			"1 opt/bin/hard 644 0:0 -> opt/bin/prog",
			"5 opt/deep/ 755 0:0", "5 opt/deep/er/ 755 0:0", "0 opt/deep/er/f 644 0:0", "2 opt/sh 777 0:0 -> bin/prog",
			"0 opt/f 644 0:0")
		m.has("opt/bin/hard", "program")
		m.has("opt/sh", "program")
		make1(t, context, "FROM scratch\nCOPY "+name+" /\n").want(0, "0 "+name+" 644 0:0")
	}
	make1(t, files{"x": plain}, "FROM scratch\nADD --chown=7:8 --chmod=640 x /\n").want(0, "5 bin/ 750 7:8",
		"0 bin/prog 640 7:8",
		"1 bin/hard 640 7:8 -> bin/prog", "5 deep/ 755 0:0", "5 deep/er/ 755 0:0", "0 deep/er/f 640 7:8",
		"2 sh 777 7:8 -> bin/prog")
}

func TestAddOfWhatIsNoArchive(t *testing.T) {
	for name, text := range map[string]string{"text": "hello", "empty": "", "gz": "\x1f\x8b no",
		"xz": "\xfd7zXZ\x00 no", "gz2": "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff bad"} {
		m := make1(t, files{name: text}, "FROM scratch\nADD "+name+" /\n")
		m.want(0, "0 "+name+" 644 0:0")
		m.has(name, text)
	}
}

func TestAddFollowsTheImagesLinksInside(t *testing.T) {
	from := base(t, files{"t/usr/home/": "", "t/home": "-> /usr/home", "t/out": "-> ../../../tmp",
		"t/etc/passwd": "a:*:1:1::/:/\n"}, "FROM scratch\nCOPY t /\n")
	x := tarOf(t, tar.Header{Name: "home/", Typeflag: tar.TypeDir, Mode: 0o711},
		tar.Header{Name: "home/f", Linkname: "1"}, tar.Header{Name: "out/g", Linkname: "2"},
		tar.Header{Name: "lnk", Typeflag: tar.TypeSymlink, Linkname: "/etc"},
		tar.Header{Name: "lnk/passwd", Linkname: "replaced"},
		tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "home/f"})
	m := make1(t, files{"x": x}, "FROM "+from+"\nADD x /\n")
	m.want(1, "5 usr/home/ 711 0:0", "0 usr/home/f 644 0:0", "5 tmp/ 755 0:0", "0 tmp/g 644 0:0",
		"2 lnk 644 0:0 -> /etc", "0 etc/passwd 644 0:0", "1 h 644 0:0 -> usr/home/f")
	m.has("h", "1")
	m.has("etc/passwd", "replaced")
}

func TestHostileArchives(t *testing.T) {
	for name, c := range map[string]struct {
		h    tar.Header
		want string
	}{
		"up":           {tar.Header{Name: "../x", Linkname: "1"}, "leads out"},
		"up in it":     {tar.Header{Name: "a/../../x", Linkname: "1"}, "leads out"},
		"device":       {tar.Header{Name: "mem", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 1}, "device nodes"},
		"whiteout":     {tar.Header{Name: "etc/.wh.passwd"}, "means a deleted file"},
		"opaque":       {tar.Header{Name: ".wh..wh..opq"}, "means a deleted file"},
		"hard link":    {tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}, "leads out"},
		"to nothing":   {tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}, "does not exist"},
		"to directory": {tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "dir"}, "not a file"},
		"over":         {tar.Header{Name: "dir", Linkname: "1"}, "is a directory"},
		"dir over":     {tar.Header{Name: "file", Typeflag: tar.TypeDir}, "is a file or a link"},
		"under file":   {tar.Header{Name: "file/x", Linkname: "1"}, "not a directory"},
		"deep":         {tar.Header{Name: strings.Repeat("d/", 300) + "x", Linkname: "1"}, "deep"},
		"no owner":     {tar.Header{Name: "x", Uid: 1<<32 - 1}, "invalid owner"},
	} {
		x := tarOf(t, tar.Header{Name: "dir/", Typeflag: tar.TypeDir}, tar.Header{Name: "file", Linkname: "f"}, c.h)
		_, err := try(t, files{"x.tar": x}, "FROM scratch\nADD x.tar /to/\n", nil)
		if err == nil || !strings.Contains(err.Error(), c.want) ||
			!strings.Contains(err.Error(), "Jailfile:2: ADD: archive x.tar") {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	whole := tarOf(t, someTar...)
	fails(t, files{"x.tar": whole[:len(whole)-2200]}, "FROM scratch\nADD x.tar /\n", 2, "unexpected EOF")
}

func TestTimesOfAnArchiveAreClamped(t *testing.T) {
	x := tarOf(t, tar.Header{Name: "old", ModTime: time.Unix(1000, 0)},
		tar.Header{Name: "new", ModTime: time.Unix(3000, 0)})
	m, err := try(t, files{"x": x, "f": ""}, "FROM scratch\nADD x f /\n",
		func(o *Options) { o.Epoch = time.Unix(2000, 5) })
	check(t, err)
	r, err := unpack.OpenLayer(t.Context(), m.store, m.img.Layers[0])
	check(t, err)
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		if want := map[string]int64{"old": 1000, "new": 2000, "f": 2000}[h.Name]; h.ModTime.Unix() != want {
			t.Errorf("%s: %d, want %d", h.Name, h.ModTime.Unix(), want)
		}
	}
	if m.img.Created.Unix() != 2000 {
		t.Error(m.img.Created)
	}
}

func TestArchiveImage(t *testing.T) {
	dir := t.TempDir()
	files{"base[1].txz": tarOf(t, someTar...), "text": "no archive"}.write(t, dir)
	m := &made{T: t, path: t.TempDir() + "/base.tar"}
	img, err := Archive(t.Context(), []Set{{File: dir + "/base[1].txz"}},
		Options{Output: m.path, Tag: "base", TempDir: t.TempDir()})
	check(t, err)
	m.take(img)
	m.has("bin/hard", "program")
	if m.img.Config.OS != "freebsd" || m.img.Name != "base" || len(m.img.Layers) != 1 {
		t.Errorf("%+v", m.img)
	}
	if _, err := Archive(t.Context(), []Set{{File: dir + "/text"}}, Options{Output: m.path + "2"}); err == nil ||
		!strings.Contains(err.Error(), "not an archive") {
		t.Error(err)
	}
	if _, err := Archive(t.Context(), []Set{{File: dir + "/gone"}}, Options{Output: m.path + "2"}); err == nil {
		t.Error("an archive that is not there")
	}
}
