package network

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

const pfDevice = "/dev/pf"

// pfDev is pf's device, open.
type pfDev struct{ *os.File }

func openPF(mode int) (pfDev, error) {
	f, err := os.OpenFile(pfDevice, mode, 0)
	return pfDev{f}, err
}

// pfCall is _IOWR('D', number, argument) of net/pfvar.h. An argument that has pointers keeps what they lead to
// itself.
func pfCall[T any](d pfDev, number uintptr, arg *T) error {
	request := 0xc0000000 | unsafe.Sizeof(*arg)<<16 | 'D'<<8 | number
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), request, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return errno
	}
	return nil
}

// Numbers of net/pfvar.h: DIOCGETRULES, DIOCGETSTATUSNV, DIOCGETSTATES, DIOCGETLIMIT, DIOCKILLSTATESNV,
// DIOCRADDADDRS, DIOCRDELADDRS and DIOCRGETADDRS.
const (
	pfGetRules   = 6
	pfGetStatus  = 21
	pfGetStates  = 25
	pfGetLimit   = 39
	pfKillStates = 41
	pfAddAddrs   = 67
	pfDelAddrs   = 68
	pfGetAddrs   = 70
)

// pfPath is an anchor.
type pfPath [1024]byte

func pfPathOf(anchor string) (p pfPath) {
	copy(p[:len(p)-1], anchor)
	return p
}

// pfiocRule is struct pfioc_rule of net/pfvar.h, the same in FreeBSD 14 and 15.
type pfiocRule struct {
	Action, Ticket, PoolTicket, NR uint32
	Anchor, AnchorCall             pfPath
	Rule                           pfRawRule
}

// pfRuleAction is where struct pf_rule has its action, by which the kernel knows the kind of a rule set.
const pfRuleAction = 904

// PF_PASS, PF_NAT and PF_RDR of netpfil/pf/pf.h.
const (
	pfPass = 0
	pfNAT  = 4
	pfRDR  = 8
)

// sets are those of an anchor.
func (d pfDev) sets(anchor string) (out pfSets, err error) {
	some := false
	for i, kind := range [...]byte{pfPass, pfNAT, pfRDR} {
		r := pfiocRule{Anchor: pfPathOf(anchor)}
		r.Rule[pfRuleAction] = kind
		err := pfCall(d, pfGetRules, &r)
		if errors.Is(err, unix.EINVAL) { // there is no such anchor
			return pfSets{}, nil
		}
		if err != nil {
			return pfSets{}, fmt.Errorf("%s: rules of the anchor %s: %w", pfDevice, anchor, err)
		}
		out[i] = pfRuleset{r.Ticket, r.NR}
		some = some || r.NR > 0
	}
	if !some {
		return pfSets{}, nil
	}
	return out, nil
}

func (p *pf) sets(anchors ...string) ([]pfSets, error) {
	d, err := openPF(os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	all := make([]pfSets, len(anchors))
	for i, anchor := range anchors {
		if all[i], err = d.sets(anchor); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// enabled tells whether pf looks at packets. The answer is packed as nv(9) packs it: of the pair `running` only
// the value is not known.
func (p *pf) enabled() (bool, error) {
	d, err := openPF(os.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer d.Close()
	answer := make([]byte, 64<<10) // many times what there are counters for
	nv := pfiocNV{Data: unsafe.SliceData(answer), Size: uintptr(len(answer))}
	if err := pfCall(d, pfGetStatus, &nv); err != nil {
		return false, fmt.Errorf("%s: status: %w", pfDevice, err)
	}
	var w nvWriter
	w.flag("running", 1)
	return bytes.Contains(answer[:min(nv.Len, nv.Size)], w.Bytes()), nil
}

// stateLimit is how many states pf has room for.
func stateLimit() (uint32, error) {
	d, err := openPF(os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	limit := struct{ index, limit uint32 }{} // struct pfioc_limit; PF_LIMIT_STATES is 0
	if err := pfCall(d, pfGetLimit, &limit); err != nil {
		return 0, fmt.Errorf("%s: limit of states: %w", pfDevice, err)
	}
	return limit.limit, nil
}

// pfiocTable is struct pfioc_table of net/pfvar.h.
type pfiocTable struct {
	Anchor                     pfPath
	Name                       [32]byte
	TableFlags                 uint32
	_                          [4]byte
	Buffer                     *pfrAddr
	Esize, Size, Size2         int32
	NAdd, NDel, NChange, Flags int32
	Ticket                     uint32
}

// pfrAddr is struct pfr_addr.
type pfrAddr struct {
	Addr              [16]byte
	Family, Bits, Not uint8
	Feedback          uint8
}

func pfrAddrsOf(prefixes []netip.Prefix) (list []pfrAddr) {
	for _, p := range prefixes {
		a := pfrAddr{Family: inet6, Bits: uint8(p.Bits())}
		if p.Addr().Is4() {
			a.Family = inet
		}
		copy(a.Addr[:], p.Addr().AsSlice())
		list = append(list, a)
	}
	return list
}

func (a pfrAddr) prefix() netip.Prefix {
	if a.Family == inet {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte(a.Addr[:4])), int(a.Bits))
	}
	return netip.PrefixFrom(netip.AddrFrom16(a.Addr), int(a.Bits))
}

// table calls pf for one of the anchor's.
func (d pfDev) table(number uintptr, name string, list []pfrAddr) (size int, err error) {
	t := pfiocTable{Anchor: pfPathOf(pfAnchor), Esize: int32(unsafe.Sizeof(pfrAddr{})), Size: int32(len(list)),
		Buffer: unsafe.SliceData(list)}
	copy(t.Name[:len(t.Name)-1], name)
	err = pfCall(d, number, &t)
	return int(t.Size), err
}

func (p *pf) addresses(table string) (out []netip.Prefix, ok bool, err error) {
	d, err := openPF(os.O_RDONLY)
	if err != nil {
		return nil, false, err
	}
	defer d.Close()
	for room := 1024; ; {
		list := make([]pfrAddr, room)
		n, err := d.table(pfGetAddrs, table, list)
		switch {
		case errors.Is(err, unix.ESRCH):
			return nil, false, nil
		case err != nil:
			return nil, false, fmt.Errorf("%s: table %s: %w", pfDevice, table, err)
		case n > room: // and none was given
			room = n
			continue
		}
		for _, a := range list[:n] {
			out = append(out, a.prefix())
		}
		return out, true, nil
	}
}

func (p *pf) change(table string, add, remove []netip.Prefix) error {
	d, err := openPF(os.O_RDWR)
	if err != nil {
		return err
	}
	defer d.Close()
	_, err1 := d.table(pfAddAddrs, table, pfrAddrsOf(add))
	_, err2 := d.table(pfDelAddrs, table, pfrAddrsOf(remove))
	if err := cmp.Or(err1, err2); err != nil {
		return fmt.Errorf("%s: addresses of table %s: %w", pfDevice, table, err)
	}
	return nil
}

// pfiocNV is struct pfioc_nv: a list as nv(9) packs it.
type pfiocNV struct {
	Data      *byte
	Len, Size uintptr
}

// forget ends the states that have an address at one end as the task's stack sees it: pfctl(8) finds but those
// that come from it.
func (p *pf) forget(a netip.Addr) error {
	d, err := openPF(os.O_RDWR)
	if err != nil {
		return err
	}
	defer d.Close()
	a = a.Unmap().WithZone("")
	all := []pfKill{{from: a, stack: p.killsByStack}, {to: a, stack: p.killsByStack}}
	if !p.killsByStack {
		ids, err := d.statesOf(a)
		if err != nil {
			return fmt.Errorf("%s: states: %w", pfDevice, err)
		}
		for _, id := range ids {
			all = append(all, pfKill{id: id})
		}
	}
	for _, k := range all {
		packed := k.packed()
		nv := pfiocNV{Data: unsafe.SliceData(packed), Len: uintptr(len(packed))}
		if err := pfCall(d, pfKillStates, &nv); err != nil {
			return fmt.Errorf("%s: states of %s: %w", pfDevice, a, err)
		}
	}
	return nil
}

// findsByStack tells whether states are ended by what a stack sees of them: FreeBSD 14 passes that over and looks at
// the wire, where rdr and nat have put another address.
func findsByStack() bool {
	release, err := unix.SysctlUint32("kern.osreldate")
	return err == nil && release >= 1500000
}

// pfiocStates is struct pfioc_states of net/pfvar.h.
type pfiocStates struct {
	Len  int32
	_    int32
	Data *byte
}

// Sizes and offsets in struct pfsync_state_1301 of net/pfvar.h: the key of the stack has two addresses.
const (
	pfStateSize   = 242
	pfStateAddrs  = 60
	pfStateFamily = 232
)

// statesOf are the numbers of the states that a stack with some address sees.
func (d pfDev) statesOf(a netip.Addr) (ids []uint64, err error) {
	var s pfiocStates
	if err := pfCall(d, pfGetStates, &s); err != nil { // asks how much there is
		return nil, err
	}
	list := make([]byte, s.Len+s.Len/4+1000*pfStateSize) // and those that come meanwhile
	s = pfiocStates{Len: int32(len(list)), Data: unsafe.SliceData(list)}
	if err := pfCall(d, pfGetStates, &s); err != nil {
		return nil, err
	}
	family := byte(inet6)
	if a.Is4() {
		family = inet
	}
	for one := range slices.Chunk(list[:s.Len], pfStateSize) {
		for _, at := range []int{pfStateAddrs, pfStateAddrs + 16} {
			if one[pfStateFamily] == family && bytes.HasPrefix(one[at:], a.AsSlice()) {
				ids = append(ids, binary.NativeEndian.Uint64(one))
				break
			}
		}
	}
	return ids, nil
}

// pfKill is which states end: one, or those from or to an address.
type pfKill struct {
	id       uint64
	from, to netip.Addr
	stack    bool // as the task's stack sees them, where rdr and nat have put another address on the wire
}

// packed is what pf_nvstate_kill_to_kstate_kill of netpfil/pf/pf_nv.c reads.
func (k pfKill) packed() []byte {
	var w nvWriter
	family := uint64(inet6)
	if k.from.Is4() || k.to.Is4() {
		family = inet
	}
	w.header()
	w.list("cmp", func() {
		w.number("id", k.id)
		w.number("creatorid", 0)
		w.number("direction", 0)
	})
	w.number("af", family)
	w.number("proto", 0)
	w.list("src", func() { w.ruleAddr(k.from) })
	w.list("dst", func() { w.ruleAddr(k.to) })
	w.text("ifname", "")
	w.text("label", "")
	if k.stack {
		w.flag("nat", 1)
	}
	w.flag("kill_match", 0)
	return w.packed()
}

// nvWriter packs a list as contrib/libnv/nvlist.c does it.
type nvWriter struct {
	bytes.Buffer
	headers []int
}

// Types of sys/nv.h and contrib/libnv/nv_impl.h.
const (
	nvBool    = 2
	nvNumber  = 3
	nvString  = 4
	nvList    = 5
	nvBinary  = 7
	nvNumbers = 9
	nvListUp  = 255

	nvHeaderSize = 19
)

// header is struct nvlist_header; its size is that of all that follows, of lists within a list too.
func (w *nvWriter) header() {
	w.headers = append(w.headers, w.Len())
	w.Write(append([]byte{'l'}, make([]byte, nvHeaderSize-1)...))
}

func (w *nvWriter) pair(kind byte, name string, items, size int) {
	w.WriteByte(kind)
	w.Write(binary.LittleEndian.AppendUint16(nil, uint16(len(name)+1)))
	w.Write(binary.LittleEndian.AppendUint64(nil, uint64(size)))
	w.Write(binary.LittleEndian.AppendUint64(nil, uint64(items)))
	w.WriteString(name + "\x00")
}

func (w *nvWriter) list(name string, of func()) {
	w.pair(nvList, name, 0, nvHeaderSize)
	w.header()
	of()
	w.pair(nvListUp, "", 0, 0)
}

func (w *nvWriter) number(name string, n uint64) {
	w.pair(nvNumber, name, 0, 8)
	w.Write(binary.LittleEndian.AppendUint64(nil, n))
}

func (w *nvWriter) text(name, text string) {
	w.pair(nvString, name, 0, len(text)+1)
	w.WriteString(text + "\x00")
}

func (w *nvWriter) binary(name string, b []byte) {
	w.pair(nvBinary, name, 0, len(b))
	w.Write(b)
}

func (w *nvWriter) flag(name string, on byte) {
	w.pair(nvBool, name, 0, 1)
	w.WriteByte(on)
}

// ruleAddr is one address with any port, or all where it is not valid.
func (w *nvWriter) ruleAddr(a netip.Addr) {
	var addr, mask [16]byte
	n := copy(addr[:], a.AsSlice())
	copy(mask[:n], bytes.Repeat([]byte{0xff}, n))
	w.list("addr", func() {
		w.number("type", 0) // PF_ADDR_ADDRMASK
		w.number("iflags", 0)
		w.list("addr", func() { w.binary("addr", addr[:]) })
		w.list("mask", func() { w.binary("addr", mask[:]) })
	})
	w.pair(nvNumbers, "port", 2, 16)
	w.Write(make([]byte, 16))
	w.number("neg", 0)
	w.number("port_op", 0)
}

func (w *nvWriter) packed() []byte {
	b := w.Bytes()
	for _, at := range w.headers {
		binary.LittleEndian.PutUint64(b[at+11:], uint64(len(b)-at-nvHeaderSize))
	}
	return b
}
