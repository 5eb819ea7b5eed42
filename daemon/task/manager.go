// Package task is the life of tasks on one host: how one is planned, started, watched
// and swept up, whoever is the daemon meanwhile.
package task

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/catalog"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/telemetry"
	"github.com/freejail/freejail/daemon/works"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/jail"
	"github.com/freejail/freejail/network"
	"github.com/freejail/freejail/nfsroot"
	"github.com/freejail/freejail/policy"
	"github.com/freejail/freejail/storage"
)

// Host is what tasks need of their host.
type Host struct {
	Config    host.Config
	Log       hclog.Logger
	Boot      string // of the host, that is now
	Restarted bool   // the host was, since a daemon before this one ran

	Mounter  Mounter
	Jails    Jails
	Rulesets Rulesets
	// Traffic is that of the links of tasks, by their names; nil where there is none.
	Traffic  func() (map[string]network.Counters, error)
	Catalog  Catalog // nil where neither services are registered nor checks made
	NFS      NFS
	Networks Networks
	Images   Images
	Judge    Judge
	Works    *works.Works
	Record   *telemetry.Recorder // nil where nothing is counted
	// Stores has the storage driver of a kind; an empty one is the host's choice.
	Stores func(kind string) (storage.Driver, error)

	// Tell tells something of a task, whose labels may be nil.
	Tell func(task, kind, message string, labels map[string]string)
	// Damaged tells of a path that is left to the operator.
	Damaged func(path, why string)
}

// Mounter mounts on places that are open; see mount.Descriptors.
type Mounter interface {
	// Use has On ready until release is called.
	Use() (release func() error, err error)
	On(*mount.Point, mount.Mount) error
}

// Jails makes and watches jails; see jail.Manager.
type Jails interface {
	Create(context.Context, jail.Spec) (jid int, err error)
	Remove(ctx context.Context, name string) error
	Unenforced(jail.Limits) []string
	Processes
	Observer
}

// Processes are those of the jails.
type Processes interface {
	Start(ctx context.Context, jail string, p jail.Process) (pid int, err error)
	StartTTY(ctx context.Context, jail string, p jail.Process) (pid int, master *os.File, err error)
	Exec(ctx context.Context, jail string, p jail.Process) (pid int, err error)
	ExecTTY(ctx context.Context, jail string, p jail.Process) (pid int, master *os.File, err error)
	Adopt(jail string, pid int, start string) error
	Signal(jail string, pid int, sig syscall.Signal) error
	Kill(jail string) error
}

// Observer tells what becomes of jails and processes.
type Observer interface {
	List() ([]jail.Info, error)
	Find(name string) (jail.Info, error)
	Notes() ([]string, error)
	Stats() (map[string]jail.Usage, error)
	Wait(pid int) <-chan jail.Exit
	OnExit(pid int, f func(jail.Exit))
	Still() (undo func())
	WaitEmpty(jail string)
	Trace(ctx context.Context, jail string, t jail.Trace) (jail.TraceEnd, error)
}

// Rulesets of devfs, each held by the keys of tasks; see devfs.Registry.
type Rulesets interface {
	Acquire(rules []devfs.Rule, holder string) (uint16, error)
	Release(holder string)
	Reconcile(live map[string]uint16) error
}

// Catalog is where services are registered; see catalog.Catalog.
type Catalog interface {
	Set(task string, services []catalog.Service)
	Remove(ctx context.Context, task string)
	Status(task string) []catalog.Entry
}

// Networks are those of the host, each stack and its addresses held by the key of a task or of an
// allocation; see network.Manager.
type Networks interface {
	Reserve(holder string, r network.Request) (network.Endpoint, error)
	Another(holder string) (network.Endpoint, error)
	Adopt(holder string, e network.Endpoint) error
	Release(holder string)
	Attach(context.Context, network.Endpoint) error
	Detach(context.Context, network.Endpoint) error
	Publish(context.Context, network.Task) error
	Withdraw(ctx context.Context, key string) error
	JailStack(network.Endpoint) string
	Sweep(context.Context, []network.Task) error
}

// NFS are the mounts of roots over NFS, each held by the keys of tasks; see
// nfsroot.Mounts.
type NFS interface {
	Acquire(ctx context.Context, src *nfsroot.Source, holder string) (root string, err error)
	Release(holder string) error
	Leave(holder string) error
	Abandon(holder string) error
	During(holder string, do func() error) error
	Of(holder string) (nfsroot.Health, bool)
	List() []nfsroot.Status
	Tick() error
	Reconcile(alive []string) error
}

// Images are those of the host.
type Images interface {
	// Check refuses what a task may not name.
	Check(client.TaskSpec) error
	// Fetch finds a task's image by its name, or pulls it. It is nil where Hold has to
	// look for itself. arriving is told the image that is pulled before its layers are
	// there, and whence they can be read as they arrive, until Fetch returns.
	Fetch(ctx context.Context, spec client.TaskSpec, auth *client.Auth,
		arriving func(*image.Image, Unpacker)) (*image.Image, error)
	// Hold keeps a task's image until release is called. found is what Fetch has found:
	// it is looked up again where it went since.
	Hold(ctx context.Context, spec client.TaskSpec, found *image.Image) (img *image.Image, release func(), err error)
	Get(name string) (*image.Image, error)
	// Unpacker is of an image that is here.
	Unpacker(*image.Image) Unpacker
}

// Unpacker makes what applies the layers of an image, and tells often how far it is.
type Unpacker func(tell func(image.Progress)) Apply

// Apply applies the layers from first to before end to a directory that has those before.
type Apply func(ctx context.Context, dir string, first, end int) error

// Judge decides about what tasks ask for.
type Judge interface {
	// Permit decides as Decide does about a start. Before it refuses it looks for approvals that
	// there may be by now.
	Permit(ctx context.Context, spec client.TaskSpec, img *image.Image, asked []policy.Request) error
	// Decide returns the error with which a start is refused, and counts the decision.
	Decide(spec client.TaskSpec, img *image.Image, asked []policy.Request) error
	Decision(spec client.TaskSpec, img *image.Image, asked []policy.Request) (policy.Subject, policy.Decision, error)
	// Denies tells whether the policy denies anything of a kind.
	Denies(policy.Subject, policy.Kind) bool
}

// Manager has the tasks of a host.
type Manager struct {
	Host

	recovery *recovery
	syncer   *syncer
	lane     lane  // of those who sweep up
	starting lane  // of those who start tasks
	turns    turns // of those who measure roots
	usage    usageCache
	traced   traced
	shared   sharing
	early    earlyOnes

	followers followers
	ends      endings

	mu     sync.Mutex
	tasks  map[string]*task    // by id
	inputs map[string]*os.File // by key: inherited, of tasks that were not recovered yet
	// outputs are inherited, and open until all tasks are recovered.
	outputs []*os.File
	left    map[string]*task // by key: forgotten, but not wholly swept up
	ports   []claim

	upgrade sync.Mutex     // one at a time, and none while the tasks end with the host
	unnoted sync.WaitGroup // ends of processes that were collected and are not in the journal yet
	down    bool           // guarded by mu: the tasks were told to end with the host
}

// New has no tasks before Read.
func New(h Host) *Manager {
	return &Manager{Host: h, recovery: newRecovery(), syncer: newSyncer(h.Log), lane: make(lane, sweepers),
		starting: make(lane, starters()),
		tasks:    map[string]*task{}, left: map[string]*task{}}
}

func (m *Manager) path(elem ...string) string {
	return filepath.Join(append([]string{m.Config.StateDir}, elem...)...)
}

// Run keeps journals on the disk until ctx has ended.
func (m *Manager) Run(ctx context.Context) { m.syncer.run(ctx) }

func (m *Manager) find(id string) (*task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t, ok := m.tasks[id]; ok {
		return t, nil
	}
	if t, ok := m.left[id]; ok {
		return nil, client.Conflict("task %q is removed, but for what could not be removed yet: %s; the daemon "+
			"tries again",
			id, t.remains())
	}
	return nil, client.NotFound("no such task on this host: %q; see `freejail ps -a`", id)
}

// holder finds the task of a key.
func (m *Manager) holder(key string) (*task, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t, ok := m.left[key]; ok {
		return t, true
	}
	for _, t := range m.tasks {
		if t.key() == key {
			return t, true
		}
	}
	return nil, false
}

// list returns the tasks in the order of their making.
func (m *Manager) list() []*task {
	m.mu.Lock()
	defer m.mu.Unlock()
	return inOrder(slices.Collect(maps.Values(m.tasks)))
}

// all are the tasks, and what is left of those that are forgotten.
func (m *Manager) all() []*task {
	m.mu.Lock()
	defer m.mu.Unlock()
	return inOrder(slices.AppendSeq(slices.Collect(maps.Values(m.tasks)), maps.Values(m.left)))
}

func inOrder(tasks []*task) []*task {
	slices.SortFunc(tasks, func(a, b *task) int {
		return a.info.CreatedAt.Compare(b.info.CreatedAt)
	})
	return tasks
}

// note updates a task where its record has to go on, whether the disk is full or not.
func (m *Manager) note(t *task, what string, f func(*client.Task)) {
	if err := t.update(f); err != nil {
		m.Log.Error("journal: "+what, "task", t.id(), "error", err)
	}
}

// Event tells something of a task by its id.
func (m *Manager) Event(id, kind, message string) {
	var labels map[string]string
	m.mu.Lock()
	if t, ok := m.tasks[id]; ok {
		labels = t.info.Spec.NomadLabels()
	}
	m.mu.Unlock()
	m.Host.Tell(id, kind, message, labels)
}

// tell is Event for a task whose id may be another one's by now.
func (m *Manager) tell(t *task, kind, message string) {
	m.Host.Tell(t.id(), kind, message, t.info.Spec.NomadLabels())
}
