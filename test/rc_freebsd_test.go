package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

// service is the rc.d script with a host of its own.
type service struct {
	dir, script string
	env         []string
	daemon      *client.Client
}

const pidfile = "/var/run/freejail.pid"

func newService(t *testing.T) *service {
	t.Helper()
	if _, err := os.Stat(pidfile); err == nil {
		t.Skip("a daemon of this host's own has the pidfile")
	}
	s := &service{dir: tempDir(t), script: shipped(t, "example/rc.d/freejail")}
	bin, err := os.ReadFile(program(t, "FREEJAIL_BIN"))
	check(t, err)
	check(t, os.WriteFile(s.path("freejail"), bin, 0o755))
	check(t, os.WriteFile(s.path("other"), bin, 0o755))
	conf := fmt.Sprintf("state_dir = %q\nsocket = %q\n", s.path("state"), s.path("s"))
	check(t, os.WriteFile(s.path("freejail.hcl"), []byte(conf), 0o600))
	s.env = []string{"PATH=/sbin:/bin:/usr/sbin:/usr/bin", "freejail_enable=YES", "freejail_program=" +
		s.path("freejail"),
		"freejail_config=" + s.path("freejail.hcl"), "freejail_socket=" + s.path("s"), "freejail_logfile=" +
			s.path("log")}
	s.daemon = client.New(s.path("s"))
	t.Cleanup(func() {
		if out, err := s.run(nil, "stop"); err != nil && !strings.Contains(out, "not running") {
			t.Errorf("stop: %v: %s", err, out)
		}
		if t.Failed() {
			t.Log(tail(s.path("log"), 4000))
		}
	})
	return s
}

func (s *service) path(name string) string { return filepath.Join(s.dir, name) }

// run has files for its output: a daemon that held a pipe would have it waited for.
func (s *service) run(env []string, command string) (string, error) {
	out, err := os.CreateTemp(s.dir, "out")
	if err != nil {
		return "", err
	}
	defer out.Close()
	cmd := exec.Command("/bin/sh", s.script, command)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(s.env, env...), out, out
	err = cmd.Run()
	b, rerr := os.ReadFile(out.Name())
	return string(b), errors.Join(err, rerr)
}

func (s *service) must(t *testing.T, command string, env ...string) string {
	t.Helper()
	out, err := s.run(env, command)
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return out
}

func (s *service) start(t *testing.T, id string) {
	t.Helper()
	path, err := testimage.Write(t.Context(), s.dir, testimage.Spec{Name: "probe", Cmd: []string{"probe", "tick"}})
	check(t, err)
	_, err = s.daemon.Start(t.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: path})
	check(t, err)
	t.Cleanup(func() { check(t, s.daemon.Destroy(context.Background(), id, true)) })
}

// The daemon's life by rc(8): tasks live through all of it but the host's shutdown.
func TestService(t *testing.T) {
	s := newService(t)
	s.must(t, "start")
	s.start(t, "one")
	before, err := s.daemon.Task(t.Context(), "one")
	check(t, err)
	runs := func(after string) {
		t.Helper()
		if now, err := s.daemon.Task(t.Context(), "one"); err != nil || now.State != client.Running ||
			now.PID != before.PID {
			t.Fatalf("after %s: %+v %v", after, now, err)
		}
		if out := s.must(t, "status"); !strings.Contains(out, "is running") {
			t.Errorf("after %s: %s", after, out)
		}
	}
	runs("start")
	for _, binary := range []string{s.path("other"), "", s.path("freejail")} {
		_, err = s.daemon.Upgrade(t.Context(), client.UpgradeRequest{Binary: binary})
		check(t, err)
		runs("an upgrade to " + binary)
	}
	// The archive of a release, or pkg(8), puts another file in the place of the binary.
	bin, err := os.ReadFile(s.path("other"))
	check(t, err)
	check(t, os.Remove(s.path("freejail")))
	check(t, os.WriteFile(s.path("freejail"), bin, 0o755))
	s.must(t, "reload")
	runs("a reload of a replaced binary")
	s.must(t, "restart")
	runs("restart")
	if out, err := s.run(nil, "start"); err == nil {
		t.Errorf("a second start: %s", out)
	}
	runs("a second start")
	s.must(t, "faststop")
	s.must(t, "start")
	runs("a stop by hand")
	out := s.must(t, "faststop", "rc_shutdown=reboot")
	if !strings.Contains(out, "1 task has ended") || exists(pidfile) {
		t.Errorf("the host's shutdown: %s", out)
	}
	s.must(t, "start")
	if e, err := s.daemon.Wait(t.Context(), "one"); err != nil || !e.Known || e.Code != 9 || !e.Host {
		t.Errorf("the task ended as %+v %v", e, err)
	}
}

// Who starts the daemon waits for its word, not for a time: it has its pidfile as
// long as it lives, and its reason where it does not.
func TestServiceWaitsForTheWord(t *testing.T) {
	s := newService(t)
	s.must(t, "start")
	s.start(t, "one")
	pid, err := os.ReadFile(pidfile)
	check(t, err)
	check(t, os.Remove(pidfile)) // as if another had started it
	out, err := s.run(nil, "start")
	if err == nil || !strings.Contains(out, "another freejail daemon (process "+strings.TrimSpace(string(pid))+")") ||
		exists(pidfile) {
		t.Errorf("a start beside another daemon: %v %s", err, out)
	}
	check(t, os.WriteFile(pidfile, pid, 0o644))
	s.must(t, "stop")
	held := s.path("held")
	check(t, unix.Mkfifo(held, 0o600))
	started := make(chan error, 1)
	go func() {
		out, err := s.run([]string{"freejail_env=FREEJAIL_FAULT_POINT=recovery:begun=" + held}, "start")
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		started <- err
	}()
	await(t, "a task that is recovering", func() error {
		list, err := s.daemon.TasksNow(t.Context())
		if err == nil && (len(list) != 1 || !list[0].Recovering) {
			err = fmt.Errorf("there is %+v", list)
		}
		return err
	})
	select {
	case err := <-started:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	if out := s.must(t, "status"); !strings.Contains(out, "is running") {
		t.Errorf("while it recovers: %s", out)
	}
	f, err := os.OpenFile(held, os.O_WRONLY, 0)
	check(t, err)
	check(t, f.Close())
	check(t, <-started)
	if task, err := s.daemon.Task(t.Context(), "one"); err != nil || task.State != client.Running {
		t.Errorf("afterwards: %+v %v", task, err)
	}
	// One that is killed while it is waited for says nothing, and is not waited for.
	s.must(t, "stop")
	go func() {
		_, err := s.run([]string{"freejail_env=FREEJAIL_FAULT_POINT=recovery:begun"}, "start")
		started <- err
	}()
	if err := <-started; err == nil || exists(pidfile) {
		t.Errorf("a daemon that was killed counts as started: %v", err)
	}
	s.must(t, "start")
}
