package task

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/telemetry"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/jail"
	"github.com/freejail/freejail/storage"
)

// step is one change that a start makes to the host, and how that is taken back. The
// journal has its name, and what undo needs to know, before it is done.
type step struct {
	name string
	// wanted tells whether the start takes the step; nil is always.
	wanted func(*start) bool
	do     func(*start, context.Context) error
	// arg is what undo is told; nil is nothing.
	arg func(*start) string
	// undo does for a daemon that did not do the step. To undo twice, or what was never
	// done, is no error. nil is for what goes with the step before.
	undo func(m *Manager, ctx context.Context, t *task, arg string) error
}

// steps are those of a start, in their order. What has a name here is in journals that
// other versions have written or will read: a step that is no longer taken keeps its undo.
var steps = []step{{
	name:   "address", // first, so that it is given back when all else is gone
	wanted: (*start).connected,
	do:     (*start).reserve,
	undo:   (*Manager).release,
}, {
	name: "ruleset",
	do:   (*start).acquireRuleset,
	undo: func(m *Manager, _ context.Context, t *task, _ string) error { m.Rulesets.Release(t.key()); return nil },
}, {
	name:   "nfs",
	wanted: func(s *start) bool { _, far := s.t.root.(*remoteRoot); return far },
	do: func(s *start, ctx context.Context) error {
		return s.t.root.(*remoteRoot).mount(ctx, s.t, &s.rootOptions)
	},
	undo: func(m *Manager, _ context.Context, t *task, _ string) error { return m.NFS.Release(t.key()) },
}, {
	name: "root",
	arg:  func(s *start) string { return s.store.Name() },
	do:   (*start).makeRoot,
	undo: (*Manager).removeRoot,
}, {
	name: "mounts",
	arg:  func(s *start) string { return s.t.info.Root },
	do:   (*start).mountAll,
	undo: func(_ *Manager, _ context.Context, t *task, root string) error {
		return t.root.unmount(root, t.filesDir())
	},
}, {
	name:   "network",
	wanted: (*start).connected,
	do:     (*start).attach,
	undo:   (*Manager).detach,
}, {
	name:   "publish", // before the jail: its processes end while they are connected
	wanted: (*start).filtered,
	do:     (*start).publish,
	undo:   (*Manager).withdraw,
}, {
	name: "jail",
	arg:  func(s *start) string { return s.t.info.Jail },
	do:   (*start).createJail,
	undo: func(m *Manager, ctx context.Context, _ *task, name string) error { return m.removeJail(ctx, name) },
}, {
	name: "process", // which ends with its jail
	do:   (*start).startProcess,
}, {
	name:   "service",
	wanted: func(s *start) bool { return s.m.announces(s.t.info.Spec, s.plan.image) },
	do:     func(s *start, _ context.Context) error { s.m.announce(s.t); return nil },
	undo:   func(m *Manager, ctx context.Context, t *task, _ string) error { m.deregister(ctx, t); return nil },
}}

// start is one start, and what its steps leave to those after them.
type start struct {
	m           *Manager
	t           *task
	plan        *plan
	store       storage.Driver
	rules       []devfs.Rule    // of its ruleset
	rootOptions storage.Options // as far as the root knows them itself
}

// run takes the steps.
func (s *start) run(ctx context.Context) error {
	for _, st := range steps {
		if st.wanted != nil && !st.wanted(s) {
			continue
		}
		if err := s.take(ctx, st); err != nil {
			return err
		}
	}
	return nil
}

// take journals how a step is taken back, then takes it, unless ctx has ended.
func (s *start) take(ctx context.Context, st step) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if st.undo != nil {
		u := undo{Op: st.name}
		if st.arg != nil {
			u.Arg = st.arg(s)
		}
		if err := s.t.begin(u); err != nil {
			return err
		}
		fault(st.name, "journalled")
	}
	ctx, took := s.m.Record.Begin(ctx, telemetry.Step(st.name))
	err := st.do(s, ctx)
	if took(err); err != nil {
		return err
	}
	fault(st.name, "done")
	return nil
}

// takeBack undoes the newest step of a task.
func (m *Manager) takeBack(t *task, u undo) error {
	i := slices.IndexFunc(steps, func(s step) bool { return s.name == u.Op && s.undo != nil })
	if i < 0 {
		return fmt.Errorf("task %s: the journal names a step %q that this version does not know", t.key(), u.Op)
	}
	if err := steps[i].undo(m, context.Background(), t, u.Arg); err != nil {
		return fmt.Errorf("task %s: undo %s %s: %w", t.key(), u.Op, u.Arg, err)
	}
	fault(u.Op, "undone")
	if err := t.undone(); err != nil {
		return err
	}
	fault(u.Op, "forgotten")
	return nil
}

func (s *start) acquireRuleset(context.Context) error {
	c := s.m.Config.Devfs
	s.rules = devfs.Compose(c.Open, s.plan.rules, c.Close)
	id, err := s.m.Rulesets.Acquire(s.rules, s.t.key())
	if err != nil {
		return err
	}
	return s.t.update(func(i *client.Task) { i.Ruleset = int(id) })
}

func (s *start) makeRoot(ctx context.Context) error {
	o := s.plan.rootOptions()
	o.DiskBytes = s.t.info.Spec.Limits.DiskBytes
	o.Lower, o.NoSetuid = s.rootOptions.Lower, s.rootOptions.NoSetuid
	if s.store.Name() == unionStorage && len(o.Files) > 0 {
		return client.Invalid("volume %s: unionfs does not show a mount on a file: mount its directory, or choose "+
			"another storage driver (storage)", o.Files[0])
	}
	root, err := s.store.Create(ctx, s.plan.image.ChainID.Encoded(), s.t.key(), o)
	s.t.set(func(i *client.Task) { i.Root, i.Storage = root, s.store.Name() })
	return err
}

func (m *Manager) removeRoot(ctx context.Context, t *task, kind string) error {
	s, err := m.Stores(kind)
	if err != nil {
		return err
	}
	return s.Remove(ctx, t.key())
}

func (s *start) createJail(ctx context.Context) error {
	spec := s.t.info.Spec
	params := s.m.secureParams()
	stack := ""
	if e := s.t.endpointOf(); e != nil {
		stack = s.m.Networks.JailStack(*e)
		maps.Copy(params, networkParams(*e))
	}
	maps.Copy(params, s.plan.params)
	if s.t.info.Ruleset != 0 {
		params["devfs_ruleset"] = strconv.Itoa(s.t.info.Ruleset)
	}
	meta := map[string]string{}
	maps.Copy(meta, spec.Labels)
	meta["freejail"] = s.m.Config.StateDir // last: no label can be taken for it
	limits := s.m.jailLimits(spec.Limits)
	s.t.cpus = limits.CPUSet
	jid, err := s.m.Jails.Create(ctx, jail.Spec{Name: s.t.info.Jail, Root: s.t.info.Root,
		Hostname: cmp.Or(spec.Hostname, spec.ID), Params: params, Meta: meta, Limits: limits,
		Linux: s.plan.linuxulator(), InMemory: s.plan.inMemory, Stack: stack, Devices: jailDevices(s.plan.devices)})
	s.t.set(func(i *client.Task) { i.JID = jid })
	for _, text := range s.m.Jails.Unenforced(limits) {
		s.m.Event(s.t.id(), "limits", "not enforced on this host: "+text)
	}
	return err
}

// removeJail leaves a jail alone that has our name for it but is not ours:
// another daemon's, over which our own could not be made.
func (m *Manager) removeJail(ctx context.Context, name string) error {
	switch j, err := m.Jails.Find(name); {
	case errors.Is(err, jail.ErrNotFound):
	case err != nil:
		return err
	case !Within(m.Config.StateDir, j.Root):
		return nil
	}
	return m.Jails.Remove(ctx, name)
}
