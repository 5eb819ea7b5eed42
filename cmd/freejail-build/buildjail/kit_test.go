package buildjail_test

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/cmd/freejail-build/buildjail"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/remove"
)

// TestMain is also the program in the image: it stands there as /bin/prog and
// as /bin/sh.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && (os.Args[0] == "/bin/sh" || os.Args[0] == "/bin/prog") {
		inside(os.Args[1:])
	}
	if len(os.Args) > 2 && os.Args[0] == "service" {
		must(service(os.Args[1], os.Args[2]))
		os.Exit(0)
	}
	code := m.Run()
	if stateDir != "" {
		if err := os.RemoveAll(stateDir); err != nil {
			fmt.Println(err)
			code = 1
		}
	}
	os.Exit(code)
}

func must(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(99)
	}
}

// inside does a list of things: "write PATH TEXT", "rm PATH" and so on.
func inside(args []string) {
	for len(args) > 0 {
		n := 2
		switch args[0] {
		case "-c", "-e":
			if rest, ok := strings.CutPrefix(args[1], "/bin/prog "); ok {
				inside(strings.Fields(rest))
			}
			if strings.HasPrefix(args[1], "while ") { // what keeps a jail
				reap()
			}
			fmt.Printf("shell %q\n", args)
			os.Exit(0)
		case "alive":
			must(ping(args[1]))
			fmt.Println("alive", args[1])
		case "dead":
			if ping(args[1]) == nil {
				must(errors.New("it runs"))
			}
			fmt.Println("dead", args[1])
		case "serve":
			serve(args[1])
		case "write":
			n = 3
			must(os.WriteFile(args[1], []byte(args[2]), 0o640))
			must(os.Chmod(args[1], 0o640))
		case "mkdir":
			must(os.MkdirAll(args[1], 0o750))
		case "rm":
			must(os.RemoveAll(args[1]))
		case "link":
			n = 3
			must(os.Link(args[1], args[2]))
		case "symlink":
			n = 3
			must(os.Symlink(args[1], args[2]))
		case "mkfifo":
			must(unix.Mkfifo(args[1], 0o600))
		case "chmod":
			must(os.Chmod(args[1], 0o4755))
		case "chown":
			must(os.Lchown(args[1], 1001, 1002))
		case "say":
			fmt.Println(os.Getuid(), os.Getgid(), os.Environ())
			dir, err := os.Getwd()
			must(err)
			fmt.Println("in", dir)
		case "cat":
			b, err := os.ReadFile(args[1])
			must(err)
			fmt.Printf("%s\n", b)
		case "ls":
			names, err := os.ReadDir(args[1])
			must(err)
			for _, e := range names {
				fmt.Print(e.Name(), " ")
			}
			fmt.Println()
		case "dial":
			fmt.Println("dial:", dial(args[1]))
		case "linger":
			p, err := os.StartProcess("/bin/prog", []string{"/bin/prog", "forever", "x"},
				&os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
			must(err)
			fmt.Println("left", p.Pid)
		case "forever":
			fmt.Println("waiting")
			time.Sleep(time.Hour)
		case "exit":
			os.Exit(len(args[1]))
		default:
			fmt.Println("?", args)
			os.Exit(98)
		}
		args = args[n:]
	}
	os.Exit(0)
}

// dial does without package net, which would need a dynamic loader with cgo.
func dial(port string) error {
	n, err := strconv.Atoi(port)
	must(err)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrInet4{Port: n, Addr: [4]byte{127, 0, 0, 1}})
}

// listen gives a port of the host's loopback.
func listen(t *testing.T) int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 8))
	if err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return at.(*unix.SockaddrInet4).Port
}

type fixture struct {
	*testing.T
	dir, out string
	log      bytes.Buffer
	runner   *buildjail.Runner
	ctx      context.Context
	options  build.Options // what a test adds
}

// runner is the process's only one.
var (
	runner   *buildjail.Runner
	stateDir string
)

func setup(t *testing.T, network string) *fixture {
	if os.Geteuid() != 0 {
		t.Skip("RUN needs root")
	}
	if runtime.GOOS == "linux" && os.Getenv("RUNC_BIN") == "" {
		t.Skip("RUNC_BIN does not name runc")
	}
	f := &fixture{T: t, dir: t.TempDir(), out: filepath.Join(t.TempDir(), "image.tar"), ctx: t.Context()}
	if runner == nil {
		var err error
		if stateDir, err = os.MkdirTemp("", "runner-"); err != nil {
			t.Fatal(err)
		}
		if runner, err = buildjail.New(stateDir); err != nil {
			t.Fatal(err)
		}
	}
	f.runner, f.options.Network = runner, network
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := elf.NewFile(bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	} else if slices.ContainsFunc(e.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Skip("the test's own binary, which runs in the image, needs a dynamic loader: test with CGO_ENABLED=0")
	}
	for _, name := range []string{"prog", "sh"} {
		if err := os.WriteFile(filepath.Join(f.dir, name), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *fixture) give(string) (build.Runner, error) { return f.runner, nil }

// build makes an image of lines after those that bring the program.
func (f *fixture) build(lines ...string) (*image.Image, error) {
	f.Helper()
	text := "FROM scratch\nCOPY prog sh /bin/\n" + strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(filepath.Join(f.dir, "Jailfile"), []byte(text), 0o644); err != nil {
		f.Fatal(err)
	}
	temp := f.TempDir()
	o := f.options
	o.Context, o.Output, o.Runner, o.Log, o.TempDir = f.dir, f.out, f.give, &f.log, temp
	img, err := build.Build(f.ctx, o)
	left, rerr := os.ReadDir(temp)
	if rerr != nil || len(left) > 0 {
		f.Errorf("the build left %v: %v", left, rerr)
	}
	if infos, lerr := mount.Below(temp); lerr != nil || len(infos) > 0 {
		f.Errorf("the build left mounts: %v %v", infos, lerr)
	}
	return img, err
}

// layer lists the entries of an image's layer as text.
func (f *fixture) layer(n int) []string {
	f.Helper()
	s, err := layout.OpenStore(f.TempDir(), image.Limits{})
	if err != nil {
		f.Fatal(err)
	}
	img, err := s.Import(f.Context(), f.out, "x", nil)
	if err != nil {
		f.Fatal(err)
	}
	root := f.TempDir()
	if err := unpack.Image(f.Context(), s, img, root, nil); err != nil {
		f.Errorf("the image cannot be unpacked: %v", err)
	}
	if err := remove.Tree(root); err != nil {
		f.Error(err)
	}
	r, err := unpack.OpenLayer(f.Context(), s, img.Layers[n])
	if err != nil {
		f.Fatal(err)
	}
	defer r.Close()
	var out []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			f.Fatal(err)
		}
		if h.ModTime.Unix() != 0 {
			f.Errorf("%s has the time %s", h.Name, h.ModTime)
		}
		line := fmt.Sprintf("%c %s %o %d:%d", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid)
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		out = append(out, line)
	}
}

func (f *fixture) want(n int, want ...string) {
	f.Helper()
	if got := f.layer(n); !slices.Equal(got, want) {
		f.Errorf("layer %d:\n%s\nwant\n%s", n, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
