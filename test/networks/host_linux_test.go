package networks

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/testprog"
)

// other is a process in the namespace of the other machine.
var other int

// makeHost makes the host's interfaces, and the other machine.
func makeHost(t *testing.T) {
	t.Helper()
	cmd := testprog.Command("idle")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	check(t, cmd.Start())
	other = cmd.Process.Pid
	t.Cleanup(func() {
		check(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
	})
	for _, c := range []string{"ip link set lo up",
		"ip link add " + uplink + " type veth peer name eth0 netns " + strconv.Itoa(other),
		"ip addr add " + hostAddr4 + "/24 dev " + uplink,
		"ip -6 addr add " + hostAddr6 + "/64 dev " + uplink + " nodad", "ip link set " + uplink + " up",
		"ip link add " + officeBridge + " type bridge", "ip addr add " + officeHost + "/24 dev " + officeBridge,
		"ip link set " + officeBridge + " up",
		"sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
		"ip route replace default via " + outAddr4, "ip -6 route replace default via " + outAddr6} {
		call(t, strings.Fields(c)...)
	}
	t.Cleanup(func() {
		call(t, "ip", "link", "del", uplink)
		call(t, "ip", "link", "del", officeBridge)
	})
	for _, c := range []string{"ip link set lo up", "ip link set eth0 up", "ip addr add " + outAddr4 + "/24 dev eth0",
		"ip -6 addr add " + outAddr6 + "/64 dev eth0 nodad", "ip route add 10.188.0.0/15 via " + hostAddr4,
		"ip route add 10.190.0.0/24 via " + hostAddr4, "ip route add 203.0.113.0/24 via " + hostAddr4,
		"ip -6 route add fd00:188::/31 via " + hostAddr6} {
		_, err := told(onOther(strings.Fields(c)...))
		check(t, err)
	}
}

func onOther(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(other), "-n"}, args...)...)
}

// take gives an interface an address, as root of the task would.
func take(link, address string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(l, a)
}

// forge sends a packet of UDP, with a source that is not the task's.
func forge(from, to, text string) error {
	source, target := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	err = unix.Sendto(fd, packet(source, target, text), 0, &unix.SockaddrInet4{Addr: target.Addr().As4()})
	return errors.Join(err, unix.Close(fd))
}

// claim says on the link that an address is this task's, by an answer of ARP that nobody has asked for.
func claim(address string) error {
	l, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	const all = 0xffff
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(htons(unix.ETH_P_ARP)))
	if err != nil {
		return err
	}
	ip := netip.MustParseAddr(address).As4()
	frame := slices.Concat([]byte{255, 255, 255, 255, 255, 255}, l.HardwareAddr, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2},
		l.HardwareAddr, ip[:], []byte{255, 255, 255, 255, 255, 255}, ip[:])
	for range 5 {
		err = errors.Join(err, unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Index, Protocol: all,
			Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}))
	}
	return errors.Join(err, unix.Close(fd))
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }

// packet is one of IPv4 and UDP; the kernel fills in the sum of its header.
func packet(from, to netip.AddrPort, text string) []byte {
	b := make([]byte, 28, 28+len(text))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(text)))
	a, z := from.Addr().As4(), to.Addr().As4()
	copy(b[12:], a[:])
	copy(b[16:], z[:])
	binary.BigEndian.PutUint16(b[20:], from.Port())
	binary.BigEndian.PutUint16(b[22:], to.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(text)))
	return append(b, text...)
}

// neighboursCanBeForged is no: the host's rules hold each link to its task's addresses.
const neighboursCanBeForged = false

// leftovers are the files of tasks that can be left.
var leftovers = []string{"state/netns/*", "state/tasks/*", "state/jails/*"}
