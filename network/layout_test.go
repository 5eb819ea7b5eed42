package network

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
)

// The offsets are those that a C compiler has for FreeBSD 15.1's headers on amd64.
func TestLayouts(t *testing.T) {
	mac := net.HardwareAddr{2, 1, 2, 3, 4, 5}
	v4, v6 := netip.MustParsePrefix("10.1.2.3/20"), netip.MustParsePrefix("fd00::7/64")
	ones := bytes.Repeat([]byte{0xff}, 8)
	for _, c := range []struct {
		what string
		b    []byte
		size int
		at   map[int][]byte
	}{
		{"ifreq of a number", numberReq("eth0", 7), 32, map[int][]byte{16: {7, 0, 0, 0}}},
		{"ifreq of a MAC", linkReq("eth0", mac), 32, map[int][]byte{16: append([]byte{6, 18}, mac...)}},
		{"ifreq of an address", addrReq("eth0", v4.Addr()), 32, map[int][]byte{16: {16, 2, 0, 0, 10, 1, 2, 3}}},
		{"in6_ifreq", addrReq("eth0", v6.Addr()), 288, map[int][]byte{16: {28, 28}, 24: {0xfd, 0}, 39: {7, 0}}},
		{"ifaliasreq", aliasReq("eth0", v4, "freejail"), 68, map[int][]byte{16: {16, 2, 0, 0, 10, 1, 2, 3},
			32: make([]byte, 16), 48: {16, 2, 0, 0, 255, 255, 240, 0}, 56: []byte("freejail\x00\x00\x00\x00")}},
		{"ifaliasreq without a mark", aliasReq("eth0", v4, ""), 68, map[int][]byte{56: make([]byte, 12)}},
		{"in6_aliasreq", aliasReq6("eth0", v6, forever), 136, map[int][]byte{16: {28, 28}, 24: {0xfd}, 39: {7},
			44: make([]byte, 28), 72: {28, 28}, 80: append(ones, make([]byte, 8)...), 100: make([]byte, 20),
			120: append(ones, 0, 0, 0, 0)}},
		{"ifbreq", memberReq("eth0"), 80, nil},
		{"ifbareq", staticReq("eth0", mac), 40, map[int][]byte{24: append([]byte{1}, mac...)}},
		{"ifgroupreq", groupReq("eth0", "freejail"), 40, map[int][]byte{24: []byte("freejail\x00")}},
	} {
		if len(c.b) != c.size || string(c.b[:5]) != "eth0\x00" {
			t.Errorf("%s: %d bytes: %v", c.what, len(c.b), c.b)
			continue
		}
		for at, want := range c.at {
			if got := c.b[at : at+len(want)]; !bytes.Equal(got, want) {
				t.Errorf("%s at %d: %v, want %v", c.what, at, got, want)
			}
		}
	}
	if b := named(sizeIfreq, "a-name-that-is-too-long"); b[maxInterface] != 0 {
		t.Errorf("a name has no end: %v", b)
	}
}

func TestCountersAreSwapped(t *testing.T) {
	b := make([]byte, sizeIfData)
	for at, n := range map[int]uint64{24: 1, 40: 2, 64: 3, 72: 4} {
		binary.NativeEndian.PutUint64(b[at:], n)
	}
	if got, want := countersOf(b), (Counters{BytesIn: 4, BytesOut: 3, PacketsIn: 2, PacketsOut: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestNewLink(t *testing.T) {
	b := newLink(9, "epair", "epair20000", "freejail x")
	u16 := func(at int) int { return int(binary.NativeEndian.Uint16(b[at:])) }
	u32 := func(at int) int { return int(binary.NativeEndian.Uint32(b[at:])) }
	if u32(0) != len(b) || len(b)%4 != 0 || u16(4) != 16 || u16(6) != 0x605 || u32(8) != 9 || u32(28) == 0 || u32(28)&1 != 0 {
		t.Fatalf("header %v", b[:32])
	}
	got := map[int]string{}
	for at := 32; at < len(b); at += (u16(at) + 3) &^ 3 {
		got[u16(at+2)] = string(b[at+4 : at+u16(at)])
	}
	if got[3] != "epair20000\x00" || got[20] != "freejail x\x00" || !bytes.Contains([]byte(got[18]), []byte("epair\x00")) {
		t.Errorf("%v", got)
	}
}

func TestOnes(t *testing.T) {
	for text, want := range map[string]int{"255.255.240.0": 20, "0.0.0.0": 0, "ffff:ffff::": 32} {
		if got := ones(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %d", text, got)
		}
	}
	if got := maskOf(netip.MustParsePrefix("fd00::/128")); got.String() != "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" {
		t.Error(got)
	}
}
