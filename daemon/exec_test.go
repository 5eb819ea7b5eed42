package daemon

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testconsul"
	"github.com/freejail/freejail/internal/testimage"
)

// execAs runs a command as a user, none for the task's, and returns what it wrote.
func execAs(t *testing.T, c *client.Client, id, user, command string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	_, err := c.Exec(t.Context(), id, client.ExecSpec{Args: []string{"/bin/prog", command}, User: user},
		client.ExecIO{Stdout: &out, Stderr: &out})
	return out.String(), err
}

// A task that writes its own passwd and group gets no other user by them: a
// command runs as the task was started, and one for whom a user is named as the
// policy lets it.
func TestExecIsOfThePermittedUser(t *testing.T) {
	v := newVictim(t, "deny {\n users = [\"root\", \"82\"]\n}\n")
	img := v.image(testimage.Spec{Name: "prog", Cmd: []string{"inside"}, User: "www", Files: map[string]string{
		"/etc/passwd": "www:*:80:81::/home/www:/x\nother:*:83:84::/:/x\n", "/etc/group": "more:*:90:www\n"}})
	task, err := v.c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "nomad", Image: img})
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(task.Root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("passwd", "www:*:0:0::/root:/x\n83:*:0:0::/:/x\n85:*:86:86::/:/x\nsecond:*:82:82::/:/x\nother:*:83:84::/:/x\n")
	write("group", "wheel:*:0:www\n")
	sees := func(c *client.Client) {
		t.Helper()
		if got, err := execAs(t, c, "one", "", "whoami"); err != nil || got != "80 81 [90] /home/www<nil>" &&
			got != "80 81 [81 90] /home/www<nil>" {
			t.Errorf("a command of the task's user sees %q: %v", got, err)
		}
		for _, user := range []string{"www", "root", "0", "0:80", "00", "second", "82", "83"} {
			if got, err := execAs(t, c, "one", user, "whoami"); !client.IsRefused(err) ||
				!strings.Contains(err.Error(), "denied") {
				if user != "83" || err == nil || !strings.Contains(err.Error(), "has this number as the name") {
					t.Errorf("a command as %s sees %q: %v", user, got, err)
				}
			}
		}
		if got, err := execAs(t, c, "one", "85", "whoami"); err == nil ||
			!strings.Contains(err.Error(), "has this number as the name") {
			t.Errorf("a command as a number that is a name sees %q: %v", got, err)
		}
		if got, err := execAs(t, c, "one", "other", "whoami"); err != nil || !strings.HasPrefix(got, "83 84") {
			t.Errorf("a command as a permitted user sees %q: %v", got, err)
		}
	}
	sees(v.c)
	if _, err := v.c.Upgrade(t.Context(), client.UpgradeRequest{}); err != nil { // the next daemon knows it by the journal
		t.Fatal(err)
	}
	sees(v.c)
	if err := v.c.Destroy(t.Context(), "one", true); err != nil {
		t.Fatal(err)
	}
}

// ceaseless is input that never ends; it tells when so much was read of it that the
// command's pipe and all before it are full.
type ceaseless struct {
	n    int
	full chan struct{}
}

func (e *ceaseless) Read(p []byte) (int, error) {
	if e.n += len(p); e.full != nil && e.n > 256<<10 {
		close(e.full)
		e.full = nil
	}
	return len(p), nil
}

// A command that does not read its input ends with its client, and takes signals.
func TestExecOfWhatDoesNotRead(t *testing.T) {
	v := newVictim(t, "")
	if _, err := v.c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli",
		Image: v.image(testimage.Spec{})}); err != nil {
		t.Fatal(err)
	}
	spec := client.ExecSpec{Args: []string{"/bin/prog", "inside"}}
	ctx, leave := context.WithCancel(t.Context())
	full := make(chan struct{})
	go func() { <-full; leave() }()
	if e, err := v.c.Exec(ctx, "one", spec, client.ExecIO{Stdin: &ceaseless{full: full}, Stdout: io.Discard,
		Stderr: io.Discard}); err == nil {
		t.Errorf("it ended by itself: %+v", e)
	}
	testconsul.Await(t, "the end of the command", func() error {
		u, err := v.c.Stats(t.Context(), "one")
		if err == nil && len(u.Procs) != 1 {
			err = fmt.Errorf("there are %d processes", len(u.Procs))
		}
		return err
	})
	signals := make(chan string)
	out, in := io.Pipe()
	go func() { // when it has greeted it takes signals
		_, err := bufio.NewReader(out).ReadString('\n')
		if err == nil {
			signals <- "TERM"
		}
	}()
	e, err := v.c.Exec(t.Context(), "one", spec, client.ExecIO{Stdin: io.LimitReader(&ceaseless{}, 256<<10), Stdout: in,
		Stderr: io.Discard, Signals: signals})
	if err != nil || e.Code != 3 {
		t.Errorf("signalled: %+v %v", e, err)
	}
	if err := v.c.Destroy(t.Context(), "one", true); err != nil {
		t.Fatal(err)
	}
}

// The umask of the shell that (re)started a daemon is nothing to its tasks.
func TestDaemonStartedWithAnotherUmask(t *testing.T) {
	for _, driver := range []string{"auto", "readonly"} {
		t.Run(driver, func(t *testing.T) {
			if driver == "readonly" && runtime.GOOS != "freebsd" {
				t.Skip("there is no such driver here")
			}
			dir := shortDir(t)
			old := syscall.Umask(0o077)
			defer syscall.Umask(old)
			c, _ := daemonAt(t, dir, fmt.Sprintf("storage { driver = %q }\npermit { mounts = [\"tmpfs\"] }", driver))
			ctx, id := t.Context(), fmt.Sprintf("umask-%s-%d", driver, os.Getpid())
			var out bytes.Buffer
			_, err := c.Start(ctx, client.TaskSpec{ID: id, Owner: "cli", Image: archive(t, greeting), User: "1234:1234",
				WorkDir:    "/srv/made",
				Parameters: map[string]string{"GREETING": "world"},
				Volumes:    []client.Mount{{Type: "tmpfs", Target: "/srv/made/deep", Options: "size=1m"}}})
			if err != nil {
				t.Fatal(err)
			}
			if err := awaitLog(c, id); err != nil {
				t.Fatal(err)
			}
			if e, err := c.Exec(ctx, id, client.ExecSpec{Args: []string{"/bin/prog", "echo"},
				WorkDir: "/srv/made/deep"},
				client.ExecIO{Stdout: &out, Stderr: &out}); err != nil || e.Code != 4 {
				t.Errorf("exec: %+v %v", e, err)
			}
			if err := c.Destroy(ctx, id, true); err != nil {
				t.Error(err)
			}
		})
	}
}
