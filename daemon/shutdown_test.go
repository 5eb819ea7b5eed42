package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/boot"
)

// ofHost makes an id that no other run of a test has.
func ofHost(id string) string { return fmt.Sprintf("h%d-%s", os.Getpid(), id) }

// A shutdown of the host gives each task its signal and its time, all at once, and
// starts none until the daemon is started again.
func TestShutdown(t *testing.T) {
	dir := shortDir(t)
	c, stop := daemonAt(t, dir, "")
	path, ctx := archive(t, greeting), t.Context()
	start := func(id string, change func(*client.TaskSpec)) {
		t.Helper()
		spec := client.TaskSpec{ID: ofHost(id), Owner: "cli", Image: path, Parameters: map[string]string{"GREETING": "x"},
			StopTimeout: client.Duration(time.Hour)}
		change(&spec)
		if _, err := c.Start(ctx, spec); err != nil {
			t.Fatal(err)
		}
		if err := awaitLog(c, ofHost(id)); err != nil {
			t.Fatal(err)
		}
	}
	start("term", func(*client.TaskSpec) {})
	start("usr1", func(s *client.TaskSpec) { s.Args, s.StopSignal = []string{"told"}, "SIGUSR1" })
	start("deaf", func(s *client.TaskSpec) { s.StopSignal, s.StopTimeout = "SIGURG", client.Duration(time.Second) })
	start("over", func(s *client.TaskSpec) { s.Args = []string{"told"} })
	if _, err := c.Stop(ctx, ofHost("over"), client.StopRequest{Timeout: client.Duration(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	r, err := c.Shutdown(ctx, client.ShutdownRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.Ended, []string{ofHost("deaf"), ofHost("term"), ofHost("usr1")}) || !slices.Equal(r.Killed, []string{ofHost("deaf")}) || len(r.Left) > 0 {
		t.Errorf("it is said: %+v", r)
	}
	ends := func() {
		t.Helper()
		for id, want := range map[string]client.Exit{"term": {Code: 3, Host: true}, "usr1": {Code: int(syscall.SIGUSR1), Host: true},
			"deaf": {Code: 137, Host: true}, "over": {Code: int(syscall.SIGTERM)}} {
			e, err := c.Wait(ctx, ofHost(id))
			if err != nil || !e.Known || e.Code != want.Code || e.Host != want.Host || e.Host != strings.Contains(e.Message, hostShutDown) {
				t.Errorf("%s ended as %+v %v, want %+v", id, e, err, want)
			}
		}
	}
	ends()
	if left := leftOnHost(t, dir, ofHost("")); left != "" {
		t.Errorf("left: %s", left)
	}
	again := client.TaskSpec{ID: ofHost("again"), Owner: "cli", Image: path, Parameters: map[string]string{"GREETING": "x"}}
	if _, err := c.Start(ctx, again); err == nil || !strings.Contains(err.Error(), "the host is being shut down") {
		t.Errorf("a task started on a host that goes down: %v", err)
	}
	if _, err := c.Upgrade(ctx, ""); err == nil || !strings.Contains(err.Error(), "the host is being shut down") {
		t.Errorf("an upgrade lets tasks start: %v", err)
	}
	if info, err := c.Info(ctx); err != nil || info.Healthy || !info.ShutDown {
		t.Errorf("it is said to be well: %+v %v", info, err)
	}
	stop(syscall.SIGTERM)
	c, _ = daemonAt(t, dir, "")
	ends()
	if _, err := c.Start(ctx, again); err != nil {
		t.Error(err)
	}
	if err := c.Destroy(ctx, again.ID, true); err != nil {
		t.Error(err)
	}
}

// The limit of a shutdown is that of each task.
func TestShutdownWithLimit(t *testing.T) {
	c, _ := daemonAt(t, shortDir(t), "")
	spec := client.TaskSpec{ID: ofHost("deaf"), Owner: "cli", Image: archive(t, greeting), Parameters: map[string]string{"GREETING": "x"},
		StopSignal: "SIGURG", StopTimeout: client.Duration(time.Hour)}
	if _, err := c.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	r, err := c.Shutdown(t.Context(), client.ShutdownRequest{Limit: client.Duration(time.Second)})
	if err != nil || !slices.Equal(r.Killed, []string{ofHost("deaf")}) {
		t.Errorf("%+v %v", r, err)
	}
}

// otherBoot has the journals and the lock tell of an earlier boot of the host.
func otherBoot(t *testing.T, dir string) {
	t.Helper()
	id, err := boot.ID()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "state", "tasks", "*", "journal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, filepath.Join(dir, "state", "lock")) {
		b, err := os.ReadFile(f)
		if err == nil && !strings.Contains(string(b), id) {
			t.Fatalf("%s names no boot", f)
		}
		if err == nil {
			err = os.WriteFile(f, []byte(strings.ReplaceAll(string(b), id, strings.Repeat("0", len(id)))), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What ran when the host ended is gone, whatever has its pid now, and its end is
// told. So is that of a task whose record did not reach the disk.
func TestRestartOfTheHost(t *testing.T) {
	dir := shortDir(t)
	c, stop := daemonAt(t, dir, "")
	path, ctx := archive(t, greeting), t.Context()
	wait := "all"
	if runtime.GOOS == "linux" {
		wait = "" // there it is refused
	}
	for _, spec := range []client.TaskSpec{{ID: ofHost("one")}, {ID: ofHost("all"), Wait: wait}, {ID: ofHost("lost")}, {ID: ofHost("over")}} {
		spec.Owner, spec.Image, spec.Parameters = "cli", path, map[string]string{"GREETING": "x"}
		if _, err := c.Start(ctx, spec); err != nil {
			t.Fatal(err)
		}
		if err := awaitLog(c, spec.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Stop(ctx, ofHost("over"), client.StopRequest{Timeout: client.Duration(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	stop(syscall.SIGKILL)
	if err := os.RemoveAll(filepath.Join(dir, "state", "tasks", ofHost("lost"))); err != nil {
		t.Fatal(err)
	}
	otherBoot(t, dir)
	c, _ = daemonAt(t, dir, "")
	for _, id := range []string{"one", "all"} {
		if e, err := c.Wait(ctx, ofHost(id)); err != nil || e.Known || !e.Host || !strings.Contains(e.Message, hostRestarted) {
			t.Errorf("%s ended as %+v %v", id, e, err)
		}
	}
	if e, err := c.Wait(ctx, ofHost("over")); err != nil || e.Host || e.Code != 3 {
		t.Errorf("what had ended before ended as %+v %v", e, err)
	}
	told := map[string]bool{}
	if err := c.Events(ctx, 0, false, func(e client.Event) error {
		told[e.Task] = told[e.Task] || e.Kind == "exited" && strings.Contains(e.Message, "the host") && strings.Contains(e.Message, "restarted")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !told[ofHost("one")] || !told[ofHost("all")] || !told[ofHost("lost")] || told[ofHost("over")] {
		t.Errorf("the events tell of %v", told)
	}
	for sweptUp := false; !sweptUp; time.Sleep(10 * time.Millisecond) {
		sweptUp = leftOnHost(t, dir, ofHost("")) == ""
		for _, sub := range []string{"jails", "storage/roots", "runc/state"} {
			left, err := os.ReadDir(filepath.Join(dir, "state", sub))
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			sweptUp = sweptUp && len(left) == 0
		}
	}
}

// A limit is for all of a shutdown, unless it is shorter than what follows the kill.
func TestTimesOfAShutdown(t *testing.T) {
	for limit, own := range map[time.Duration]time.Duration{
		75 * time.Second: 65 * time.Second, 20 * time.Second: 10 * time.Second,
		8 * time.Second: 4 * time.Second, time.Second: time.Second / 2,
	} {
		if got := ownTime(limit); got != own {
			t.Errorf("of %s the tasks have %s, not %s", limit, got, own)
		}
	}
	s := shutdown{kill: time.Now().Add(time.Minute), late: time.Now().Add(2 * time.Minute)}
	if got := s.within(time.Hour, s.kill); got > time.Minute || got <= 0 {
		t.Errorf("of a minute an hour is %s", got)
	}
	if got := s.within(time.Second, s.kill); got != time.Second {
		t.Errorf("of a minute a second is %s", got)
	}
	if got := s.within(time.Second, time.Now().Add(-time.Minute)); got != 0 {
		t.Errorf("what is over leaves %s", got)
	}
	if got := (&shutdown{}).within(time.Hour, time.Time{}); got != time.Hour {
		t.Errorf("without a limit an hour is %s", got)
	}
}

// The end of a main process is that of its task, unless others outlived it.
func TestEndOfAnEarlierBoot(t *testing.T) {
	main := &client.Exit{Code: 5, Known: true, At: time.Now().Add(-time.Hour)}
	for _, c := range []struct {
		wait  string
		exit  *client.Exit
		ended bool
		host  bool
	}{
		{"", nil, false, true}, {"all", nil, false, true},
		{"", main, false, false}, {"all", main, false, true}, {"all", main, true, false},
	} {
		task := &task{ended: c.ended, info: client.Task{Exit: c.exit, Spec: client.TaskSpec{Wait: c.wait}}}
		e := task.atRestart()
		if e.Host != c.host || e.Host != strings.Contains(e.Message, hostRestarted) || c.host && (e.Known || !e.At.IsZero()) {
			t.Errorf("%+v: %+v", c, e)
		}
		if !c.host && e != *main || c.host && c.exit != nil && !strings.Contains(e.Message, "exit code 5") {
			t.Errorf("%+v: %+v", c, e)
		}
	}
}

// The host ends a task that its main process had not ended, whatever its code.
func TestEndWithTheHost(t *testing.T) {
	main := client.Exit{Code: 5, Known: true, At: time.Now().Add(-time.Hour)}
	task := &task{hostEnds: true, info: client.Task{Exit: &main, Spec: client.TaskSpec{Wait: "all"}}}
	e := task.withHost(main)
	if !e.Host || !e.Known || e.Code != 5 || !e.At.After(main.At) || e.Message != hostShutDown+": its main process had ended: exit code 5" {
		t.Errorf("%+v", e)
	}
	task.hostEnds = false // the daemon alone was restarted, and the jail emptied by itself
	if e := task.withHost(main); e != main {
		t.Errorf("%+v", e)
	}
}
