package daemon

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const loopback = "lo"

// ownHost has this test and its daemons on a host with interfaces of its own, and no others.
func ownHost(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	runtime.LockOSThread() // for good: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	if err != nil {
		t.Fatal(err)
	}
}

// makeBridge makes one of the operator's.
func makeBridge(t *testing.T, name string) {
	t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name = name
	bridge := &netlink.Bridge{LinkAttrs: a}
	if err := errors.Join(netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(bridge); err != nil {
			t.Error(err)
		}
	})
}

// links are the host's interfaces but loopback and bridges.
func links(t *testing.T) (out []string) {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if l.Name != "lo" && l.Name != "fj-lan" && l.Name != "fjtestbr" {
			out = append(out, l.Name)
		}
	}
	return out
}

// stacks are those that tasks of a state directory have.
func stacks(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(dir, "state", "netns"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}
