package task

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/telemetry"
	"github.com/freejail/freejail/daemon/works"
	"github.com/freejail/freejail/image"
)

// Start runs a task. When it returns an error nothing of the task is left.
func (m *Manager) Start(ctx context.Context, job *works.Work, spec client.TaskSpec) (*client.Task, error) {
	return m.begin(ctx, job, spec, false)
}

// StartAgain is Start in the place of a task with the same id that has ended, if there is one: that is forgotten when
// the new one runs, and stays, with its log, where it does not.
func (m *Manager) StartAgain(ctx context.Context, job *works.Work, spec client.TaskSpec) (*client.Task, error) {
	return m.begin(ctx, job, spec, true)
}

func (m *Manager) begin(ctx context.Context, job *works.Work, spec client.TaskSpec, again bool) (*client.Task, error) {
	auth := spec.Auth
	spec.Auth = nil // of the task's record it is no part
	if err := m.Images.Check(spec); err != nil {
		return nil, err
	}
	if err := errors.Join(checkMemory(spec.Limits), checkConsole(spec)); err != nil {
		return nil, err
	}
	if err := m.boundDisk(&spec.Limits); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t, err := m.newTask(spec, again, cancel)
	if err != nil {
		return nil, err
	}
	ctx, took := m.Record.Begin(ctx, telemetry.Start, telemetry.Attributes(spec)...)
	err = bounded(ctx, t.root.bounds(), func(ctx context.Context) error { return m.run(ctx, job, t, auth) })
	if err == nil {
		err = t.started(ctx)
	}
	took(err)
	if err != nil {
		return nil, m.failed(ctx, t, err)
	}
	m.forgetBefore(ctx, t)
	m.Record.Started(spec)
	// Not before: a start that fails after its process runs is abandoned, and
	// must not be told to end by two.
	info := t.snapshot()
	m.syncer.add(t.journal, gathersStarts)
	m.supervise(t)
	text := fmt.Sprintf("process %d runs in jail %s", info.PID, info.Jail)
	if spec.By != "" {
		text += ", started by " + spec.By
	}
	m.Event(info.Spec.ID, "started", text)
	return &info, nil
}

// failed takes back what a start did and returns why it failed.
func (m *Manager) failed(ctx context.Context, t *task, err error) error {
	why := works.Ended(ctx, err)
	m.Event(t.id(), eventKind(why), why.Error())
	m.giveUp(t)
	var stuck *heldError
	if errors.As(err, &stuck) { // it is undone when the kernel lets go of it
		go func() {
			<-stuck.done
			m.abandon(t)
		}()
		return why
	}
	m.abandon(t)
	return why
}

// giveUp has a start undone, be it by the next daemon.
func (m *Manager) giveUp(t *task) {
	t.mu.Lock()
	t.destroyed, t.cancel = true, nil
	t.mu.Unlock()
	if err := t.journal.write(record{Destroyed: true}); err != nil {
		m.Log.Error("journal: failed start", "task", t.id(), "error", err)
	}
}

func eventKind(err error) string {
	if client.IsRefused(err) {
		return "refused"
	}
	return "failed"
}

// forgetBefore forgets the task in whose place another one runs now. Where that cannot be written the next daemon
// knows which of the two is the older.
func (m *Manager) forgetBefore(ctx context.Context, t *task) {
	m.mu.Lock()
	old := t.before
	t.before = nil
	m.mu.Unlock()
	if old == nil {
		return
	}
	if _, err := old.destroy(); err != nil {
		m.Log.Error("journal: the task of before", "task", t.id(), "error", err)
	}
	await(ctx, m.sweepUp(old).done, awayTime)
	m.letGo(old)
}

func (m *Manager) newTask(spec client.TaskSpec, again bool, cancel context.CancelCauseFunc) (*task, error) {
	if !validID.MatchString(spec.ID) {
		return nil, client.Invalid("task id %q: want a letter, then at most 59 of A-Z a-z 0-9 _ -", spec.ID)
	}
	t := &task{done: make(chan struct{}), cancel: cancel, boot: m.Boot}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.tasks[spec.ID]
	if old != nil && again && !old.isEnded() {
		return nil, client.Conflict("task %q has not ended: stop it first (freejail stop %s)", spec.ID, spec.ID)
	}
	if old != nil && !again {
		return nil, client.Conflict("task %q already exists: remove it first (freejail rm %s), or choose another id",
			spec.ID, spec.ID)
	}
	key, err := m.newKey(spec.ID)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	dir := m.path("tasks", key)
	t.info = client.Task{ID: spec.ID, Spec: spec, Key: key, State: client.Starting, Jail: jailOf(key),
		CreatedAt: time.Now()}
	t.root = m.rootFor(spec, key)
	if t.journal, err = openJournal(dir); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	if err := t.journal.write(record{Task: &t.info, Boot: t.boot}); err != nil {
		return nil, errors.Join(err, t.journal.remove())
	}
	t.before, m.tasks[spec.ID] = old, t
	return t, nil
}

// newKey makes the directory of a task whose id is free. The key is the id, unless
// something of an earlier task with that id is left. The caller holds the lock.
func (m *Manager) newKey(id string) (string, error) {
	for key, n := id, 2; ; n++ {
		err := fs.ErrExist
		if _, taken := m.left[key]; !taken {
			err = os.Mkdir(m.path("tasks", key), 0o700)
		}
		if !errors.Is(err, fs.ErrExist) {
			return key, err
		}
		key = fmt.Sprintf("%s.%d", id, n)
	}
}

// abandon takes back all that a start did which was given up. What cannot be taken back now
// is left, and its id free.
func (m *Manager) abandon(t *task) {
	defer m.isOver(t)
	t.mu.Lock()
	t.info.State = client.Exited
	if t.info.Exit == nil {
		t.info.Exit = &client.Exit{Message: "its start failed", At: time.Now()}
	}
	t.mu.Unlock()
	await(context.Background(), m.sweepUp(t).done, sweepTime)
	m.letGo(t)
}

// starters are how many tasks take the steps of their starts at once. When a whole node's tasks come in one moment,
// more than the processors can serve would only be in each other's way.
func starters() int { return max(8, 4*runtime.GOMAXPROCS(0)) }

// turnTime is longer than the steps of a start take that waits for nothing; some wait, as for an address of IPv6 or for
// a server.
const turnTime = time.Second

// run is the life of a task up to its running process.
func (m *Manager) run(ctx context.Context, job *works.Work, t *task, auth *client.Auth) (err error) {
	found, fetched, err := t.root.fetch(ctx, t, auth)
	defer fetched()
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
	p, err := m.permitted(ctx, t, img)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	store, err := m.Stores(t.info.Spec.Storage)
	if err != nil {
		return client.Invalid("%v", err) // it says that it is of the storage
	}
	free, err := t.root.prepare(ctx, t.id(), p, store)
	if err != nil {
		return err
	}
	defer free()
	if t.root.bounds().most == 0 { // others wait for their server, for a time that is bounded
		leave, err := m.starting.enter(ctx, turnTime)
		if err != nil {
			return err
		}
		defer leave()
	}
	if err := job.Commit(); err != nil {
		return err
	}
	return (&start{m: m, t: t, plan: p, store: store}).run(ctx)
}

// changed refuses a private image that is not the one to which Fetch has found the task
// entitled.
func changed(spec client.TaskSpec, asked, img *image.Image) error {
	if spec.Owner == "cli" || !img.Private || asked != nil && asked.Name == img.Name && asked.Digest == img.Digest {
		return nil
	}
	return client.Unavailable("image %q has changed while the task was being started: start it again", spec.Image)
}

// permitted plans a task as the host's policy, sysctls and ports let it be.
func (m *Manager) permitted(ctx context.Context, t *task, img *image.Image) (*plan, error) {
	spec := t.info.Spec
	p, err := m.makePlan(spec, img)
	if err != nil {
		return nil, err
	}
	_, took := m.Record.Begin(ctx, telemetry.Decision)
	err = m.Judge.Permit(ctx, spec, img, p.requests)
	if took(err); err != nil {
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
	for _, text := range p.notes {
		m.Event(t.id(), "ports", text)
	}
	err = m.claimPorts(t)
	p.ports = t.info.Ports // of which one may lead to another task of the allocation
	return p, err
}
