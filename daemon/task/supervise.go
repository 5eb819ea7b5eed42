package task

import (
	"cmp"
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/signals"
	"github.com/freejail/freejail/jail"
)

// supervise waits for the end of a task's main process and sweeps up.
func (m *Manager) supervise(t *task, exits <-chan jail.Exit) {
	go m.watchDisk(t)
	e := <-exits
	m.ended(t, client.Exit{Code: e.Code, Signal: e.Signal, Known: e.Known, OOM: e.OOM, Message: e.Reason, At: e.At})
}

// ended takes the end of the main process for that of the task, unless the
// task lasts as long as any process of its jail.
func (m *Manager) ended(t *task, e client.Exit) {
	if t.snapshot().Spec.Wait == "all" {
		// First, so that neither a crash loses the code nor a stop asks for
		// the main process.
		m.note(t, "exit of its process", func(i *client.Task) { i.Exit = &e })
		m.Jails.WaitEmpty(t.info.Jail)
	}
	m.finish(t, e)
}

// finish records how a task ended, tells it when no process of it is left, and has
// all it had taken from the host. The record is written first: a crash in between
// loses no exit code. Only the first end counts.
func (m *Manager) finish(t *task, e client.Exit) {
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
	m.note(t, "exit", func(i *client.Task) { i.Exit, t.ended = &e, true })
	m.syncer.add(t.journal)
	fault("exit", "journalled")
	await(context.Background(), m.sweepUp(t).emptied, awayTime) // what does not die keeps its end from nobody
	m.endOutputs(t)
	t.closeInput()
	m.releasePorts(t)
	m.note(t, "end", func(i *client.Task) { i.State, i.PID, i.JID = client.Exited, 0, 0 })
	m.Event(t.id(), "exited", exitText(e))
	t.isOver()
}

func exitText(e client.Exit) string {
	text := fmt.Sprintf("exit code %d", e.Code)
	switch {
	case !e.Known:
		text = "ended; exit code unknown"
	case e.Disk:
		return "killed: " + e.Message
	case e.OOM:
		text = "killed: over its memory limit"
	case e.Signal != 0:
		text = "ended by " + signals.Name(syscall.Signal(e.Signal))
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Stop ends a task: out of Consul, its signal, SIGKILL after the timeout.
func (m *Manager) Stop(ctx context.Context, id string, r client.StopRequest) (*client.Exit, error) {
	t, err := m.find(id)
	if err != nil {
		return nil, err
	}
	if m.stopStart(t) {
		return t.over(ctx)
	}
	info := t.snapshot()
	if info.State == client.Exited {
		return howItEnded(info), nil
	}
	sig, err := t.signal(cmp.Or(r.Signal, info.Spec.StopSignal, "SIGTERM"))
	if err != nil {
		return nil, err
	}
	m.note(t, "stop", func(i *client.Task) {
		if i.State == client.Running {
			i.State = client.Stopping
		}
	})
	m.deregister(ctx, t)
	if r.Timeout > 0 {
		if err := m.Jails.Signal(info.Jail, target(info), sig); err != nil {
			m.Log.Debug("stop signal", "task", id, "error", err)
		}
		select {
		case <-t.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Duration(r.Timeout)):
			m.Event(id, "killing", fmt.Sprintf("still there %s after %s: killed", time.Duration(r.Timeout),
				signals.Name(sig)))
		}
	}
	return m.kill(ctx, t)
}

// stopStart ends a start that is under way, and tells whether there was one.
func (m *Manager) stopStart(t *task) bool {
	t.mu.Lock()
	starting := t.cancel != nil
	if starting { // it cannot succeed any more
		t.cancel(client.Conflict("task %s was stopped while it was starting", t.id()))
	}
	t.mu.Unlock()
	if starting {
		m.Event(t.id(), "stopping", "its start is being ended")
	}
	return starting
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

func (m *Manager) kill(ctx context.Context, t *task) (*client.Exit, error) {
	if t.state() != client.Exited {
		m.sendKill(t)
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
			if err := m.Jails.Kill(t.snapshot().Jail); err != nil {
				m.Log.Warn("kill", "task", t.id(), "error", err)
			}
		case <-soon:
			more, err := t.root.abandon()
			if err != nil {
				m.Log.Warn("nfs", "task", t.id(), "error", err)
			}
			late = time.After(more)
		case <-late: // it is swept up when the kernel lets go of it
			m.finish(t, m.undying(t))
		}
	}
}

func (m *Manager) sendKill(t *task) {
	t.mu.Lock()
	name := t.info.Jail
	t.outlived = t.info.Exit != nil
	t.mu.Unlock()
	if err := m.Jails.Signal(name, 0, syscall.SIGKILL); err != nil {
		m.Log.Debug("kill", "task", t.id(), "error", err)
	}
	// A process that waits for a server which is away dies of this.
	if err := t.root.leave(); err != nil {
		m.Log.Warn("nfs", "task", t.id(), "error", err)
	}
}

// undying is the end of a task whose processes do not die of SIGKILL. What the
// kernel does for them is known of a server alone.
func (m *Manager) undying(t *task) client.Exit {
	e := client.Exit{Code: 128 + int(syscall.SIGKILL), Signal: int(syscall.SIGKILL), Known: true}
	if main := t.snapshot().Exit; main != nil { // whose code is the task's
		e = *main
	}
	e.At = time.Now()
	e.Message = "it was killed, but not all of its processes have ended: its jail stays until the kernel releases them"
	if t.root.trouble() != "" {
		e.Message = "its jail stays until the kernel no longer waits for the server of its root"
	}
	return e
}

// signal reads a signal as the task's image means it.
func (t *task) signal(text string) (syscall.Signal, error) {
	system := ""
	if img, err := t.root.image(t.snapshot()); err == nil { // else as this host means it
		system = img.Config.OS
	}
	return parseSignal(text, system)
}

func parseSignal(text, system string) (syscall.Signal, error) {
	sig, err := signals.ForHost(text, system)
	if err != nil {
		return 0, client.Invalid("%v", err)
	}
	return sig, nil
}

// Destroy forgets a task, with force a running or unknown one too.
func (m *Manager) Destroy(ctx context.Context, id string, force bool) error {
	t, err := m.find(id)
	if client.IsNotFound(err) && force {
		return nil
	}
	if err != nil {
		return err
	}
	return m.destroy(ctx, t, force)
}

func (m *Manager) destroy(ctx context.Context, t *task, force bool) error {
	if force && m.stopStart(t) {
		_, err := t.over(ctx)
		return err
	}
	if t.state() != client.Exited {
		if !force {
			return client.Conflict("task %s still runs: stop it first (freejail stop %s), or remove it all the same "+
				"(freejail rm -f %s)", t.id(), t.id(), t.id())
		}
		m.deregister(ctx, t)
		if _, err := m.kill(ctx, t); err != nil {
			return err
		}
	}
	already, err := t.destroy()
	if already { // by whom it is being undone
		_, err = t.over(ctx)
	}
	if already || err != nil {
		return err
	}
	await(ctx, m.sweepUp(t).done, awayTime) // mostly nothing is left, and this soon over
	m.letGo(t)
	return nil
}

// destroy has the task be gone when it is swept up, and journals that. Whoever sweeps it
// up meanwhile does not forget it before that is written.
func (t *task) destroy() (already bool, err error) {
	t.forgetting.Lock()
	defer t.forgetting.Unlock()
	t.mu.Lock()
	already, t.destroyed = t.destroyed, true
	t.mu.Unlock()
	if already {
		return true, nil
	}
	return false, t.journal.write(record{Destroyed: true})
}

// forget removes the record of a task that has nothing left on the host. Its id
// is free when that is done, and then another task's: nobody does it twice. What
// fails is left to the janitor.
func (m *Manager) forget(t *task) error {
	t.forgetting.Lock()
	defer t.forgetting.Unlock()
	if t.forgotten {
		return nil
	}
	m.releasePorts(t)
	m.endOutputs(t)
	t.closeInput()
	if err := t.journal.remove(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t.forgotten = true
	if m.tasks[t.id()] == t {
		delete(m.tasks, t.id())
	}
	if m.left[t.key()] == t {
		delete(m.left, t.key())
	}
	return nil
}

// Tend has what could not be undone tried again, keeps logs within their size, and
// looks after roots over NFS. It waits for nobody.
func (m *Manager) Tend() {
	for _, t := range m.all() {
		m.tend(t)
	}
	m.tendNFS()
}

func (m *Manager) tend(t *task) {
	if err := m.trimLogs(t); err != nil {
		m.Log.Warn("log", "task", t.id(), "error", err)
	}
	if t.due(time.Now()) {
		m.sweepUp(t)
	}
}

// JailRemoved tells of a jail that vanished behind our back.
func (m *Manager) JailRemoved(name string) {
	for _, t := range m.all() {
		if t.snapshot().Jail == name {
			m.tell(t, "removed", "the jail was removed by someone else")
		}
	}
}
