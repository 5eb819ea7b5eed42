package task

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/regular"
	"github.com/freejail/freejail/network"
	"github.com/freejail/freejail/storage"
)

// hostResolverFile is the host's own file.
const hostResolverFile = "/etc/resolv.conf"

// maxResolver bounds the host's resolver configuration, in bytes.
const maxResolver = 64 << 10

// addNames makes the task's resolv.conf and hosts.
func (p *plan) addNames(spec client.TaskSpec) error {
	extra, err := p.extraHosts(spec.ExtraHosts)
	if err != nil {
		return client.Invalid("extra_hosts: %v", err)
	}
	if spec.Hostname != "" && !client.ValidHost(spec.Hostname) {
		return client.Invalid("hostname %q is not a valid host name", spec.Hostname)
	}
	dns := client.DNS{}
	if spec.DNS != nil {
		dns = *spec.DNS
	}
	if err := dns.Check(); err != nil {
		return client.Invalid("%v", err)
	}
	host, err := hostResolver(hostResolverFile)
	if err != nil {
		return fmt.Errorf("the host's resolver configuration: %w", err)
	}
	text := resolver(dns, host)
	if !p.onHost() {
		if text, err = p.ownResolver(dns, host); err != nil {
			return err
		}
	}
	name := cmp.Or(spec.Hostname, spec.ID)
	p.own = []storage.File{{Path: storage.ResolverFile, Text: text},
		{Path: storage.HostsFile, Text: hosts(p.image.Config.OS, name, p.foundAt(), extra)}}
	return nil
}

// extraHosts are the job's lines of hosts. The host itself is at another address in each network.
func (p *plan) extraHosts(list []string) ([]client.HostEntry, error) {
	out, err := client.ParseHosts(list)
	for i := range out {
		if out[i].Address != client.HostGateway {
			continue
		}
		at := cmp.Or(p.network.Gateway4, p.network.Gateway6)
		switch {
		case p.onHost():
			at = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		case !p.translated():
			return nil, fmt.Errorf("%q: in the network %s the host has no address that freejail gave it: name one of "+
				"the host's that the task reaches", list[i], p.network.Name)
		}
		out[i].Address = at.String()
	}
	return out, err
}

// ownResolver is a resolv.conf with the servers that a task with addresses of its own reaches.
func (p *plan) ownResolver(dns client.DNS, host []byte) ([]byte, error) {
	if len(dns.Servers) > 0 {
		return resolver(dns, host), nil
	}
	of := readResolver(host)
	servers := p.servers(of.Servers)
	switch {
	case p.network.Mode == network.None:
		return []byte("# by freejail: the network none reaches no server\n"), nil
	case slices.Equal(servers, of.Servers):
		return resolver(dns, host), nil
	case len(servers) == 0:
		return nil, client.Invalid("the servers for names of this host's %s (%s) are not reached from the network %s: "+
			"name others in its block (dns = [...]), or in the job (dns { servers = [...] })", hostResolverFile,
			strings.Join(of.Servers, ", "), p.network.Name)
	}
	dns.Servers = servers
	return resolver(dns, host), nil
}

// servers are the network's, or else the host's. Of these the loopback addresses, and those that need
// one of the host's interfaces, are other places for the task: in nat the gateway answers for them.
func (p *plan) servers(ofHost []string) (out []string) {
	add := func(a netip.Addr) {
		if s := a.String(); a.IsValid() && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	for _, a := range p.network.DNS {
		add(a)
	}
	if len(out) > 0 {
		return out
	}
	for _, text := range ofHost {
		a, err := netip.ParseAddr(text)
		switch {
		case err != nil || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified():
			add(p.answering())
		default:
			add(a)
		}
	}
	return out
}

// answering is the gateway where it answers for names: in nat, unless the host keeps it from that.
func (p *plan) answering() netip.Addr {
	open := slices.ContainsFunc(p.network.HostAccess, func(o network.Port) bool {
		return o.Protocol == "udp" && o.First <= 53 && 53 < int(o.First)+max(1, int(o.Count))
	})
	switch {
	case !p.translated() || !open:
		return netip.Addr{}
	case p.network.Gateway4.IsValid():
		return p.network.Gateway4
	}
	return p.network.Gateway6
}

// hostResolver reads the host's file. None is what an empty one is.
func hostResolver(name string) ([]byte, error) {
	f, _, err := regular.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := regular.Read(f, name, maxResolver)
	return b, errors.Join(err, f.Close())
}

// resolver is a resolv.conf: the host's, but for what the job, or its network, says.
func resolver(dns client.DNS, host []byte) []byte {
	if dns.IsEmpty() {
		return host
	}
	of := readResolver(host)
	var b bytes.Buffer
	b.WriteString("# by freejail, as the job or its network says\n")
	if list := either(dns.Searches, of.Searches); len(list) > 0 && !slices.Equal(list, []string{"."}) {
		fmt.Fprintln(&b, "search", strings.Join(list, " "))
	}
	for _, s := range either(dns.Servers, of.Servers) {
		fmt.Fprintln(&b, "nameserver", s)
	}
	if list := either(dns.Options, of.Options); len(list) > 0 {
		fmt.Fprintln(&b, "options", strings.Join(list, " "))
	}
	return b.Bytes()
}

func either(job, host []string) []string {
	if len(job) > 0 {
		return job
	}
	return host
}

func readResolver(text []byte) (d client.DNS) {
	for line := range strings.Lines(string(text)) {
		w := strings.Fields(line)
		if len(w) < 2 {
			continue
		}
		switch w[0] {
		case "nameserver":
			d.Servers = append(d.Servers, w[1])
		case "search", "domain": // the last one counts
			d.Searches = w[1:]
		case "options":
			d.Options = append(d.Options, w[1:]...)
		}
	}
	return d
}

// localhost are the lines that a system has of itself.
var localhost = map[string]string{
	"freebsd": "::1\t\t\tlocalhost\n127.0.0.1\t\tlocalhost\n",
	"linux": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n" +
		"ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
}

// hosts is a hosts file. What the job says of a name comes first.
func hosts(system, name string, addresses []string, extra []client.HostEntry) []byte {
	var b bytes.Buffer
	b.WriteString(cmp.Or(localhost[system], localhost["freebsd"]))
	for _, e := range extra {
		fmt.Fprintf(&b, "%s\t%s\n", e.Address, e.Name)
	}
	if !client.ValidHost(name) || name == "localhost" { // an id may end with a dash
		return b.Bytes()
	}
	names := name
	if short, _, dotted := strings.Cut(strings.TrimSuffix(name, "."), "."); dotted {
		names += " " + short
	}
	for _, address := range addresses {
		fmt.Fprintf(&b, "%s\t%s\n", address, names)
	}
	return b.Bytes()
}

// foundAt is where the task is found: at its own addresses, or at one that a port of it has on the host.
func (p *plan) foundAt() (own []string) {
	for _, a := range []netip.Addr{p.endpoint.Addr4, p.endpoint.Addr6} {
		if a.IsValid() {
			own = append(own, a.String())
		}
	}
	for _, port := range p.ports {
		if a, err := netip.ParseAddr(port.Address); p.onHost() && err == nil && !a.IsUnspecified() {
			return []string{a.WithZone("").String()}
		}
	}
	if own == nil {
		return []string{"127.0.0.1"}
	}
	return own
}

// unionStorage is the driver whose roots show no mount on a file: unionfs has a new vnode
// for one at each lookup (unionfs_nodeget in sys/fs/unionfs/union_subr.c).
const unionStorage = "union"

// toMount are the task's own files that are to be mounted: with a driver whose roots are
// read-only, those over which the job mounts nothing itself.
func (s *start) toMount() (out []storage.File) {
	if !s.store.MountsOwn() {
		return nil
	}
	for _, f := range s.plan.own {
		if !slices.ContainsFunc(slices.Concat(s.plan.mounts, s.plan.dirs),
			func(m client.Mount) bool { return path.Clean(m.Target) == f.Path }) {
			out = append(out, f)
		}
	}
	return out
}

// mountOwn mounts a file of the task's own, which lies in its directory, over the regular
// file that its root has there.
func (s *start) mountOwn(m *mounter, f storage.File) (err error) {
	name := filepath.Join(s.t.journal.dir, "own-"+path.Base(f.Path))
	if err := os.WriteFile(name, f.Text, 0o600); err != nil {
		return err
	}
	from, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	if err := from.Chmod(0o644); err != nil {
		return err
	}
	at, err := m.root.FileInside(f.Path)
	if err != nil {
		return err
	}
	what := mount.Mount{Type: "nullfs", Source: name, From: from, Options: []string{"ro", "nosuid"}}
	return errors.Join(m.files.On(at, what), at.Close())
}
