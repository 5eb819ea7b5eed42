package networks

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/testpf"
)

// other is a jail with a stack of its own; the host is this one.
const other = "fjt-other"

// makeHost makes the host's interfaces, and the other machine.
func makeHost(t *testing.T) {
	t.Helper()
	testpf.Use(t)
	end := call(t, "ifconfig", "epair", "create")
	t.Cleanup(func() { call(t, "ifconfig", uplink, "destroy") })
	call(t, "ifconfig", end, "name", uplink)
	call(t, "ifconfig", uplink, "inet", hostAddr4+"/24", "up")
	call(t, "ifconfig", uplink, "inet6", hostAddr6+"/64", "no_dad", "-ifdisabled", "up")
	bridge := call(t, "ifconfig", "bridge", "create")
	t.Cleanup(func() { call(t, "ifconfig", officeBridge, "destroy") })
	call(t, "ifconfig", bridge, "name", officeBridge)
	call(t, "ifconfig", officeBridge, "inet", officeHost+"/24", "up")
	call(t, "jail", "-c", "name="+other, "vnet", "persist", "path=/", "allow.raw_sockets")
	t.Cleanup(func() { call(t, "jail", "-r", other) })
	outer := strings.TrimSuffix(end, "a") + "b"
	call(t, "ifconfig", outer, "vnet", other)
	for _, c := range []string{"ifconfig lo0 inet 127.0.0.1/8 up", "ifconfig " + outer + " name eth0",
		"ifconfig eth0 inet " + outAddr4 + "/24 up",
		"ifconfig eth0 inet6 " + outAddr6 + "/64 no_dad -ifdisabled up",
		"route -q add -net 10.188.0.0/15 " + hostAddr4, "route -q add -net 10.190.0.0/24 " + hostAddr4,
		"route -q add -net 203.0.113.0/24 " + hostAddr4, "route -q -6 add -net fd00:188::/31 " + hostAddr6} {
		_, err := told(onOther(strings.Fields(c)...))
		check(t, err)
	}
}

func onOther(args ...string) *exec.Cmd {
	return exec.Command("jexec", append([]string{other}, args...)...)
}

// take gives an interface an address, as root of the task would: struct ifaliasreq of net/if.h and struct in6_aliasreq
// of netinet6/in6_var.h.
func take(link, address string) error {
	p, err := netip.ParsePrefix(address)
	if err != nil {
		return err
	}
	family, request, size, at, mask := unix.AF_INET, uintptr(0x8044692b), 68, 16+4, 48
	if p.Addr().Is6() {
		family, request, size, at, mask = unix.AF_INET6, 0x8088691b, 136, 16+8, 72
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	b := make([]byte, size)
	copy(b[:16], link)
	b[16], b[17] = byte(at-16+p.Addr().BitLen()/8), byte(family)
	copy(b[at:], p.Addr().AsSlice())
	b[mask] = b[16]
	for bit := range p.Bits() {
		b[mask+at-16+bit/8] |= 0x80 >> (bit % 8)
	}
	if p.Addr().Is6() {
		b[16], b[mask] = 28, 28
		for i := 120; i < 128; i++ { // ia6t_vltime and ia6t_pltime
			b[i] = 0xff
		}
	} else {
		b[16], b[mask] = 16, 16
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&b[0])))
	if err := unix.Close(fd); errno == 0 {
		return err
	}
	return errno
}

// forge sends a packet of UDP, with a source that is not the task's.
func forge(from, to, text string) error {
	source, target := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_HDRINCL, 1),
		unix.Sendto(fd, packet(source, target, text), 0, &unix.SockaddrInet4{Addr: target.Addr().As4()}))
	return errors.Join(err, unix.Close(fd))
}

// claim would say on the link that an address is this task's. Frames are sent by bpf(4) alone.
func claim(string) error {
	fd, err := unix.Open("/dev/bpf", unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Close(fd), errors.New("/dev/bpf is there"))
}

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

// neighboursCanBeForged tells that pf sees from which network a packet comes, and not from which member of its bridge:
// for that it has to filter those too (net.link.bridge.pfil_member=1). Raw sockets need a permit.
const neighboursCanBeForged = true

// leftovers are the files of tasks that can be left.
var leftovers = []string{"state/tasks/*"}
