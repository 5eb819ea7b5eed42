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
	"github.com/freejail/freejail/storage"
)

// hostResolverFile is the host's own file.
const hostResolverFile = "/etc/resolv.conf"

// maxResolver bounds the host's resolver configuration, in bytes.
const maxResolver = 64 << 10

// addNames makes the task's resolv.conf and hosts.
func (p *plan) addNames(spec client.TaskSpec) error {
	extra, err := client.ParseHosts(spec.ExtraHosts)
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
	name := cmp.Or(spec.Hostname, spec.ID)
	p.own = []storage.File{{Path: storage.ResolverFile, Text: resolver(dns, host)},
		{Path: storage.HostsFile, Text: hosts(p.image.Config.OS, name, p.address(), extra)}}
	return nil
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

// resolver is a resolv.conf: the host's, but for what the job says.
func resolver(dns client.DNS, host []byte) []byte {
	if dns.IsEmpty() {
		return host
	}
	of := readResolver(host)
	var b bytes.Buffer
	b.WriteString("# by freejail, as the job says\n")
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
func hosts(system, name, address string, extra []client.HostEntry) []byte {
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
	fmt.Fprintf(&b, "%s\t%s\n", address, names)
	return b.Bytes()
}

// address is where the task is found: it has the host's network.
func (p *plan) address() string {
	for _, port := range p.ports {
		if a, err := netip.ParseAddr(port.Address); err == nil && !a.IsUnspecified() {
			return a.WithZone("").String()
		}
	}
	return "127.0.0.1"
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
