package buildjail_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/freejail/freejail/image/build"
)

func TestChangesBecomeTheLayer(t *testing.T) {
	f := setup(t, build.NetworkHost)
	for _, dir := range []string{"old/sub", "kept", "swapped"} {
		if err := os.MkdirAll(filepath.Join(f.dir, "data", dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(f.dir, "data", dir, "file"), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err := f.build("COPY data /data/",
		`RUN ["/bin/prog", "mkdir", "/new/dir", "write", "/new/dir/b", "text", "link", "/new/dir/b", "/new/a", "symlink", "/etc/x", "/new/s", "rm", "/data/old", "rm", "/data/kept/file", "rm", "/data/swapped", "write", "/data/swapped", "now a file", "chown", "/data/kept", "mkfifo", "/new/fifo"]`)
	if err != nil {
		t.Fatal(err)
	}
	f.want(2,
		"0 data/.wh.old 644 0:0",
		"5 data/kept/ 755 1001:1002",
		"0 data/kept/.wh.file 644 0:0",
		"0 data/swapped 640 0:0",
		"5 new/ 750 0:0",
		"0 new/a 640 0:0",
		"5 new/dir/ 750 0:0",
		"1 new/dir/b 640 0:0 -> new/a",
		"6 new/fifo 600 0:0",
		"2 new/s 777 0:0 -> /etc/x")
}

// Flags that forbid removal must not keep a build from cleaning up, nor be lost.
func TestFileFlagsOfTheBase(t *testing.T) {
	f := setup(t, build.NetworkHost)
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range []tar.Header{{Name: "lib/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "lib/libc.so", Mode: 0o444}} {
		h.PAXRecords = map[string]string{"SCHILY.fflags": "schg"}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, "base.tar"), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := f.build("ADD base.tar /", `RUN ["/bin/prog", "write", "/x", "y"]`); err != nil {
		t.Fatal(err)
	}
	f.want(2, "0 x 640 0:0")
	f.want(1, "5 lib/ 755 0:0", "0 lib/libc.so 444 0:0")
	_, err := f.build("ADD base.tar /", `RUN ["/bin/prog", "write", "/lib/libc.so", "y"]`)
	if (runtime.GOOS == "freebsd") != (err != nil) {
		t.Errorf("an immutable file was written: %v", err)
	}
}

func TestLaterStepsSeeEarlierOnes(t *testing.T) {
	f := setup(t, build.NetworkHost)
	if err := os.WriteFile(filepath.Join(f.dir, "f"), []byte("copied"), 0o644); err != nil {
		t.Fatal(err)
	}
	img, err := f.build(
		`RUN ["/bin/prog", "mkdir", "/etc", "write", "/etc/passwd", "web:*:77:78::/home/web:/bin/sh\n", "symlink", "/real", "/alias", "mkdir", "/real"]`,
		`COPY --chown=web f /alias/f`,
		`RUN ["/bin/prog", "cat", "/real/f", "rm", "/real/f"]`,
		`RUN ["/bin/prog", "ls", "/real"]`,
		`USER web`, `WORKDIR /srv`, `ENV A=b`, `ARG C=d`,
		`RUN ["/bin/prog", "say", "x"]`)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(f.log.String(), "copied\n") {
		t.Errorf("the program said %q", f.log.String())
	}
	for _, want := range []string{"77 78 [", "A=b", "C=d", "HOME=/home/web", "in /srv"} {
		if !strings.Contains(f.log.String(), want) {
			t.Errorf("the program did not say %q but %q", want, f.log.String())
		}
	}
	// program, first RUN, COPY, RUN that deletes, WORKDIR; RUNs that change nothing have none
	if len(img.Layers) != 5 {
		t.Errorf("%d layers", len(img.Layers))
	}
	f.want(2, "0 real/f 644 77:78")
	f.want(3, "0 real/.wh.f 644 0:0")
	f.want(4, "5 srv/ 755 0:0")
}

func TestNothingOfTheHostReachesTheCommand(t *testing.T) {
	f := setup(t, build.NetworkHost)
	t.Setenv("SECRET_OF_THE_HOST", "x")
	if _, err := f.build(`RUN ["/bin/prog", "say", "x", "ls", "/", "ls", "/dev"]`,
		`RUN echo "$HOME" | cat > /x; rm -rf /`); err != nil {
		t.Fatal(err)
	}
	said := f.log.String()
	if strings.Contains(said, "SECRET") || !strings.Contains(said, "null") || strings.Contains(said, "sda") ||
		strings.Contains(said, "vtbd") || strings.Contains(said, " mem ") {
		t.Errorf("the program said %q", said)
	}
	if !strings.Contains(said, `shell ["-c" "echo \"$HOME\" | cat > /x; rm -rf /"]`) {
		t.Errorf("the image's own shell was not called: %q", said)
	}
}

func TestFailedCommands(t *testing.T) {
	f := setup(t, build.NetworkHost)
	for _, c := range []struct{ line, want string }{
		{`RUN ["/bin/prog", "exit", "xxx"]`, "exit code 3"},
		{`RUN ["/bin/none", "x"]`, "no such program"},
		{"USER nobody\n" + `RUN ["/bin/prog", "say", "x"]`, `no user "nobody"`},
	} {
		_, err := f.build(c.line)
		var at *build.Error
		if !errors.As(err, &at) || at.Line < 3 || at.Verb != "RUN" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.line, err, c.want)
		}
		if _, err := os.Stat(f.out); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: there is an image: %v", c.line, err)
		}
	}
}

func TestWhatIsLeftRunningEnds(t *testing.T) {
	f := setup(t, build.NetworkHost)
	if _, err := f.build(`RUN ["/bin/prog", "linger", "x"]`); err != nil { // does not hang
		t.Fatal(err)
	}
	if !strings.Contains(f.log.String(), "left ") {
		t.Errorf("the program said %q", f.log.String())
	}
}

// cancelling ends the build's context when the program has begun.
type cancelling struct{ stop func() }

func (c cancelling) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("waiting")) {
		c.stop()
	}
	return len(b), nil
}

func TestCancel(t *testing.T) {
	f := setup(t, build.NetworkHost)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	if err := os.WriteFile(filepath.Join(f.dir, "Jailfile"),
		[]byte("FROM scratch\nCOPY prog /bin/\nRUN [\"/bin/prog\", \"forever\", \"x\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	_, err := build.Build(ctx, build.Options{Context: f.dir, Output: f.out, Runner: f.give, Log: cancelling{stop},
		TempDir: temp})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("the build left %v: %v", left, err)
	}
}

func TestResolverIsLent(t *testing.T) {
	f := setup(t, build.NetworkHost)
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil || len(host) == 0 {
		t.Skip("this host has no resolv.conf:", err)
	}
	_, err = f.build(`RUN ["/bin/prog", "mkdir", "/etc"]`,
		`RUN ["/bin/prog", "cat", "/etc/resolv.conf", "write", "/x", "y"]`,
		`RUN ["/bin/prog", "rm", "/etc/resolv.conf", "write", "/etc/resolv.conf", "own"]`)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(f.log.String(), string(host)) {
		t.Errorf("the program said %q", f.log.String())
	}
	f.want(2, "0 x 640 0:0")
	f.want(3, "0 etc/resolv.conf 640 0:0")
}

func TestNoNetwork(t *testing.T) {
	line := fmt.Sprintf(`RUN ["/bin/prog", "dial", "%d"]`, listen(t))
	f := setup(t, build.NetworkHost)
	if _, err := f.build(line); err != nil || !strings.Contains(f.log.String(), "dial: <nil>") {
		t.Errorf("%v %s", err, f.log.String())
	}
	f = setup(t, build.NetworkNone)
	if _, err := f.build(line); err != nil || strings.Contains(f.log.String(), "dial: <nil>") ||
		!strings.Contains(f.log.String(), "dial: ") {
		t.Errorf("%v %s", err, f.log.String())
	}
}
