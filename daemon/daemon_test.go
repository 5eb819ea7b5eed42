package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/mirror"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testimage"
	"github.com/freejail/freejail/internal/testprog"
	"github.com/freejail/freejail/jail"
)

// The test binary is also the program of the image.
func TestMain(m *testing.M) { testprog.Main(m, programs) }

var programs = testprog.Programs{
	"inside": func([]string) int {
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("hello", os.Getenv("GREETING"))
		<-c
		return 3
	},
	"told": func([]string) int { // tells by its code which signal it got
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.Signal(37),
			syscall.Signal(38), syscall.Signal(39))
		fmt.Println("told")
		return int((<-c).(syscall.Signal))
	},
	"late": func([]string) int { // says all at its end
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Fprintln(os.Stderr, "early words")
		<-c
		fmt.Println("late words")
		return 0
	},
	"names": func(args []string) int { // shows the first two files, writes the others
		for _, name := range args[:2] {
			b, err := os.ReadFile(name)
			fmt.Printf("%s%v\n", b, err)
		}
		for _, name := range args[2:] {
			fmt.Println(name, os.WriteFile(name, []byte("x"), 0o644) == nil)
		}
		return 0
	},
	"leave": func([]string) int { // a child that outlives its parent
		c := exec.Command("/bin/prog", "inside")
		c.Stdin, c.Stdout, c.Stderr, c.SysProcAttr = os.Stdin, os.Stdout, os.Stderr, &syscall.SysProcAttr{Setsid: true}
		return failed(c.Start(), 99, 5)
	},
	"return": func(args []string) int { return returnAll(args[0]) },
	"answer": func([]string) int { return answerWithAddress() },
	"fetch":  func(args []string) int { return failed(fetch(args[0]), 9, 0) },
	"serve":  func([]string) int { return answerAndKeep() },
	"mirror": func([]string) int {
		return failed(mirror.Child(func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }), 1, 0)
	},
	"read": func(args []string) int { // again and again
		fmt.Println("reading")
		for {
			if _, err := os.ReadFile(args[0]); err != nil {
				return failed(err, 97, 0)
			}
		}
	},
	"chains":  func([]string) int { return forkChains(20) },
	"flagged": func([]string) int { return flagOutput() },
	"version": func([]string) int { fmt.Println("freejail test"); return 0 },
	"daemon": func(args []string) int {
		if slices.Contains(args, "--check") {
			_, err := host.LoadPolicy(args[0])
			return failed(err, 1, 0)
		}
		return failed(serve(args[0]), 1, 0)
	},
	"ask": func(args []string) int { // the daemon, from wherever this runs
		_, err := client.New(args[0]).Info(context.Background())
		fmt.Println("answer:", err)
		return 0
	},
	"operate": func(args []string) int { return operate(client.New(args[0])) },
	"copy": func(args []string) int { // a file out of a task
		return failed(client.New(args[0]).Copy(context.Background(), args[1], client.CopySpec{Path: args[2]},
			client.CopyIO{To: os.Stdout}), 1, 0)
	},
	"crowd": func(args []string) int { return crowd(args[0], number(args[1])) },
	"write": func(args []string) int { // its code is the errno
		var errno syscall.Errno
		errors.As(os.WriteFile(args[0], []byte("written"), 0o644), &errno)
		return int(errno)
	},
	"flip":  func(args []string) int { return failed(flip(args[0], args[1]), 1, 1) },
	"lines": func(args []string) int { return writeLines(number(args[0])) },
	"fill":  func(args []string) int { return fillAndWait(args[0]) },
	"whoami": func([]string) int {
		groups, err := os.Getgroups()
		fmt.Print(os.Getuid(), " ", os.Getgid(), " ", groups, " ", os.Getenv("HOME"), err)
		return 0
	},
	"echo": func([]string) int { fmt.Println("from exec"); return 4 },
}

// failed is the code of a program that tells its error, or another one.
func failed(err error, code, otherwise int) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return code
	}
	return otherwise
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		os.Exit(2)
	}
	return n
}

// answerAndKeep tells where it listens, and answers until it is told to end.
func answerAndKeep() int {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return 99
	}
	fmt.Println(l.Addr())
	go func() {
		for kept := []net.Conn{}; ; {
			conn, err := l.Accept()
			if err == nil {
				_, err = conn.Write([]byte("x"))
			}
			if err != nil {
				os.Exit(98)
			}
			kept = append(kept, conn)
		}
	}()
	<-c
	return 3
}

// returnAll sends back what it gets, at an address.
func returnAll(address string) int {
	l, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Println(err)
		return 99
	}
	fmt.Println(l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return 98
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

// answerWithAddress tells whoever connects to the port web where the program is.
func answerWithAddress() int {
	l, err := net.Listen("tcp", ":"+os.Getenv("FREEJAIL_PORT_web"))
	if err != nil {
		return failed(err, 99, 0)
	}
	fmt.Println("listening")
	for {
		conn, err := l.Accept()
		if err != nil {
			return failed(err, 98, 0)
		}
		_, err = fmt.Fprint(conn, os.Getenv("FREEJAIL_ADDR_web"))
		if err = errors.Join(err, conn.Close()); err != nil {
			fmt.Println(err)
		}
	}
}

// fetch shows what a server says, once it is there.
func fetch(address string) error {
	text, err := say(address)
	fmt.Println("got", text)
	return err
}

func say(address string) (string, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(conn)
	return string(b), errors.Join(err, conn.Close())
}

// archive builds an image of this test binary with a manifest.
func archive(t testing.TB, manifest string) string {
	t.Helper()
	path, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "prog", Manifest: manifest,
		Cmd: []string{"inside"}})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func serve(conf string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg, err := host.LoadConfig(conf)
	if err != nil {
		return err
	}
	d, err := New(cfg, "test", hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Debug}))
	if err != nil {
		return err
	}
	return errors.Join(d.Run(ctx), d.Close())
}

// daemonAt runs a daemon of its own process on a directory, and ends it by the
// signal that the function it returns is given.
func daemonAt(t testing.TB, dir, policy string) (*client.Client, func(os.Signal)) {
	t.Helper()
	return daemonInto(t, dir, policy, os.Stderr)
}

// daemonInto has the daemon's log go to a file.
func daemonInto(t testing.TB, dir, policy string, log *os.File) (*client.Client, func(os.Signal)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	if m, err := jail.Open(jail.Config{StateDir: t.TempDir()}); err != nil {
		t.Skip(err)
	} else if _, err := m.List(); err != nil {
		t.Fatal(err)
	}
	conf, socket := filepath.Join(dir, "freejail.hcl"), filepath.Join(dir, "s")
	text := fmt.Sprintf("state_dir = %q\nsocket = %q\n%s", filepath.Join(dir, "state"), socket, policy)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "daemon", conf)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stopped := false
	stop := func(sig os.Signal) {
		if stopped {
			return
		}
		stopped = true
		if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		<-ended
	}
	t.Cleanup(func() { stop(syscall.SIGTERM) })
	c := client.New(socket)
	for {
		if _, err := c.Info(t.Context()); err == nil {
			return c, stop
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatal("the daemon ended: ", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// shortDir is short enough for a unix socket's path.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fj")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.UnmountUnder(dir); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// nothingLeft waits for what is removed behind the end of a task.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	left := whatIsLeft(t, dir)
	for patience := time.Now().Add(time.Minute); len(left) > 0 &&
		time.Now().Before(patience); left = whatIsLeft(t, dir) {
		time.Sleep(10 * time.Millisecond)
	}
	for _, what := range left {
		t.Errorf("left: %s", what)
	}
}

func whatIsLeft(t *testing.T, dir string) (out []string) {
	t.Helper()
	list, err := mount.Below(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		out = append(out, "the mount "+m.Target)
	}
	for _, sub := range []string{"tasks", "storage/roots"} {
		e, err := os.ReadDir(filepath.Join(dir, "state", sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range e {
			out = append(out, filepath.Join(sub, name.Name()))
		}
	}
	return out
}

const greeting = `{"schemaVersion":1,"parameters":[{"name":"GREETING","required":true,"description":"whom to greet"}]}`

// awaitGreeting returns when the program has written, and so takes signals.
func awaitGreeting(t *testing.T, c *client.Client, want string) {
	t.Helper()
	var log bytes.Buffer
	for log.String() == "" {
		if err := c.Logs(t.Context(), "one", "stdout", false, -1, &log); err != nil {
			t.Fatal(err)
		}
	}
	if log.String() != want {
		t.Errorf("log %q, want %q", log.String(), want)
	}
}

func TestLifeOfATask(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	path := archive(t, greeting)
	ctx := t.Context()
	spec := client.TaskSpec{ID: "one", Owner: "cli", Image: path, Parameters: map[string]string{"GREETING": "world"}}
	task, err := c.Start(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	if task.State != client.Running || task.PID == 0 {
		t.Errorf("started: %+v", task)
	}
	if _, err := c.Start(ctx, spec); err == nil {
		t.Error("one id twice")
	}
	var out bytes.Buffer
	e, err := c.Exec(ctx, "one", client.ExecSpec{Args: []string{"/bin/prog", "echo"}},
		client.ExecIO{Stdout: &out, Stderr: &out})
	if err != nil || e.Code != 4 || out.String() != "from exec\n" {
		t.Errorf("exec: %+v %v %q", e, err, out.String())
	}

	// An upgrade in place: the same daemon's process, the same task's.
	before, err := c.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	after, err := c.Upgrade(ctx, client.UpgradeRequest{})
	if err != nil || after.PID != before.PID {
		t.Fatalf("upgrade: %+v %v", after, err)
	}
	if again, err := c.Task(ctx, "one"); err != nil || again.PID != task.PID || again.State != client.Running {
		t.Fatalf("after the upgrade: %+v %v", again, err)
	}
	awaitGreeting(t, c, "hello world\n")
	if u, err := c.Stats(ctx, "one"); err != nil || len(u.Procs) == 0 {
		t.Errorf("stats: %+v %v", u, err)
	}
	exit, err := c.Stop(ctx, "one", client.StopRequest{Timeout: client.Duration(time.Minute)})
	if err != nil || exit.Code != 3 || !exit.Known {
		t.Errorf("stop: %+v %v", exit, err)
	}
	if err := c.Destroy(ctx, "one", false); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, dir)
}

// The task of a daemon that was killed runs on; the next daemon knows it.
func TestKilledDaemon(t *testing.T) {
	dir := shortDir(t)
	c, stop := daemonAt(t, dir, "")
	ctx := t.Context()
	task, err := c.Start(ctx, client.TaskSpec{ID: "one", Owner: "cli", Image: archive(t, greeting),
		Parameters: map[string]string{"GREETING": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	stop(syscall.SIGKILL)
	c, _ = daemonAt(t, dir, "")
	again, err := c.Task(ctx, "one")
	if err != nil || again.PID != task.PID || again.State != client.Running {
		t.Fatalf("after the kill: %+v %v", again, err)
	}
	sets, err := c.Rulesets(ctx)
	if err != nil || len(sets) != 1 || sets[0].ID != task.Ruleset || !slices.Equal(sets[0].Holders, []string{"one"}) {
		t.Errorf("after the kill, of the rulesets the task's %d alone is there and the task's: %+v %v", task.Ruleset,
			sets, err)
	}
	awaitGreeting(t, c, "hello x\n")
	exit, err := c.Stop(ctx, "one", client.StopRequest{Timeout: client.Duration(time.Minute)})
	if err != nil || exit.Known && exit.Code != 3 {
		t.Errorf("stop: %+v %v", exit, err)
	}
	if err := c.Destroy(ctx, "one", false); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, dir)
}

// wasKilled wants an error for the daemon's sudden end at its fault point,
// which the next daemon has not.
func wasKilled(t *testing.T, err error, stop func(os.Signal)) {
	t.Helper()
	var answer *client.Error
	if err == nil || errors.As(err, &answer) {
		t.Fatalf("the daemon was not killed, it answered: %v", err)
	}
	stop(syscall.SIGKILL)
	t.Setenv("FREEJAIL_FAULT_POINT", "")
}

// At each step of a start the daemon is killed, before and after it acts: the
// next one finds a task that runs, or undoes what was begun.
func TestKilledAtEachStep(t *testing.T) {
	path := archive(t, greeting)
	for _, op := range []string{"ruleset", "root", "mounts", "jail", "process"} {
		for _, moment := range []string{"journalled", "done"} {
			if op == "process" && moment == "journalled" {
				continue // it is no step of the journal
			}
			t.Run(op+" "+moment, func(t *testing.T) {
				dir := shortDir(t)
				t.Setenv("FREEJAIL_FAULT_POINT", op+":"+moment)
				c, stop := daemonAt(t, dir, "")
				_, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: path,
					Parameters: map[string]string{"GREETING": "x"}})
				wasKilled(t, err, stop)
				c, _ = daemonAt(t, dir, "")
				tasks, err := c.Tasks(t.Context())
				if err != nil || len(tasks) > 1 || len(tasks) == 1 &&
					(op != "process" || tasks[0].State != client.Running) {
					t.Fatalf("tasks: %+v %v", tasks, err)
				}
				if err := c.Destroy(t.Context(), "one", true); err != nil {
					t.Fatal(err)
				}
				nothingLeft(t, dir)
			})
		}
	}
}

func TestFailedStartsLeaveNothing(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	path := archive(t, greeting)
	ok := map[string]string{"GREETING": "x"}
	for want, spec := range map[string]client.TaskSpec{
		"whom to greet":     {Image: path},
		"has no parameter":  {Image: path, Parameters: map[string]string{"GREETING": "x", "OTHER": "y"}},
		"no such program":   {Image: path, Parameters: ok, Entrypoint: []string{"/bin/nothere"}},
		"has no user":       {Image: path, Parameters: ok, User: "nobody-here"},
		"not on this host":  {Image: "nothere", Parameters: ok},
		"allow.raw_sockets": {Image: path, Parameters: ok, Wants: client.Wants{Allow: []string{"raw_sockets"}}},
		"mount nullfs:/etc:rw": {Image: path, Parameters: ok,
			Volumes: []client.Mount{{Source: "/etc", Target: "/etc"}}},
	} {
		spec.ID, spec.Owner = "bad", "cli"
		_, err := c.Start(t.Context(), spec)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
		nothingLeft(t, dir)
	}
}

// A job chooses the path of its archive, so the path must not choose the
// image's name, to which a permit may be bound.
func TestPathDoesNotNameAnImage(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "permit {\n  images = [\"prog\"]\n  allow = [\"raw_sockets\"]\n}\n")
	path := archive(t, `{"schemaVersion":1,"requires":{"allow":["raw_sockets"]}}`)
	if _, err := c.Start(t.Context(), client.TaskSpec{ID: "sly", Owner: "cli", Image: path}); !client.IsRefused(err) {
		t.Errorf("a file named prog.tar got what the image prog is permitted: %v", err)
	}
	if _, err := c.Image(t.Context(), "prog"); !client.IsNotFound(err) {
		t.Errorf("the name prog was taken: %v", err)
	}
	if err := c.RemoveImage(t.Context(), "prog"); !client.IsNotFound(err) {
		t.Errorf("removal of a name that nothing has: %v", err)
	}
	if _, err := c.Import(t.Context(), client.ImportRequest{Path: path}, nil); err != nil {
		t.Fatal(err)
	}
	d, err := c.CheckPolicy(t.Context(), client.TaskSpec{Image: "prog"})
	if err != nil || !d.Allowed {
		t.Errorf("the operator's image is not permitted: %+v %v", d, err)
	}
}
