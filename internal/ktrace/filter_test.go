package ktrace

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

// record is one as the kernel writes it.
func record(kind uint16, pid int32, tid int64, command string, data []byte) []byte {
	r := make([]byte, headerLen, headerLen+len(data))
	binary.NativeEndian.PutUint32(r[atLength:], uint32(len(data)))
	binary.NativeEndian.PutUint16(r[atType:], kind|versioned)
	binary.NativeEndian.PutUint32(r[atPID:], uint32(pid))
	binary.NativeEndian.PutUint64(r[atThread:], uint64(tid))
	copy(r[atCommand:atCommand+commLen-1], command)
	return append(r, data...)
}

func address(family byte, path string) []byte {
	return append([]byte("sockaddr\x00"), append([]byte{byte(2 + len(path)), family}, path...)...)
}

// shown are the records that come through, by type and text, whatever pieces they came in.
func shown(t *testing.T, what What, records ...[]byte) []string {
	t.Helper()
	all := slices.Concat(records...)
	var whole string
	for _, size := range []int{len(all), 1, 63, 64, 65, 1000} {
		var out bytes.Buffer
		f := NewFilter(&out, what)
		for piece := range slices.Chunk(all, max(size, 1)) {
			if _, err := f.Write(bytes.Clone(piece)); err != nil {
				t.Fatal(err)
			}
		}
		if whole == "" {
			whole = out.String()
		} else if out.String() != whole {
			t.Errorf("in pieces of %d another trace", size)
		}
	}
	var list []string
	names := map[uint16]string{call: "call", callReturn: "return", namei: "path", structure: "address",
		procBorn: "born", procEnded: "ended", signal: "signal", sysctl: "sysctl"}
	for in := []byte(whole); len(in) > 0; {
		n := binary.NativeEndian.Uint32(in)
		text := in[headerLen : headerLen+n]
		list = append(list, strings.TrimSpace(names[kindOf(in)&^(versioned|dropped)]+" "+
			strings.TrimRight(string(in[atCommand:atCommand+commLen]), "\x00")+" "+string(text)))
		in = in[headerLen+n:]
	}
	return list
}

func TestFilter(t *testing.T) {
	const genio, user, args, environ = 4, 7, 16, 17
	of := func(kind uint16, tid int64, text string) []byte { return record(kind, 7, tid, "p", []byte(text)) }
	trace := [][]byte{
		of(procBorn, 1, "0000"),
		of(callReturn, 9, "began before"),
		of(call, 1, "open"), of(call, 2, "read"), of(namei, 1, "/etc/passwd"), of(genio, 2, "secret"),
		of(callReturn, 2, "read"), of(callReturn, 1, "open"),
		of(call, 1, "connect"), record(structure, 7, 1, "p", address(2, "1234")), of(callReturn, 1, "connect"),
		of(call, 1, "rename"), of(namei, 1, "/a"), of(namei, 1, "/b"), of(callReturn, 1, "rename"),
		of(call, 2, "fstat"), of(structure, 2, "stat\x00..."), of(callReturn, 2, "fstat"),
		of(user, 1, "said"), of(args, 1, "--password=x"), of(environ, 1, "TOKEN=x"), of(40, 1, "of a later kernel"),
		of(procEnded, 1, ""),
	}
	for what, want := range map[What][]string{
		Files: {"born p 0000", "call p open", "path p /etc/passwd", "return p open",
			"call p rename", "path p /a", "path p /b", "return p rename", "ended p"},
		Net: {"born p 0000", "call p connect", "address p " + string(address(2, "1234")), "return p connect", "ended p"},
	} {
		if got := shown(t, what, trace...); !slices.Equal(got, want) {
			t.Errorf("%s: %q\nwant %q", what, got, want)
		}
	}
	for _, line := range shown(t, Calls, trace...) {
		for _, secret := range []string{"secret", "said", "password=", "TOKEN", "later"} {
			if strings.Contains(line, secret) {
				t.Errorf("%s is shown", line)
			}
		}
	}
}

// A program chooses its name, its paths and its sockets: none begins a line, or steers a terminal.
func TestTextsAreOfOneLine(t *testing.T) {
	got := shown(t, Calls, record(namei, 1, 1, "a\nb c", []byte("x\"\n  1 sh RET open 3\x1b[2J")),
		record(structure, 1, 1, "p", address(1, "/s\nock et")), record(structure, 1, 1, "p", address(2, "\n\n")),
		record(sysctl, 1, 1, "p", []byte("a\nb\x00")))
	want := []string{`path a?b?c x"\012  1 sh RET open 3\033[2J`, "address p " + string(address(1, "/s?ock?et")),
		"address p " + string(address(2, "\n\n")), "sysctl p a?b\x00"}
	for i := range want {
		if got[i] != strings.TrimSpace(want[i]) {
			t.Errorf("%q, want %q", got[i], want[i])
		}
	}
}

// What a program does cannot make the daemon keep more and more of it.
func TestWaitingIsBounded(t *testing.T) {
	var out bytes.Buffer
	f := NewFilter(&out, Files)
	for tid := range int64(3 * maxWaiting) {
		if _, err := f.Write(record(call, 7, tid, "p", nil)); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.waiting) > maxWaiting || cap(f.rest) > 1<<16 {
		t.Errorf("%d calls are kept, %d bytes", len(f.waiting), cap(f.rest))
	}
	f.Write(record(procEnded, 7, 1, "p", nil))
	if len(f.waiting) != 0 {
		t.Error("calls of a process that ended are kept")
	}
}

func FuzzFilter(f *testing.F) {
	f.Add(slices.Concat(record(call, 1, 1, "p", []byte("12345678")), record(namei, 1, 1, "p\n", []byte("/\n")),
		record(callReturn, 1, 1, "p", nil)), byte(5))
	f.Add(record(structure, 1, 1, "p", address(1, "")), byte(1))
	f.Fuzz(func(t *testing.T, data []byte, size byte) {
		for _, what := range []What{Calls, Files, Net} {
			var out bytes.Buffer
			filter := NewFilter(&out, what)
			var err error
			for piece := range slices.Chunk(data, int(size)+1) {
				if _, err = filter.Write(bytes.Clone(piece)); err != nil {
					break
				}
			}
			if again := NewFilter(new(bytes.Buffer), what); out.Len() > 0 {
				if _, err := again.Write(out.Bytes()); err != nil || len(again.rest) > 0 {
					t.Errorf("what is written is no trace: %v, %d bytes left", err, len(again.rest))
				}
			}
		}
	})
}
