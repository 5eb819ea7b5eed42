package task

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/catalog"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
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

// noJails are jails of which nothing is asked but to be left alone.
type noJails struct{ Jails }

func (noJails) Signal(string, int, syscall.Signal) error { return nil }

var errFake = errors.New("the kernel says no")

// fakeHost has every part of a host that a start changes, notes what is asked of them
// in its order, and fails at one of the steps. Each undo is held against the journal.
type fakeHost struct {
	t     *testing.T
	fails string // a step
	many  bool   // tasks have the id, and their journals are not looked at
	dir   string // of the state

	mu    sync.Mutex
	calls []string
	exits chan jail.Exit
	ends  []func(jail.Exit) // of tasks that run

	started func(jail.Process) // is told of what runs; nil is nobody

	networks  *fakeNetworks
	endpoints map[string]network.Endpoint // by holder
	published []network.Task
}

// do notes that a step is done, or fails at it.
func (h *fakeHost) do(step string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, "+"+step)
	if step == h.fails {
		return errFake
	}
	return nil
}

func (h *fakeHost) note(call string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, call)
}

// undo notes that a step is taken back, which the journal must have for the newest.
func (h *fakeHost) undo(step string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, "-"+step)
	if h.many {
		return
	}
	j, err := openJournal(filepath.Join(h.dir, "tasks", "one"))
	if err != nil {
		h.t.Error(err)
		return
	}
	defer j.file.Close()
	tk, err := j.replay()
	if err != nil || len(tk.undos) == 0 || tk.undos[len(tk.undos)-1].Op != step {
		h.t.Errorf("%s is taken back, and the journal has %+v %v", step, tk, err)
	}
}

func (h *fakeHost) asked() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.calls, " ")
}

// fakeStore makes roots that are empty but for what this system mounts on.
type fakeStore struct {
	storage.Driver
	*fakeHost
	name string
}

func (s fakeStore) Name() string    { return s.name }
func (s fakeStore) MountsOwn() bool { return false }

func (s fakeStore) EnsureChain(context.Context, []string, storage.Apply) (func(), error) {
	return func() {}, nil
}

func (s fakeStore) Create(_ context.Context, _, task string, _ storage.Options) (string, error) {
	root := filepath.Join(s.dir, "root", task)
	return root, errors.Join(os.MkdirAll(filepath.Join(root, "dev", "fd"), 0o755), s.do("root"))
}

func (s fakeStore) Remove(_ context.Context, task string) error {
	s.undo("root")
	return os.RemoveAll(filepath.Join(s.dir, "root", task))
}

func (s fakeStore) Tasks(context.Context) ([]string, error) { return nil, nil }
func (s fakeStore) Leftovers() []string                     { return nil }
func (h *fakeHost) Use() (func() error, error) {
	return func() error {
		return nil
	}, nil
}
func (h *fakeHost) On(*mount.Point, mount.Mount) error                           { return h.do("mounts") }
func (h *fakeHost) Decide(client.TaskSpec, *image.Image, []policy.Request) error { return nil }
func (h *fakeHost) Permit(context.Context, client.TaskSpec, *image.Image, []policy.Request) error {
	return nil
}

func (h *fakeHost) Decision(client.TaskSpec, *image.Image, []policy.Request) (policy.Subject, policy.Decision, error) {
	return policy.Subject{}, policy.Decision{Allowed: true}, nil
}

func (h *fakeHost) Denies(policy.Subject, policy.Kind) bool { return false }

type fakeRulesets struct{ *fakeHost }

func (r fakeRulesets) Acquire([]devfs.Rule, string) (uint16, error) { return 1000, r.do("ruleset") }
func (r fakeRulesets) Release(string)                               { r.undo("ruleset") }
func (r fakeRulesets) Reconcile(map[string]uint16) error            { r.note("=rulesets"); return nil }

// fakeNetworks have one address for all, and links that may be taken.
type fakeNetworks struct {
	*fakeHost
	taken int // of the links
}

var fakeEndpoint = network.Endpoint{Network: "lan", Mode: network.NAT, Stack: "fjnet-one", Link: "link0", MAC: "02:00:00:00:00:01",
	Addr4: netip.MustParseAddr("10.88.0.2")}

func (n *fakeNetworks) Reserve(holder string, _ network.Request) (network.Endpoint, error) {
	h := n.fakeHost
	h.mu.Lock()
	defer h.mu.Unlock()
	if e, has := h.endpoints[holder]; has {
		return e, nil
	}
	h.calls = append(h.calls, "+address")
	if h.fails == "address" {
		return network.Endpoint{}, errFake
	}
	e := fakeEndpoint
	e.Stack = "fjnet-" + holder
	h.endpoints[holder] = e
	return e, nil
}

func (n *fakeNetworks) Another(holder string) (network.Endpoint, error) {
	h := n.fakeHost
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.endpoints[holder]
	e.Link += "x"
	h.endpoints[holder] = e
	return e, nil
}

func (n *fakeNetworks) Adopt(holder string, e network.Endpoint) error {
	n.note("=" + holder)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.endpoints[holder] = e
	return nil
}

func (n *fakeNetworks) Release(holder string) {
	n.mu.Lock()
	delete(n.endpoints, holder)
	n.mu.Unlock()
	n.undo("address")
}

func (n *fakeNetworks) Attach(_ context.Context, e network.Endpoint) error {
	n.recorded(e)
	if n.taken > 0 {
		n.taken--
		return network.ErrLinkTaken
	}
	return n.do("network")
}

// recorded wants the journal to have what is made.
func (n *fakeNetworks) recorded(e network.Endpoint) {
	j, err := openJournal(filepath.Join(n.dir, "tasks", "one"))
	if err != nil {
		n.t.Error(err)
		return
	}
	defer j.file.Close()
	if tk, err := j.replay(); err != nil || tk.endpoint == nil || tk.endpoint.Link != e.Link {
		n.t.Errorf("%+v is made, and the journal has %+v %v", e, tk, err)
	}
}

func (n *fakeNetworks) Detach(context.Context, network.Endpoint) error { n.undo("network"); return nil }

func (n *fakeNetworks) Publish(_ context.Context, t network.Task) error {
	n.mu.Lock()
	n.published = append(n.published, t)
	n.mu.Unlock()
	return n.do("publish")
}

func (n *fakeNetworks) Withdraw(context.Context, string) error { n.undo("publish"); return nil }
func (n *fakeNetworks) JailStack(e network.Endpoint) string    { return e.Stack }

func (n *fakeNetworks) Sweep(_ context.Context, live []network.Task) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.published = live
	return nil
}

type fakeNFS struct {
	NFS
	*fakeHost
}

func (n fakeNFS) Acquire(context.Context, *nfsroot.Source, string) (string, error) {
	return "/server", n.do("nfs")
}
func (n fakeNFS) Release(string) error                   { n.undo("nfs"); return nil }
func (n fakeNFS) Leave(string) error                     { return nil }
func (n fakeNFS) Abandon(string) error                   { return nil }
func (n fakeNFS) During(_ string, do func() error) error { return do() }
func (n fakeNFS) Of(string) (h nfsroot.Health, has bool) { return h, false }
func (n fakeNFS) Reconcile([]string) error               { return nil }

type fakeCatalog struct{ *fakeHost }

func (c fakeCatalog) Set(string, []catalog.Service)  { _ = c.do("service") } // it never fails
func (c fakeCatalog) Remove(context.Context, string) { c.undo("service") }
func (c fakeCatalog) Status(string) []catalog.Entry  { return nil }

type fakeJails struct {
	Jails
	*fakeHost
}

func (j fakeJails) List() ([]jail.Info, error)                     { return nil, nil }
func (j fakeJails) Find(string) (jail.Info, error)                 { return jail.Info{}, jail.ErrNotFound }
func (j fakeJails) Notes() ([]string, error)                       { return nil, nil }
func (j fakeJails) Unenforced(jail.Limits) []string                { return nil }
func (j fakeJails) Wait(int) <-chan jail.Exit                      { return j.exits }
func (j fakeJails) Remove(context.Context, string) error           { j.undo("jail"); return nil }
func (j fakeJails) Create(context.Context, jail.Spec) (int, error) { return 7, j.do("jail") }

func (j fakeJails) Signal(_ string, _ int, sig syscall.Signal) error {
	e := jail.Exit{Signal: int(sig), Known: true}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, f := range j.ends {
		f(e)
	}
	if len(j.ends) == 0 {
		j.exits <- e
	}
	j.ends = nil
	return nil
}

func (j fakeJails) Still() func() { return func() {} }

func (j fakeJails) OnExit(_ int, f func(jail.Exit)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ends = append(j.ends, f)
}

func (j fakeJails) Start(_ context.Context, _ string, p jail.Process) (int, error) {
	if j.started != nil {
		j.started(p)
	}
	return 1 << 30, j.do("process")
}

// fakeImages have one image, of a program that has a port with a service.
type fakeImages struct{ Images }

var fakeImage = &image.Image{Name: "prog", Digest: digest.FromString("prog"), ChainID: digest.FromString("chain"),
	Manifest: &image.Manifest{
		Ports: []image.Port{{Name: "web", Port: 8080, Protocol: "udp", Service: &image.Service{Name: "web"}}}}}

func init() { fakeImage.Config.Config.Cmd = []string{"/bin/prog"} }

func (fakeImages) Check(client.TaskSpec) error { return nil }

func (fakeImages) Fetch(context.Context, client.TaskSpec, *client.Auth, func(*image.Image, Unpacker)) (
	*image.Image, error) {
	return fakeImage, nil
}

func (fakeImages) Hold(context.Context, client.TaskSpec, *image.Image) (*image.Image, func(), error) {
	return fakeImage, func() {}, nil
}

func (fakeImages) Get(string) (*image.Image, error) { return fakeImage, nil }

func (fakeImages) Unpacker(*image.Image) Unpacker {
	return func(func(image.Progress)) Apply { return nil }
}

// manager has the tasks of a fake host.
func (h *fakeHost) manager() *Manager {
	h.exits = make(chan jail.Exit, 10)
	if h.networks == nil {
		h.networks, h.endpoints = &fakeNetworks{fakeHost: h}, map[string]network.Endpoint{}
	}
	if err := os.MkdirAll(filepath.Join(h.dir, "tasks"), 0o700); err != nil {
		h.t.Fatal(err)
	}
	cfg := host.Config{StateDir: h.dir, Consul: host.Consul{Address: "127.0.0.1:8500"}}
	cfg.Devfs.MaxRules = 100
	cfg.Networks = fakeConfig
	return New(Host{Config: cfg, Log: hclog.NewNullLogger(), Boot: "this", Mounter: h, Jails: fakeJails{fakeHost: h},
		Rulesets: fakeRulesets{h},
		Catalog:  fakeCatalog{h}, Networks: h.networks, NFS: fakeNFS{fakeHost: h}, Images: fakeImages{}, Judge: h, Works: &works.Works{},
		Stores: func(kind string) (storage.Driver, error) {
			if kind == "" {
				kind = "fake"
			}
			if kind != "fake" && kind != "nfs" {
				return nil, fmt.Errorf("no storage driver %q", kind)
			}
			return fakeStore{fakeHost: h, name: kind}, nil
		},
		Tell:    func(string, string, string, map[string]string) {},
		Damaged: func(path, why string) { h.t.Error(path, why) }})
}
