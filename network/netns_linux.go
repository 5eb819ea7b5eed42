package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inside calls a function in the stack of an endpoint, which it makes where it may be new.
func (s *linuxStacks) inside(e Endpoint, new bool, do func() error) error {
	if e.Stack == "" {
		return errors.New("a network stack without a name")
	}
	done := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it is in the task's stack, and ends with this function.
		runtime.LockOSThread()
		err := enter(jailStack(s.state, e.Stack), new)
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// enter puts this thread into the namespace at a file.
func enter(file string, new bool) error {
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		if isNamespace(f) {
			return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		}
	}
	if !new {
		return fmt.Errorf("%s: no network namespace is mounted there", file)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return create(file)
}

// isNamespace tells a mounted namespace from the file that it is mounted at.
func isNamespace(f *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && st.Type == unix.NSFS_MAGIC
}

// create makes a namespace, with its loopback, and puts this thread into it. It is mounted when it is
// ready: what is mounted is whole.
func create(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := unix.Mount("/proc/thread-self/ns/net", file, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount a network namespace at %s: %w", file, err)
	}
	return nil
}

// loopbackUp gives this thread's stack 127.0.0.1/8 and ::1.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func (s *linuxStacks) removeStack(name string) error {
	file := jailStack(s.state, name)
	err := unix.Unmount(file, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // not mounted, no file
		return fmt.Errorf("unmount %s: %w", file, err)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// stackNames are those of all stacks, also of those that were not finished.
func (s *linuxStacks) stackNames() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.state, "netns"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, err
}

// quietIPv6 has an interface of freejail's learn nothing by IPv6 and say nothing unasked: addresses and
// neighbours are those that it is given. Without IPv6 it has none at all.
func quietIPv6(name string, on bool) error {
	dir := "ipv6/conf/" + name + "/"
	if _, err := getSysctl(dir + "disable_ipv6"); errors.Is(err, fs.ErrNotExist) && !on {
		return nil // a kernel without IPv6
	}
	values := map[string]string{"addr_gen_mode": "1", "accept_ra": "0", "accept_dad": "0", "accept_redirects": "0",
		"disable_ipv6": "1"}
	if on {
		values["disable_ipv6"] = "0"
	}
	named := map[string]string{}
	for file, value := range values {
		named[dir+file] = value
	}
	return setSysctls(named)
}

func setSysctls(values map[string]string) error {
	for file, value := range values {
		if err := setSysctl(file, value); err != nil {
			return err
		}
	}
	return nil
}

// sysctls below net are those of the network namespace of the thread that opens them.
func getSysctl(file string) (string, error) {
	b, err := os.ReadFile("/proc/sys/net/" + file)
	return strings.TrimSpace(string(b)), err
}

func setSysctl(file, value string) error {
	return os.WriteFile("/proc/sys/net/"+file, []byte(value), 0)
}

func setAlias(l netlink.Link, text string) error {
	const longest = 255 // IFALIASZ is 256, linux/if.h
	return netlink.LinkSetAlias(l, text[:min(len(text), longest)])
}

// neighbour has an interface know the MAC of an address for ever.
func neighbour(l netlink.Link, a netip.Addr, mac net.HardwareAddr) error {
	err := netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: a.AsSlice(), HardwareAddr: mac,
		State: netlink.NUD_PERMANENT})
	if err != nil {
		return fmt.Errorf("neighbour %s of %s: %w", a, l.Attrs().Name, err)
	}
	return nil
}

// address is one that needs no duplicate address detection, as it is given once.
func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// awaitLocal waits until addresses are this stack's own: of IPv6 the kernel routes one a moment after it
// was added, and a connection of that moment would be to a neighbour.
func awaitLocal(addrs ...netip.Addr) error {
	for _, a := range addrs {
		for end := time.Now().Add(5 * time.Second); a.Is6(); time.Sleep(time.Millisecond) {
			routes, err := netlink.RouteGet(a.AsSlice())
			if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
				break
			}
			if time.Now().After(end) {
				return errors.Join(fmt.Errorf("address %s is not in use after 5 seconds", a), err)
			}
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func single(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }

// everything is the destination of the default route of an address's family.
func everything(a netip.Addr) *net.IPNet {
	zero := netip.IPv4Unspecified()
	if a.Is6() {
		zero = netip.IPv6Unspecified()
	}
	return ipNet(netip.PrefixFrom(zero, 0))
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}
