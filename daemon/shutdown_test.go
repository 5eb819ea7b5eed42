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
		spec := client.TaskSpec{ID: ofHost(id), Owner: "cli", Image: path,
			Parameters:  map[string]string{"GREETING": "x"},
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
	if !slices.Equal(r.Ended, []string{ofHost("deaf"), ofHost("term"), ofHost("usr1")}) ||
		!slices.Equal(r.Killed, []string{ofHost("deaf")}) || len(r.Left) > 0 {
		t.Errorf("it is said: %+v", r)
	}
	ends := func() {
		t.Helper()
		for id, want := range map[string]client.Exit{"term": {Code: 3, Host: true}, "usr1": {Code: int(syscall.SIGUSR1),
			Host: true},
			"deaf": {Code: 137, Host: true}, "over": {Code: int(syscall.SIGTERM)}} {
			e, err := c.Wait(ctx, ofHost(id))
			if err != nil || !e.Known || e.Code != want.Code || e.Host != want.Host ||
				e.Host != strings.Contains(e.Message, "the host was shut down") {
				t.Errorf("%s ended as %+v %v, want %+v", id, e, err, want)
			}
		}
	}
	ends()
	if left := leftOnHost(t, dir, ofHost("")); left != "" {
		t.Errorf("left: %s", left)
	}
	again := client.TaskSpec{ID: ofHost("again"), Owner: "cli", Image: path,
		Parameters: map[string]string{"GREETING": "x"}}
	if _, err := c.Start(ctx, again); err == nil || !strings.Contains(err.Error(), "the host is being shut down") {
		t.Errorf("a task started on a host that goes down: %v", err)
	}
	if _, err := c.Upgrade(ctx, client.UpgradeRequest{}); err == nil || !strings.Contains(err.Error(), "the host is being shut down") {
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
	spec := client.TaskSpec{ID: ofHost("deaf"), Owner: "cli", Image: archive(t, greeting),
		Parameters: map[string]string{"GREETING": "x"},
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
	for _, spec := range []client.TaskSpec{{ID: ofHost("one")}, {ID: ofHost("all"), Wait: wait}, {ID: ofHost("lost")},
		{ID: ofHost("over")}} {
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
		if e, err := c.Wait(ctx, ofHost(id)); err != nil || e.Known || !e.Host ||
			!strings.Contains(e.Message, "the host was restarted") {
			t.Errorf("%s ended as %+v %v", id, e, err)
		}
	}
	if e, err := c.Wait(ctx, ofHost("over")); err != nil || e.Host || e.Code != 3 {
		t.Errorf("what had ended before ended as %+v %v", e, err)
	}
	told := map[string]bool{}
	if err := c.Events(ctx, 0, false, func(e client.Event) error {
		told[e.Task] = told[e.Task] || e.Kind == "exited" && strings.Contains(e.Message, "the host") &&
			strings.Contains(e.Message, "restarted")
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
