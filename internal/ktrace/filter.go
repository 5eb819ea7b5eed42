// Package ktrace chooses from the records that ktrace(2) of FreeBSD writes those that are wanted, and makes
// their texts, which a traced program has chosen, fit to be printed by kdump(1): nothing in them begins a line.
package ktrace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// What of a program is wanted.
type What string

// Files are calls that look up a path, Net those with an address, Calls all of them.
const (
	Calls What = "syscalls"
	Files What = "files"
	Net   What = "net"
)

// Types of records, of sys/ktrace.h.
const (
	call        = 1
	callReturn  = 2
	namei       = 3
	signal      = 5
	structure   = 8
	sysctl      = 9
	procBorn    = 10
	procEnded   = 11
	structArray = 15

	dropped   = 0x8000 // records before this one are missing
	versioned = 0x4000
)

// points are the trace points of what is wanted. Never among them are what is read and written, arguments,
// environments, and what programs say of themselves: there are the secrets, and no bounds.
var points = map[What][]int{
	Calls: {call, callReturn, namei, signal, structure, sysctl, procBorn, procEnded, structArray},
	Files: {call, callReturn, namei, procBorn, procEnded},
	Net:   {call, callReturn, structure, procBorn, procEnded},
}

// Points are the trace points for ktrace(2), a bit for each type of record.
func (w What) Points() (bits uint32) {
	for _, p := range points[w] {
		bits |= 1 << p
	}
	return bits
}

// The struct ktr_header, the same on all 64-bit processors. The kernel writes version 1 since FreeBSD 14.
const (
	headerLen = 64
	atLength  = 0
	atType    = 4
	atPID     = 8
	atCommand = 12
	commLen   = 20
	atThread  = 48

	// maxRecord bounds what one record has: an array of structs has a page, a path 1024 bytes.
	maxRecord = 1 << 20
	// maxWaiting bounds the calls whose end is awaited, of all threads together.
	maxWaiting = 1 << 14
)

// Filter writes on what is wanted of the records that are written to it, in whatever pieces they come.
type Filter struct {
	to      io.Writer
	what    What
	rest    []byte // of a record that is not complete
	waiting map[thread]*pending
	out     bytes.Buffer
}

type thread struct {
	pid int32
	tid int64
}

// pending is a call that has not returned.
type pending struct {
	record []byte // nil when it was written: its return is wanted too
}

// NewFilter writes to kdump's input.
func NewFilter(to io.Writer, what What) *Filter {
	return &Filter{to: to, what: what, waiting: map[thread]*pending{}}
}

// Write takes some of a trace file. An error that is not the other writer's says that it is no such file.
func (f *Filter) Write(p []byte) (int, error) {
	f.rest = append(f.rest, p...)
	in := f.rest
	for len(in) >= headerLen {
		n := int(int32(binary.NativeEndian.Uint32(in[atLength:])))
		if n < 0 || n > maxRecord || kindOf(in)&versioned == 0 {
			return 0, fmt.Errorf("a record of ktrace(2) that is not understood: type %#x, %d bytes", kindOf(in), n)
		}
		if len(in) < headerLen+n {
			break
		}
		f.take(in[: headerLen+n : headerLen+n])
		in = in[headerLen+n:]
	}
	f.rest = append(f.rest[:0], in...)
	defer f.out.Reset()
	if _, err := f.to.Write(f.out.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

func kindOf(record []byte) uint16 { return binary.NativeEndian.Uint16(record[atType:]) }

func (f *Filter) take(r []byte) {
	kind := kindOf(r) &^ (dropped | versioned)
	if f.what.Points()&(1<<kind) == 0 { // also of a type that is too large for a bit
		return
	}
	cleanCommand(r[atCommand : atCommand+commLen])
	switch kind {
	case namei:
		r = withText(r, visible(r[headerLen:]))
	case structure:
		cleanStruct(r[headerLen:])
	case sysctl:
		cleanCommand(r[headerLen:])
	}
	if f.what != Calls {
		f.choose(r, kind)
		return
	}
	f.out.Write(r)
}

// choose writes a call when a path or an address of it comes, then its return, and nothing of other calls.
func (f *Filter) choose(r []byte, kind uint16) {
	t := thread{int32(binary.NativeEndian.Uint32(r[atPID:])), int64(binary.NativeEndian.Uint64(r[atThread:]))}
	p := f.waiting[t]
	switch kind {
	case call:
		if len(f.waiting) >= maxWaiting {
			clear(f.waiting) // threads that ended in a call have left them
		}
		f.waiting[t] = &pending{bytes.Clone(r)}
	case namei, structure:
		if kind == structure && !bytes.HasPrefix(r[headerLen:], []byte("sockaddr\x00")) {
			return
		}
		if p != nil {
			f.out.Write(p.record)
			p.record = nil
		}
		f.out.Write(r)
	case callReturn:
		if p != nil && p.record == nil { // its call is shown
			f.out.Write(r)
		}
		delete(f.waiting, t)
	case procEnded:
		for other := range f.waiting {
			if other.pid == t.pid {
				delete(f.waiting, other)
			}
		}
		f.out.Write(r)
	default:
		f.out.Write(r)
	}
}

// withText is a record with another text of a length of its own.
func withText(r, text []byte) []byte {
	out := append(bytes.Clone(r[:headerLen]), text...)
	binary.NativeEndian.PutUint32(out[atLength:], uint32(len(text)))
	return out
}

// visible is a text with an octal number for each byte that is not seen: a program names its files as it likes.
func visible(text []byte) []byte {
	if !bytes.ContainsFunc(text, hidden) {
		return text
	}
	var out []byte
	for _, c := range text {
		if c < ' ' || c == 0x7f {
			out = fmt.Appendf(out, `\%03o`, c)
		} else {
			out = append(out, c)
		}
	}
	return out
}

func hidden(r rune) bool { return r < ' ' || r == 0x7f }

// cleanCommand is for a name that ends with the first zero.
func cleanCommand(name []byte) {
	end := bytes.IndexByte(name, 0)
	if end < 0 {
		end = len(name)
	}
	for i, c := range name[:end] {
		if c <= ' ' || c == 0x7f {
			name[i] = '?'
		}
	}
}

// Unix sockets have a path in their address.
const (
	addressFamily = 1 // in a struct sockaddr
	familyUnix    = 1
	unixPath      = 2
)

// cleanStruct is for a struct behind its name. Of them only addresses of unix sockets have texts of a program's.
func cleanStruct(payload []byte) {
	name, data, ok := bytes.Cut(payload, []byte{0})
	if !ok || string(name) != "sockaddr" || len(data) <= unixPath || data[addressFamily] != familyUnix {
		return
	}
	cleanCommand(data[unixPath:])
}
