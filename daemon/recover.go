package daemon

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

// readTasks reads what the journals of an earlier daemon tell.
func (d *Daemon) readTasks(ctx context.Context) error {
	entries, err := os.ReadDir(d.path("tasks"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		t, err := readTask(d.path("tasks", e.Name()), e)
		if t == nil && err == nil {
			err = d.unrecorded(ctx, e.Name())
		}
		if err != nil {
			d.setAside(e.Name(), err)
		} else if t != nil {
			t.root = d.rootOf(t)
			d.add(t)
		}
	}
	d.recovery.total.Store(int64(len(d.all())))
	return nil
}

// recoverAtOnce is how many tasks are recovered at a time. Most wait for others:
// for the disk, a server, or zfs(8).
const recoverAtOnce = 16

// recoverAll takes over what an earlier daemon left: tasks that run on are
// watched again, the rest is swept up, and what nobody knows is removed. When ctx
// ends the rest is left to the next daemon.
func (d *Daemon) recoverAll(ctx context.Context) error {
	alive, err := d.jails.List()
	if err != nil {
		return err
	}
	known := d.known() // before any of them is gone
	todo := make(chan *task)
	var wait sync.WaitGroup
	for range recoverAtOnce {
		wait.Go(func() {
			for t := range todo {
				d.recoverTask(ctx, t, alive)
				t.recovered.Store(true)
				d.recovery.done.Add(1)
			}
		})
	}
	for _, t := range d.all() {
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
	err = errors.Join(d.sweepStrays(ctx, alive, known), d.rulesets.Reconcile(d.rulesetHolders()), d.nfs.Reconcile(d.holders()))
	if err != nil {
		d.log.Error("recovery: not all is swept up; the next daemon tries again", "error", err)
		d.event("", "cleanup", "not all that earlier tasks left is swept up; the next daemon tries again: "+err.Error())
	}
	close(d.recovery.over)
	return nil
}

// readTask reads a task's directory. It is nil where the journal has no record.
func readTask(dir string, e fs.DirEntry) (*task, error) {
	if !e.IsDir() || !validKey.MatchString(e.Name()) {
		return nil, fmt.Errorf("it is no directory that has a task's id for its name")
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
	if t.key() != e.Name() {
		return nil, errors.Join(fmt.Errorf("its journal is of task %q", t.key()), j.file.Close())
	}
	return t, nil
}

// unrecorded removes the directory of a start which got no further than to make
// it. Where anything of a task is there the journal is damaged, if the host was not
// restarted: with that a journal can go which was not on the disk yet.
func (d *Daemon) unrecorded(ctx context.Context, key string) error {
	dir := d.path("tasks", key)
	if !d.restarted() {
		trace, err := d.traceOf(ctx, key)
		if err == nil && trace != "" {
			err = fmt.Errorf("its journal has no whole record, and yet there is %s", trace)
		}
		if err != nil {
			return err
		}
	}
	return removeTask(dir)
}

// traceOf names something that a task has only after the first record of its journal.
func (d *Daemon) traceOf(ctx context.Context, key string) (string, error) {
	entries, err := os.ReadDir(d.path("tasks", key))
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.Name() != journalName {
			return "its " + e.Name(), nil
		}
	}
	alive, err := d.jails.List()
	if err != nil {
		return "", err
	}
	if hasJail(alive, jailOf(key)) {
		return "its jail " + jailOf(key), nil
	}
	for _, kind := range storage.Kinds() {
		s, err := d.storage(kind)
		if err != nil {
			continue // not on this host
		}
		if roots, err := s.Tasks(ctx); err != nil {
			return "", err
		} else if slices.Contains(roots, key) {
			return "its root", nil
		}
	}
	return "", nil
}

// add takes up a task that a journal tells of. Of two with the same id, as a crash
// of the host can leave them, the older one was to be forgotten.
func (d *Daemon) add(t *task) {
	if old := d.tasks[t.id()]; old != nil && !t.gone() {
		if old.info.CreatedAt.After(t.info.CreatedAt) {
			t, old = old, t
		}
		old.destroyed, old.info.State = true, client.Exited
		d.left[old.key()] = old
	}
	if t.gone() {
		d.left[t.key()] = t
	} else {
		d.tasks[t.id()] = t
	}
}

// gone tells that a task has ended and is forgotten.
func (t *task) gone() bool { return t.destroyed && t.info.State == client.Exited }

// setAside leaves a directory that cannot be recovered to the operator, and the
// other tasks to run on. Its jail and root are strays.
func (d *Daemon) setAside(id string, err error) {
	d.noteDamage(d.path("tasks", id), err.Error())
	d.log.Error("a task cannot be recovered and is set aside", "task", id, "error", err)
	d.event(id, "failed", "it cannot be recovered and is set aside: "+err.Error())
}

func (d *Daemon) recoverTask(ctx context.Context, t *task, alive []jail.Info) {
	fault("recovery", "begun")
	if s := t.info.State; !t.destroyed && !d.otherBoot(t) && (s == client.Running || s == client.Stopping) {
		d.reopenOutputs(t)
	}
	switch i := t.info; {
	case t.gone():
		t.isOver()
		d.sweepUp(t)
	case t.destroyed || i.State == client.Starting:
		d.log.Warn("a start was cut off; undoing it", "task", t.id())
		d.abandon(t)
		why := "the daemon ended"
		if d.otherBoot(t) {
			why = hostRestarted
		}
		d.event(t.id(), "failed", why+" during the start, which was undone")
	case i.State == client.Exited:
		t.isOver()
		if len(t.undos) > 0 {
			d.sweepUp(t)
		}
	case d.otherBoot(t):
		d.finish(t, t.atRestart())
	case i.Exit != nil && (t.ended || i.Spec.Wait != "all" || !hasJail(alive, i.Jail)):
		d.finish(t, *i.Exit)
	default:
		d.adopt(t, alive)
	}
}

// otherBoot tells whether a task was started in an earlier boot of the host, so
// that nothing of it runs, whatever else has its name and number now.
func (d *Daemon) otherBoot(t *task) bool { return t.boot != "" && t.boot != d.boot }

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

func (d *Daemon) adopt(t *task, alive []jail.Info) {
	exit, err := t.info.Exit, fmt.Errorf("its jail is gone")
	if hasJail(alive, t.info.Jail) {
		err = nil
		if exit == nil {
			err = d.jails.Adopt(t.info.Jail, t.info.PID, t.pidStart)
		}
	}
	if err != nil {
		exit = &client.Exit{Message: "it ended while no daemon was there: " + err.Error(), At: time.Now()}
		if t.info.Spec.Wait != "all" || !hasJail(alive, t.info.Jail) {
			d.finish(t, *exit)
			return
		}
	}
	d.mu.Lock()
	for _, p := range t.info.Ports {
		d.ports[bindingOf(p)] = t.key()
	}
	d.mu.Unlock()
	if t.info.State == client.Running {
		d.announce(t)
	}
	if exit != nil {
		go d.watchDisk(t)
		go d.ended(t, *exit)
		return
	}
	go d.supervise(t, d.jails.Wait(t.info.PID))
}

func hasJail(alive []jail.Info, name string) bool {
	return slices.ContainsFunc(alive, func(j jail.Info) bool { return j.Name == name })
}

// known are the keys of the roots and the jails that journals tell of. Of a start
// they are those that it has noted: a journal that lost its end tells of no more.
func (d *Daemon) known() map[string]bool {
	known := map[string]bool{}
	for _, t := range d.all() {
		cut := t.info.State == client.Starting
		known[t.key()] = !cut || t.began("root")
		known[t.info.Jail] = !cut || t.began("jail")
	}
	return known
}

// sweepStrays has jails and roots of ours removed that no journal tells of. They
// are of tasks whose journals were not on the disk yet when the host crashed.
func (d *Daemon) sweepStrays(ctx context.Context, alive []jail.Info, known map[string]bool) error {
	strays := map[string][]undo{}
	var errs []error
	for _, kind := range storage.Kinds() {
		s, err := d.storage(kind)
		if err != nil {
			continue // not on this host
		}
		roots, err := s.Tasks(ctx)
		errs = append(errs, err)
		for _, key := range roots {
			if !known[key] {
				strays[key] = append(strays[key], undo{Op: "root", Arg: s.Name()})
			}
		}
	}
	notes, err := d.jails.Notes()
	errs = append(errs, err)
	for _, j := range alive {
		if strings.HasPrefix(j.Root, d.cfg.StateDir+"/") {
			notes = append(notes, j.Name)
		}
	}
	for _, name := range notes { // undone first
		if !known[name] {
			key := keyOfJail(name)
			strays[key] = append(strays[key], undo{Op: "jail", Arg: name})
		}
	}
	d.tellStrays(slices.Sorted(maps.Keys(strays)))
	for key, undos := range strays {
		d.stray(key, undos...)
	}
	return errors.Join(errs...)
}

func (d *Daemon) tellStrays(ids []string) {
	for _, id := range ids {
		if d.restarted() {
			d.event(id, "exited", "it ended with the host, which was restarted before the task's record was on the disk; "+
				"what was left of it is removed")
		} else {
			d.event(id, "failed", "no journal tells of it: it is ended, and its jail and root are removed")
		}
	}
}
