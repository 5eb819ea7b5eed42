package unpack

import (
	"archive/tar"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/image"
)

// large needs several blocks of the writers.
var large = strings.Repeat("0123456789abcdef", 3*blockSize/16)

// attack tries to reach a file beside the root. Whether it is refused or kept
// inside, that file and all around it must be as it was. HOST stands for the
// directory in which it is.
type attack struct {
	name   string
	layers [][]item
	want   string // part of the error; empty: it is taken, and kept inside
	inside string // then this is there, under the root
}

func attacks() []attack {
	long := strings.Repeat("d/", 3000)
	return []attack{
		{"dot dot", [][]item{{file("../victim", "x")}}, "leads out", ""},
		{"dot dot in the middle", [][]item{{file("a/../../victim", "x")}}, "leads out", ""},
		{"dot dot at the end", [][]item{{dir("a/..")}}, "leads out", ""},
		{"dot dot as a directory", [][]item{{dir("..")}}, "leads out", ""},
		{"absolute name", [][]item{{file("HOST/victim", "x")}}, "", "HOST/victim"},
		{"relative link, then through it", [][]item{{symlink("l", "../"), file("l/victim", "x")}}, "", "victim"},
		{"absolute link, then through it", [][]item{{symlink("l", "HOST"), file("l/victim", "x")}}, "", "HOST/victim"},
		{"link of a lower layer", [][]item{{symlink("l", "HOST")}, {file("l/victim", "x")}}, "", "HOST/victim"},
		{"many links", [][]item{{symlink("a", "b/.."), symlink("b", "../.."), file("a/a/../victim", "x")}}, "leads out",
			""},
		{"link to a link", [][]item{{symlink("b", "../../.."), symlink("a", "b"), file("a/victim", "x")}}, "",
			"victim"},
		{"deep link upwards", [][]item{{dir("x/y"), symlink("x/y/l", "../../../../.."), file("x/y/l/victim", "x")}}, "",
			"victim"},
		{"file over a link", [][]item{{symlink("f", "HOST/victim")}, {file("f", "x")}}, "", "f"},
		{"file over a link in one layer", [][]item{{symlink("f", "HOST/victim"), file("f", "x")}}, "", "f"},
		{"directory over a link", [][]item{{symlink("d", "HOST")}, {dir("d").WithMode(0o777), file("d/new", "x")}}, "",
			"d/new"},
		{"links in a circle", [][]item{{symlink("a", "b"), symlink("b", "a"), file("a/f", "x")}},
			"too many symbolic links", ""},
		{"hard link upwards", [][]item{{hardlink("h", "../victim"), file("h", "x")}}, "leads out", ""},
		{"hard link to an absolute name", [][]item{{hardlink("h", "HOST/victim")}}, "no such file", ""},
		{"hard link through a link", [][]item{{symlink("l", "HOST"), hardlink("h", "l/victim")}}, "no such file", ""},
		{"hard link to a link, then written",
			[][]item{{symlink("l", "HOST/victim"), hardlink("h", "l"), file("h", "x")}}, "", "h"},
		{"hard link to a link, changed later", [][]item{{symlink("l", "HOST/victim"), hardlink("h", "l")},
			{file("l", "x")}}, "", "l"},
		{"hard link to a directory", [][]item{{dir("d"), hardlink("h", "d")}}, "not a file", ""},
		{"hard link to the root", [][]item{{hardlink("h", "/")}}, "not a file", ""},
		{"hard link to itself", [][]item{{file("f", "x"), hardlink("f", "f")}}, "itself", ""},
		{"hard link at a place behind a link",
			[][]item{{file("f", "x"), symlink("l", "HOST"), hardlink("l/victim", "f")}}, "", "HOST/victim"},
		{"whiteout of dot dot", [][]item{{file(".wh...", "")}}, "not a valid whiteout", ""},
		{"whiteout of dot", [][]item{{file(".wh..", "")}}, "not a valid whiteout", ""},
		{"whiteout of nothing", [][]item{{file(".wh.", "")}}, "not a valid whiteout", ""},
		{"whiteout of a whiteout", [][]item{{file(".wh..wh.x", "")}}, "not a valid whiteout", ""},
		{"whiteout of dot dot, deeper", [][]item{{dir("d"), file("d/.wh...", "")}}, "not a valid whiteout", ""},
		{"whiteout behind a link", [][]item{{symlink("l", "HOST")}, {file("l/.wh.victim", "")}}, "", ""},
		{"whiteout behind a relative link", [][]item{{symlink("l", "..")}, {file("l/.wh.victim", "")}}, "", ""},
		{"whiteout of a link", [][]item{{symlink("l", "HOST/victim")}, {file(".wh.l", "")}}, "", ""},
		{"whiteout of a link to a directory", [][]item{{symlink("l", "HOST")}, {file(".wh.l", "")}}, "", ""},
		{"whiteout of a directory with a link in it", [][]item{{dir("d"), symlink("d/l", "HOST")}, {file(".wh.d", "")}},
			"", ""},
		{"opaque behind a link", [][]item{{symlink("l", "HOST")}, {file("l/.wh..wh..opq", "")}}, "", ""},
		{"opaque directory with a link in it", [][]item{{dir("d"), symlink("d/l", "HOST")},
			{dir("d"), file("d/.wh..wh..opq", "")}}, "", "d"},
		{"a directory named like a whiteout", [][]item{{file(".wh.d/f", "x")}}, "cannot be a directory", ""},
		{"directory replaced by a link before the end",
			[][]item{{dir("d").WithMode(0o700), file(".wh.d", ""), symlink("d", "HOST")}}, "", ""},
		{"lower directory replaced by a link", [][]item{{dir("d/e").WithMode(0o711)},
			{dir("d/e").WithMode(0o700), symlink("d", "HOST")}}, "", ""},
		{"a name of dots", [][]item{{file("d/./.", "x")}}, "", "d"},
		{"the root itself as a file", [][]item{{file(".", "x")}}, "only be a directory", ""},
		{"the root as a link", [][]item{{symlink("/", "HOST")}}, "only be a directory", ""},
		{"the root removed", [][]item{{hardlink(".", "x")}}, "only be a directory", ""},
		{"a file as a directory", [][]item{{file("f", "x"), file("f/g", "x")}}, "not a directory", ""},
		{"too deep", [][]item{{file(long[:600]+"f", "x")}}, "deep", ""},
		{"too long", [][]item{{file(long+"f", "x")}}, "longer than", ""},
		{"character device", [][]item{{special(tar.TypeChar, "mem")}}, "device nodes", ""},
		{"block device", [][]item{{special(tar.TypeBlock, "x/dev/sda")}}, "device nodes", ""},
		{"device behind a link", [][]item{{symlink("dev", "HOST"), special(tar.TypeChar, "dev/victim")}}, "", ""},
		{"device through a link", [][]item{{symlink("l", "dev"), special(tar.TypeChar, "l/mem")}}, "device nodes", ""},
		{"device as /dev", [][]item{{special(tar.TypeChar, "dev")}}, "device nodes", ""},
		{"FIFO over a link", [][]item{{symlink("f", "HOST/victim"), special(tar.TypeFifo, "f").WithMode(0o777)}}, "",
			"f"},
		{"FIFO behind a link", [][]item{{symlink("l", "HOST"), special(tar.TypeFifo, "l/victim")}}, "", "HOST/victim"},
		{"a file over a FIFO", [][]item{{special(tar.TypeFifo, "f")}, {file("f", "x")}}, "", "f"},
		{"a file through a FIFO", [][]item{{special(tar.TypeFifo, "f"), file("f/x", "x")}}, "not a directory", ""},
		{"aufs's directory as a link", [][]item{{symlink(".wh..wh.plnk", "HOST"), file(".wh..wh.plnk/victim", "x")}},
			"", ""},
		{"hard link to a lower layer's link, then written", [][]item{{symlink("l", "HOST/victim")},
			{hardlink("h", "l"), file("h", "x")}}, "", "h"},
		{"hard link through a lower layer's link", [][]item{{symlink("l", "..")}, {hardlink("h", "l/victim")}},
			"no such file", ""},
		{"directory swapped for a link by a later layer", [][]item{{dir("d"), file("d/f", "x")}, {symlink("d", "HOST")},
			{file("d/victim", "x")}}, "", "HOST/victim"},
		{"directory swapped for a link between two files",
			[][]item{{dir("d"), file("d/a", "x"), symlink("d", "HOST"), file("d/victim", "x")}}, "", "HOST/victim"},
		{"a link in every component", [][]item{{symlink("a", "."), symlink("b", "a/.."), symlink("c", "b/../.."),
			file("a/b/c/victim", "x")}}, "", "victim"},
		{"link to proc", [][]item{{symlink("l", "/proc/self/cwd"), file("l/victim", "x")}}, "", "proc/self/cwd/victim"},
		{"opaque of the root behind a link", [][]item{{symlink("l", "/"), file("f", "x")},
			{file("l/.wh..wh..opq", "")}}, "", ""},
		{"opaque marker as a directory", [][]item{{dir(".wh..wh..opq"), file(".wh..wh..opq/f", "x")}},
			"cannot be a directory", ""},
		{"names that differ by case", [][]item{{symlink("Link", "HOST"), dir("link"), file("link/victim", "x"),
			file("LINK/victim", "x")}}, "", "LINK/victim"},
		{"names that differ by dots and slashes",
			[][]item{{symlink("l", "HOST"), file("./l//victim", "x"), dir("l/./")}}, "", "l"},
		{"PAX name over the header's", [][]item{{pax("harmless", "path", "../victim")}}, "leads out", ""},
		{"PAX name through a link", [][]item{{symlink("l", "HOST"), pax("harmless", "path", "l/victim")}}, "",
			"HOST/victim"},
		{"PAX link name upwards", [][]item{{hardlink("h", "../"+strings.Repeat("x", 120)+"/victim")}}, "leads out", ""},
		{"huge size", [][]item{{sized("f", 1<<62)}}, "limit of", ""},
		{"duplicate entries of all kinds", [][]item{{symlink("d", "HOST/victim"), dir("d"), file("d", "x"),
			symlink("d", "HOST/victim"), file("d", "y")}}, "", "d"},
		{"setuid file over a link", [][]item{{symlink("su", "HOST/victim"), file("su", "x").WithMode(0o4777)}}, "",
			"su"},
		{"directory mode through a link", [][]item{{symlink("d", "HOST/other"), dir("d/.").WithMode(0o777)}}, "", "d"},
		{"owner that means no change", [][]item{{item{Header: tar.Header{Typeflag: tar.TypeReg, Name: "f",
			Uid: 1<<32 - 1, Mode: 0o4755, Format: tar.FormatPAX}}}}, "owner", ""},
		{"file replaced by a link while it is written",
			[][]item{{file("f", large), symlink("f", "HOST/victim"), file("g", large)}}, "", "f"},
		{"file behind a link while another is written",
			[][]item{{symlink("l", "HOST"), file("l/victim", large), file("l/other/file", large)}}, "", "HOST/victim"},
		{"hard link to a file that is being written",
			[][]item{{file("f", large), hardlink("h", "f"), symlink("f", "HOST/victim"), file("f", "x")}}, "", "h"},
		{"directory in the middle of a path replaced by a link", [][]item{{file("a/b/c/f", "x"), symlink("a", "HOST"),
			file("a/b/c/g", "x"), file("a/victim", "x")}}, "", "HOST/b/c/g"},
		{"lower directory in the middle replaced by a link", [][]item{{file("a/b/c/f", "x")}, {file("a/b/c/g", "x"),
			symlink("a", "HOST"), file("a/b/c/h", "x"), file("a/victim", "x")}}, "", "HOST/b/c/h"},
		{"directory of a hard link's target replaced by a link", [][]item{{file("d/f", "x"), hardlink("h", "d/f"),
			symlink("d", "HOST"), hardlink("h2", "d/victim")}}, "no such file", ""},
		{"directory of a hard link's target removed", [][]item{{file("d/f", "x")}, {hardlink("h", "d/f"),
			file(".wh.d", ""), symlink("d", "HOST"), hardlink("h2", "d/f")}}, "no such file", ""},
		{"hard link over the directory of its target", [][]item{{file("d/f", "x"), hardlink("d", "d/f")}},
			"no such file", ""},
		{"hard link to a whiteout's victim", [][]item{{file("f", "x")}, {file(".wh.f", ""), hardlink("h", "f")}},
			"no such file", ""},
		{"whiteout and opaque through many links", [][]item{{symlink("a", "b"), symlink("b", "c"), symlink("c",
			"HOST")}, {file("a/.wh..wh..opq", ""), file("a/other/.wh.file", ""), file("a/.wh.victim", "")}}, "", ""},
		{"PAX name of a whiteout upwards", [][]item{{pax("harmless", "path", "../.wh.victim")}}, "leads out", ""},
		{"PAX name that is absolute", [][]item{{pax("harmless", "path", "HOST/victim")}}, "", "HOST/victim"},
		{"PAX link through a link", [][]item{{symlink("l", "HOST"), paxLink("h", "l/victim")}}, "no such file", ""},
		{"extended attributes of the host's kernel", [][]item{{symlink("l", "HOST/victim"),
			pax("l", "SCHILY.xattr.security.capability", "x"), pax("g", "SCHILY.xattr.user.x", "y")}}, "", "g"},
		{"mode with more than its bits", [][]item{{symlink("f", "HOST/victim"), file("f", "x").WithMode(0o7777777)}},
			"", "f"},
		{"time far beyond", [][]item{{symlink("f", "HOST/victim"), pax("f", "mtime", "99999999999")}}, "", "f"},
		{"link to nothing", [][]item{{symlink("l", ""), file("l/victim", "x")}}, "is empty", ""},
		{"link longer than any path", [][]item{{symlink("l", strings.Repeat("../", 2000)+"victim")}}, "longer than", ""},
		{"name of dots only", [][]item{{file(".../victim", "x"), file("d/..../f", "x")}}, "", ".../victim"},
		{"backslashes are no separators", [][]item{{file("..\\victim", "x"), file("a\\..\\..\\victim", "x")}}, "",
			"..\\victim"},
		{"newlines and escapes in a name", [][]item{{file("a\n../victim", "x")}}, "", "a\n../victim"},
	}
}

func TestLayersCannotLeaveTheRoot(t *testing.T) {
	for _, c := range attacks() {
		t.Run(c.name, func(t *testing.T) {
			host := t.TempDir()
			root := filepath.Join(host, "root")
			for p, text := range map[string]string{"victim": "untouched", "other/file": "untouched"} {
				p = filepath.Join(host, p)
				if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(p, []byte(text), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			before := listing(t, host)
			if err := os.Mkdir(root, 0o755); err != nil {
				t.Fatal(err)
			}
			err := unpackCase(t, c.layers, host, root)
			if c.want != "" {
				wantError(t, err, c.want, "layer ", "entry ")
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
			if c.inside != "" && err == nil {
				p := filepath.Join(root, strings.ReplaceAll(c.inside, "HOST", host))
				if _, err := os.Lstat(p); err != nil {
					t.Error(err)
				}
			}
			if err := os.RemoveAll(root); err != nil {
				t.Fatalf("the tree cannot be removed: %v", err)
			}
			sameListing(t, "the host", listing(t, host), before)
		})
	}
}

// pax is a file whose PAX record says otherwise than its header.
func pax(name, key, value string) item {
	i := file(name, "")
	i.Format, i.Raw = tar.FormatPAX, [2]string{key, value}
	return i
}

// paxLink is a hard link whose PAX record says otherwise than its header.
func paxLink(name, target string) item {
	i := hardlink(name, "harmless")
	i.Format, i.Raw = tar.FormatPAX, [2]string{"linkpath", target}
	return i
}

// sized is a file that is not as large as its header says.
func sized(name string, size int64) item {
	i := file(name, "")
	i.Size, i.Format = size, tar.FormatGNU
	return i
}

func unpackCase(t *testing.T, layers [][]item, host, root string) error {
	t.Helper()
	var tars [][]byte
	for _, items := range layers {
		for i := range items {
			items[i].Name = strings.ReplaceAll(items[i].Name, "HOST", host)
			items[i].Linkname = strings.ReplaceAll(items[i].Linkname, "HOST", host)
			items[i].Raw[1] = strings.ReplaceAll(items[i].Raw[1], "HOST", host)
		}
		tars = append(tars, layerOf(t, items...))
	}
	s := newStore(t, image.Limits{})
	return Image(context.Background(), s, putLayers(t, s, "test", tars...), root, nil)
}
