package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCopy(t *testing.T) {
	context := files{"prog": "#!x", "f": "text", "d/a": "1", "d/sub/b": "#!2", "d/link": "-> /etc/passwd",
		"d/empty/": "", "two/a": "other",
		"to-d": "-> d", "to-f": "-> f", "up/f": "-> ../f", "x.conf": "x", "y.conf": "y", "w/a b": "blank"}
	for line, want := range map[string][]string{
		"COPY f /f":         {"0 f 644 0:0"},
		"COPY f /a/b/c":     {"5 a/ 755 0:0", "5 a/b/ 755 0:0", "0 a/b/c 644 0:0"},
		"COPY f /a/":        {"5 a/ 755 0:0", "0 a/f 644 0:0"},
		"COPY f a":          {"0 a 644 0:0"},
		"COPY ./f /":        {"0 f 644 0:0"},
		"COPY prog f /bin/": {"5 bin/ 755 0:0", "0 bin/f 644 0:0", "0 bin/prog 755 0:0"},
		"COPY d /x": {"5 x/ 755 0:0", "0 x/a 644 0:0", "5 x/empty/ 755 0:0",
			"2 x/link 777 0:0 -> /etc/passwd", "5 x/sub/ 755 0:0", "0 x/sub/b 755 0:0"},
		"COPY d two /x/": {"5 x/ 755 0:0", "0 x/a 644 0:0", "5 x/empty/ 755 0:0",
			"2 x/link 777 0:0 -> /etc/passwd", "5 x/sub/ 755 0:0", "0 x/sub/b 755 0:0"},
		"COPY to-f /f":                        {"0 f 644 0:0"}, // as a source itself a link is followed
		"COPY up/f /f":                        {"0 f 644 0:0"},
		"COPY to-d/sub /s":                    {"5 s/ 755 0:0", "0 s/b 755 0:0"},
		"COPY *.conf /etc/":                   {"5 etc/ 755 0:0", "0 etc/x.conf 644 0:0", "0 etc/y.conf 644 0:0"},
		"COPY x*.conf /one":                   {"0 one 644 0:0"},
		"COPY two /":                          {"0 a 644 0:0"},
		"COPY d/../two/./a /":                 {"0 a 644 0:0"},
		`COPY "w/a b" /`:                      {"0 a b 644 0:0"},
		`COPY ["w/a b", "/"]`:                 {"0 a b 644 0:0"},
		"ADD f /g":                            {"0 g 644 0:0"},
		"COPY f /../../up":                    {"0 up 644 0:0"},
		"COPY --chmod=4711 f /":               {"0 f 4711 0:0"},
		"COPY --chmod=640 --chown=7 d/sub /s": {"5 s/ 755 0:0", "0 s/b 640 7:7"},
		"COPY --chmod=640 --chown=7:8 d/ /s/x": {"5 s/ 755 0:0", "5 s/x/ 755 0:0", "0 s/x/a 640 7:8",
			"5 s/x/empty/ 750 7:8", "2 s/x/link 777 7:8 -> /etc/passwd", "5 s/x/sub/ 750 7:8", "0 s/x/sub/b 640 7:8"},
		"WORKDIR /srv/x": {"5 srv/ 755 0:0", "5 srv/x/ 755 0:0"},
	} {
		make1(t, context, "FROM scratch\n"+line+"\n").want(-1, want...)
	}
}

func TestCopySubstitutesAndUsesWorkdir(t *testing.T) {
	m := make1(t, files{"bin-freebsd-amd64": "x"}, "FROM scratch\nARG TARGETOS TARGETARCH\nARG DIR=app\nENV "+
		"TO=prog\nWORKDIR /srv/$DIR\nWORKDIR sub\nCOPY bin-$TARGETOS-$TARGETARCH ${TO}\n")
	m.want(-1, "0 srv/app/sub/prog 644 0:0")
	if m.img.Config.Config.WorkingDir != "/srv/app/sub" {
		t.Error(m.img.Config.Config.WorkingDir)
	}
}

func TestCopyNeverLeavesTheContext(t *testing.T) {
	outside := t.TempDir()
	files{"secret": "s", "dir/secret": "s"}.write(t, outside)
	context := files{"abs": "-> " + outside + "/secret", "rel": "-> ../../../../../../../../etc/passwd",
		"absdir": "-> " + outside, "d/f": "x",
		"chain": "-> d/up", "d/up": "-> ../../" + filepath.Base(outside) +
			"/secret", "loop": "-> loop", "gone": "-> nowhere"}
	for line, want := range map[string]string{
		"COPY abs /":             "escapes",
		"COPY rel /":             "escapes",
		"COPY chain /":           "escapes",
		"COPY absdir /":          "escapes",
		"COPY absdir/secret /":   "escapes",
		"COPY absdir/* /":        "nothing in the context matches",
		"COPY ../x /":            "leads out of the context",
		"COPY d/../../x /":       "leads out of the context",
		"COPY .. /":              "leads out of the context",
		"COPY ../*/secret /":     "leads out of the context",
		"COPY /etc/passwd /":     "absolute",
		"ADD /etc/passwd /":      "absolute",
		"ADD http://x.org/y /":   "nothing is fetched",
		"COPY loop /":            "too many",
		"COPY gone /":            "no such file",
		"COPY nothing /":         "no such file",
		"COPY d abs /x":          "must be a directory",
		"COPY --chown=web d /":   `no user "web"`,
		"COPY --chown=0:g d /":   `no group "g"`,
		"COPY --chmod=x d /":     "octal",
		"COPY --chmod=10000 d /": "octal",
	} {
		fails(t, context, "FROM scratch\n\n"+line+"\n", 3, want)
	}
	// Within a directory, links are copied as they are, and followed nowhere.
	m := make1(t, context, "FROM scratch\nCOPY . /\n")
	for _, e := range m.layer(0) {
		if strings.HasPrefix(e, "0 ") && !strings.Contains(e, "Jailfile") && e != "0 d/f 644 0:0" {
			t.Errorf("copied: %s", e)
		}
	}
}

func TestCopyRefusesWhatNoImageHas(t *testing.T) {
	fails(t, files{"d/.wh.x": "y"}, "FROM scratch\nCOPY d /\n", 2, "means a deleted file")
	fails(t, files{"d/.wh..wh..opq/x": "y"}, "FROM scratch\nCOPY d /\n", 2, "means a deleted file")
	fails(t, files{"d/x": "y"}, "FROM scratch\nCOPY d /.wh.z/\n", 2, "means a deleted file")
	fails(t, files{"a": "y", "d/a/b": "x"}, "FROM scratch\nCOPY a /\nCOPY d /\n", 3,
		"is a file in the image and a directory")
	fails(t, files{"a": "y", "d/a/b": "x"}, "FROM scratch\nCOPY d /\nCOPY a /b/\nCOPY b /a\n", 4, "no such file")
	fails(t, files{"a": "y", "d/a/b": "x", "e/a": "z"}, "FROM scratch\nCOPY d /\nCOPY e /\n", 3,
		"is a directory in the image and a file")
	fails(t, files{"a": "y"}, "FROM scratch\nCOPY a /x\nCOPY a /x/y\n", 3, "not a directory")
	fails(t, files{"a": "y"}, "FROM scratch\nCOPY a /x\nWORKDIR /x\n", 3, "not a directory")
}

// A base's links to directories are followed as in the image, and inside it.
func TestCopyThroughTheBasesLinks(t *testing.T) {
	from := base(t, files{"t/usr/home/": "", "t/home": "-> usr/home", "t/abs": "-> /usr/home",
		"t/usr/sub/abs": "-> /usr/home", "t/out": "-> ../../../../../../tmp", "t/gone": "-> /nowhere/x",
		"t/file": "-> /usr/home", "t/tmp/": "", "t/loop": "-> loop", "t/self": "-> /self/x",
		"t/etc/passwd": "web:*:77:78::/home/web:/bin/sh\n", "t/usr/old": "-> /etc/passwd"},
		"FROM scratch\nCOPY t /\n")
	context := files{"f": "new", "d/home/me/f": "x", "l/abs": "-> elsewhere"}
	for line, want := range map[string][]string{
		"COPY f /home/":           {"0 usr/home/f 644 0:0"},
		"COPY f /home":            {"0 usr/home/f 644 0:0"},
		"COPY f /home/f":          {"0 usr/home/f 644 0:0"},
		"COPY f /abs/a/":          {"5 usr/home/a/ 755 0:0", "0 usr/home/a/f 644 0:0"},
		"COPY f /usr/sub/abs/":    {"0 usr/home/f 644 0:0"},
		"COPY f /out/":            {"0 tmp/f 644 0:0"},
		"COPY f /out/../x":        {"0 x 644 0:0"},
		"COPY d /":                {"5 usr/home/me/ 755 0:0", "0 usr/home/me/f 644 0:0"},
		"COPY f /gone/":           {"5 nowhere/ 755 0:0", "5 nowhere/x/ 755 0:0", "0 nowhere/x/f 644 0:0"},
		"COPY f /usr/old":         {"0 usr/old 644 0:0"}, // not through it into passwd
		"COPY --chown=web f /f":   {"0 f 644 77:78"},
		"COPY --chown=web:9 f /f": {"0 f 644 77:9"},
		"WORKDIR /home/web":       {"5 usr/home/web/ 755 0:0"},
	} {
		m := make1(t, context, "FROM "+from+"\n"+line+"\n")
		m.want(1, want...)
		m.root() // and it unpacks
	}
	for line, want := range map[string]string{
		"COPY f /loop/":  "too many symbolic links",
		"COPY f /self/y": "too many symbolic links",
		"COPY l /":       "is a directory in the image",
	} {
		if line == "COPY l /" { // a link takes the place of a link
			make1(t, context, "FROM "+from+"\n"+line+"\n").want(1, "2 abs 777 0:0 -> elsewhere")
			continue
		}
		fails(t, context, "FROM "+from+"\n"+line+"\n", 2, want)
	}
	if m := make1(t, context, "FROM "+from+"\nWORKDIR /home\n"); len(m.img.Layers) != 1 {
		t.Errorf("WORKDIR of a directory that is there made a layer: %v", m.layer(1))
	}
}

func TestCopyFindsUsersThatItCopied(t *testing.T) {
	make1(t, files{"passwd": "a:*:5:6::/:/x\n", "group": "g:*:9:\n", "f": "x"},
		"FROM scratch\nCOPY passwd group /etc/\nCOPY --chown=a:g f /\n").want(1, "0 f 644 5:9")
}

func TestIgnore(t *testing.T) {
	context := files{".jailignore": "# c\n*.o\n/secret\nsub\n!sub/keep\n\n", "a.o": "x", "a.c": "x", "d/b.o": "x",
		"secret/k": "x", "sub/drop": "x", "sub/keep": "x", "Jailfile.txt": "x"}
	make1(t, context, "FROM scratch\nCOPY . /src/\n").want(0, "5 src/ 755 0:0", "0 src/.jailignore 644 0:0",
		"0 src/Jailfile 644 0:0", "0 src/Jailfile.txt 644 0:0",
		"0 src/a.c 644 0:0", "5 src/d/ 755 0:0", "0 src/d/b.o 644 0:0", "5 src/sub/ 755 0:0", "0 src/sub/keep 644 0:0")
	fails(t, context, "FROM scratch\nCOPY secret /\n", 2, "excluded")
	fails(t, context, "FROM scratch\nCOPY *.o /\n", 2, "nothing in the context matches")
	if _, err := try(t, files{".jailignore": "["}, "FROM scratch\n", nil); err == nil ||
		!strings.Contains(err.Error(), ".jailignore:1: syntax error") {
		t.Error(err)
	}
}

func TestOutputIsNotCopied(t *testing.T) {
	dir := t.TempDir()
	files{"f": "x", "out/old.tar": "x", "Jailfile": "FROM scratch\nCOPY . /\n"}.write(t, dir)
	for range 2 {
		out := filepath.Join(dir, "out", "image.tar")
		_, err := Build(t.Context(), Options{Context: dir, Output: out, Platform: freebsd})
		check(t, err)
		m := &made{T: t, path: out}
		m.take(nil)
		m.want(0, "0 Jailfile 644 0:0", "0 f 644 0:0", "5 out/ 755 0:0", "0 out/old.tar 644 0:0")
	}
}

func TestSpecialFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	files{"Jailfile": "FROM scratch\nCOPY . /\n"}.write(t, dir)
	check(t, mkfifo(filepath.Join(dir, "fifo")))
	_, err := Build(t.Context(), Options{Context: dir, Output: filepath.Join(t.TempDir(), "x.tar")})
	if err == nil || !strings.Contains(err.Error(), "fifo is not a regular file, directory or link") {
		t.Error(err)
	}
	files{"Named": "FROM scratch\nCOPY fifo /\n"}.write(t, dir)
	_, err = Build(t.Context(), Options{Context: dir, File: filepath.Join(dir, "Named"),
		Output: filepath.Join(t.TempDir(), "x.tar")})
	if err == nil || !strings.Contains(err.Error(), "fifo is not a regular file") {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "fifo")); err != nil {
		t.Error(err)
	}
}
