package testoci

import (
	"archive/tar"
	"strings"
)

// large needs several blocks of the writers.
var large = strings.Repeat("0123456789abcdef", 3<<13) // of 16 bytes

// Attack tries to reach a file beside the root. Whether it is refused or kept
// inside, that file and all around it must be as it was. HOST stands for the
// directory in which it is.
type Attack struct {
	Name   string
	Layers [][]Item
	Want   string // part of the error; empty: it is taken, and kept inside
	Inside string // then this is there, under the root
}

// Attacks are all of them.
func Attacks() []Attack {
	long := strings.Repeat("d/", 3000)
	return []Attack{
		{"dot dot", [][]Item{{File("../victim", "x")}}, "leads out", ""},
		{"dot dot in the middle", [][]Item{{File("a/../../victim", "x")}}, "leads out", ""},
		{"dot dot at the end", [][]Item{{Dir("a/..")}}, "leads out", ""},
		{"dot dot as a directory", [][]Item{{Dir("..")}}, "leads out", ""},
		{"absolute name", [][]Item{{File("HOST/victim", "x")}}, "", "HOST/victim"},
		{"relative link, then through it", [][]Item{{Symlink("l", "../"), File("l/victim", "x")}}, "", "victim"},
		{"absolute link, then through it", [][]Item{{Symlink("l", "HOST"), File("l/victim", "x")}}, "", "HOST/victim"},
		{"link of a lower layer", [][]Item{{Symlink("l", "HOST")}, {File("l/victim", "x")}}, "", "HOST/victim"},
		{"many links", [][]Item{{Symlink("a", "b/.."), Symlink("b", "../.."), File("a/a/../victim", "x")}}, "leads out",
			""},
		{"link to a link", [][]Item{{Symlink("b", "../../.."), Symlink("a", "b"), File("a/victim", "x")}}, "",
			"victim"},
		{"deep link upwards", [][]Item{{Dir("x/y"), Symlink("x/y/l", "../../../../.."), File("x/y/l/victim", "x")}}, "",
			"victim"},
		{"file over a link", [][]Item{{Symlink("f", "HOST/victim")}, {File("f", "x")}}, "", "f"},
		{"file over a link in one layer", [][]Item{{Symlink("f", "HOST/victim"), File("f", "x")}}, "", "f"},
		{"directory over a link", [][]Item{{Symlink("d", "HOST")}, {Dir("d").WithMode(0o777), File("d/new", "x")}}, "",
			"d/new"},
		{"links in a circle", [][]Item{{Symlink("a", "b"), Symlink("b", "a"), File("a/f", "x")}},
			"too many symbolic links", ""},
		{"hard link upwards", [][]Item{{Hardlink("h", "../victim"), File("h", "x")}}, "leads out", ""},
		{"hard link to an absolute name", [][]Item{{Hardlink("h", "HOST/victim")}}, "no such file", ""},
		{"hard link through a link", [][]Item{{Symlink("l", "HOST"), Hardlink("h", "l/victim")}}, "no such file", ""},
		{"hard link to a link, then written",
			[][]Item{{Symlink("l", "HOST/victim"), Hardlink("h", "l"), File("h", "x")}}, "", "h"},
		{"hard link to a link, changed later", [][]Item{{Symlink("l", "HOST/victim"), Hardlink("h", "l")},
			{File("l", "x")}}, "", "l"},
		{"hard link to a directory", [][]Item{{Dir("d"), Hardlink("h", "d")}}, "not a file", ""},
		{"hard link to the root", [][]Item{{Hardlink("h", "/")}}, "not a file", ""},
		{"hard link to itself", [][]Item{{File("f", "x"), Hardlink("f", "f")}}, "itself", ""},
		{"hard link at a place behind a link",
			[][]Item{{File("f", "x"), Symlink("l", "HOST"), Hardlink("l/victim", "f")}}, "", "HOST/victim"},
		{"whiteout of dot dot", [][]Item{{File(".wh...", "")}}, "not a valid whiteout", ""},
		{"whiteout of dot", [][]Item{{File(".wh..", "")}}, "not a valid whiteout", ""},
		{"whiteout of nothing", [][]Item{{File(".wh.", "")}}, "not a valid whiteout", ""},
		{"whiteout of a whiteout", [][]Item{{File(".wh..wh.x", "")}}, "not a valid whiteout", ""},
		{"whiteout of dot dot, deeper", [][]Item{{Dir("d"), File("d/.wh...", "")}}, "not a valid whiteout", ""},
		{"whiteout behind a link", [][]Item{{Symlink("l", "HOST")}, {File("l/.wh.victim", "")}}, "", ""},
		{"whiteout behind a relative link", [][]Item{{Symlink("l", "..")}, {File("l/.wh.victim", "")}}, "", ""},
		{"whiteout of a link", [][]Item{{Symlink("l", "HOST/victim")}, {File(".wh.l", "")}}, "", ""},
		{"whiteout of a link to a directory", [][]Item{{Symlink("l", "HOST")}, {File(".wh.l", "")}}, "", ""},
		{"whiteout of a directory with a link in it", [][]Item{{Dir("d"), Symlink("d/l", "HOST")}, {File(".wh.d", "")}},
			"", ""},
		{"opaque behind a link", [][]Item{{Symlink("l", "HOST")}, {File("l/.wh..wh..opq", "")}}, "", ""},
		{"opaque directory with a link in it", [][]Item{{Dir("d"), Symlink("d/l", "HOST")},
			{Dir("d"), File("d/.wh..wh..opq", "")}}, "", "d"},
		{"a directory named like a whiteout", [][]Item{{File(".wh.d/f", "x")}}, "cannot be a directory", ""},
		{"directory replaced by a link before the end",
			[][]Item{{Dir("d").WithMode(0o700), File(".wh.d", ""), Symlink("d", "HOST")}}, "", ""},
		{"lower directory replaced by a link", [][]Item{{Dir("d/e").WithMode(0o711)},
			{Dir("d/e").WithMode(0o700), Symlink("d", "HOST")}}, "", ""},
		{"a name of dots", [][]Item{{File("d/./.", "x")}}, "", "d"},
		{"the root itself as a file", [][]Item{{File(".", "x")}}, "only be a directory", ""},
		{"the root as a link", [][]Item{{Symlink("/", "HOST")}}, "only be a directory", ""},
		{"the root removed", [][]Item{{Hardlink(".", "x")}}, "only be a directory", ""},
		{"a file as a directory", [][]Item{{File("f", "x"), File("f/g", "x")}}, "not a directory", ""},
		{"too deep", [][]Item{{File(long[:600]+"f", "x")}}, "deep", ""},
		{"too long", [][]Item{{File(long+"f", "x")}}, "longer than", ""},
		{"character device", [][]Item{{Special(tar.TypeChar, "mem")}}, "device nodes", ""},
		{"block device", [][]Item{{Special(tar.TypeBlock, "x/dev/sda")}}, "device nodes", ""},
		{"device behind a link", [][]Item{{Symlink("dev", "HOST"), Special(tar.TypeChar, "dev/victim")}}, "", ""},
		{"device through a link", [][]Item{{Symlink("l", "dev"), Special(tar.TypeChar, "l/mem")}}, "device nodes", ""},
		{"device as /dev", [][]Item{{Special(tar.TypeChar, "dev")}}, "device nodes", ""},
		{"FIFO over a link", [][]Item{{Symlink("f", "HOST/victim"), Special(tar.TypeFifo, "f").WithMode(0o777)}}, "",
			"f"},
		{"FIFO behind a link", [][]Item{{Symlink("l", "HOST"), Special(tar.TypeFifo, "l/victim")}}, "", "HOST/victim"},
		{"a file over a FIFO", [][]Item{{Special(tar.TypeFifo, "f")}, {File("f", "x")}}, "", "f"},
		{"a file through a FIFO", [][]Item{{Special(tar.TypeFifo, "f"), File("f/x", "x")}}, "not a directory", ""},
		{"aufs's directory as a link", [][]Item{{Symlink(".wh..wh.plnk", "HOST"), File(".wh..wh.plnk/victim", "x")}},
			"", ""},
		{"hard link to a lower layer's link, then written", [][]Item{{Symlink("l", "HOST/victim")},
			{Hardlink("h", "l"), File("h", "x")}}, "", "h"},
		{"hard link through a lower layer's link", [][]Item{{Symlink("l", "..")}, {Hardlink("h", "l/victim")}},
			"no such file", ""},
		{"directory swapped for a link by a later layer", [][]Item{{Dir("d"), File("d/f", "x")}, {Symlink("d", "HOST")},
			{File("d/victim", "x")}}, "", "HOST/victim"},
		{"directory swapped for a link between two files",
			[][]Item{{Dir("d"), File("d/a", "x"), Symlink("d", "HOST"), File("d/victim", "x")}}, "", "HOST/victim"},
		{"a link in every component", [][]Item{{Symlink("a", "."), Symlink("b", "a/.."), Symlink("c", "b/../.."),
			File("a/b/c/victim", "x")}}, "", "victim"},
		{"link to proc", [][]Item{{Symlink("l", "/proc/self/cwd"), File("l/victim", "x")}}, "", "proc/self/cwd/victim"},
		{"opaque of the root behind a link", [][]Item{{Symlink("l", "/"), File("f", "x")},
			{File("l/.wh..wh..opq", "")}}, "", ""},
		{"opaque marker as a directory", [][]Item{{Dir(".wh..wh..opq"), File(".wh..wh..opq/f", "x")}},
			"cannot be a directory", ""},
		{"names that differ by case", [][]Item{{Symlink("Link", "HOST"), Dir("link"), File("link/victim", "x"),
			File("LINK/victim", "x")}}, "", "LINK/victim"},
		{"names that differ by dots and slashes",
			[][]Item{{Symlink("l", "HOST"), File("./l//victim", "x"), Dir("l/./")}}, "", "l"},
		{"PAX name over the header's", [][]Item{{pax("harmless", "path", "../victim")}}, "leads out", ""},
		{"PAX name through a link", [][]Item{{Symlink("l", "HOST"), pax("harmless", "path", "l/victim")}}, "",
			"HOST/victim"},
		{"PAX link name upwards", [][]Item{{Hardlink("h", "../"+strings.Repeat("x", 120)+"/victim")}}, "leads out", ""},
		{"huge size", [][]Item{{sized("f", 1<<62)}}, "limit of", ""},
		{"duplicate entries of all kinds", [][]Item{{Symlink("d", "HOST/victim"), Dir("d"), File("d", "x"),
			Symlink("d", "HOST/victim"), File("d", "y")}}, "", "d"},
		{"setuid file over a link", [][]Item{{Symlink("su", "HOST/victim"), File("su", "x").WithMode(0o4777)}}, "",
			"su"},
		{"directory mode through a link", [][]Item{{Symlink("d", "HOST/other"), Dir("d/.").WithMode(0o777)}}, "", "d"},
		{"owner that means no change", [][]Item{{Item{Header: tar.Header{Typeflag: tar.TypeReg, Name: "f",
			Uid: 1<<32 - 1, Mode: 0o4755, Format: tar.FormatPAX}}}}, "owner", ""},
		{"file replaced by a link while it is written",
			[][]Item{{File("f", large), Symlink("f", "HOST/victim"), File("g", large)}}, "", "f"},
		{"file behind a link while another is written",
			[][]Item{{Symlink("l", "HOST"), File("l/victim", large), File("l/other/file", large)}}, "", "HOST/victim"},
		{"hard link to a file that is being written",
			[][]Item{{File("f", large), Hardlink("h", "f"), Symlink("f", "HOST/victim"), File("f", "x")}}, "", "h"},
		{"directory in the middle of a path replaced by a link", [][]Item{{File("a/b/c/f", "x"), Symlink("a", "HOST"),
			File("a/b/c/g", "x"), File("a/victim", "x")}}, "", "HOST/b/c/g"},
		{"lower directory in the middle replaced by a link", [][]Item{{File("a/b/c/f", "x")}, {File("a/b/c/g", "x"),
			Symlink("a", "HOST"), File("a/b/c/h", "x"), File("a/victim", "x")}}, "", "HOST/b/c/h"},
		{"directory of a hard link's target replaced by a link", [][]Item{{File("d/f", "x"), Hardlink("h", "d/f"),
			Symlink("d", "HOST"), Hardlink("h2", "d/victim")}}, "no such file", ""},
		{"directory of a hard link's target removed", [][]Item{{File("d/f", "x")}, {Hardlink("h", "d/f"),
			File(".wh.d", ""), Symlink("d", "HOST"), Hardlink("h2", "d/f")}}, "no such file", ""},
		{"hard link over the directory of its target", [][]Item{{File("d/f", "x"), Hardlink("d", "d/f")}},
			"no such file", ""},
		{"hard link to a whiteout's victim", [][]Item{{File("f", "x")}, {File(".wh.f", ""), Hardlink("h", "f")}},
			"no such file", ""},
		{"whiteout and opaque through many links", [][]Item{{Symlink("a", "b"), Symlink("b", "c"), Symlink("c",
			"HOST")}, {File("a/.wh..wh..opq", ""), File("a/other/.wh.file", ""), File("a/.wh.victim", "")}}, "", ""},
		{"PAX name of a whiteout upwards", [][]Item{{pax("harmless", "path", "../.wh.victim")}}, "leads out", ""},
		{"PAX name that is absolute", [][]Item{{pax("harmless", "path", "HOST/victim")}}, "", "HOST/victim"},
		{"PAX link through a link", [][]Item{{Symlink("l", "HOST"), paxLink("h", "l/victim")}}, "no such file", ""},
		{"extended attributes of the host's kernel", [][]Item{{Symlink("l", "HOST/victim"),
			pax("l", "SCHILY.xattr.security.capability", "x"), pax("g", "SCHILY.xattr.user.x", "y")}}, "", "g"},
		{"mode with more than its bits", [][]Item{{Symlink("f", "HOST/victim"), File("f", "x").WithMode(0o7777777)}},
			"", "f"},
		{"time far beyond", [][]Item{{Symlink("f", "HOST/victim"), pax("f", "mtime", "99999999999")}}, "", "f"},
		{"link to nothing", [][]Item{{Symlink("l", ""), File("l/victim", "x")}}, "is empty", ""},
		{"link longer than any path", [][]Item{{Symlink("l", strings.Repeat("../", 2000)+"victim")}}, "longer than",
			""},
		{"name of dots only", [][]Item{{File(".../victim", "x"), File("d/..../f", "x")}}, "", ".../victim"},
		{"backslashes are no separators", [][]Item{{File("..\\victim", "x"), File("a\\..\\..\\victim", "x")}}, "",
			"..\\victim"},
		{"newlines and escapes in a name", [][]Item{{File("a\n../victim", "x")}}, "", "a\n../victim"},
	}
}

// pax is a file whose PAX record says otherwise than its header.
func pax(name, key, value string) Item {
	i := File(name, "")
	i.Format, i.Raw = tar.FormatPAX, [2]string{key, value}
	return i
}

// paxLink is a hard link whose PAX record says otherwise than its header.
func paxLink(name, target string) Item {
	i := Hardlink(name, "harmless")
	i.Format, i.Raw = tar.FormatPAX, [2]string{"linkpath", target}
	return i
}

// sized is a file that is not as large as its header says.
func sized(name string, size int64) Item {
	i := File(name, "")
	i.Size, i.Format = size, tar.FormatGNU
	return i
}
