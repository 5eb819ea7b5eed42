package task

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/signals"
	"github.com/freejail/freejail/jail"
)

// supervise has the end of a task's main process told and swept up, and its limits kept until then.
func (m *Manager) supervise(t *task) {
	go m.watchDisk(t)
	m.followCPUs(t)
	m.Jails.OnExit(t.snapshot().PID, func(e jail.Exit) {
		m.unnoted.Add(1)
		noted := sync.OnceFunc(m.unnoted.Done)
		go func() {
			defer noted()
			m.ended(t, client.Exit{Code: e.Code, Signal: e.Signal, Known: e.Known, OOM: e.OOM, Message: e.Reason,
				At: e.At}, noted)
		}()
	})
}

// ended takes the end of the main process for that of the task, unless the
// task lasts as long as any process of its jail. Noted is called when the end is in the journal.
func (m *Manager) ended(t *task, e client.Exit, noted func()) {
	fault("exit", "told")
	if t.snapshot().Spec.Wait == "all" {
		// First, so that neither a crash loses the code nor a stop asks for
		// the main process.
		m.note(t, "exit of its process", func(i *client.Task) { i.Exit = &e })
		noted()
		m.Jails.WaitEmpty(t.info.Jail)
	}
	m.finish(t, e, noted)
}

// finish records how a task ended, tells it when no process of it is left, and has
// all it had taken from the host. The record is written first: a crash in between
// loses no exit code. Only the first end counts. Noted is called when it is in the journal.
func (m *Manager) finish(t *task, e client.Exit, noted func()) {
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
	m.syncer.add(t.journal, gathersEnds)
	noted()
	fault("exit", "journalled")
	await(context.Background(), m.sweepUp(t).emptied, awayTime) // what does not die keeps its end from nobody
	m.endOutputs(t)
	t.closeInput()
	if !t.isPublished() { // what the daemon itself holds is released with that
		m.releasePorts(t)
	}
	m.note(t, "end", func(i *client.Task) { i.State, i.PID, i.JID = client.Exited, 0, 0 })
	m.Record.Ended(e)
	m.Event(t.id(), "exited", exitText(e))
	m.isOver(t)
	m.removeIfAsked(t)
}

// isNoted is for ends that are no child's which was collected.
func isNoted() {}

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

// Stop ends a task: out of Consul, its signal, SIGKILL after the timeout. When ctx ends
// that goes on: only the waiting for it is over.
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
	own, why := max(0, time.Duration(r.Timeout)), ""
	if own > 0 {
		why = fmt.Sprintf("still there %s after %s", own, signals.Name(sig))
	}
	leaves := m.leaveTime(t, info)
	m.killAt(t, time.Now().Add(deregisterTime+leaves+own), why) // should this daemon end before it has signalled
	m.deregister(ctx, t)
	if own > 0 {
		m.awaitLeave(t, leaves)
		if err := m.Jails.Signal(info.Jail, target(info), sig); err != nil {
			m.Log.Debug("stop signal", "task", id, "error", err)
		}
	}
	m.killAt(t, time.Now().Add(own), why)
	return t.over(ctx)
}

// leaveTime is how long others have to find out from Consul that a task is leaving; none at the end of the host.
func (m *Manager) leaveTime(t *task, info client.Task) time.Duration {
	t.mu.Lock()
	host := t.hostEnds
	t.mu.Unlock()
	found := slices.ContainsFunc(m.withServices(info).Services, func(s client.ServiceInfo) bool { return s.Registered })
	if host || !found {
		return 0
	}
	return time.Duration(info.Spec.Service.ShutdownDelay)
}

// awaitLeave returns when the time is over, or the task has ended.
func (m *Manager) awaitLeave(t *task, d time.Duration) {
	if d <= 0 {
		return
	}
	m.Event(t.id(), "stopping", fmt.Sprintf("its services are out of Consul: it is told to end in %s", d))
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-over.C:
	case <-t.done:
	}
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
	if err != nil && force {
		return m.removed(ctx, id)
	}
	if err != nil {
		return err
	}
	return m.destroy(ctx, t, force)
}

// removed waits for the removal of a task that is under way, and returns an error where something of it stays: who asks
// twice, as a client does over an upgrade, has the answer to both.
func (m *Manager) removed(ctx context.Context, id string) error {
	m.mu.Lock()
	t := m.left[id]
	m.mu.Unlock()
	if t != nil {
		await(ctx, m.sweepUp(t).done, awayTime)
	}
	if _, err := m.find(id); err != nil && !client.IsNotFound(err) {
		return err
	}
	return nil
}

func (m *Manager) destroy(ctx context.Context, t *task, force bool) error {
	if force && m.stopStart(t) {
		if _, err := t.over(ctx); err != nil || t.before == nil {
			return err
		}
		return m.destroy(ctx, t.before, force) // which has the id again
	}
	if t.state() != client.Exited {
		if !force {
			return client.Conflict("task %s still runs: stop it first (freejail stop %s), or remove it all the same "+
				"(freejail rm -f %s)", t.id(), t.id(), t.id())
		}
		m.deregister(ctx, t)
		m.killAt(t, time.Now(), "")
		if _, err := t.over(ctx); err != nil {
			go m.destroyAtEnd(t)
			return err
		}
	}
	already, err := t.destroy()
	if already { // by whom it is being undone: none of those who remove it is done before it is gone
		_, err = t.over(ctx)
	}
	if err != nil {
		return err
	}
	await(ctx, m.sweepUp(t).done, awayTime) // mostly nothing is left, and this soon over
	m.letGo(t)
	return nil
}

// destroyAtEnd goes on with what nobody waits for any more.
func (m *Manager) destroyAtEnd(t *task) {
	<-t.done
	if err := m.destroy(context.Background(), t, false); err != nil {
		m.Log.Warn("remove", "task", t.id(), "error", err)
	}
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
	m.releaseAddresses(t)
	m.endOutputs(t)
	t.closeInput()
	if err := t.journal.remove(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t.forgotten = true
	m.takeOut(t)
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
