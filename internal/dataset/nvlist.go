package dataset

import "encoding/binary"

// nvlist is a list of names and values as ZFS takes it from programs: packed by XDR (module/nvpair/nvpair.c of
// OpenZFS). Values are string, uint64 or nvlist.
type nvlist []nvpair

type nvpair struct {
	name  string
	value any
}

// Of sys/nvpair.h.
const (
	nvEncodeXDR    = 1
	nvUniqueName   = 1
	dataTypeUint64 = 8
	dataTypeString = 9
	dataTypeNvlist = 19
	nvpairHeader   = 16 // the size of nvpair_t
	nvlistSize     = 24 // and of nvlist_t
)

// pack is the list as a program sends it, with the header that tells the encoding.
func (l nvlist) pack() []byte { return l.body([]byte{nvEncodeXDR, 1, 0, 0}) }

func (l nvlist) body(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, 0) // the version
	b = binary.BigEndian.AppendUint32(b, nvUniqueName)
	for _, p := range l {
		b = p.body(b)
	}
	return append(b, 0, 0, 0, 0, 0, 0, 0, 0)
}

// body begins with the pair's size here, and with that of the kernel's nvpair_t of it.
func (p nvpair) body(b []byte) []byte {
	var kind uint32
	var value []byte
	var decoded int
	switch v := p.value.(type) {
	case uint64:
		kind, value, decoded = dataTypeUint64, binary.BigEndian.AppendUint64(nil, v), 8
	case string:
		kind, value, decoded = dataTypeString, xdrString(nil, v), len(v)+1
	case nvlist:
		kind, value, decoded = dataTypeNvlist, v.body(nil), nvlistSize
	}
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(align8(nvpairHeader+len(p.name)+1)+align8(decoded)))
	b = xdrString(b, p.name)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = append(b, value...)
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

func xdrString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	b = append(b, s...)
	return append(b, make([]byte, -len(s)&3)...)
}

func align8(n int) int { return (n + 7) &^ 7 }
