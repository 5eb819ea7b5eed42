package host

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/nfsroot"
)

// Found is what a host has that a configuration for it depends on.
type Found struct {
	System string // by its GOOS
	// StateFS is the type of the file system on which DefaultStateDir is, or will be.
	StateFS string
	Pools   []Pool
	// Consul and Nomad tell whether an agent answers on this host.
	Consul, Nomad bool
	Interfaces    []string // that are up, without those of loopback
	Subnet        string   // that overlaps with no address of the host; empty where none was found
	NoNFS         string   // why there are no roots over NFS; empty where there can be
	// Lacks are what doctor tells of the host with what Text sets, and NetworkLacks what it tells beside with the
	// network that Text has in comments: each a warning or an error.
	Lacks, NetworkLacks []client.Check
}

// Pool is one of ZFS.
type Pool struct {
	Name    string
	Dataset bool // it has the dataset that is suggested
}

// dataset is the one that is suggested.
func (p Pool) dataset() string { return p.Name + "/freejail" }

// Addresses on which agents answer when nothing else is set.
const (
	consulAddress = "127.0.0.1:8500"
	nomadAddress  = "127.0.0.1:4646"
)

// Look asks the host.
func Look(ctx context.Context, system string) Found {
	f := Found{System: system, Pools: pools(), NoNFS: nfsroot.ClientMissing()}
	dir := DefaultStateDir
	for _, err := os.Stat(dir); err != nil && dir != "/"; _, err = os.Stat(dir) {
		dir = filepath.Dir(dir)
	}
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil {
		f.StateFS = fsName(&st)
	}
	f.Consul = answers(ctx, "http://"+consulAddress+"/v1/status/leader")
	f.Nomad = answers(ctx, "http://"+nomadAddress+"/v1/status/leader")
	f.interfaces()
	f.examine()
	return f
}

// ownLine is a place in a text that is not written as it is.
var ownLine = regexp.MustCompile(`freejail\.hcl:\d+: `)

// examine asks doctor about the host as it would be configured.
func (f *Found) examine() {
	lacking := func(text string, known []client.Check) (out []client.Check) {
		cfg, err := parseConfig("/freejail.hcl", []byte(text))
		if err != nil {
			return []client.Check{{Name: "configuration", Status: "error", Detail: err.Error()}}
		}
		for _, c := range Examine(cfg, nil) {
			c.Detail = ownLine.ReplaceAllString(c.Detail, "")
			if c.Status != "ok" && c.Name != "user" && !slices.Contains(known, c) {
				out = append(out, c)
			}
		}
		return out
	}
	f.Lacks = lacking(f.Text(), nil)
	if f.Subnet != "" {
		f.NetworkLacks = lacking(f.Text()+f.lan(), f.Lacks)
	}
}

// lan is the network that is suggested.
func (f Found) lan() string {
	return fmt.Sprintf("network \"lan\" {\n  mode    = \"nat\"\n  subnet4 = %q\n}\n", f.Subnet)
}

// comment has each line of a text be one.
func comment(text string) string {
	return "# " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n# ") + "\n"
}

// tell writes what a host lacks as comments, with the commands that help.
func tell(b *strings.Builder, title string, list []client.Check) {
	if len(list) == 0 {
		return
	}
	b.WriteString(comment(title))
	for _, c := range list {
		b.WriteString(comment(fmt.Sprintf("  %s: %s: %s", c.Status, c.Name, printable.Line(c.Detail))))
		if c.Fix != "" {
			b.WriteString(comment(printable.Sprintf("    -> %s", printable.Lines(c.Fix))))
		}
	}
}

// asker asks the address that it is given alone, which a task may have: no proxy, and not where the answer leads.
var asker = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// answers tells whether an agent is there; it need not be well.
func answers(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := asker.Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil
}

func (f *Found) interfaces() {
	list, err := net.Interfaces()
	if err != nil {
		return
	}
	var taken []netip.Prefix
	for _, i := range list {
		addrs, _ := i.Addrs() // an interface that is gone has none
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				taken = append(taken, p)
			}
		}
		if i.Flags&net.FlagUp != 0 && i.Flags&net.FlagLoopback == 0 {
			f.Interfaces = append(f.Interfaces, i.Name)
		}
	}
	f.Subnet = freeSubnet(taken)
}

// freeSubnet is one of 10/8 that overlaps with none; see RFC 1918.
func freeSubnet(taken []netip.Prefix) string {
next:
	for second := 88; second < 256; second++ {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(second), 0, 0}), 24)
		for _, t := range taken {
			if t.Overlaps(p) {
				continue next
			}
		}
		return p.String()
	}
	return ""
}

// Text is a configuration for the host: what it has is set, what else there is are comments.
func (f Found) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# freejail's configuration and policy of this host, as `freejail config init` found it.\n"+
		"# `freejail daemon --check --config FILE` checks it, `freejail doctor` tells what the host lacks.\n\n"+
		"state_dir = %q\n# socket_group = \"operators\"  # a group that runs tasks under the policy\n\n",
		DefaultStateDir)
	if tell(&b, "What this host lacks, when this was written:", f.Lacks); len(f.Lacks) > 0 {
		b.WriteString("\n")
	}
	f.storage(&b)
	f.consul(&b)
	f.network(&b)
	if f.NoNFS == "" {
		b.WriteString("# Roots over NFS, see docs/nfs.md.\n" +
			"# nfs {\n#   servers = [\"nfs://192.0.2.20/exports\"]\n# }\n\n")
	} else {
		fmt.Fprintf(&b, "# No roots over NFS: %s.\n\n", strings.ReplaceAll(f.NoNFS, "\n", " "))
	}
	b.WriteString("# limits {\n#   disk     = \"10GiB\"   # that a task may write to its root; default: no limit\n" +
		"#   disk_max = \"100GiB\"\n# }\n\n" +
		"gc {\n  older = \"168h\"  # unused images of jobs go after this time\n}\n\n" +
		"# The policy: what images and jobs may have. All else is refused, with the block that\n" +
		"# would permit it; see docs/policy.md.\n" +
		"# permit {\n#   ports  = [\"1024-65535\"]\n#   mounts = [\"tmpfs:/tmp:size<=1GiB\"]\n# }\n")
	return b.String()
}

func (f Found) storage(b *strings.Builder) {
	union := f.System == "freebsd" && (f.StateFS == "ufs" || f.StateFS == "tmpfs")
	fmt.Fprintf(b, "# %s is on %s.\n", DefaultStateDir, f.StateFS)
	set := ""
	for _, p := range f.Pools {
		if p.Dataset || !union && set == "" {
			set = p.dataset()
		}
		if !p.Dataset {
			fmt.Fprintf(b, "# For ZFS: zfs create -o mountpoint=none -o canmount=off %s\n", p.dataset())
		}
	}
	b.WriteString("storage {\n")
	switch {
	case set != "" && f.System == "freebsd":
		fmt.Fprintf(b, "  driver      = \"zfs\"\n  zfs_dataset = %q\n", set)
	case f.System == "freebsd" && !union:
		b.WriteString("  driver = \"readonly\"  # unions need a state_dir on UFS\n")
	default:
		b.WriteString("  driver = \"auto\"\n")
	}
	b.WriteString("}\n\n")
}

func (f Found) consul(b *strings.Builder) {
	mark, about := "# ", "No agent of Consul answers on "+consulAddress+": with one, services are registered there."
	if f.Consul {
		mark, about = "", "Services are registered with this agent."
	}
	fmt.Fprintf(b, "# %s\n%sconsul {\n%[2]s  address = %q\n%[2]s}\n\n", about, mark, consulAddress)
	if f.Nomad {
		fmt.Fprintf(b, "# Nomad's agent answers on %s: docs/nomad.md tells how it finds the plugin.\n\n", nomadAddress)
	}
}

func (f Found) network(b *strings.Builder) {
	if f.Subnet == "" {
		return
	}
	fmt.Fprintf(b, "# A network behind the host's address, whose subnet is free here, see docs/networks.md. Its\n"+
		"# interfaces that are up: %s.\n", cmp.Or(strings.Join(f.Interfaces, ", "), "none but loopback"))
	tell(b, "It needs, beside what is above:", f.NetworkLacks)
	b.WriteString(comment(f.lan()) + "\n")
}
