package jail

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Programs that the kernel calls when a process of a cgroup makes a socket, binds it, connects or sends:
// they have it use the addresses that its jail is confined to, as FreeBSD's kernel does. All numbers are
// those of linux/bpf.h.

// bpfProgram is one of a kind (enum bpf_prog_type), for one place (enum bpf_attach_type).
type bpfProgram struct {
	kind, place uint32
	code        []bpfInsn
}

const (
	bpfSock, bpfSockAddr     = 9, 18
	bpfCreate                = 2
	bpfBind4, bpfBind6       = 8, 9
	bpfConnect4, bpfConnect6 = 10, 11
	bpfSend4, bpfSend6       = 14, 15
)

// Where the context has what is read and written: struct bpf_sock, and struct bpf_sock_addr.
const (
	socketFamily         = 4
	userIP4, userIP6     = 4, 8
	sourceIP4, sourceIP6 = 40, 44
)

// bpfInsn is struct bpf_insn; regs has the destination in its lower half.
type bpfInsn struct {
	code, regs byte
	off        int16
	imm        int32
}

// Codes of instructions on 32 bits, and helpers (enum bpf_func_id).
const (
	bpfLoad, bpfStore                 = 0x61, 0x63 // BPF_LDX, BPF_STX | BPF_MEM | BPF_W
	bpfSet, bpfAnd                    = 0xb4, 0x54
	bpfCopy, bpfAdd                   = 0xbf, 0x07 // of 64 bits
	bpfIfEqual, bpfIfNot, bpfGo       = 0x16, 0x56, 0x05
	bpfCall, bpfExit                  = 0x85, 0x95
	bpfBind, bpfSetRetval       int32 = 64, 187
)

// assembler writes a program. Register 6 has the context, 2 to 5 the words of an address, 10 the end of
// the stack.
type assembler struct {
	code  []bpfInsn
	at    map[string]int
	jumps map[int]string
}

func newAssembler() *assembler {
	a := &assembler{at: map[string]int{}, jumps: map[int]string{}}
	a.add(bpfCopy, 6, 1, 0, 0)
	return a
}

func (a *assembler) add(code, dst, src byte, off int16, imm int32) {
	a.code = append(a.code, bpfInsn{code, src<<4 | dst, off, imm})
}

func (a *assembler) label(name string) { a.at[name] = len(a.code) }

// jump goes to a label if a register has a value, or has it not.
func (a *assembler) jump(code, reg byte, value uint32, label string) {
	a.jumps[len(a.code)] = label
	a.add(code, reg, 0, 0, int32(value))
}

func (a *assembler) answer(n int32) {
	a.add(bpfSet, 0, 0, 0, n)
	a.add(bpfExit, 0, 0, 0, 0)
}

// end adds the answers that are used, as the kernel takes no code that is not, and resolves the labels.
func (a *assembler) end() []bpfInsn {
	used := func(label string) bool { return slices.Contains(slices.Collect(maps.Values(a.jumps)), label) }
	if last := a.code[len(a.code)-1].code; last != bpfGo || used("allow") {
		a.label("allow")
		a.answer(1)
	}
	if used("deny") {
		a.label("deny")
		a.answer(0)
	}
	for i, label := range a.jumps {
		a.code[i].off = int16(a.at[label] - i - 1)
	}
	return a.code
}

// words are an address as the context has it, in units of 32 bits.
func words(addr netip.Addr) (out []uint32) {
	b := addr.AsSlice()
	for len(b) > 0 {
		out = append(out, binary.NativeEndian.Uint32(b))
		b = b[4:]
	}
	return out
}

// mapped is an address of IPv4 in one of IPv6.
func mapped(four netip.Addr) []uint32 { return words(netip.AddrFrom16(four.As16())) }

// load reads an address of the context into registers 2 and on.
func (a *assembler) load(offset int16, n int) {
	for i := range n {
		a.add(bpfLoad, byte(2+i), 6, offset+int16(4*i), 0)
	}
}

// store writes an address into the context.
func (a *assembler) store(offset int16, addr []uint32) {
	for i, w := range addr {
		a.add(bpfSet, 2, 0, 0, int32(w))
		a.add(bpfStore, 6, 2, offset+int16(4*i), 0)
	}
}

// ifAddress goes to a label if the registers from 2 on have an address.
func (a *assembler) ifAddress(addr []uint32, label string) {
	skip := fmt.Sprint("skip", len(a.code))
	for i, w := range addr {
		if i == len(addr)-1 {
			a.jump(bpfIfEqual, byte(2+i), w, label)
		} else {
			a.jump(bpfIfNot, byte(2+i), w, skip)
		}
	}
	a.label(skip)
}

// ifLocal goes to a label if a register has 0.0.0.0 or one of 127.0.0.0/8. It loses the register.
func (a *assembler) ifLocal(reg byte, label string) {
	first := func(b byte) uint32 { return binary.NativeEndian.Uint32([]byte{b, 0, 0, 0}) }
	a.jump(bpfIfEqual, reg, 0, label)
	a.add(bpfAnd, reg, 0, 0, int32(first(0xff)))
	a.jump(bpfIfEqual, reg, first(127), label)
}

// ifMapped goes to a label if the registers have an address of IPv4 in one of IPv6.
func (a *assembler) ifMapped(label string) {
	a.ifAddress(mapped(netip.IPv4Unspecified())[:3], label)
}

// source has the socket send from an address: one that is bound stays what it is.
func (a *assembler) source(family uint32, addr []uint32) {
	name := []uint32{family, addr[0], 0, 0} // struct sockaddr_in
	if len(addr) > 1 {
		name = slices.Concat([]uint32{family, 0}, addr, []uint32{0}) // struct sockaddr_in6
	}
	size := 4 * len(name)
	for i, w := range name {
		a.add(bpfSet, 2, 0, 0, int32(w))
		a.add(bpfStore, 10, 2, int16(4*i-size), 0)
	}
	a.add(bpfCopy, 1, 6, 0, 0)
	a.add(bpfCopy, 2, 10, 0, 0)
	a.add(bpfAdd, 2, 0, 0, int32(-size))
	a.add(bpfSet, 3, 0, 0, int32(size))
	a.add(bpfCall, 0, 0, 0, bpfBind)
	a.jump(bpfIfEqual, 0, 0, "allow")
	bound := -int32(unix.EINVAL)
	a.jump(bpfIfEqual, 0, uint32(bound), "allow")
	a.jump(bpfGo, 0, 0, "deny")
}

// familyWord is the first word of a socket's name, with the port 0.
func familyWord(family uint16) uint32 {
	return binary.NativeEndian.Uint32(append(binary.NativeEndian.AppendUint16(nil, family), 0, 0))
}

const progLoad, progAttach = 5, 8 // enum bpf_cmd

// loads is how often a program is loaded until no signal comes in between: the kernel's verifier ends with
// EAGAIN when one does (do_check in kernel/bpf/verifier.c), and Go's scheduler sends them.
const loads = 100

// load has the kernel take a program.
func (p bpfProgram) load() (fd int, err error) {
	license := append([]byte("BSD"), 0)
	load := struct { // of union bpf_attr
		kind, count      uint32
		insns, license   unsafe.Pointer
		logLevel, logLen uint32
		log              unsafe.Pointer
		version, flags   uint32
		name             [16]byte
		ifindex, place   uint32
	}{kind: p.kind, count: uint32(len(p.code)), insns: unsafe.Pointer(&p.code[0]), license: unsafe.Pointer(&license[0]),
		place: p.place}
	for range loads {
		n, _, errno := unix.Syscall(unix.SYS_BPF, progLoad, uintptr(unsafe.Pointer(&load)), unsafe.Sizeof(load))
		if errno == 0 {
			return int(n), nil
		}
		if err = errno; errno != unix.EAGAIN {
			break
		}
	}
	return -1, fmt.Errorf("load a program of BPF: %w", err)
}

// attachTo loads a program and attaches it to a cgroup, where it stays as long as that is.
func (p bpfProgram) attachTo(cgroup int) error {
	fd, err := p.load()
	if err != nil {
		return err
	}
	to := struct{ cgroup, program, place, flags uint32 }{uint32(cgroup), uint32(fd), p.place, bpfMulti}
	_, _, errno := unix.Syscall(unix.SYS_BPF, progAttach, uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to))
	err = unix.Close(fd)
	if errno != 0 {
		return fmt.Errorf("attach a program of BPF to a cgroup: %w", errno)
	}
	return err
}

// bpfMulti is BPF_F_ALLOW_MULTI: programs of cgroups above are called too.
const bpfMulti = 2
