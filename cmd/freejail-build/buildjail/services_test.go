package buildjail_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
	"github.com/freejail/freejail/internal/mount"
)

// service stands for service(8) in the image: its services note their starts and
// their clean ends, and have a file of their process while they run.
func service(name, command string) error {
	pidFile := "/var/run/" + name + ".pid"
	switch strings.TrimPrefix(command, "one") {
	case "start":
		if name == "bad" {
			return errors.New("it does not start")
		}
		if err := os.MkdirAll("/var/run", 0o755); err != nil {
			return err
		}
		p, err := os.StartProcess("/bin/prog", []string{"/bin/prog", "serve", name},
			&os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
		if err != nil {
			return err
		}
		return os.WriteFile(pidFile, fmt.Appendln(nil, p.Pid), 0o644)
	case "stop":
		if err := signalTo(name, syscall.SIGTERM); err != nil {
			return err
		}
		for ping(name) == nil {
			time.Sleep(10 * time.Millisecond)
		}
		return nil // its file of the process stays: it is a careless service
	}
	return fmt.Errorf("no such command %s", command)
}

func signalTo(name string, sig syscall.Signal) error {
	b, err := os.ReadFile("/var/run/" + name + ".pid")
	if err != nil {
		return err
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		return err
	}
	return syscall.Kill(pid, sig)
}

func ping(name string) error { return signalTo(name, 0) }

func serve(name string) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	must(os.MkdirAll("/var/db", 0o755))
	f, err := os.OpenFile("/var/db/"+name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	must(err)
	fmt.Fprintln(f, "began")
	<-ended
	fmt.Fprintln(f, "ended")
	os.Exit(0)
}

// reap is what a jail's first process does on Linux.
func reap() {
	for {
		if _, err := syscall.Wait4(-1, nil, 0, nil); err != nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func (f *fixture) withService() {
	f.Helper()
	f.copyProgram("service")
}

func (f *fixture) copyProgram(name string) {
	f.Helper()
	b, err := os.ReadFile(filepath.Join(f.dir, "prog"))
	if err == nil {
		err = os.WriteFile(filepath.Join(f.dir, name), b, 0o755)
	}
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) file(name, text string) {
	f.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o644); err != nil {
		f.Fatal(err)
	}
}

// bastille builds a Bastillefile on an image of the program.
func (f *fixture) bastille(lines ...string) error {
	f.Helper()
	f.withService()
	f.file("passwd", "root:*:0:0:r:/root:/bin/csh\n")
	if _, err := f.build("COPY service /usr/sbin/", "COPY passwd /etc/passwd", "COPY passwd /root/"); err != nil {
		f.Fatal(err)
	}
	f.file("Bastillefile", strings.Join(lines, "\n")+"\n")
	o := f.options
	o.Context, o.Runner, o.Log, o.TempDir = f.dir, f.give, &f.log, f.TempDir()
	o.File, o.From, o.Output = filepath.Join(f.dir, "Bastillefile"), f.out, filepath.Join(f.TempDir(), "b.tar")
	_, err := build.Build(f.ctx, o)
	f.out = o.Output
	if left, rerr := os.ReadDir(o.TempDir); rerr != nil || len(left) > 0 {
		f.Errorf("the build left %v: %v", left, rerr)
	}
	return err
}

// A command of a Bastillefile finds what `jexec -l -U root` gives it.
func TestLogin(t *testing.T) {
	f := setup(t, build.NetworkHost)
	if err := f.bastille("ARG SECRET=no", "CMD /bin/prog say x write made here", "CMD /bin/prog cat /root/made"); err != nil {
		t.Fatal(err)
	}
	said := f.log.String()
	for _, want := range []string{"HOME=/root", "USER=root", "SHELL=/bin/csh", "TERM=dumb", "in /root\n",
		":/root/bin", "here\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %s in %q", want, said)
		}
	}
	if strings.Contains(said, "SECRET") {
		t.Errorf("an argument is in the environment: %q", said)
	}
}

// Services run from their start to their stop or the last command, are stopped
// before a layer is taken, and leave nothing of their processes in it.
func TestServicesRunWhileCommandsDo(t *testing.T) {
	f := setup(t, build.NetworkHost)
	err := f.bastille("SERVICE db start", "CMD /bin/prog alive db", "SERVICE web onestart",
		"CMD /bin/prog alive db alive web", "CP passwd /copied", "CMD /bin/prog alive db alive web cat /copied",
		"SERVICE web onestop", "CMD /bin/prog alive db dead web", "SERVICE web start")
	if err != nil {
		t.Fatal(err, f.log.String())
	}
	_, img := f.opened()
	n := len(img.Layers)
	f.want(n-3, "5 var/ 755 0:0", "5 var/db/ 755 0:0", "0 var/db/db 644 0:0", "0 var/db/web 644 0:0",
		"5 var/run/ 755 0:0")
	f.want(n-2, "0 copied 644 0:0")
	f.want(n-1, "0 var/db/db 644 0:0", "0 var/db/web 644 0:0")
	text := "began\nended\nbegan\nended\n"
	for _, name := range []string{"db", "web"} {
		if got := f.content(n-1, "var/db/"+name); got != text {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestServiceFaults(t *testing.T) {
	f := setup(t, build.NetworkHost)
	err := f.bastille("SERVICE db start", "SERVICE bad start", "CMD /bin/prog alive db")
	var at *build.Error
	if !errors.As(err, &at) || at.Line != 2 || at.Verb != "SERVICE" {
		t.Error(err)
	}
	// One that has ended is told, and no error.
	var warned []string
	f.options.Warn = func(text string) { warned = append(warned, text) }
	err = f.bastille("SERVICE db start", "CMD /bin/prog rm /var/run/db.pid")
	if err != nil || len(warned) != 1 || !strings.Contains(warned[0], "service db stop: ") {
		t.Error(err, warned)
	}
}

// An image whose shell does nothing has no services, on systems where one keeps
// the jail; its commands are executed all the same.
func TestAnImageWithoutAShell(t *testing.T) {
	f := setup(t, build.NetworkHost)
	f.copyProgram("service")
	if err := os.Remove(filepath.Join(f.dir, "sh")); err != nil {
		t.Fatal(err)
	}
	f.file("sh", "")
	if _, err := f.build("COPY service /usr/sbin/", "SERVICE db start", `RUN ["/bin/prog", "say", "x"]`); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(f.log.String(), "in /\n") {
		t.Errorf("%q", f.log.String())
	}
}

// A step that depends on a service is executed with it, or taken from the cache
// without it.
func TestServicesAndTheCache(t *testing.T) {
	f := setup(t, build.NetworkHost)
	f.options.Cache = f.TempDir()
	began := func(lines ...string) int {
		f.log.Reset()
		f.copyProgram("service")
		_, err := f.build(append([]string{"COPY service /usr/sbin/"}, lines...)...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(f.log.String(), "alive db")
	}
	alive := `RUN ["/bin/prog", "alive", "db"]`
	for i, c := range []struct {
		lines []string
		want  int
	}{
		{[]string{"SERVICE db start", alive, "COPY prog /a", alive}, 2},
		{[]string{"SERVICE db start", alive, "COPY prog /a", alive}, 0},
		{[]string{"SERVICE db start", alive, "COPY prog /b", alive}, 1},
		{[]string{"SERVICE db onestart", alive, "COPY prog /b", alive}, 2},
	} {
		if got := began(c.lines...); got != c.want {
			t.Errorf("%d: %d commands, want %d", i, got, c.want)
		}
	}
}

// A build that is cancelled leaves no service, no jail and no mount.
func TestCancelWhileAServiceRuns(t *testing.T) {
	f := setup(t, build.NetworkHost)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	f.withService()
	f.file("Jailfile", "FROM scratch\nCOPY prog sh /bin/\nCOPY service /usr/sbin/\nSERVICE db start\n"+
		"RUN [\"/bin/prog\", \"alive\", \"db\", \"forever\", \"x\"]\n")
	temp := t.TempDir()
	_, err := build.Build(ctx, build.Options{Context: f.dir, Output: f.out, Runner: f.give, Log: cancelling{stop},
		TempDir: temp})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	left, err := os.ReadDir(temp)
	mounts, merr := mount.Below(temp)
	if err != nil || merr != nil || len(left) > 0 || len(mounts) > 0 {
		t.Errorf("the build left %v %v: %v %v", left, mounts, err, merr)
	}
	if names := processesOf("/bin/prog serve db"); len(names) > 0 {
		t.Errorf("the service runs still: %v", names)
	}
}

// What an image makes of root's home and of /var/run leads to no file of the host.
func TestServicesLeadNowhere(t *testing.T) {
	victim := t.TempDir()
	for _, place := range []string{"/var/run", "/var", "/run", "/root"} {
		f := setup(t, build.NetworkHost)
		if err := os.MkdirAll(victim+"/run", 0o755); err != nil {
			t.Fatal(err)
		}
		err := f.bastille("SERVICE db start", "CMD /bin/prog alive db rm "+place+" symlink "+victim+" "+place,
			"CMD /bin/prog say x mkdir "+victim+"/run write "+victim+"/a.pid 1 write "+victim+"/run/a.pid 1")
		t.Log(place, err)
		for _, name := range []string{"/a.pid", "/run/a.pid"} {
			if err := os.WriteFile(victim+name, []byte("host"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		err = f.bastille("CMD /bin/prog rm "+place+" symlink "+victim+" "+place, "SERVICE db start", "CMD /bin/prog say x")
		t.Log(place, err)
		for _, name := range []string{"/a.pid", "/run/a.pid"} {
			if b, err := os.ReadFile(victim + name); err != nil || string(b) != "host" {
				t.Errorf("%s: the host's file: %q %v", place, b, err)
			}
		}
		if err := os.RemoveAll(victim + "/a.pid"); err != nil {
			t.Fatal(err)
		}
	}
}

// processesOf finds processes by their arguments, where there is a /proc.
func processesOf(args string) (out []string) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err == nil && slices.Equal(strings.Split(strings.Trim(string(b), "\x00"), "\x00"), strings.Fields(args)) {
			out = append(out, name)
		}
	}
	return out
}

// opened gives an image's layers.
func (f *fixture) opened() (*layout.Store, *image.Image) {
	f.Helper()
	s, err := layout.OpenStore(f.TempDir(), image.Limits{})
	if err != nil {
		f.Fatal(err)
	}
	img, err := s.Import(f.Context(), f.out, "x", nil)
	if err != nil {
		f.Fatal(err)
	}
	return s, img
}

// content is a file's in a layer.
func (f *fixture) content(n int, name string) string {
	f.Helper()
	s, img := f.opened()
	r, err := unpack.OpenLayer(f.Context(), s, img.Layers[n])
	if err != nil {
		f.Fatal(err)
	}
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err != nil {
			f.Fatalf("%s: %v", name, err)
		}
		if h.Name != name {
			continue
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			f.Fatal(err)
		}
		return string(b)
	}
}
