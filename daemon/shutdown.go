package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// Why a task ended that ended with the host.
const (
	hostShutDown  = "the host was shut down"
	hostRestarted = "the host was restarted"
)

// startAgain is how a daemon that has shut down begins anew.
const startAgain = "service freejail restart"

func (d *Daemon) handleShutdown(r *http.Request) (any, error) {
	var in client.ShutdownRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if in.Limit < 0 {
		return nil, client.Invalid("limit %s is below zero", time.Duration(in.Limit))
	}
	// Who asked may go away: a shutdown that began is not for half of the tasks.
	return d.Shutdown(context.WithoutCancel(r.Context()), time.Duration(in.Limit)), nil
}

func (d *Daemon) isDown() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.down
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
func (d *Daemon) Shutdown(ctx context.Context, limit time.Duration) client.ShutdownResult {
	d.upgrade.Lock()
	defer d.upgrade.Unlock()
	d.mu.Lock()
	d.down = true
	d.mu.Unlock()
	s := shutdown{d: d, seen: map[*task]bool{}}
	if limit > 0 {
		s.kill = time.Now().Add(ownTime(limit))
		s.late = s.kill.Add(cleanTime)
	}
	s.result = client.ShutdownResult{Ended: []string{}, Killed: []string{}, Left: []string{}}
	begun := make(chan struct{})
	go func() {
		d.works.close(errHostDown)
		close(begun)
	}()
	s.endAll(ctx)
	if !await(ctx, begun, s.within(sweepTime, s.kill)) { // a start that hangs holds up nobody's end
		d.log.Warn("shutdown: a start is still under way")
	}
	s.endAll(ctx)
	s.wait.Wait()
	d.syncer.flush()
	d.awaitSweeps(ctx, s.within(cleanTime, s.late))
	d.syncer.flush()
	for _, ids := range [][]string{s.result.Ended, s.result.Killed, s.result.Left} {
		slices.Sort(ids)
	}
	d.log.Info("shutdown: the tasks have ended", "ended", len(s.result.Ended), "killed", len(s.result.Killed), "left", len(s.result.Left))
	return s.result
}

// awaitSweeps gives what is being swept up some of the time that the host has left.
func (d *Daemon) awaitSweeps(ctx context.Context, most time.Duration) {
	late := time.Now().Add(most)
	for _, t := range d.all() {
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
	d          *Daemon
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
	for _, t := range s.d.list() {
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
	s.d.event(t.id(), "stopping", fmt.Sprintf("the host is being shut down: it has %s to end", has))
	began := time.Now()
	exit, err := s.d.Stop(ctx, t.id(), client.StopRequest{Timeout: client.Duration(own)})
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && !client.IsNotFound(err):
		s.d.log.Error("shutdown", "task", t.id(), "error", err)
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
