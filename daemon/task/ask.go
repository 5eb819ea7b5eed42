package task

import (
	"context"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
)

// Tasks are those of the host as clients are told of them, in the order of their
// making, with what is left of those that are forgotten.
func (m *Manager) Tasks() []client.Task {
	out := []client.Task{}
	recovering := m.recovery.err() != nil
	for _, t := range m.all() {
		i := m.describe(t)
		i.Recovering = recovering && !t.recovered.Load()
		out = append(out, i)
	}
	return out
}

// Task is one of them.
func (m *Manager) Task(id string) (client.Task, error) {
	t, err := m.find(id)
	if err != nil {
		return client.Task{}, err
	}
	return m.describe(t), nil
}

// describe is what clients are told of a task.
func (m *Manager) describe(t *task) client.Task {
	i := m.withServices(t.snapshot())
	if i.State != client.Exited {
		i.Unhealthy = t.root.trouble()
	}
	i.Key, i.Left = t.key(), t.remains()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left[t.key()] == t {
		i.State = client.Left
	}
	return i
}

// Count is the number of tasks, and whether they were told to end with the host.
func (m *Manager) Count() (tasks int, down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.tasks), m.down
}

// Known tells whether a key is that of a task, or of what is left of one.
func (m *Manager) Known(key string) bool {
	_, known := m.holder(key)
	return known
}

// Alive are the tasks that have not ended, without what is known of their services.
func (m *Manager) Alive() (out []client.Task) {
	for _, t := range m.list() {
		if i := t.snapshot(); i.State != client.Exited {
			out = append(out, i)
		}
	}
	return out
}

// UsesChain tells whether a task that has not ended stands on an unpacked image.
func (m *Manager) UsesChain(chain string) bool {
	for _, t := range m.list() {
		i := t.snapshot()
		if i.State != client.Exited && i.Digest != "" && t.root.uses(chain, i) {
			return true
		}
	}
	return false
}

// Sweep forgets the tasks of an owner that have ended.
func (m *Manager) Sweep(ctx context.Context, owner string) (forgotten int, err error) {
	for _, t := range m.list() {
		if i := t.snapshot(); i.State != client.Exited || i.Spec.Owner != owner {
			continue
		}
		switch err := m.Destroy(ctx, t.id(), false); {
		case client.IsNotFound(err): // someone else was first
		case err != nil:
			return forgotten, err
		default:
			forgotten++
		}
	}
	return forgotten, nil
}

// Wait waits for a task's end.
func (m *Manager) Wait(ctx context.Context, id string) (*client.Exit, error) {
	t, err := m.find(id)
	if err != nil {
		return nil, err
	}
	return t.over(ctx)
}

// Signal sends a signal, by its name or number, to a task's main process.
func (m *Manager) Signal(id, name string) error {
	t, err := m.find(id)
	if err != nil {
		return err
	}
	sig, err := t.signal(name)
	if err != nil {
		return err
	}
	info := t.snapshot()
	switch info.State {
	case client.Exited:
		return client.Conflict("task %s has ended", id)
	case client.Starting:
		return client.Conflict("task %s is still starting: there is no process to signal", id)
	}
	return m.Jails.Signal(info.Jail, target(info), sig)
}

// FindRemote finds the image of a root over NFS at the servers that the host trusts.
func (m *Manager) FindRemote(ctx context.Context, spec client.TaskSpec) (*image.Image, error) {
	img, _, err := (&remoteRoot{m: m}).find(ctx, spec, nil)
	return img, err
}
