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

func (d *Daemon) handleShutdown(r *http.Request) (any, error) {
	var in client.ShutdownRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if in.Limit < 0 {
		return nil, invalid("limit %s is below zero", time.Duration(in.Limit))
	}
	// Who asked may go away: a shutdown that began is not for half of the tasks.
	return d.Shutdown(context.WithoutCancel(r.Context()), time.Duration(in.Limit)), nil
}

func (d *Daemon) isDown() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.down
}

// Shutdown ends all tasks as the host's end would be too late to: out of Consul,
// each its signal and its own time, limit at most unless that is 0. No task is
// started any more. When it returns the ends are on the disk.
func (d *Daemon) Shutdown(ctx context.Context, limit time.Duration) client.ShutdownResult {
	d.upgrade.Lock()
	defer d.upgrade.Unlock()
	d.mu.Lock()
	d.down = true
	d.mu.Unlock()
	s := shutdown{d: d, limit: limit, seen: map[*task]bool{}}
	s.result = client.ShutdownResult{Ended: []string{}, Killed: []string{}, Left: []string{}}
	begun := make(chan struct{})
	go func() {
		d.works.close(errHostDown)
		close(begun)
	}()
	s.endAll(ctx)
	select { // a start that hangs holds up nobody's end
	case <-begun:
	case <-time.After(sweepTime):
		d.log.Warn("shutdown: a start is still under way")
	}
	s.endAll(ctx)
	s.wait.Wait()
	d.awaitSweeps(ctx)
	d.syncer.flush()
	for _, ids := range [][]string{s.result.Ended, s.result.Killed, s.result.Left} {
		slices.Sort(ids)
	}
	d.log.Info("shutdown: the tasks have ended", "ended", len(s.result.Ended), "killed", len(s.result.Killed), "left", len(s.result.Left))
	return s.result
}

// awaitSweeps gives what is being swept up some of the time that the host has left.
func (d *Daemon) awaitSweeps(ctx context.Context) {
	late := time.Now().Add(2 * awayTime)
	for _, t := range d.all() {
		t.mu.Lock()
		w := t.sweeping.walk
		t.mu.Unlock()
		if w != nil {
			w.await(ctx, time.Until(late))
		}
	}
}

// shutdown is one way of all tasks to their end.
type shutdown struct {
	d     *Daemon
	limit time.Duration
	seen  map[*task]bool
	wait  sync.WaitGroup

	mu     sync.Mutex
	result client.ShutdownResult
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
	own := cmp.Or(time.Duration(t.snapshot().Spec.StopTimeout), client.DefaultStopTimeout)
	if s.limit > 0 {
		own = min(own, s.limit)
	}
	ctx, cancel := context.WithTimeout(ctx, own+sweepTime+awayTime)
	defer cancel()
	t.mu.Lock()
	t.hostEnds = t.info.Exit == nil
	t.mu.Unlock()
	s.d.event(t.id(), "stopping", fmt.Sprintf("the host is being shut down: it has %s to end", own))
	began := time.Now()
	exit, err := s.d.Stop(ctx, t.id(), client.StopRequest{Timeout: client.Duration(own)})
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && !client.IsNotFound(err):
		s.d.log.Error("shutdown", "task", t.id(), "error", err)
		s.result.Left = append(s.result.Left, t.id())
		return
	case exit != nil && exit.Signal == int(syscall.SIGKILL) && time.Since(began) >= own:
		s.result.Killed = append(s.result.Killed, t.id())
	}
	s.result.Ended = append(s.result.Ended, t.id())
}

// withHost has an exit tell that it came with the host's.
func (t *task) withHost(e client.Exit) client.Exit {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hostEnds && !e.Host {
		e.Host = true
		if e.Message != "" {
			e.Message = ": " + e.Message
		}
		e.Message = hostShutDown + e.Message
	}
	return e
}
