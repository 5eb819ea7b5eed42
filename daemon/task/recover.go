package task

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/jail"
	"github.com/freejail/freejail/storage"
)

// Read reads what the journals of an earlier daemon tell.
func (m *Manager) Read(ctx context.Context) error {
	inputs, err := inheritInputs()
	if err != nil {
		m.Log.Error("recovery: tasks lose their input", "error", err)
	}
	m.inputs = inputs
	if m.outputs, err = inheritOutputs(); err != nil {
		m.Log.Error("recovery: tasks may lose what they wrote", "error", err)
	}
	entries, err := os.ReadDir(m.path("tasks"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		t, err := readTask(m.path("tasks", e.Name()), e)
		if t == nil && err == nil {
			err = m.unrecorded(ctx, e.Name())
		}
		switch {
		case err != nil:
			m.setAside(e.Name(), err)
			m.Record.Replayed("damaged")
		case t != nil:
			t.root = m.rootOf(t)
			m.add(t)
			m.Record.Replayed("read")
		default:
			m.Record.Replayed("incomplete")
		}
	}
	m.recovery.total.Store(int64(len(m.all())))
	return nil
}

// recoverAtOnce is how many tasks are recovered at a time. Most wait for others:
// for the disk, a server, or zfs(8).
const recoverAtOnce = 16

// Recover takes over what an earlier daemon left: tasks that run on are
// watched again, the rest is swept up, and what nobody knows is removed. When ctx
// ends the rest is left to the next daemon.
func (m *Manager) Recover(ctx context.Context) error {
	alive, err := m.Jails.List()
	if err != nil {
		return err
	}
	m.adoptNetworks()
	nerr := m.sweepNetworks(ctx)
	known := m.known() // before any of them is gone, or lets go of its ruleset
	rerr := m.Rulesets.Reconcile(m.rulesetHolders())
	todo := make(chan *task)
	var wait sync.WaitGroup
	for range recoverAtOnce {
		wait.Go(func() {
			for t := range todo {
				m.recoverTask(ctx, t, alive)
				t.recovered.Store(true)
				m.recovery.done.Add(1)
			}
		})
	}
	for _, t := range m.all() {
		if ctx.Err() == nil {
			todo <- t
		}
	}
	close(todo)
	wait.Wait()
	if ctx.Err() != nil {
		return nil
	}
	// Whether or not the disk is full or a mount hangs: what runs is to be looked after.
	err = errors.Join(rerr, nerr, m.dropStreams(), m.sweepStrays(ctx, alive, known), m.NFS.Reconcile(m.holders()))
	if err != nil {
		m.Log.Error("recovery: cleanup is incomplete; the next daemon tries again", "error", err)
		m.Event("", "cleanup", "cleanup after earlier tasks is incomplete; the next daemon tries again: "+err.Error())
	}
	close(m.recovery.over)
	return nil
}

// rulesetHolders are the rulesets of the tasks, as their journals have them.
func (m *Manager) rulesetHolders() map[string]uint16 {
	out := map[string]uint16{}
	for _, t := range m.all() {
		t.mu.Lock()
		if t.began("ruleset") {
			out[t.key()] = uint16(t.info.Ruleset)
		}
		t.mu.Unlock()
	}
	return out
}

// holders are the keys of tasks that may have something of the host.
func (m *Manager) holders() []string {
	var out []string
	for _, t := range m.all() {
		out = append(out, t.key())
	}
	return out
}

// readTask reads a task's directory. It is nil where the journal has no record.
func readTask(dir string, e fs.DirEntry) (*task, error) {
	if !e.IsDir() || !validKey.MatchString(e.Name()) {
		return nil, fmt.Errorf("not a directory named after a task")
	}
	j, err := openJournal(dir)
	if err != nil {
		return nil, err
	}
	t, err := j.replay()
	if err != nil {
		return nil, errors.Join(err, j.file.Close())
	}
	if t == nil {
		return nil, j.file.Close()
	}
	t.info.ID = t.id() // older journals have it in the spec alone
	if t.key() != e.Name() {
		return nil, errors.Join(fmt.Errorf("its journal is of task %q", t.key()), j.file.Close())
	}
	return t, nil
}

// unrecorded removes the directory of a start which got no further than to make
// it. Where anything of a task is there the journal is damaged, if the host was not
// restarted: with that a journal can go which was not on the disk yet.
func (m *Manager) unrecorded(ctx context.Context, key string) error {
	dir := m.path("tasks", key)
	if !m.Restarted {
		trace, err := m.traceOf(ctx, key)
		if err == nil && trace != "" {
			err = fmt.Errorf("its journal has no complete record, but there is %s", trace)
		}
		if err != nil {
			return err
		}
	}
	return removeTask(dir)
}

// traceOf names something that a task has only after the first record of its journal.
func (m *Manager) traceOf(ctx context.Context, key string) (string, error) {
	entries, err := os.ReadDir(m.path("tasks", key))
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.Name() != journalName {
			return "its " + e.Name(), nil
		}
	}
	alive, err := m.Jails.List()
	if err != nil {
		return "", err
	}
	if hasJail(alive, jailOf(key)) {
		return "its jail " + jailOf(key), nil
	}
	roots, err := m.roots(ctx)
	if err == nil && len(roots[key]) > 0 {
		return "its root", nil
	}
	return "", err
}

// roots are the storage drivers of this host that have a root, by its task's key.
func (m *Manager) roots(ctx context.Context) (map[string][]string, error) {
	out := map[string][]string{}
	var errs []error
	for _, kind := range storage.Kinds() {
		s, err := m.Stores(kind)
		if err != nil {
			continue // not on this host
		}
		keys, err := s.Tasks(ctx)
		errs = append(errs, err)
		for _, key := range keys {
			out[key] = append(out[key], s.Name())
		}
	}
	return out, errors.Join(errs...)
}

// add takes up a task that a journal tells of. Of two with the same id, as a crash
// of the host can leave them, the older one was to be forgotten, unless the newer one
// was still being started in its place.
func (m *Manager) add(t *task) {
	if old := m.tasks[t.id()]; old != nil && !t.gone() {
		if old.info.CreatedAt.After(t.info.CreatedAt) {
			t, old = old, t
		}
		if t.info.State == client.Starting && old.isEnded() {
			m.tasks[old.id()], m.left[t.key()] = old, t
			return
		}
		old.destroyed, old.info.State = true, client.Exited
		m.left[old.key()] = old
	}
	if t.gone() {
		m.left[t.key()] = t
	} else {
		m.tasks[t.id()] = t
	}
}

// gone tells that a task has ended and is forgotten.
func (t *task) gone() bool { return t.destroyed && t.info.State == client.Exited }

// setAside leaves a directory that cannot be recovered to the operator, and the
// other tasks to run on. Its jail and root are strays.
func (m *Manager) setAside(id string, err error) {
	m.Damaged(m.path("tasks", id), err.Error())
	m.Log.Error("a task cannot be recovered and is set aside", "task", id, "error", err)
	m.Event(id, "failed", "it cannot be recovered and is set aside: "+err.Error())
}

func (m *Manager) recoverTask(ctx context.Context, t *task, alive []jail.Info) {
	fault("recovery", "begun")
	if s := t.info.State; !t.destroyed && !m.otherBoot(t) && (s == client.Running || s == client.Stopping) {
		m.reopenOutputs(t)
		m.takeInput(t)
	}
	switch i := t.info; {
	case t.gone():
		m.isOver(t)
		m.sweepUp(t)
	case t.destroyed || i.State == client.Starting:
		m.Log.Warn("a start was cut off; undoing it", "task", t.id())
		m.giveUp(t)
		m.abandon(t)
		why := "the daemon ended"
		if m.otherBoot(t) {
			why = hostRestarted
		}
		m.Event(t.id(), "failed", why+" during the start, which was undone")
	case i.State == client.Exited:
		m.isOver(t)
		if len(t.undos) > 0 {
			m.sweepUp(t)
		}
		m.removeIfAsked(t)
	case m.otherBoot(t):
		m.finish(t, t.atRestart(), isNoted)
	case i.Exit != nil && (t.ended || i.Spec.Wait != "all" || !hasJail(alive, i.Jail)):
		m.finish(t, *i.Exit, isNoted)
	default:
		m.adopt(t, alive)
	}
}

// otherBoot tells whether a task was started in an earlier boot of the host, so
// that nothing of it runs, whatever else has its name and number now.
func (m *Manager) otherBoot(t *task) bool { return t.boot != "" && t.boot != m.Boot }

// atRestart is the end of a task which an earlier boot of the host had begun, and
// whose end no daemon told. A main process that had ended, and which others
// outlived, ended no task.
func (t *task) atRestart() client.Exit {
	main := t.info.Exit
	switch {
	case main == nil:
		return client.Exit{Host: true, Message: hostRestarted}
	case t.ended || t.info.Spec.Wait != "all":
		return *main
	}
	return client.Exit{Host: true, Message: hostRestarted + ": " + mainEnded(*main)}
}

func (m *Manager) adopt(t *task, alive []jail.Info) {
	exit, err := t.info.Exit, fmt.Errorf("its jail is gone")
	if hasJail(alive, t.info.Jail) {
		err = nil
		if exit == nil {
			err = m.Jails.Adopt(t.info.Jail, t.info.PID, t.pidStart)
		}
	}
	if err != nil {
		exit = &client.Exit{Message: "it ended while no daemon was there: " + err.Error(), At: time.Now()}
		if t.info.Spec.Wait != "all" || !hasJail(alive, t.info.Jail) {
			m.finish(t, *exit, isNoted)
			return
		}
	}
	if !t.isPublished() { // of which it is known already
		m.adoptPorts(t)
	}
	if t.info.State == client.Running {
		m.announce(t)
	}
	if exit != nil {
		go m.watchDisk(t)
		go m.ended(t, *exit, isNoted)
	} else {
		m.supervise(t)
	}
	m.keepKill(t)
}

func hasJail(alive []jail.Info, name string) bool {
	return slices.ContainsFunc(alive, func(j jail.Info) bool { return j.Name == name })
}

// known are the keys of the roots and the jails that journals tell of. Of a start
// they are those that it has noted: a journal that lost its end tells of no more.
func (m *Manager) known() map[string]bool {
	known := map[string]bool{}
	for _, t := range m.all() {
		cut := t.info.State == client.Starting
		known[t.key()] = !cut || t.began("root")
		known[t.info.Jail] = !cut || t.began("jail")
	}
	return known
}

// sweepStrays has jails and roots of ours removed that no journal tells of. They
// are of tasks whose journals were not on the disk yet when the host crashed.
func (m *Manager) sweepStrays(ctx context.Context, alive []jail.Info, known map[string]bool) error {
	strays := map[string][]undo{}
	roots, err1 := m.roots(ctx)
	for key, stores := range roots {
		for _, name := range stores {
			if !known[key] {
				strays[key] = append(strays[key], undo{Op: "root", Arg: name})
			}
		}
	}
	notes, err2 := m.Jails.Notes()
	for _, j := range alive {
		if strings.HasPrefix(j.Root, m.Config.StateDir+"/") {
			notes = append(notes, j.Name)
		}
	}
	for _, name := range notes { // undone first
		if !known[name] {
			key := keyOfJail(name)
			strays[key] = append(strays[key], undo{Op: "jail", Arg: name})
		}
	}
	m.tellStrays(slices.Sorted(maps.Keys(strays)))
	for key, undos := range strays {
		m.stray(key, undos...)
	}
	return errors.Join(err1, err2)
}

func (m *Manager) tellStrays(ids []string) {
	for _, id := range ids {
		if m.Restarted {
			m.Event(id, "exited",
				"it ended with the host, which was restarted before the task's record was on the disk; "+
					"what was left of it is removed")
		} else {
			m.Event(id, "failed", "no journal tells of it: it is ended, and its jail and root are removed")
		}
	}
}
