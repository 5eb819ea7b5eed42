package network

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// programAt finds a socket by the tables of proc(5), and then the process that has it open.
func programAt(p bound) (listener, bool) {
	for _, table := range []string{p.protocol, p.protocol + "6"} {
		uid, inode, ok := socketAt(p, "/proc/thread-self/net/"+table)
		if !ok {
			continue
		}
		if pid := processWith("socket:[" + inode + "]"); pid > 0 {
			name := commandOf(pid)
			return listener{name, pid, uid}, name != ""
		}
	}
	return listener{}, false
}

// commandOf is the name of a process; empty where it has ended.
func commandOf(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

// socketAt is a line of a table whose socket is in the way of a place and has no other end.
func socketAt(p bound, table string) (uid int, inode string, ok bool) {
	f, err := os.Open(table)
	if err != nil {
		return 0, "", false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 {
			continue
		}
		local, err := tableAddress(fields[1])
		if err != nil || !p.inTheWay(local) || !strings.HasSuffix(fields[2], ":0000") {
			continue
		}
		if uid, err := strconv.Atoi(fields[7]); err == nil {
			return uid, fields[9], true
		}
	}
	return 0, "", false
}

// tableAddress reads 0100007F:0050: words in the order of this host, and the port.
func tableAddress(text string) (netip.AddrPort, error) {
	address, number, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(address)
	port, perr := strconv.ParseUint(number, 16, 16)
	if err != nil || perr != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q", text)
	}
	for at := 0; at+4 <= len(b); at += 4 {
		binary.NativeEndian.PutUint32(b[at:], binary.BigEndian.Uint32(b[at:]))
	}
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("address %q", text)
	}
	return netip.AddrPortFrom(a, uint16(port)), nil
}

// processWith is a process that has something open, by the text of its link in proc(5); 0 is none.
func processWith(open string) int {
	processes, err := filepath.Glob("/proc/[0-9]*/fd")
	if err != nil {
		return 0
	}
	for _, dir := range processes {
		list, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, fd := range list {
			if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err != nil || to != open {
				continue
			}
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
			if err == nil {
				return pid
			}
		}
	}
	return 0
}
