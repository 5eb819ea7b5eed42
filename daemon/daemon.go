// Package daemon is freejail's housekeeper: one process a host, which owns
// every jail, mount, ruleset and process of freejail there.
package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/approval"
	"github.com/freejail/freejail/catalog"
	"github.com/freejail/freejail/daemon/api"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/images"
	"github.com/freejail/freejail/daemon/judge"
	"github.com/freejail/freejail/daemon/ledger"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/daemon/telemetry"
	"github.com/freejail/freejail/daemon/works"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/internal/boot"
	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/signals"
	"github.com/freejail/freejail/internal/spans"
	"github.com/freejail/freejail/jail"
	"github.com/freejail/freejail/network"
	"github.com/freejail/freejail/nfsroot"
	"github.com/freejail/freejail/storage"
)

// Daemon holds what one host's freejail knows and owns.
type Daemon struct {
	cfg        host.Config
	version    string
	generation string
	boot       string // of the host
	lastBoot   string // that of the daemon before; empty where there was none
	log        hclog.Logger
	lock       *os.File
	server     *api.Server // from Run on
	hup        chan os.Signal

	ledger      *ledger.Ledger
	descriptors *mount.Descriptors
	images      *images.Library
	jails       *jail.Manager
	rulesets    *devfs.Registry
	catalog     *catalog.Catalog // nil without Consul
	nfs         *nfsroot.Mounts
	networks    *network.Manager
	follower    *host.Follower
	record      *telemetry.Recorder
	scrapes     *telemetry.Listener
	judge       *judge.Judge
	lists       *approval.Lists
	events      *ledger.Events
	works       works.Works
	tasks       *task.Manager
	opened      chan struct{} // closed when all these are there

	mu     sync.Mutex
	aside  map[string]string         // what is damaged, by its path, and why; see damaged
	stores map[string]storage.Driver // by kind, opened when first used
}

// New opens the state of a host and takes its lock: a second daemon on the
// same state directory is an error.
func New(cfg host.Config, version string, log hclog.Logger) (*Daemon, error) {
	d := &Daemon{cfg: cfg, version: version, log: log, events: ledger.NewEvents(), record: telemetry.New(version),
		generation: rand.Text(), hup: make(chan os.Signal, 1), opened: make(chan struct{}),
		aside: map[string]string{}, stores: map[string]storage.Driver{}}
	// What is made for a task has the mode that is named, whatever the umask of
	// the shell was that started us.
	unix.Umask(0o022)
	host.LoadModules(cfg, log)
	for _, open := range []func() error{d.openState, d.openLedger, d.openImages, d.openJails, d.openNFS, d.openRulesets,
		d.openPolicy, d.openCatalog, d.openNetworks} {
		if err := open(); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	d.openSpans()
	d.openTasks()
	d.openMetrics()
	close(d.opened)
	return d, nil
}

func (d *Daemon) makeStateDirs() error {
	for _, dir := range []string{d.cfg.StateDir, d.path("tasks"), d.path("images")} {
		if err := durable.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
	}
	return nil
}

func (d *Daemon) openState() error {
	if err := d.makeStateDirs(); err != nil {
		return err
	}
	// What is mounted below it is found by the paths that the kernel tells.
	dir, err := filepath.EvalSymlinks(d.cfg.StateDir)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	d.cfg.StateDir = dir
	if d.boot, err = boot.ID(); err != nil {
		return err
	}
	f, err := os.OpenFile(d.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	d.lock = f
	if err := d.takeLock(); err != nil {
		return err
	}
	if err := mount.LearnOwn(d.cfg.StateDir); err != nil {
		return fmt.Errorf("mounts of an earlier daemon: %w", err)
	}
	d.descriptors, err = mount.OpenDescriptors(d.path("fd"))
	return err
}

// openLedger opens the database, which bbolt would wait for without a word: it is
// locked by now.
func (d *Daemon) openLedger() error {
	l, moved, err := ledger.Open(d.path("freejail.db"))
	if moved != nil {
		d.damaged(moved, "what was approved has to be approved again")
	}
	if err != nil {
		return err
	}
	d.ledger = l
	if err := d.events.Begin(l); err != nil { // such as of a full disk, on which it runs all the same
		d.log.Warn("events after a restart of the daemon may have numbers that there were", "error", err)
	}
	return nil
}

// takeLock notes in the lock's file whose it is, and in which boot of the host.
func (d *Daemon) takeLock() error {
	var pid int
	var boot string
	b, err := io.ReadAll(io.LimitReader(d.lock, 256))
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if _, err := fmt.Sscan(string(b), &pid, &boot); err == nil {
		d.lastBoot = boot
	}
	if err := d.flock(pid); err != nil {
		return fmt.Errorf("another freejail daemon (process %d) uses the state directory %s: %w", pid, d.cfg.StateDir,
			err)
	}
	_, err = d.lock.WriteAt(fmt.Appendf(nil, "%d %s\n", os.Getpid(), d.boot), 0)
	if err = errors.Join(err, d.lock.Sync()); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

// ownTries and ownEvery bound how long a lock is waited for that this process itself had before its upgrade.
const (
	ownTries = 3000
	ownEvery = 20 * time.Millisecond
)

// flock locks the state directory. Where this process had it last, a child that the program of before has forked may
// have it still, until it executes another.
func (d *Daemon) flock(last int) error {
	for try := 0; ; try++ {
		err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || last != os.Getpid() || try == ownTries {
			return err
		}
		time.Sleep(ownEvery)
	}
}

// restarted tells that the host was, since an earlier daemon ran on it.
func (d *Daemon) restarted() bool { return d.lastBoot != "" && d.lastBoot != d.boot }

func (d *Daemon) openImages() (err error) {
	d.images, err = images.Open(d.path("images"), images.Host{Config: d.cfg, Log: d.log, Descriptors: d.descriptors,
		InForce: d.inForce, Record: d.record, Stores: d.openStores,
		Tell: func(id, kind, message string) { d.tasks.Event(id, kind, message) }})
	if err != nil {
		return err
	}
	if m := d.images.Store.Aside; m != nil {
		d.damaged(m, "no image has a name: pull or import them again; layers stay until the file is removed")
	}
	return nil
}

func (d *Daemon) openPolicy() (err error) {
	d.follower, err = host.NewFollower(d.cfg, d.log)
	return err
}

func (d *Daemon) openJails() error {
	var err error
	d.jails, err = jail.Open(jail.Config{StateDir: d.cfg.StateDir, Runc: d.cfg.Runc})
	return err
}

func (d *Daemon) openNFS() (err error) {
	n := d.cfg.NFS
	d.nfs, err = nfsroot.Open(nfsroot.Config{Dir: d.path("nfs"), Options: n.Options, Keep: n.Keep, Every: n.Every,
		Told: d.nfsTold, Damaged: d.leftAlone})
	return err
}

// openNetworks tells of networks that this host cannot have, and goes on: tasks of others are not to be
// without a daemon because of them, and theirs are refused.
func (d *Daemon) openNetworks() (err error) {
	d.networks, err = network.Open(network.Config{StateDir: d.cfg.StateDir, Networks: d.cfg.Networks,
		Log: d.log.Named("network"), Tell: d.event})
	if err != nil {
		return err
	}
	for _, s := range d.networks.List() {
		if s.Problem != "" {
			d.log.Error("network "+s.Name, "error", s.Problem)
			d.event("network", "not usable: "+s.Problem)
			d.networks.Await(s.Name)
		}
	}
	return nil
}

// nfsTold reaches the tasks, also before there are any.
func (d *Daemon) nfsTold(holders []string, h nfsroot.Health) {
	<-d.opened
	d.tasks.RootTold(holders, h)
}

func (d *Daemon) openTasks() {
	d.lists = approval.OpenLists(d.path("revocations"))
	d.judge = &judge.Judge{Ledger: d.ledger, Images: d.images, Record: d.record, Log: d.log, InForce: d.inForce,
		Lists: d.lists, Remote: len(d.cfg.NFS.Servers) > 0}
	h := task.Host{Config: d.cfg, Log: d.log, Boot: d.boot, Restarted: d.restarted(), Mounter: d.descriptors,
		Jails: d.jails, Rulesets: d.rulesets, Networks: d.networks, Traffic: d.networks.Counters, NFS: d.nfs,
		Images: d.images, Judge: d.judge, Works: &d.works, Record: d.record, Stores: d.storage, Tell: d.addEvent,
		Damaged: d.noteDamage}
	h.Catalog = catalog.NewLocal(func(id, message string) { d.tasks.Event(id, "check", message) })
	if d.catalog != nil {
		h.Catalog = d.catalog
	}
	d.tasks = task.New(h)
	d.images.Tasks, d.judge.Tasks = d.tasks, d.tasks
}

// openSpans has starts be traced where a collector is configured.
func (d *Daemon) openSpans() {
	say := func(err error) { d.log.Warn("spans are not sent", "error", err) }
	var err error
	if d.record.Spans, err = spans.Open(context.Background(), "freejail", d.version, d.cfg.Tracing, say); err != nil {
		say(err)
	}
}

// janitor has what could not be undone tried again, and follows jails that vanish
// behind our back. It waits for nobody.
func (d *Daemon) janitor(ctx context.Context) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case name := <-d.jails.Removed():
			d.tasks.JailRemoved(name)
		case <-tick.C:
			d.tasks.Tend()
		}
	}
}

func (d *Daemon) openRulesets() error {
	k, err := devfs.OpenKernel()
	if err != nil {
		return err
	}
	store := rulesetStore{d.path("rulesets.json"), d.restarted(), d.damaged}
	d.rulesets, err = devfs.NewRegistry(k, store, d.cfg.Devfs.Config)
	return err
}

func (d *Daemon) openCatalog() error {
	if d.cfg.Consul.Address == "" {
		return nil
	}
	token := ""
	if f := d.cfg.Consul.TokenFile; f != "" {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("consul: token_file: %w", err)
		}
		token = string(b)
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	cfg := catalog.Config{Address: d.cfg.Consul.Address, Token: token, Node: name + ":" + d.cfg.StateDir}
	d.catalog, err = catalog.New(cfg,
		d.log.Named("consul"), func(id, message string) { d.tasks.Event(id, "consul", message) })
	return err
}

// storage returns the storage driver of a kind; empty is the host's choice.
func (d *Daemon) storage(kind string) (storage.Driver, error) {
	kind = task.StorageKind(cmp.Or(kind, d.cfg.Storage.Driver))
	d.mu.Lock()
	defer d.mu.Unlock()
	if s, ok := d.stores[kind]; ok {
		return s, nil
	}
	s, err := storage.Open(kind, d.path("storage"), storage.Config{ZFSDataset: d.cfg.Storage.ZFSDataset,
		Upper: d.cfg.NFS.Upper, UpperSize: d.cfg.NFS.UpperSize, Copy: d.cfg.NFS.Copy})
	if err != nil {
		return nil, err
	}
	for _, what := range s.Leftovers() {
		d.log.Warn("unused storage cannot be removed; the next daemon tries again", "what", what)
	}
	d.stores[kind], d.stores[s.Name()] = s, s
	return s, nil
}

// openStores are the drivers in use, each once.
func (d *Daemon) openStores() []storage.Driver {
	d.mu.Lock()
	defer d.mu.Unlock()
	byName := map[string]storage.Driver{}
	for _, s := range d.stores {
		byName[s.Name()] = s
	}
	return slices.Collect(maps.Values(byName))
}

// restTime bounds how long the end of the daemon waits for storage. What is not done the next daemon does.
const restTime = 5 * time.Second

// restStores ends what the storage drivers do for later tasks.
func (d *Daemon) restStores() {
	ctx, cancel := context.WithTimeout(context.Background(), restTime)
	defer cancel()
	for _, s := range d.openStores() {
		if r, ok := s.(storage.Rester); ok {
			if err := r.Rest(ctx); err != nil {
				d.log.Warn("storage kept for later tasks stays", "storage", s.Name(), "error", err)
			}
		}
	}
}

func (d *Daemon) path(elem ...string) string {
	return filepath.Join(append([]string{d.cfg.StateDir}, elem...)...)
}

// Run recovers what an earlier daemon left, serves until ctx ends, and leaves
// the tasks running: the next daemon takes them over. It answers from the
// beginning, of the tasks when they are recovered.
func (d *Daemon) Run(ctx context.Context) error {
	signals.OutliveReaders() // of the log
	if _, err := d.storage(""); err != nil {
		return err
	}
	if err := jail.Protect(); err != nil {
		d.log.Info("the kernel may end the daemon when memory runs out", "error", err)
	}
	if err := d.tasks.Read(ctx); err != nil {
		return err
	}
	if err := d.serve(); err != nil {
		return err
	}
	go d.scrapes.Run(ctx)
	if err := d.tasks.Recover(ctx); err != nil {
		return errors.Join(err, d.server.Close())
	}
	if d.catalog != nil {
		go d.catalog.Run(ctx)
	}
	go d.janitor(ctx)
	go d.tasks.Run(ctx)
	go d.judge.Run(ctx)
	go d.networks.Run(ctx)
	err := errors.Join(d.untilEnd(ctx), d.tasks.Close())
	d.restStores()
	return errors.Join(err, d.networks.Close(), d.nfs.Close(), d.record.Spans.Flush())
}

func (d *Daemon) backend() api.Backend {
	return api.Backend{Log: d.log, Works: &d.works,
		Tasks: d.tasks, Events: d.events, Images: d.images, Policy: d.judge, Host: d}
}

func (d *Daemon) serve() (err error) {
	signal.Notify(d.hup, syscall.SIGHUP)
	if d.server, err = api.Serve(d.cfg.Socket, d.cfg.SocketGroup, d.backend()); err != nil {
		return err
	}
	d.log.Info("freejail daemon", "version", d.version, "socket", d.cfg.Socket, "state", d.cfg.StateDir,
		"tasks", d.Info().Tasks)
	return nil
}

// untilEnd returns when ctx has ended or nothing can be answered any more. A SIGHUP
// upgrades the daemon.
func (d *Daemon) untilEnd(ctx context.Context) error {
	defer signal.Stop(d.hup)
	for {
		select {
		case err := <-d.server.Ended():
			return err
		case <-d.hup:
			if err := d.upgrade(); err != nil {
				d.log.Error("no upgrade", "error", err)
			}
		case <-ctx.Done():
			d.log.Info("the daemon ends", "why", context.Cause(ctx))
			return d.server.Close()
		}
	}
}

// Shutdown ends all tasks as the host ends.
func (d *Daemon) Shutdown(ctx context.Context, r client.ShutdownRequest) (*client.ShutdownResult, error) {
	if r.Limit < 0 {
		return nil, client.Invalid("limit %s is negative", time.Duration(r.Limit))
	}
	// Who asked may go away: a shutdown that began is not for half of the tasks.
	result := d.tasks.Shutdown(context.WithoutCancel(ctx), time.Duration(r.Limit))
	return &result, nil
}

// Close lets go of the state. Tasks run on.
func (d *Daemon) Close() error {
	var errs []error
	if d.ledger != nil {
		errs = append(errs, d.ledger.Close())
	}
	if d.images != nil {
		errs = append(errs, d.images.Close())
	}
	if d.descriptors != nil {
		errs = append(errs, d.descriptors.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}

// Info describes the daemon for clients and for the node's fingerprint.
func (d *Daemon) Info() client.Info {
	i := client.Info{Version: d.version, API: 1, PID: os.Getpid(), Generation: d.generation, StateDir: d.cfg.StateDir,
		Features: d.jails.Features(), Healthy: true}
	i.MemoryBytes, i.MemoryLiveBytes = memoryInUse()
	i.Networks, i.DefaultNetwork = d.networkModes(), cmp.Or(d.cfg.DefaultNetwork, string(network.Host))
	i.Tasks, i.ShutDown = d.tasks.Count()
	now, perr := d.follower.Last()
	if now != nil {
		i.PolicyDigest = now.Policy.Digest()
		w := host.WaitingIn(d.cfg, now.File)
		i.Config, i.Waiting, i.WaitingRestart = d.cfg.Path, w.Names(), w.Restart
	}
	if perr != nil {
		i.PolicyError = perr.Error()
	}
	if s, err := d.storage(""); err != nil {
		i.Healthy, i.Reason = false, err.Error()
	} else {
		i.Storage = s.Name()
	}
	if err := d.writable(); err != nil {
		i.Healthy, i.Reason = false, err.Error()
	}
	if i.Recovering = d.tasks.Progress(); i.Recovering != "" {
		i.Healthy, i.Reason = false, i.Recovering
	}
	if i.ShutDown {
		i.Healthy, i.Reason = false, works.ErrHostDown.Error()
	}
	return i
}

// networkModes are the modes of the networks that tasks can have, by their names.
func (d *Daemon) networkModes() map[string]string {
	modes := map[string]string{}
	for _, mode := range []network.Mode{network.Host, network.None} {
		modes[string(mode)] = string(mode)
	}
	for _, n := range d.networks.List() {
		if n.Problem == "" {
			modes[n.Name] = string(n.Mode)
		}
	}
	return modes
}

// writable tells whether a task could be journalled now.
func (d *Daemon) writable() error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.cfg.StateDir, &st); err != nil {
		return fmt.Errorf("state directory %s: %w", d.cfg.StateDir, err)
	}
	if st.Bavail == 0 {
		return fmt.Errorf("state directory %s: the file system is full", d.cfg.StateDir)
	}
	return nil
}

// Recovered is closed when the daemon has taken over all that an earlier one left.
func (d *Daemon) Recovered() <-chan struct{} { return d.tasks.Recovered() }

// Progress tells in words how far that is; empty when it is over.
func (d *Daemon) Progress() string { return d.tasks.Progress() }

// memoryInUse are the bytes of the heap and of stacks that are in use, and those of them that were reachable at the
// last collection of garbage. No goroutine stands still for it.
func memoryInUse() (inUse, live uint64) {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	stacks := s[2].Value.Uint64()
	return s[0].Value.Uint64() + s[1].Value.Uint64() + stacks, s[3].Value.Uint64() + stacks
}
