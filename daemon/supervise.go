package daemon

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/jail"
)

// supervise waits for the end of a task's main process and sweeps up.
func (d *Daemon) supervise(t *task, exits <-chan jail.Exit) {
	go d.watchDisk(t)
	e := <-exits
	d.ended(t, client.Exit{Code: e.Code, Signal: e.Signal, Known: e.Known, OOM: e.OOM, Message: e.Reason, At: e.At})
}

// ended takes the end of the main process for that of the task, unless the
// task lasts as long as any process of its jail.
func (d *Daemon) ended(t *task, e client.Exit) {
	if t.snapshot().Spec.Wait == "all" {
		// First, so that neither a crash loses the code nor a stop asks for
		// the main process.
		if err := t.update(func(i *client.Task) { i.Exit = &e }); err != nil {
			d.log.Error("the exit of a task is not journalled", "task", t.id(), "error", err)
		}
		d.jails.WaitEmpty(t.info.Jail)
	}
	d.finish(t, e)
}

// finish records how a task ended, tells it when no process of it is left, and has
// all it had taken from the host. The record is written first: a crash in between
// loses no exit code. Only the first end counts.
func (d *Daemon) finish(t *task, e client.Exit) {
	t.mu.Lock()
	already := t.finished
	t.finished = true
	t.mu.Unlock()
	if already {
		return
	}
	if e.At.IsZero() {
		e.At = time.Now()
	}
	if e.Known && e.Signal == int(syscall.SIGBUS) && e.Message == "" {
		e.Message = t.root.unread()
	}
	e = t.withHost(t.overDisk(e))
	if err := t.update(func(i *client.Task) { i.Exit, t.ended = &e, true }); err != nil {
		d.log.Error("the exit of a task is not journalled", "task", t.id(), "error", err)
	}
	d.syncer.add(t.journal)
	fault("exit", "journalled")
	await(context.Background(), d.sweepUp(t).emptied, awayTime) // what does not die keeps its end from nobody
	d.endOutputs(t)
	d.releasePorts(t)
	if err := t.update(func(i *client.Task) { i.State, i.PID, i.JID = client.Exited, 0, 0 }); err != nil {
		d.log.Error("the end of a task is not journalled", "task", t.id(), "error", err)
	}
	d.event(t.id(), "exited", exitText(e))
	t.isOver()
}

func exitText(e client.Exit) string {
	text := fmt.Sprintf("exit code %d", e.Code)
	switch {
	case !e.Known:
		text = "ended; its exit code is unknown"
	case e.Disk:
		return "killed: " + e.Message
	case e.OOM:
		text = "killed: over its memory limit"
	case e.Signal != 0:
		text = "ended by " + unix.SignalName(syscall.Signal(e.Signal))
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Stop ends a task: out of Consul, its signal, SIGKILL after the timeout.
func (d *Daemon) Stop(ctx context.Context, id string, r client.StopRequest) (*client.Exit, error) {
	t, err := d.find(id)
	if err != nil {
		return nil, err
	}
	if d.stopStart(t) {
		return t.over(ctx)
	}
	info := t.snapshot()
	if info.State == client.Exited {
		return howItEnded(info), nil
	}
	sig, err := stopSignal(r.Signal, info)
	if err != nil {
		return nil, err
	}
	if err := t.update(func(i *client.Task) {
		if i.State == client.Running {
			i.State = client.Stopping
		}
	}); err != nil {
		d.log.Error("a stop is not journalled", "task", id, "error", err)
	}
	d.deregister(ctx, t)
	if r.Timeout > 0 {
		if err := d.jails.Signal(info.Jail, target(info), sig); err != nil {
			d.log.Debug("stop signal", "task", id, "error", err)
		}
		select {
		case <-t.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Duration(r.Timeout)):
			d.event(id, "killing", fmt.Sprintf("still there %s after %s: killed", time.Duration(r.Timeout), unix.SignalName(sig)))
		}
	}
	return d.kill(ctx, t)
}

// stopStart ends a start that is under way, and tells whether there was one.
func (d *Daemon) stopStart(t *task) bool {
	was := t.stopStart()
	if was {
		d.event(t.id(), "stopping", "its start is being ended")
	}
	return was
}

// target is whom a task's signals are for: the main process or, when that has
// ended, all that are left.
func target(i client.Task) int {
	if i.Exit != nil {
		return 0
	}
	return i.PID
}

// killTime is how long processes may take to die of SIGKILL before their jail is
// taken from them, in which they may fork faster than they are found.
const killTime = time.Second

func (d *Daemon) kill(ctx context.Context, t *task) (*client.Exit, error) {
	if t.state() != client.Exited {
		d.sendKill(t)
	}
	var late <-chan time.Time
	outrun, soon := time.After(killTime), time.After(awayTime)
	for {
		select {
		case <-t.done:
			return howItEnded(t.snapshot()), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-outrun:
			if err := d.jails.Kill(t.snapshot().Jail); err != nil {
				d.log.Warn("kill", "task", t.id(), "error", err)
			}
		case <-soon:
			more, err := t.root.abandon()
			if err != nil {
				d.log.Warn("nfs", "task", t.id(), "error", err)
			}
			late = time.After(more)
		case <-late: // it is swept up when the kernel lets go of it
			d.finish(t, d.undying(t))
		}
	}
}

func (d *Daemon) sendKill(t *task) {
	t.mu.Lock()
	name := t.info.Jail
	t.outlived = t.info.Exit != nil
	t.mu.Unlock()
	if err := d.jails.Signal(name, 0, syscall.SIGKILL); err != nil {
		d.log.Debug("kill", "task", t.id(), "error", err)
	}
	// A process that waits for a server which is away dies of this.
	if err := t.root.leave(); err != nil {
		d.log.Warn("nfs", "task", t.id(), "error", err)
	}
}

// undying is the end of a task whose processes do not die of SIGKILL. What the
// kernel does for them is known of a server alone.
func (d *Daemon) undying(t *task) client.Exit {
	e := client.Exit{Code: 128 + int(syscall.SIGKILL), Signal: int(syscall.SIGKILL), Known: true}
	if main := t.snapshot().Exit; main != nil { // whose code is the task's
		e = *main
	}
	e.At = time.Now()
	e.Message = "it was killed, but not all of its processes have ended: its jail stays until the kernel lets go of them"
	if t.root.trouble() != "" {
		e.Message = "its jail stays until the kernel no longer waits for the server of its root"
	}
	return e
}

func stopSignal(name string, info client.Task) (syscall.Signal, error) {
	for _, n := range []string{name, info.Spec.StopSignal} {
		if n != "" {
			return parseSignal(n)
		}
	}
	return syscall.SIGTERM, nil
}

func parseSignal(name string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(name); err == nil && unix.SignalName(syscall.Signal(n)) != "" {
		return syscall.Signal(n), nil
	}
	n := strings.ToUpper(name)
	if !strings.HasPrefix(n, "SIG") {
		n = "SIG" + n
	}
	if s := unix.SignalNum(n); s != 0 {
		return s, nil
	}
	return 0, client.Invalid("signal %q is not known on this system", name)
}

// Destroy forgets a task, with force a running or unknown one too.
func (d *Daemon) Destroy(ctx context.Context, id string, force bool) error {
	t, err := d.find(id)
	if client.IsNotFound(err) && force {
		return nil
	}
	if err != nil {
		return err
	}
	if force && d.stopStart(t) {
		_, err := t.over(ctx)
		return err
	}
	if t.state() != client.Exited {
		if !force {
			return client.Conflict("task %s still runs: stop it first (freejail stop %s), or remove it all the same (freejail rm -f %s)", id, id, id)
		}
		d.deregister(ctx, t)
		if _, err := d.kill(ctx, t); err != nil {
			return err
		}
	}
	t.mu.Lock()
	already := t.destroyed
	t.destroyed = true
	t.mu.Unlock()
	if already { // by whom it is being undone
		_, err := t.over(ctx)
		return err
	}
	if err := t.journal.write(record{Destroyed: true}); err != nil {
		return err
	}
	await(ctx, d.sweepUp(t).done, awayTime) // mostly nothing is left, and this soon over
	d.letGo(t)
	return nil
}

// forget removes the record of a task that has nothing left on the host. Its id
// is free when that is done, and then another task's: nobody does it twice. What
// fails is left to the janitor.
func (d *Daemon) forget(t *task) error {
	t.forgetting.Lock()
	defer t.forgetting.Unlock()
	if t.forgotten {
		return nil
	}
	d.releasePorts(t)
	d.endOutputs(t)
	if err := t.journal.remove(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	t.forgotten = true
	if d.tasks[t.id()] == t {
		delete(d.tasks, t.id())
	}
	if d.left[t.key()] == t {
		delete(d.left, t.key())
	}
	return nil
}

// janitor has what could not be undone tried again, follows jails that vanish
// behind our back, and keeps logs within their size. It waits for nobody.
func (d *Daemon) janitor(ctx context.Context) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case name := <-d.jails.Removed():
			d.tellRemoved(name)
		case <-tick.C:
			for _, t := range d.all() {
				d.tend(t)
			}
			d.tendNFS()
		}
	}
}

func (d *Daemon) tend(t *task) {
	if err := d.trimLogs(t); err != nil {
		d.log.Warn("log", "task", t.id(), "error", err)
	}
	if t.due(time.Now()) {
		d.sweepUp(t)
	}
}

func (d *Daemon) tellRemoved(name string) {
	for _, t := range d.all() {
		if t.snapshot().Jail == name {
			d.tell(t, "removed", "the jail was removed by someone else")
		}
	}
}
