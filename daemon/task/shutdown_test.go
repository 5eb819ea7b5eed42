package task

import (
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

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
		if e.Host != c.host || e.Host != strings.Contains(e.Message, hostRestarted) || c.host &&
			(e.Known || !e.At.IsZero()) {
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
	if !e.Host || !e.Known || e.Code != 5 || !e.At.After(main.At) || e.Message != hostShutDown+
		": its main process had ended: exit code 5" {
		t.Errorf("%+v", e)
	}
	task.hostEnds = false // the daemon alone was restarted, and the jail emptied by itself
	if e := task.withHost(main); e != main {
		t.Errorf("%+v", e)
	}
}
