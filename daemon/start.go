package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
)

// start runs a task. When it returns an error nothing of the task is left.
func (d *Daemon) start(ctx context.Context, job *work, spec client.TaskSpec) (*client.Task, error) {
	auth := spec.Auth
	spec.Auth = nil // of the task's record it is no part
	if err := checkImageName(spec); err != nil {
		return nil, err
	}
	if err := checkMemory(spec.Limits); err != nil {
		return nil, err
	}
	if err := d.boundDisk(&spec.Limits); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t, err := d.newTask(spec, cancel)
	if err != nil {
		return nil, err
	}
	err = bounded(ctx, t.root.bounds(), func(ctx context.Context) error { return d.run(ctx, job, t, auth) })
	if err == nil {
		err = t.started(ctx)
	}
	if err != nil {
		return nil, d.failed(ctx, t, err)
	}
	// Not before: a start that fails after its process runs is abandoned, and
	// must not be told to end by two.
	info := t.snapshot()
	d.syncer.add(t.journal)
	go d.supervise(t, d.jails.Wait(info.PID))
	d.event(info.Spec.ID, "started", fmt.Sprintf("process %d runs in jail %s", info.PID, info.Jail))
	return &info, nil
}

// failed takes back what a start did and returns why it failed.
func (d *Daemon) failed(ctx context.Context, t *task, err error) error {
	why := ended(ctx, err)
	d.event(t.id(), eventKind(why), why.Error())
	var stuck *heldError
	if errors.As(err, &stuck) {
		d.abandonLater(t, stuck)
		return why
	}
	d.abandon(t)
	return why
}

// abandonLater undoes a start when the kernel lets go of it.
func (d *Daemon) abandonLater(t *task, s *heldError) {
	t.mu.Lock()
	t.destroyed, t.cancel = true, nil
	t.mu.Unlock()
	if err := t.journal.write(record{Destroyed: true}); err != nil {
		d.log.Error("journal", "task", t.id(), "error", err)
	}
	go func() {
		<-s.done
		d.abandon(t)
	}()
}

func eventKind(err error) string {
	if client.IsRefused(err) {
		return "refused"
	}
	return "failed"
}

func (d *Daemon) newTask(spec client.TaskSpec, cancel context.CancelCauseFunc) (*task, error) {
	if !validID.MatchString(spec.ID) {
		return nil, client.Invalid("task id %q: want a letter, then at most 59 of A-Z a-z 0-9 _ -", spec.ID)
	}
	t := &task{done: make(chan struct{}), cancel: cancel, boot: d.boot}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, taken := d.tasks[spec.ID]; taken {
		return nil, client.Conflict("there is a task %q already: remove it first (freejail rm %s), or choose another id", spec.ID, spec.ID)
	}
	key, err := d.newKey(spec.ID)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	dir := d.path("tasks", key)
	t.info = client.Task{Spec: spec, Key: key, State: client.Starting, Jail: jailOf(key), CreatedAt: time.Now()}
	t.root = d.rootFor(spec, key)
	if t.journal, err = openJournal(dir); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	if err := t.journal.write(record{Task: &t.info, Boot: t.boot}); err != nil {
		return nil, errors.Join(err, t.journal.remove())
	}
	d.tasks[spec.ID] = t
	return t, nil
}

// newKey makes the directory of a task whose id is free. The key is the id, unless
// something of an earlier task with that id is left. The caller holds the lock.
func (d *Daemon) newKey(id string) (string, error) {
	for key, n := id, 2; ; n++ {
		err := fs.ErrExist
		if _, taken := d.left[key]; !taken {
			err = os.Mkdir(d.path("tasks", key), 0o700)
		}
		if !errors.Is(err, fs.ErrExist) {
			return key, err
		}
		key = fmt.Sprintf("%s.%d", id, n)
	}
}

// abandon takes back all that a failed start did. What cannot be taken back now
// is left, and its id free.
func (d *Daemon) abandon(t *task) {
	defer t.isOver()
	t.mu.Lock()
	t.destroyed, t.cancel = true, nil
	t.info.State = client.Exited
	if t.info.Exit == nil {
		t.info.Exit = &client.Exit{Message: "its start failed", At: time.Now()}
	}
	t.mu.Unlock()
	if err := t.journal.write(record{Destroyed: true}); err != nil {
		d.log.Error("that a start failed is not journalled", "task", t.id(), "error", err)
	}
	await(context.Background(), d.sweepUp(t).done, sweepTime)
	d.letGo(t)
}

// run is the life of a task up to its running process.
func (d *Daemon) run(ctx context.Context, job *work, t *task, auth *client.Auth) (err error) {
	found, err := t.root.fetch(ctx, t, auth)
	if err != nil {
		return err
	}
	img, release, err := t.root.find(ctx, t.info.Spec, found)
	if err != nil {
		return err
	}
	defer release()
	if err := changed(t.info.Spec, found, img); err != nil {
		return err
	}
	p, err := d.permitted(t, img)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	store, err := d.storage(t.info.Spec.Storage)
	if err != nil {
		return client.Invalid("%v", err) // it says that it is of the storage
	}
	free, err := t.root.prepare(ctx, t.id(), p, store)
	if err != nil {
		return err
	}
	defer free()
	if err := job.commit(); err != nil {
		return err
	}
	return (&start{d: d, t: t, plan: p, store: store}).run(ctx)
}

// permitted plans a task as the host's policy, sysctls and ports let it be.
func (d *Daemon) permitted(t *task, img *image.Image) (*plan, error) {
	spec := t.info.Spec
	p, err := d.makePlan(spec, img)
	if err != nil {
		return nil, err
	}
	if err := d.decide(spec, img, p.requests); err != nil {
		return nil, err
	}
	if err := checkSysctls(p.sysctl); err != nil {
		return nil, err
	}
	if err := p.boundMemory(spec.Limits.MemoryBytes); err != nil {
		return nil, err
	}
	t.set(func(i *client.Task) {
		i.Digest, i.Ports = img.Digest.String(), p.ports
		i.Spec.Wait, i.Spec.StopSignal, i.Spec.StopTimeout = p.wait, p.stopSignal, p.stopTimeout
	})
	return p, d.claimPorts(t)
}
