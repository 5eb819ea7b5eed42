package host

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/near"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/network"
)

// networkBlock is a network.Network as it is written.
type networkBlock struct {
	Name       string         `hcl:"name,label"`
	Mode       string         `hcl:"mode,optional"`
	Subnet4    string         `hcl:"subnet4,optional"`
	Subnet6    string         `hcl:"subnet6,optional"`
	Pool4      string         `hcl:"pool4,optional"` // FIRST-LAST, or a prefix
	Pool6      string         `hcl:"pool6,optional"`
	Gateway    hcl.Expression `hcl:"gateway,optional"` // an address, or one of each family
	Bridge     string         `hcl:"bridge,optional"`
	Interface  string         `hcl:"interface,optional"`
	DNS        []string       `hcl:"dns,optional"`
	Isolate    bool           `hcl:"isolate,optional"`
	HostAccess []string       `hcl:"host_access,optional"` // PORT/PROTOCOL
	Metadata   bool           `hcl:"metadata,optional"`
	MTU        *int           `hcl:"mtu,optional"`
	Body       hcl.Body       `hcl:",body"`
}

// defaultAccess is what tasks with a stack of their own reach of the host.
var defaultAccess = []string{"53/udp", "53/tcp"}

// networks are those of the file, without a look at the host. What is wrong between them is told when
// each is right.
func (f *file) networks(r *reader) (list []network.Network) {
	before := len(r.errs)
	for _, b := range f.Networks {
		list = append(list, b.network(r))
	}
	if len(r.errs) > before {
		return list
	}
	if err := network.Validate(list); err != nil {
		r.errs = append(r.errs, err)
	}
	return list
}

// defaultNetwork is the network of tasks that name none.
func (f *file) defaultNetwork(r *reader) string {
	if f.DefaultNetwork == nil { // there is no file
		return string(network.Host)
	}
	var want *string
	if diags := gohcl.DecodeExpression(f.DefaultNetwork, nil, &want); diags.HasErrors() {
		r.fail("default_network: %w", diags)
	}
	if want == nil {
		return string(network.Host)
	}
	names := []string{string(network.Host), string(network.None)}
	for _, b := range f.Networks {
		names = append(names, b.Name)
	}
	if !slices.Contains(names, *want) {
		at := f.DefaultNetwork.Range()
		r.fail("%s:%d: default_network %q is not a network of this file%s (there are: %s)", at.Filename, at.Start.Line,
			*want, near.Hint(*want, names), strings.Join(names, ", "))
	}
	return *want
}

// networkNames are those that jobs can name.
func (c Config) networkNames() []string {
	names := []string{string(network.Host), string(network.None)}
	for _, n := range c.Networks {
		names = append(names, n.Name)
	}
	return names
}

// network turns what is written into values.
func (b *networkBlock) network(r *reader) network.Network {
	at := b.Body.MissingItemRange()
	in := blockReader{r, b, fmt.Sprintf("%s:%d", at.Filename, at.Start.Line)}
	n := network.Network{Name: b.Name, Mode: network.Mode(b.Mode), Bridge: b.Bridge, Interface: b.Interface,
		Isolate: b.Isolate, Metadata: b.Metadata, Where: in.where, MTU: in.mtu(),
		Subnet4: in.subnet("subnet4", b.Subnet4), Subnet6: in.subnet("subnet6", b.Subnet6)}
	n.Gateway4, n.Gateway6 = in.gateways()
	if n.Mode == network.NAT {
		n.Gateway4 = firstOf(n.Gateway4, n.Subnet4)
		n.Gateway6 = firstOf(n.Gateway6, n.Subnet6)
	}
	n.Pool4, n.Pool6 = in.pool("pool4", b.Pool4, n.PoolOf(n.Subnet4)), in.pool("pool6", b.Pool6, n.PoolOf(n.Subnet6))
	n.DNS, n.HostAccess = in.servers(), in.access(n.Mode)
	return n
}

// firstOf is a gateway that is given, else the first address of its subnet.
func firstOf(gateway netip.Addr, subnet netip.Prefix) netip.Addr {
	if gateway.IsValid() || !subnet.IsValid() {
		return gateway
	}
	return subnet.Masked().Addr().Next()
}

// blockReader reads the texts of one block, and tells where it is of what is wrong.
type blockReader struct {
	*reader
	block *networkBlock
	where string // FILE:LINE
}

func (r blockReader) bad(key, text, want string) {
	r.fail("%s: network %q: %s %q is not %s", r.where, r.block.Name, key, text, want)
}

func (r blockReader) subnet(key, text string) netip.Prefix {
	if text == "" {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		r.bad(key, text, "a prefix (for example 10.88.0.0/24)")
	}
	return p
}

// pool reads FIRST-LAST, or a prefix, which is all of its addresses.
func (r blockReader) pool(key, text string, whole network.Range) network.Range {
	if text == "" {
		return whole
	}
	first, last, is := strings.Cut(text, "-")
	if p, err := netip.ParsePrefix(text); err == nil && p == p.Masked() {
		return network.RangeOf(p)
	}
	a, err := netip.ParseAddr(strings.TrimSpace(first))
	b, err2 := netip.ParseAddr(strings.TrimSpace(last))
	if err != nil || err2 != nil || !is {
		r.bad(key, text, "FIRST-LAST or a prefix (for example 10.88.0.100-10.88.0.199, or 10.88.0.128/25)")
		return network.Range{}
	}
	return network.Range{First: a, Last: b}
}

// gateways reads one address, or a list with one of each family.
func (r blockReader) gateways() (four, six netip.Addr) {
	var one *string
	var list []string
	if diags := gohcl.DecodeExpression(r.block.Gateway, nil, &one); !diags.HasErrors() && one != nil {
		list = []string{*one}
	} else if diags.HasErrors() {
		if diags := gohcl.DecodeExpression(r.block.Gateway, nil, &list); diags.HasErrors() {
			r.fail("%s: network %q: gateway: %w", r.where, r.block.Name, diags)
		}
	}
	for _, text := range list {
		a, err := netip.ParseAddr(text)
		family := &four
		if a.Is6() {
			family = &six
		}
		switch {
		case err != nil:
			r.bad("gateway", text, "an address")
		case family.IsValid():
			r.bad("gateway", text, "of the other family than "+family.String()+": a network has one of each")
		default:
			*family = a
		}
	}
	return four, six
}

// servers are the name servers of its tasks.
func (r blockReader) servers() (list []netip.Addr) {
	if err := (client.DNS{Servers: r.block.DNS}).Check(); err != nil {
		r.fail("%s: network %q: %w", r.where, r.block.Name, err)
		return nil
	}
	for _, text := range r.block.DNS {
		list = append(list, netip.MustParseAddr(text)) // was checked
	}
	return list
}

// access are the ports of the host that tasks reach.
func (r blockReader) access(mode network.Mode) (list []network.Port) {
	texts := r.block.HostAccess
	if texts == nil && mode != network.Alias {
		texts = defaultAccess
	}
	for _, text := range texts {
		number, protocol, _ := strings.Cut(text, "/")
		protocol = strings.ToLower(protocol)
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 || protocol != "tcp" && protocol != "udp" {
			r.bad("host_access", text, "PORT/tcp or PORT/udp")
			continue
		}
		list = append(list, network.Port{Protocol: protocol, First: uint16(n), Count: 1})
	}
	return list
}

// mtu is the one that is given; 0 is the host's choice.
func (r blockReader) mtu() int {
	if r.block.MTU == nil {
		return 0
	}
	if *r.block.MTU <= 0 {
		r.bad("mtu", strconv.Itoa(*r.block.MTU), "a number of bytes (for example 1500)")
	}
	return *r.block.MTU
}

// FaultError is what of this host keeps a network from being used. The daemon starts all the same.
type FaultError struct{ Err error }

func (e *FaultError) Error() string {
	return e.Err.Error() + "\n" + allTheSame
}

// Printable has the lines of Error.
func (e *FaultError) Printable() string { return printable.Error(e.Err) + "\n" + allTheSame }

const allTheSame = "(the daemon starts all the same, and refuses starts in such a network until the host is fixed)"

func (e *FaultError) Unwrap() error { return e.Err }

// CheckNetworks finds what of this host keeps its networks from being used, and changes nothing: a FaultError.
func CheckNetworks(c Config) error {
	if len(c.Networks) == 0 {
		return nil
	}
	m, err := network.Open(network.Config{StateDir: c.StateDir, Networks: c.Networks})
	if err != nil {
		return err
	}
	if err := m.Check(); err != nil {
		return &FaultError{fmt.Errorf("host configuration %s: %w", c.Path, err)}
	}
	return nil
}

// Unbounded warns of a network of the operator's whose tasks may get the addresses of others; empty is none.
func Unbounded(n network.Network) string {
	list := n.Unbounded()
	if len(list) == 0 {
		return ""
	}
	key := "pool4"
	if list[0].Addr().Is6() {
		key = "pool6"
	}
	return fmt.Sprintf("no %s: tasks get any address of %s, also one that another host has", key, list[0])
}

// NetworkState is a network, and the tasks that have it.
type NetworkState struct {
	network.Status
	Tasks []string
}

// networks tells of each network whether tasks can use it: as a daemon has them, or else as it would.
func (c *Checks) networks(cfg Config, list []NetworkState) {
	if list == nil && len(cfg.Networks) > 0 {
		m, err := network.Open(network.Config{StateDir: cfg.StateDir, Networks: cfg.Networks})
		if err != nil {
			c.Bad("networks", err.Error(), "")
			return
		}
		for _, s := range m.List() {
			list = append(list, NetworkState{Status: s})
		}
	}
	for _, s := range list {
		c.network(cfg, s)
	}
}

func (c *Checks) network(cfg Config, s NetworkState) {
	name := "network " + s.Name
	switch {
	case s.Problem == "":
		c.OK(name, s.Describe())
		if wide := Unbounded(s.Network); wide != "" {
			c.Warn(name, wide, "give it a pool in "+cfg.Path+", then: freejail daemon --upgrade")
		}
	case s.Kept:
		c.Warn(name, s.Problem+": "+strings.Join(s.Tasks, " "), "have them started again: freejail stop "+
			strings.Join(s.Tasks, " "))
	default:
		c.Bad(name, s.Problem, s.Fix(cfg.Path))
	}
	for _, why := range s.Unheld {
		c.Bad(name, why, "end what has the port: the daemon takes it as soon as it is free")
	}
}

// OtherNetworks names the networks that the file has in another way than a daemon that runs with a configuration.
func OtherNetworks(running, file Config) (names []string) {
	have := func(list []network.Network) map[string]string {
		by := map[string]string{}
		for _, n := range list {
			n.Where = "" // which lines above it change
			by[n.Name] = fmt.Sprintf("%+v", n)
		}
		return by
	}
	before, after := have(running.Networks), have(file.Networks)
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if before[name] != after[name] {
			names = append(names, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if before[name] == "" {
			names = append(names, name)
		}
	}
	if running.DefaultNetwork != file.DefaultNetwork {
		names = append(names, defaultNetwork)
	}
	return names
}

const defaultNetwork = "default_network"
