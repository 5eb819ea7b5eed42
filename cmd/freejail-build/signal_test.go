package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testprog"
)

// TestMain is also the program itself, and what a RUN of its images executes.
func TestMain(m *testing.M) {
	testprog.Main(m, testprog.Programs{
		"freejail-build": func([]string) int { main(); return 0 },
		"sleep": func([]string) int {
			if _, err := os.Stdout.WriteString("it runs\n"); err != nil {
				return 1
			}
			time.Sleep(time.Hour)
			return 0
		},
	})
}

// running is freejail-build in a process of its own.
type running struct {
	*testing.T
	cmd   *exec.Cmd
	said  *bufio.Reader
	stdin io.WriteCloser
	temp  string
	cache string
}

func start(t *testing.T, args ...string) *running {
	t.Helper()
	temp, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	return startIn(t, temp, t.TempDir(), args...)
}

func startIn(t *testing.T, temp, cache string, args ...string) *running {
	t.Helper()
	var err error
	r := &running{T: t, cmd: testprog.Command("freejail-build", args...), temp: temp, cache: cache}
	r.cmd.Env = append(r.cmd.Env, "TMPDIR="+r.temp, "XDG_CACHE_HOME="+r.cache)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r.stdin, err = r.cmd.StdinPipe()
	check(t, err)
	out, err := r.cmd.StderrPipe()
	check(t, err)
	r.said = bufio.NewReader(out)
	check(t, r.cmd.Start())
	t.Cleanup(func() { _ = r.cmd.Process.Kill() }) // it has ended already, unless the test failed
	return r
}

// until waits for a line with a text.
func (r *running) until(text string) {
	r.Helper()
	all := ""
	for !strings.Contains(all, text) {
		line, err := r.said.ReadString('\n')
		all += line
		if err != nil {
			r.Fatalf("%q is not said: %v, but: %s", text, err, all)
		}
	}
}

// stop sends signals and wants nothing to be left.
func (r *running) stop(list ...syscall.Signal) {
	r.Helper()
	for _, s := range list {
		check(r.T, syscall.Kill(-r.cmd.Process.Pid, s)) // the whole group, as a terminal does
	}
	rest, err := io.ReadAll(r.said)
	check(r.T, err)
	err = r.cmd.Wait()
	var failed *exec.ExitError
	if want := 128 + int(list[0]); !errors.As(err, &failed) || failed.ExitCode() != want {
		r.Errorf("%v, want the exit code %d: %s", err, want, rest)
	}
	if !strings.Contains(string(rest), "interrupted by SIG") {
		r.Errorf("it says %q", rest)
	}
	r.nothingLeft()
}

func (r *running) nothingLeft() {
	r.Helper()
	for _, dir := range []string{r.temp, filepath.Join(r.cache, "freejail-build", "work")} {
		left, err := os.ReadDir(dir)
		if len(left) > 0 || err != nil && !os.IsNotExist(err) {
			r.Errorf("%s has %v: %v", dir, left, err)
		}
		if list, err := mount.Below(dir); err != nil || len(list) > 0 {
			r.Errorf("mounted: %v %v", list, err)
		}
	}
}

// sparse makes a file that takes long to read and no room.
func sparse(t *testing.T, name string, size int64) {
	t.Helper()
	f, err := os.Create(name)
	check(t, err)
	check(t, errors.Join(f.Truncate(size), f.Close()))
}

// bomb is an archive of which one entry is never copied and takes long to pass.
func bomb(t *testing.T, name string) {
	t.Helper()
	packed := func(write func(w io.Writer) error) []byte {
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		check(t, err)
		check(t, errors.Join(write(z), z.Close()))
		return b.Bytes()
	}
	head := packed(func(w io.Writer) error {
		tw := tar.NewWriter(w)
		err := tw.WriteHeader(&tar.Header{Name: "a", Typeflag: tar.TypeReg, Mode: 0o644})
		return errors.Join(err, tw.WriteHeader(&tar.Header{Name: ".", Typeflag: tar.TypeReg, Size: 8 << 30,
			Mode: 0o644}))
	})
	part := packed(func(w io.Writer) error {
		_, err := io.CopyN(w, zeros{}, 256<<20)
		return err
	})
	check(t, os.WriteFile(name, append(head, bytes.Repeat(part, 32)...), 0o644))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func context1(t *testing.T, jailfile string) string {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "Jailfile"), []byte(jailfile), 0o644))
	return dir
}

// command is a build that executes a RUN which does not end.
func command(t *testing.T, out string) *running {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("RUN needs root")
	}
	dir := context1(t, "FROM scratch\nCOPY prog /prog\nRUN [\"/prog\", \"sleep\"]\n")
	prog, err := os.ReadFile(os.Args[0])
	check(t, err)
	e, err := elf.NewFile(bytes.NewReader(prog))
	check(t, err)
	if slices.ContainsFunc(e.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Skip("the test's own binary, which runs in the image, needs a dynamic loader: test with CGO_ENABLED=0")
	}
	check(t, os.WriteFile(dir+"/prog", prog, 0o755))
	r := start(t, "build", "-o", out, "--network", "none", "--platform", runtime.GOOS+"/"+runtime.GOARCH, dir)
	r.until("it runs")
	return r
}

// What a build that was killed has left, the command that it executed, its jail
// and its mounts, is cleaned up by the next build with the same cache, which works.
func TestKilledInACommand(t *testing.T) {
	out := filepath.Join(t.TempDir(), "x.tar")
	killed := command(t, out)
	check(t, killed.cmd.Process.Kill())
	_, err := killed.cmd.Process.Wait()
	check(t, err)
	next := startIn(t, killed.temp, killed.cache, "build", "-o", out, context1(t, "FROM scratch\nWORKDIR /w\n"))
	rest, rerr := io.ReadAll(next.said)
	if err := errors.Join(next.cmd.Wait(), rerr); err != nil {
		t.Errorf("the next build: %v: %s", err, rest)
	}
	next.nothingLeft()
	// It had the pipe: this ends with it.
	if _, err := io.Copy(io.Discard, killed.said); err != nil {
		t.Error(err)
	}
}

// A signal ends a build wherever it is, and leaves nothing.
func TestSignals(t *testing.T) {
	out := func(t *testing.T) string { return filepath.Join(t.TempDir(), "x.tar") }
	for name, begin := range map[string]func(t *testing.T) *running{
		"a Jailfile that does not end": func(t *testing.T) *running {
			r := start(t, "build", "-f", "-", "-o", out(t), t.TempDir())
			_, err := io.WriteString(r.stdin, strings.Repeat("# \n", 1<<17)) // it reads, for the pipe holds less
			check(t, err)
			return r
		},
		"hashing": func(t *testing.T) *running {
			dir := context1(t, "FROM scratch\nWORKDIR /w\nCOPY big /\n")
			sparse(t, dir+"/big", 1<<40)
			r := start(t, "build", "-o", out(t), dir)
			r.until("line 2")
			return r
		},
		"copying": func(t *testing.T) *running {
			dir := context1(t, "FROM scratch\nCOPY big /\n")
			sparse(t, dir+"/big", 256<<20)
			r := start(t, "build", "-o", out(t), dir)
			r.until("line 2")
			return r
		},
		"unpacking": func(t *testing.T) *running {
			dir := context1(t, "FROM scratch\nADD x.tar /\n")
			bomb(t, dir+"/x.tar")
			r := start(t, "build", "-o", out(t), dir)
			r.until("line 2")
			return r
		},
		"a cache that is locked": func(t *testing.T) *running {
			dir := t.TempDir()
			f, err := os.Create(dir + "/lock")
			check(t, err)
			check(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
			t.Cleanup(func() { f.Close() })
			waits := func(args ...string) *running {
				r := start(t, args...)
				for { // until it is there
					if _, err := os.Stat(dir + "/work"); err == nil {
						return r
					}
					time.Sleep(time.Millisecond)
				}
			}
			waits("cache", "prune", "--cache", dir).stop(syscall.SIGTERM)
			check(t, os.Remove(dir+"/work"))
			return waits("build", "--cache", dir, "-o", out(t), context1(t, "FROM scratch\n"))
		},
		"a registry that does not answer": func(t *testing.T) *running {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			check(t, err)
			t.Cleanup(func() { l.Close() })
			r := start(t, "build", "--plain-http", l.Addr().String(), "-o", out(t),
				context1(t, "FROM "+l.Addr().String()+"/x:y\n"))
			_, err = l.Accept()
			check(t, err)
			return r
		},
		"a command": func(t *testing.T) *running { return command(t, out(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			begin(t).stop(syscall.SIGTERM)
			begin(t).stop(syscall.SIGINT, syscall.SIGINT)
		})
	}
}

// A command that is through when the signal comes has done its work.
func TestASignalTooLate(t *testing.T) {
	var out, messages bytes.Buffer
	if code := run(t.Context(), []string{"version"}, &out, &messages); code != 0 {
		t.Error(code, messages.String())
	}
}
