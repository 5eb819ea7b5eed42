package task

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/works"
)

// Why a task ended that ended with the host.
const (
	hostShutDown  = "the host was shut down"
	hostRestarted = "the host was restarted"
)

// StartAgain is how a daemon that has shut down begins anew.
var StartAgain = startAgain(runtime.GOOS)

// startAgain is by what freejail comes with for a system: a script of rc(8), or a unit of systemd.
func startAgain(system string) string {
	if system == "linux" {
		return "systemctl restart freejail"
	}
	return "service freejail restart"
}

// ErrNoUpgrade is that of a daemon whose tasks were told to end with the host.
var ErrNoUpgrade = client.Unavailable("no upgrade: the host is being shut down; start the daemon again for tasks to "+
	"start (%s)", StartAgain)

// Still runs what replaces the daemon, while nothing of a task is under way: starts
// were waited for, and what tasks write stays where it is.
func (m *Manager) Still(replace func() error) error {
	m.upgrade.Lock()
	defer m.upgrade.Unlock()
	if _, down := m.Count(); down {
		return ErrNoUpgrade
	}
	m.Works.Close(works.ErrUpgrading)
	defer m.Works.Open() // there is no after, but where it failed
	m.pauseOutputs()
	defer m.resumeOutputs()
	defer m.Jails.Still()()
	m.unnoted.Wait() // what was told of ends is in the journal
	m.syncer.flush()
	return replace()
}

// Close leaves the tasks to the next daemon.
func (m *Manager) Close() error {
	m.Works.Close(works.ErrShutDown) // no start acquires a ruleset behind our back
	m.pauseOutputs()
	m.syncer.flush()
	// What has no holder is kept for reuse, but only by this daemon.
	return m.Rulesets.Reconcile(m.rulesetHolders())
}

// cleanTime is how much of a shutdown's limit is kept for killing and sweeping up.
const cleanTime = 2 * awayTime

// ownTime is how much of a limit the tasks have to end by themselves. A limit that is
// too short for both is overrun, by less than cleanTime.
func ownTime(limit time.Duration) time.Duration { return max(limit-cleanTime, limit/2) }

// Shutdown ends all tasks as the host's end would be too late to: out of Consul,
// each its signal and its own time. Unless it is 0, limit is for all of it, the
// sweeping up too. No task is started any more. When it returns the ends are on the
// disk.
func (m *Manager) Shutdown(ctx context.Context, limit time.Duration) client.ShutdownResult {
	m.upgrade.Lock()
	defer m.upgrade.Unlock()
	m.mu.Lock()
	m.down = true
	m.mu.Unlock()
	s := shutdown{m: m, seen: map[*task]bool{}}
	if limit > 0 {
		s.kill = time.Now().Add(ownTime(limit))
		s.late = s.kill.Add(cleanTime)
	}
	s.result = client.ShutdownResult{Ended: []string{}, Killed: []string{}, Left: []string{}}
	begun := make(chan struct{})
	go func() {
		m.Works.Close(works.ErrHostDown)
		close(begun)
	}()
	s.endAll(ctx)
	if !await(ctx, begun, s.within(sweepTime, s.kill)) { // a start that hangs holds up nobody's end
		m.Log.Warn("shutdown: a start is still under way")
	}
	s.endAll(ctx)
	s.wait.Wait()
	m.syncer.flush()
	m.awaitSweeps(ctx, s.within(cleanTime, s.late))
	m.syncer.flush()
	for _, ids := range [][]string{s.result.Ended, s.result.Killed, s.result.Left} {
		slices.Sort(ids)
	}
	m.Log.Info("shutdown: the tasks have ended", "ended", len(s.result.Ended), "killed", len(s.result.Killed), "left",
		len(s.result.Left))
	return s.result
}

// awaitSweeps gives what is being swept up some of the time that the host has left.
func (m *Manager) awaitSweeps(ctx context.Context, most time.Duration) {
	late := time.Now().Add(most)
	for _, t := range m.all() {
		t.mu.Lock()
		w := t.sweeping.walk
		t.mu.Unlock()
		if w != nil {
			await(ctx, w.done, time.Until(late))
		}
	}
}

// shutdown is one way of all tasks to their end.
type shutdown struct {
	m          *Manager
	kill, late time.Time // for tasks that have not ended, and for all of it; zero without a limit
	seen       map[*task]bool
	wait       sync.WaitGroup

	mu     sync.Mutex
	result client.ShutdownResult
}

// within is a time of its own, cut off where the shutdown's is over.
func (s *shutdown) within(own time.Duration, over time.Time) time.Duration {
	if over.IsZero() {
		return own
	}
	return max(0, min(own, time.Until(over)))
}

// endAll begins to end the tasks that it has not begun to end yet.
func (s *shutdown) endAll(ctx context.Context) {
	for _, t := range s.m.list() {
		if s.seen[t] || t.state() == client.Exited {
			continue
		}
		s.seen[t] = true
		s.wait.Go(func() { s.end(ctx, t) })
	}
}

// end gives up on a task that does not even go when it was killed.
func (s *shutdown) end(ctx context.Context, t *task) {
	own := s.within(cmp.Or(time.Duration(t.snapshot().Spec.StopTimeout), client.DefaultStopTimeout), s.kill)
	ctx, cancel := context.WithTimeout(ctx, s.within(own+sweepTime+awayTime, s.late))
	defer cancel()
	t.mu.Lock()
	t.hostEnds = !t.finished
	t.mu.Unlock()
	has := own.Round(time.Millisecond)
	s.m.Event(t.id(), "stopping", fmt.Sprintf("the host is being shut down: it has %s to end", has))
	began := time.Now()
	exit, err := s.m.Stop(ctx, t.id(), client.StopRequest{Timeout: client.Duration(own)})
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && !client.IsNotFound(err):
		s.m.Log.Error("shutdown", "task", t.id(), "error", err)
		s.result.Left = append(s.result.Left, t.id())
		return
	case exit != nil && (exit.Signal == int(syscall.SIGKILL) || t.wasOutlived()) && time.Since(began) >= own:
		s.result.Killed = append(s.result.Killed, t.id())
	}
	s.result.Ended = append(s.result.Ended, t.id())
}

// withHost has an exit tell that it came with the host's.
func (t *task) withHost(e client.Exit) client.Exit {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.hostEnds || e.Host {
		return e
	}
	if main := t.info.Exit; main != nil && !e.Disk && e.At.Equal(main.At) { // the task has ended only now
		e.Message, e.At = mainEnded(*main), time.Now()
	}
	e.Host = true
	if e.Message != "" {
		e.Message = ": " + e.Message
	}
	e.Message = hostShutDown + e.Message
	return e
}

// mainEnded tells of a main process which other processes of its task outlived.
func mainEnded(e client.Exit) string { return "its main process had ended: " + exitText(e) }

// wasOutlived tells whether what a main process had left was killed.
func (t *task) wasOutlived() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.outlived
}
