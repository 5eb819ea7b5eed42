package host

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/docker/go-units"

	"github.com/freejail/freejail/internal/bsd"
	"github.com/freejail/freejail/network"
)

// stackHost is what is asked of a host for the networks of its tasks.
type stackHost struct {
	number func(sysctl string) (uint64, bool)
	lro    func() ([]string, error) // interfaces that merge what they receive
	rcConf func(name string) string
	exists func(path string) bool
}

func thisStackHost() stackHost {
	return stackHost{number: sysctlNumber, lro: mergingInterfaces, rcConf: rcVariable,
		exists: func(path string) bool { _, err := os.Stat(path); return err == nil }}
}

func sysctlNumber(name string) (uint64, bool) {
	text, err := bsd.SysctlText(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	return n, err == nil
}

// rcVariable is empty where rc.conf has none, or where there is no sysrc.
func rcVariable(name string) string {
	out, err := exec.Command("/usr/sbin/sysrc", "-iqn", name).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// stacks is how the host serves tasks with network stacks of their own.
func (c *Checks) stacks(cfg Config, h stackHost) {
	has := func(m network.Mode) bool {
		return slices.ContainsFunc(cfg.Networks, func(n network.Network) bool { return n.Mode == m })
	}
	if !has(network.NAT) && !has(network.Bridged) {
		return
	}
	if has(network.NAT) {
		c.forwarding(cfg.Networks, h)
		c.localPackets(h)
		c.merging(h)
	}
	c.bridgeMembers(has(network.Bridged), h)
	c.tableSizes(h)
	c.linkEvents(h)
}

// persist is a sysctl's command for now and for the next start.
func persist(setting string) string {
	return fmt.Sprintf("sysctl %s && echo %[1]s >>/etc/sysctl.conf", setting)
}

// forwarding of IPv6 has a fast path only where no redirects are sent.
func (c *Checks) forwarding(networks []network.Network, h stackHost) {
	var missing, fix []string
	want := func(family, sysctl, variable string) {
		if n, ok := h.number(sysctl); ok && n == 0 {
			missing = append(missing, family)
			fix = append(fix, fmt.Sprintf("sysrc %s=YES && sysctl %s=1", variable, sysctl))
		}
	}
	nat := func(n network.Network) bool { return n.Mode == network.NAT }
	if slices.ContainsFunc(networks, func(n network.Network) bool { return nat(n) && n.Subnet4.IsValid() }) {
		want("IPv4", "net.inet.ip.forwarding", "gateway_enable")
	}
	six := slices.ContainsFunc(networks, func(n network.Network) bool { return nat(n) && n.Subnet6.IsValid() })
	if six {
		want("IPv6", "net.inet6.ip6.forwarding", "ipv6_gateway_enable")
	}
	if len(missing) > 0 {
		c.Bad("forwarding", "off for "+strings.Join(missing, " and ")+": tasks reach nothing outside, "+
			"and published ports nothing inside", strings.Join(fix, " && "))
		return
	}
	if n, ok := h.number("net.inet6.ip6.redirect"); six && ok && n != 0 {
		c.Warn("forwarding", "on; net.inet6.ip6.redirect=1 keeps IPv6 from the kernel's fast path",
			persist("net.inet6.ip6.redirect=0"))
		return
	}
	c.OK("forwarding", "on")
}

// localPackets needs nothing: the daemon's sockets answer the host itself.
func (c *Checks) localPackets(h stackHost) {
	detail := "the daemon answers the host itself at published ports"
	if n, _ := h.number("net.pf.filter_local"); n != 0 {
		detail += "; net.pf.filter_local is set: rules for lo0 have to pass what the host sends to itself"
	}
	c.OK("pf on lo0", detail)
}

// merging is a NIC's large receive offload: what it has merged is too large to be forwarded.
func (c *Checks) merging(h stackHost) {
	names, err := h.lro()
	if err != nil {
		c.Warn("lro", err.Error(), "")
		return
	}
	if len(names) == 0 {
		c.OK("lro", "off on all interfaces")
		return
	}
	var fix []string
	for _, n := range names {
		fix = append(fix, fmt.Sprintf("ifconfig %s -lro", n))
	}
	c.Warn("lro", "on for "+strings.Join(names, ", ")+": packets to tasks through such an interface are slow",
		strings.Join(fix, " && ")+", and -lro in its line ifconfig_NAME of /etc/rc.conf")
}

// bridgeMembers tells what pf does not see between tasks.
func (c *Checks) bridgeMembers(bridged bool, h stackHost) {
	member, _ := h.number("net.link.bridge.pfil_member")
	local, _ := h.number("net.link.bridge.pfil_local_phys")
	both := persist("net.link.bridge.pfil_member=1") + " && " + persist("net.link.bridge.pfil_local_phys=1") +
		": pf then filters the members of all bridges of this host"
	switch {
	case member != 0 && local != 0:
		c.OK("pf on bridges", "pf filters the members of bridges: a task sends from its own addresses only")
	case bridged && member == 0:
		c.Warn("pf on bridges", "pf does not see what passes between members of a bridge: "+
			"in networks of mode bridged, ports that a task has not declared are reached too", both)
	default:
		c.OK("pf on bridges", "a task that may open raw sockets can send from the address of another of its network; "+
			"to prevent that: "+both)
	}
}

// perStack are the hash tables that a network stack has: by their sysctls, the number of rows and what a
// row takes in bytes. Those of pf are two of struct pf_keyhash's size (netpfil/pf/pf.c: a list and a
// mutex), and one each; those of TCP lists of netinet/in_pcb.c, two by connection and two by port.
var perStack = []struct {
	sysctl string
	row    uint64
	small  uint64 // rows that are enough for a task
}{
	{"net.pf.states_hashsize", 80, 8192},
	{"net.pf.source_nodes_hashsize", 40, 2048},
	{"net.pf.udpendpoint_hashsize", 40, 2048},
	{"net.inet.tcp.tcbhashsize", 32, 8192},
}

// largeStack is from where on smaller tables are proposed, in bytes.
const largeStack = 4 << 20

// ports is how many rows the tables by port have at most.
const ports = 65536

func (c *Checks) tableSizes(h stackHost) {
	var bytes uint64
	var have, fix []string
	for _, t := range perStack {
		n, ok := h.number(t.sysctl)
		if !ok { // pf is not loaded, or older than 15
			continue
		}
		size := n * t.row
		if t.sysctl == "net.inet.tcp.tcbhashsize" {
			size = n*t.row/2 + min(n, ports)*t.row/2
		}
		bytes += size
		if n > t.small {
			have = append(have, fmt.Sprintf("%s=%d", t.sysctl, n))
			fix = append(fix, fmt.Sprintf("%s=%d", t.sysctl, t.small))
		}
	}
	size := units.BytesSize(float64(bytes))
	if bytes <= largeStack {
		c.OK("stack size", size+" of tables for each network stack")
		return
	}
	c.Warn("stack size", fmt.Sprintf("each network stack takes %s for tables, and time to make and end them (%s)", size,
		strings.Join(have, " ")),
		"printf '%s\\n' "+strings.Join(fix, " ")+" >>/boot/loader.conf && shutdown -r now; "+
			"the host's own tables get that size too, which many thousands of connections make slower")
}

// devdRule is where `make install` and the port put example/devd/freejail.conf.
const devdRule = "/usr/local/etc/devd/freejail.conf"

// linkEvents are what devd(8) does when a task's link appears.
func (c *Checks) linkEvents(h stackHost) {
	self, err := os.Executable()
	beside := ""
	if err == nil {
		beside = filepath.Join(filepath.Dir(filepath.Dir(self)), "etc", "devd", "freejail.conf")
	}
	if h.exists(devdRule) || beside != "" && h.exists(beside) {
		c.OK("devd", "leaves the links of tasks alone")
		return
	}
	detail := "runs scripts for each link of a task, which slow its start"
	if strings.Contains(strings.ToUpper(h.rcConf("ifconfig_DEFAULT")), "DHCP") {
		detail += "; with ifconfig_DEFAULT in rc.conf it runs dhclient on them"
	}
	c.Warn("devd", detail, "install example/devd/freejail.conf of freejail as "+devdRule+", then: service devd restart")
}

// siocGIFCap is SIOCGIFCAP of sys/sockio.h, _IOWR('i', 31, struct ifreq); capLRO is IFCAP_LRO of net/if.h.
const (
	siocGIFCap = 0xc020691f
	capLRO     = 0x400
)

// mergingInterfaces are those with large receive offload.
func mergingInterfaces() (names []string, err error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	for _, i := range all {
		var req struct { // struct ifreq of net/if.h: its name, and what it can and does
			name         [unix.IFNAMSIZ]byte
			can, enabled uint32
			_            [8]byte
		}
		copy(req.name[:len(req.name)-1], i.Name)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), siocGIFCap, uintptr(unsafe.Pointer(&req)))
		if errno == 0 && req.enabled&capLRO != 0 { // one that has just gone is none
			names = append(names, i.Name)
		}
	}
	return names, nil
}
