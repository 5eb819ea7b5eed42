package network

import (
	"context"
	"errors"
	"net/netip"

	"github.com/hashicorp/go-hclog"
)

// Config of a Manager.
type Config struct {
	StateDir string // by which one daemon of a host knows what is its own
	Networks []Network
	Log      hclog.Logger
	// Tell tells something of a network, such as that its rules were lost.
	Tell func(kind, message string)
}

// Request is what a task asks for of a network.
type Request struct {
	Network string
	// Addresses are fixed ones of its pools, at most one of each family.
	Addresses []netip.Addr
}

// Manager has the networks of one host. It keeps no state of its own: what it gives is in the
// records of tasks.
type Manager struct {
	cfg    Config
	stacks stacks
	filter filter
	ports  ports
}

var errUnfinished = errors.New("networks are not finished in this version")

// Open finds what the host has, and changes nothing.
func Open(cfg Config) (*Manager, error) {
	s, err := newStacks(cfg)
	if err != nil {
		return nil, err
	}
	f, err := newFilter(cfg)
	if err != nil {
		return nil, err
	}
	p, err := newPorts(cfg)
	return &Manager{cfg: cfg, stacks: s, filter: f, ports: p}, err
}

// Run watches the rules, and has them loaded again when they are lost, until ctx has ended.
func (m *Manager) Run(ctx context.Context) { <-ctx.Done() }

// Check tells for each network what of the host keeps it from being used.
func (m *Manager) Check() error { return errUnfinished }

// Reserve chooses the stack's name, the link, the MAC and the addresses of a holder, a task's key or
// that of an allocation; it gives the same again until Release. The addresses rest after that.
func (m *Manager) Reserve(holder string, r Request) (Endpoint, error) {
	return Endpoint{}, errUnfinished
}

// Another chooses another link for a holder, whose first was taken by another interface.
func (m *Manager) Another(holder string) (Endpoint, error) { return Endpoint{}, errUnfinished }

// Adopt takes over what an earlier daemon has given to a holder.
func (m *Manager) Adopt(holder string, e Endpoint) error { return errUnfinished }

// Release gives back what a holder was given.
func (m *Manager) Release(holder string) {}

// Attach makes what an endpoint says; that of another task of its allocation may have done it.
// ErrLinkTaken has Another choose.
func (m *Manager) Attach(ctx context.Context, e Endpoint) error { return errUnfinished }

// Detach takes it away, when the last task that has it has ended. To do it twice is no error.
func (m *Manager) Detach(ctx context.Context, e Endpoint) error { return errUnfinished }

// Publish holds the ports of a task on the host and leads them to it: when it returns, they are
// reached. A port that another program has is an error that names it.
func (m *Manager) Publish(ctx context.Context, t Task) error { return errUnfinished }

// Withdraw undoes Publish, and forgets the connections.
func (m *Manager) Withdraw(ctx context.Context, key string) error { return errUnfinished }

// JailStack is the Stack of a jail.Spec of an endpoint: empty is the host's.
func (m *Manager) JailStack(e Endpoint) string { return e.Stack }

// Sweep takes away all that is freejail's on this host and belongs to none of the tasks, and has the
// rules be theirs.
func (m *Manager) Sweep(ctx context.Context, tasks []Task) error { return errUnfinished }

// Status is one network as it is.
type Status struct {
	Network
	Used, Size int    // addresses, of the smaller of its pools
	Problem    string // what keeps it from being used
}

// List has the status of all networks, in their order.
func (m *Manager) List() []Status { return nil }

// Counters are those of endpoints by their links.
func (m *Manager) Counters() (map[string]Counters, error) { return m.stacks.counters() }
