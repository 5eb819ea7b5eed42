package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// say runs a command line and returns its exit code and all that it says.
func say(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	code := run(t.Context(), args, &out, &out)
	return code, out.String()
}

func put(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// Nothing that a command reads is replaced by what it makes, by whatever name.
func TestInputsAreNotReplaced(t *testing.T) {
	dir := t.TempDir()
	ctx, base := filepath.Join(dir, "ctx"), filepath.Join(dir, "base.tar")
	put(t, ctx+"/Jailfile", "FROM scratch\nCOPY f /f\n")
	put(t, ctx+"/f", "text")
	put(t, ctx+"/empty", "")
	must := func(args ...string) {
		t.Helper()
		if code, said := say(t, args...); code != 0 {
			t.Fatalf("%s: %d %s", strings.Join(args, " "), code, said)
		}
	}
	must("build", "-q", "-o", base, ctx)
	must("build", "-q", "-o", ctx+"/own.tar", ctx)
	must("build", "-q", "-o", ctx+"/own.tar", ctx) // an earlier build's image is no input
	secret := put(t, dir+"/secret", "s")
	policy := put(t, dir+"/policy.hcl", "")
	other := put(t, dir+"/other/Jailfile", "FROM "+base+"\nCOPY f /g\n")
	include := put(t, dir+"/more/Jailfile", "FROM scratch\nINCLUDE part\n")
	put(t, dir+"/more/part", "ENV A=b\n")
	set := put(t, dir+"/set.tar", strings.Repeat("\x00", 1024))
	link, hard := filepath.Join(dir, "link.tar"), filepath.Join(dir, "hard.tar")
	if err := os.Symlink("base.tar", link); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(base, hard); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{
		{ctx + "/Jailfile", "build", "-o", ctx + "/Jailfile", ctx},
		{ctx + "/f", "build", "-o", ctx + "/f", ctx},
		{ctx + "/f", "build", "-o", ctx + "/../ctx/./f", ctx},
		{ctx + "/empty", "build", "-o", ctx + "/empty", ctx},
		{base, "build", "-f", other, "-o", base, ctx},
		{base, "build", "-f", other, "-o", link, ctx},
		{base, "build", "-f", other, "-o", hard, ctx},
		{other, "build", "-f", other, "-o", other, ctx},
		{dir + "/more/part", "build", "-f", include, "-o", dir + "/more/part", dir + "/more"},
		{secret, "build", "--secret", "id=x,src=" + secret, "-o", secret, ctx},
		{policy, "build", "--policy", policy, "-o", policy, ctx},
		{set, "import", "-o", set, set},
		{base, "copy", "oci-archive:" + base, "oci-archive:" + base},
		{base, "copy", "oci-archive:" + base, "oci-archive:" + link + ":x"},
	} {
		before, err := os.ReadFile(c[0])
		if err != nil {
			t.Fatal(err)
		}
		code, said := say(t, c[1:]...)
		after, err := os.ReadFile(c[0])
		if code != 1 || !strings.Contains(said, "replace") || err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s: %d %s", strings.Join(c[1:], " "), code, said)
		}
	}
}

// A name that no kernel has, and a platform that there is not, are mistakes.
func TestUnknownNames(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "i.tar")
	put(t, dir+"/c/b/Bastillefile", "CONFIG set allow.raw_sokets\n")
	base := filepath.Join(dir, "base.tar")
	for text, want := range map[string]string{
		"ALLOW raw_sokets":                              "did you mean raw_sockets?",
		"ALLOW allow.mlok chflags":                      "did you mean mlock?",
		"ALLOW mount.tmpf":                              "did you mean mount.tmpfs?",
		"ALLOW frobnicate":                              `"frobnicate" is not a known jail permission; if a newer kernel`,
		"JAIL enforce_statf=1":                          "did you mean enforce_statfs?",
		"JAIL children.max=3 meta.x=y":                  "",
		"JAIL zfs.mount_snapshot=1":                     "",
		"ALLOW raw_sockets mount.zfs vmm":               "",
		"LABEL org.freebsd.jail.allow.raw_sokets=true":  "did you mean raw_sockets?",
		"LABEL org.freebsd.jail.allow.raw_sockets=true": "",
		"RUN --allow=raw_sokets true":                   "did you mean raw_sockets?",
		"FROM --platform=freebsd/amd65 x":               "did you mean amd64?",
		"FROM --platform=linux/amd64/v9 x":              `"v9" is not a known variant of amd64`,
	} {
		put(t, dir+"/c/Jailfile", "FROM scratch\n"+text+"\n")
		code, said := say(t, "build", "-q", "-o", image, dir+"/c")
		if (code == 0) != (want == "") || !strings.Contains(said, want) {
			t.Errorf("%s: %d %s; want %q", text, code, said, want)
		}
	}
	put(t, dir+"/c/Jailfile", "FROM scratch\nENV A=b\n")
	for platform, want := range map[string]string{"freebsd/amd65": "did you mean amd64?",
		"linux/amd64/v9": "variant of amd64", "freebds/amd64": "did you mean freebsd?", "plan9/amd64": "there are freebsd",
		"amd64": "want OS/ARCHITECTURE", "freebsd/": "want OS/", "linux/arm64/v8/x": "want OS/", "freebsd/arm64": "",
		"linux/amd64/v3": "", "freebsd/aarch64": "", "linux/arm/v7": "", "freebsd/riscv64": ""} {
		code, said := say(t, "build", "-q", "--platform", platform, "-o", base, dir+"/c")
		if (code == 0) != (want == "") || !strings.Contains(said, want) {
			t.Errorf("%s: %d %s; want %q", platform, code, said, want)
		}
	}
	if code, said := say(t, "build", "-q", "--from", base, "-o", image, "-f", dir+"/c/b/Bastillefile", dir+"/c/b"); code == 0 ||
		!strings.Contains(said, "did you mean raw_sockets?") {
		t.Errorf("a Bastillefile: %d %s", code, said)
	}
	// What a newer kernel has is said to be so, and validate is told too.
	put(t, dir+"/c/Jailfile", "FROM scratch\nALLOW brand_new\nJAIL newer.thing=1\n")
	flags := []string{"--unknown-parameter", "brand_new", "--unknown-parameter", "newer.thing"}
	if code, said := say(t, append([]string{"build", "-q", "-o", image, dir + "/c"}, flags...)...); code != 0 {
		t.Errorf("accepted: %d %s", code, said)
	}
	if code, said := say(t, "validate", image); code != 1 || strings.Count(said, "unknown-parameter") != 2 {
		t.Errorf("validate: %d %s", code, said)
	}
	if code, said := say(t, append([]string{"validate", image}, flags...)...); code != 0 {
		t.Errorf("validate of what is accepted: %d %s", code, said)
	}
}
