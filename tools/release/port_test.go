package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// portOf unpacks the port of a release, looks at it as portlint does, and installs it from the source of the release.
func portOf(t *testing.T, release string) {
	dir := t.TempDir()
	for _, archive := range []string{"freejail-1.2.3-test-port.tar.gz", "freejail-1.2.3-test.tar.gz"} {
		cmd := exec.Command("tar", "-C", dir, "-xf", filepath.Join(release, archive))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	port := filepath.Join(dir, "sysutils", "freejail")
	lint(t, port)
	info, err := os.ReadFile(filepath.Join(port, "distinfo"))
	check(t, err)
	sum, _, err := fileSum(filepath.Join(release, "freejail-1.2.3-test.tar.gz"))
	check(t, err)
	if want := "SHA256 (freejail-1.2.3-test.tar.gz) = " + sum + "\n"; !strings.Contains(string(info), want) {
		t.Errorf("distinfo: %s\nwant %s", info, want)
	}
	installsItsPlist(t, port, filepath.Join(dir, "freejail-1.2.3-test"))
}

// installsItsPlist runs the port's recipes by bmake, with programs of this host, and compares what is there then.
func installsItsPlist(t *testing.T, port, source string) {
	t.Helper()
	bmake, err := exec.LookPath("bmake")
	if err != nil {
		t.Skip("there is no bmake")
	}
	stage := t.TempDir()
	bin := filepath.Join(stage, "usr/local/bin")
	for program, pkg := range programs {
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(bin, program), pkg)
		cmd.Dir, cmd.Env = source, append(os.Environ(), "CGO_ENABLED=0", "GOOS="+runtime.GOOS, "GOFLAGS=-mod=vendor")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	testdata, err := filepath.Abs("testdata")
	check(t, err)
	cmd := exec.Command(bmake, "-r", "-m", testdata, "STAGEDIR="+stage, "WRKSRC="+source, "stage")
	cmd.Dir = port
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var there []string
	check(t, filepath.WalkDir(filepath.Join(stage, "usr/local"), func(p string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(filepath.Join(stage, "usr/local"), p)
		if err == nil && !d.IsDir() && !strings.HasPrefix(name, docs) {
			there = append(there, name)
		}
		if path.Ext(name) == ".go" {
			t.Errorf("%s is installed", name)
		}
		return err
	}))
	text, err := os.ReadFile(filepath.Join(port, "pkg-plist"))
	check(t, err)
	var want []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(line), "@sample "), "%%PORTDOCS%%")
		want = append(want, strings.TrimSuffix(line, ".gz"))
	}
	slices.Sort(want)
	slices.Sort(there)
	if !slices.Equal(there, want) {
		t.Errorf("installed:\n%s\npkg-plist:\n%s", strings.Join(there, "\n"), strings.Join(want, "\n"))
	}
	for link, want := range map[string]string{"libexec/nomad/plugins/freejail": "../../../bin/freejail",
		examples: "../doc/freejail/example"} {
		if to, err := os.Readlink(filepath.Join(stage, "usr/local", link)); to != want {
			t.Errorf("%s leads to %s %v", link, to, err)
		}
	}
}

// order is that of a port's variables in the Porter's Handbook, a group a line.
var order = [][]string{
	{"PORTNAME", "DISTVERSION", "CATEGORIES", "MASTER_SITES"},
	{"MAINTAINER", "COMMENT", "WWW"},
	{"LICENSE", "LICENSE_FILE"},
	{"ONLY_FOR_ARCHS", "ONLY_FOR_ARCHS_REASON"},
	{"USES", "USE_RC_SUBR"},
	{"GO_TARGET", "GO_BUILDFLAGS", "CGO_ENABLED"},
	{"SUB_FILES"},
	{"PORTDOCS"},
	{"OPTIONS_DEFINE"},
}

var assigned = regexp.MustCompile(`^([A-Z_]+)=(\t+)\S`)

// lint looks for what portlint(1) reports.
func lint(t *testing.T, port string) {
	t.Helper()
	check(t, filepath.WalkDir(port, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(p)
		for i, line := range strings.Split(string(text), "\n") {
			if strings.TrimRight(line, " \t\r") != line {
				t.Errorf("%s:%d: white space at the end", p, i+1)
			}
		}
		if strings.Contains(string(text), "/usr/local") {
			t.Errorf("%s has /usr/local instead of the prefix", p)
		}
		if !strings.HasSuffix(string(text), "\n") || strings.HasSuffix(string(text), "\n\n") {
			t.Errorf("%s does not end with one line break", p)
		}
		return err
	}))
	lintMakefile(t, filepath.Join(port, "Makefile"))
	for line := range strings.Lines(read(t, filepath.Join(port, "pkg-descr"))) {
		if len(strings.TrimSpace(line)) > 80 {
			t.Errorf("pkg-descr: longer than 80: %s", line)
		}
	}
	if list := strings.Split(strings.TrimSpace(read(t, filepath.Join(port, "pkg-plist"))), "\n"); len(list) < 15 {
		t.Errorf("pkg-plist has %d lines", len(list))
	}
}

func lintMakefile(t *testing.T, file string) {
	t.Helper()
	text := read(t, file)
	var groups [][]string
	fresh := true
	for line := range strings.Lines(text) {
		m := assigned.FindStringSubmatch(line)
		switch {
		case m != nil && fresh:
			groups, fresh = append(groups, []string{m[1]}), false
		case m != nil:
			groups[len(groups)-1] = append(groups[len(groups)-1], m[1])
		case strings.TrimSpace(line) == "":
			fresh = true
		case line[0] == ' ':
			t.Errorf("a line begins with a blank: %s", line)
		}
	}
	if !slices.EqualFunc(groups, order, slices.Equal) {
		t.Errorf("the variables are %q\nwant %q", groups, order)
	}
	for _, want := range []string{"DISTVERSION=\t1.2.3-test\n", "\n.include <bsd.port.mk>\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the Makefile has no %q", want)
		}
	}
	// The oldest Go that builds it, or any newer: ports of Go leave the tree a year after they came.
	mod := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "../../go.mod"))
	if want := "USES=\t\tgo:" + mod[1] + "+,modules\n"; !strings.Contains(text, want) {
		t.Errorf("the Makefile has no %q", want)
	}
	if m := regexp.MustCompile(`COMMENT=\t(.*)\n`).FindStringSubmatch(text); m == nil || len(m[1]) > 70 ||
		strings.HasSuffix(m[1], ".") || !regexp.MustCompile(`^[A-Z]`).MatchString(m[1]) {
		t.Errorf("COMMENT: %q", m)
	}
	if page := regexp.MustCompile(`(?m)^\.for page in (.*)$`).FindStringSubmatch(text); page == nil ||
		!slices.Equal(sorted(strings.Fields(page[1])), sorted(manPages)) {
		t.Errorf("manual pages: %q", page)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	check(t, err)
	return string(b)
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }
