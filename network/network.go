// Package network gives tasks network stacks and addresses of their own, and leads ports
// of the host to theirs. FreeBSD's backend is the kernel's own system calls and pf;
// Linux's imitates it by network namespaces and nftables, for development.
package network

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
)

// Mode is how the tasks of a network are connected.
type Mode string

// The modes. Host and None need no configuration.
const (
	Host    Mode = "host"    // the host's stack, with all of its addresses
	None    Mode = "none"    // a stack of its own with loopback alone
	NAT     Mode = "nat"     // a stack of its own on freejail's bridge, addresses translated, ports published
	Bridged Mode = "bridged" // a stack of its own on a bridge of the operator's
	Alias   Mode = "alias"   // the host's stack, confined to an address of its own on one of its interfaces
)

// OwnStack tells whether a task of this mode has a network stack of its own.
func (m Mode) OwnStack() bool { return m == None || m == NAT || m == Bridged }

// Network is one of the host's, as its configuration has it.
type Network struct {
	Name string // 1 to 32 of a-z, 0-9 and -, a letter first
	Mode Mode
	// Subnet4 and Subnet6 are the networks' prefixes; the zero prefix is a family that it has
	// not. Pool4 and Pool6 lie in them: of these, tasks get addresses.
	Subnet4, Subnet6 netip.Prefix
	Pool4, Pool6     Range
	// Gateway4 and Gateway6 are on freejail's bridge in nat, routers of the operator's in bridged;
	// the zero address is no default route.
	Gateway4, Gateway6 netip.Addr
	// Bridge is the operator's, of bridged. Interface is that of alias; of nat it is where packets
	// leave the host, empty for that of the default route.
	Bridge, Interface string
	DNS               []netip.Addr // servers of its tasks; empty is the host's
	// Isolate keeps its tasks from each other, but for published ports.
	Isolate bool
	// HostAccess are the ports of the host's own services that tasks reach: of nat at the gateway, of
	// bridged at the host's addresses, where it has a packet filter.
	HostAccess []Port
	// Metadata lets its tasks reach the metadata services of clouds, which have credentials of the host.
	Metadata bool
	MTU      int // 0 is the host's choice
	// Where is the place of its block, FILE:LINE, for errors.
	Where string `json:"-"`
}

// OwnBridge is the name of freejail's bridge of a network, which fits in the 15 characters of a
// name of an interface: a longer one is hashed, as a part of it may be that of another network.
func (n Network) OwnBridge() string {
	if name := "fj-" + n.Name; len(name) <= maxInterface {
		return name
	}
	sum := sha256.Sum256([]byte(n.Name))
	return fmt.Sprintf("fj-%x", sum[:(maxInterface-3)/2])
}

// maxInterface is how long the name of an interface can be: IFNAMSIZ is 16 with the byte 0 at its end,
// in FreeBSD's net/if.h as in Linux's linux/if.h.
const maxInterface = 15

// Range is the addresses from First to Last, both included; the zero Range has none.
type Range struct{ First, Last netip.Addr }

// Contains tells whether an address lies in the range.
func (r Range) Contains(a netip.Addr) bool {
	return r.First.IsValid() && a.BitLen() == r.First.BitLen() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// Port is a range of Count ports, 1 where that is 0, of a protocol, tcp or udp.
type Port struct {
	Protocol string
	First    uint16
	Count    uint16
}

// Endpoint is what a stack has of a network. It is journalled before it is made, and does not
// change as long as the stack lives.
type Endpoint struct {
	Network string
	Mode    Mode
	// Stack is the name of a stack of its own on this host: that of its owner jail on FreeBSD, of
	// its network namespace on Linux. It is empty with alias.
	Stack string
	// Link is the host's end of the pair of interfaces, which is the task's eth0 at the other; empty
	// with alias and none.
	Link         string
	MAC          string // of the task's end
	Addr4, Addr6 netip.Addr
	// As is the network as it was when the stack was made: by it the stack works on, and is taken
	// away, whatever has become of the network in the host's configuration.
	As Network
}

// Publication leads ports of the host to those of a task. At is the host's address; one that is
// not valid is every address of the host.
type Publication struct {
	At   netip.Addr
	Port        // of the host
	To   uint16 // the task's first port
}

// Task is what the rules of a host have to know of a task.
type Task struct {
	Key string
	Endpoint
	// Declared are the ports of the task that others than tasks of its network may reach.
	Declared  []Port
	Published []Publication
}

// Counters are what went through the link of a stack: In is what its tasks received.
type Counters struct {
	BytesIn, BytesOut, PacketsIn, PacketsOut uint64
}

var (
	// ErrLinkTaken means that another interface has the name of an endpoint's link: another is to be taken.
	ErrLinkTaken = errors.New("an interface of this name exists")
	// ErrPoolFull means that a network has no address left.
	ErrPoolFull = errors.New("no free address")
	// errNoFilter means that the host has no packet filter, and so no rules to undo.
	errNoFilter = errors.New("no packet filter")
)

// stacks is how the system makes stacks and addresses. Everything may be done twice: what is there is
// left as it is, what is gone is no error. Nothing that is not freejail's is changed.
type stacks interface {
	// check tells what a network needs of the host and has not, such as its interface or bridge.
	check(Network) error
	// attach makes the stack of an endpoint and connects it: when it returns, programs can bind and
	// connect. An error leaves what detach takes away. freejail's own bridge gets the gateways of the
	// network as they are now, and keeps no others.
	attach(Network, Endpoint) error
	// cut are those of a network's endpoints that are not connected as attach has left them: their link is on no
	// bridge, an address or a route is gone. The error is what the network lacks on the host; then they are all.
	cut(Network, []Endpoint) ([]Endpoint, error)
	// forgotten are those that are connected, and of which the host no longer knows for ever what attach told it.
	forgotten(Network, []Endpoint) ([]Endpoint, error)
	// rejoin connects one of those again.
	rejoin(Network, Endpoint) error
	// detach takes a stack, its link and its addresses away; its processes have ended.
	detach(Endpoint) error
	// endpoints are the stacks and links that exist and are freejail's, as far as the kernel tells.
	endpoints() ([]Endpoint, error)
	// counters are those of links by their names.
	counters() (map[string]Counters, error)
	// addresses are the host's own.
	addresses() ([]hostAddress, error)
	// prune removes freejail's bridges which are not those of the networks, and to which nothing is
	// connected.
	prune([]Network) error
}

// Held counts the sockets of published ports and what the daemon forwards itself. Most is how many sockets
// there can be, Drops how much was dropped since the daemon's start as there was too much.
type Held struct {
	Sockets, Most, Connections, Flows int
	Drops                             uint64
}

// hostAddress is an address of the host, with the prefix of its network.
type hostAddress struct {
	netip.Prefix
	Interface string
	Ours      bool // of a bridge that this state directory's daemon has made, or of a task of alias
}

// filter is how the system translates addresses and keeps packets out.
type filter interface {
	// check tells what of the host keeps rules from being in force.
	check() error
	// load has the host's rules be those of all networks and tasks, at once, and has it forget the
	// states of tasks that went. The networks are those that tasks have, and those of the
	// configuration besides. errNoFilter is the error where there cannot be any rules.
	load([]Network, []Task) error
	// loaded tells whether the host's rules are still those of the last load.
	loaded() (bool, error)
}

// ports keeps the host's ports of publications, so that no other program takes them, and leads
// connections of the host itself to their tasks.
type ports interface {
	// hold takes all ports of a task that are published, or none. One that another program has is an
	// error that names it. What the task has already stays with it.
	hold(Task) error
	// free lets go of them. To do it twice is no error.
	free(key string)
	// resolve answers at a nat network's gateway for a resolver of the host's that listens on loopback
	// alone, where HostAccess has port 53. It is called when the bridge is there, and may be called again.
	resolve(Network) error
	// count is what there is of that just now.
	count() Held
	// settle closes what an upgraded daemon has left and nobody has taken until now: it is called when all
	// tasks and networks have what is theirs.
	settle()
	// pass runs what executes another program in this process's place, with an environment that leaves the
	// sockets to it.
	pass(env []string, replace func(env []string) error) error
}
