package jail

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// confinement is the addresses that a jail in another's network stack has, by ip4.addr and ip6.addr: one of
// each family, or none of it. What its processes bind to all addresses or to loopback is bound to its own,
// and they connect and send from there, as on FreeBSD. What is not as there: if the jail has both families,
// a socket of IPv6 that is bound to all addresses is bound to that of IPv4, and refused if it is of IPv6
// alone; a socket that is not bound before listen(2), and a raw one, are not confined.
type confinement struct{ four, six netip.Addr }

func (c confinement) none() bool { return !c.four.IsValid() && !c.six.IsValid() }

func confinementOf(s Spec) (c confinement, err error) {
	for name, to := range map[string]*netip.Addr{"ip4.addr": &c.four, "ip6.addr": &c.six} {
		text := s.Params[name]
		if text == "" {
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil || a.Is4() != (name == "ip4.addr") || a.Zone() != "" {
			return c, fmt.Errorf("%s: %q is not one address: a development host confines a jail to one of each family",
				name, text)
		}
		*to = a
	}
	return c, nil
}

// confine attaches the programs to the cgroup of a jail, whose first process does not run yet.
func confine(name string, pid int, s Spec) error {
	c, err := confinementOf(s)
	if err != nil || c.none() {
		return err
	}
	dir, err := ownCgroup(name, pid)
	if err != nil {
		return fmt.Errorf("confine it to its addresses: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range c.programs() {
		if err := p.attachTo(int(f.Fd())); err != nil {
			return fmt.Errorf("confine it to its addresses: %w", err)
		}
	}
	return nil
}

// ownCgroup is the cgroup of version 2 that runc has made for a jail, by its first process.
func ownCgroup(name string, pid int) (string, error) {
	root, err := cgroup2()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if at, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok && filepath.Base(at) == name {
			return filepath.Join(root, at), nil
		}
	}
	return "", errors.New("runc has made no cgroup of version 2 for it")
}

// cgroup2 is where the hierarchy of version 2 is mounted.
func cgroup2() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", errors.New("no cgroup2 file system is mounted at /sys/fs/cgroup or /sys/fs/cgroup/unified")
}

// programs are those of a confinement.
func (c confinement) programs() (out []bpfProgram) {
	add := func(kind, place uint32, code []bpfInsn) { out = append(out, bpfProgram{kind, place, code}) }
	if c.four.IsValid() {
		add(bpfSockAddr, bpfBind4, c.bind4())
		add(bpfSockAddr, bpfConnect4, c.connect4())
		add(bpfSockAddr, bpfSend4, c.send4())
	} else {
		add(bpfSock, bpfCreate, withoutFamily(unix.AF_INET))
	}
	if c.six.IsValid() {
		add(bpfSockAddr, bpfBind6, c.bind6())
		add(bpfSockAddr, bpfConnect6, c.connect6())
		add(bpfSockAddr, bpfSend6, c.send6())
	} else {
		add(bpfSock, bpfCreate, withoutFamily(unix.AF_INET6))
	}
	return out
}

// withoutFamily makes no sockets of a family, as a kernel that does not have it.
func withoutFamily(family uint32) []bpfInsn {
	a := newAssembler()
	a.add(bpfLoad, 2, 6, socketFamily, 0)
	a.jump(bpfIfNot, 2, family, "allow")
	a.add(bpfSet, 1, 0, 0, -int32(unix.EAFNOSUPPORT))
	a.add(bpfCall, 0, 0, 0, bpfSetRetval)
	a.jump(bpfGo, 0, 0, "deny")
	return a.end()
}

func (c confinement) bind4() []bpfInsn {
	a := newAssembler()
	a.load(userIP4, 1)
	a.ifAddress(words(c.four), "allow")
	a.ifLocal(2, "own")
	a.jump(bpfGo, 0, 0, "deny")
	a.label("own")
	a.store(userIP4, words(c.four))
	return a.end()
}

var (
	any6      = words(netip.IPv6Unspecified())
	loopback6 = words(netip.IPv6Loopback())
)

func (c confinement) bind6() []bpfInsn {
	a := newAssembler()
	a.load(userIP6, 4)
	a.ifAddress(words(c.six), "allow")
	a.ifAddress(loopback6, "six")
	if c.four.IsValid() {
		a.ifAddress(mapped(c.four), "allow")
		a.ifAddress(any6, "four")
		a.ifMapped("mapped")
		a.jump(bpfGo, 0, 0, "deny")
		a.label("mapped")
		a.ifLocal(5, "four")
		a.jump(bpfGo, 0, 0, "deny")
		a.label("four")
		a.store(userIP6, mapped(c.four))
		a.jump(bpfGo, 0, 0, "allow")
	} else {
		a.ifAddress(any6, "six")
		a.jump(bpfGo, 0, 0, "deny")
	}
	a.label("six")
	a.store(userIP6, words(c.six))
	return a.end()
}

func (c confinement) connect4() []bpfInsn {
	a := newAssembler()
	a.load(userIP4, 1)
	a.ifLocal(2, "own")
	a.jump(bpfGo, 0, 0, "source")
	a.label("own")
	a.store(userIP4, words(c.four))
	a.label("source")
	a.source(familyWord(unix.AF_INET), words(c.four))
	return a.end()
}

func (c confinement) connect6() []bpfInsn {
	a := newAssembler()
	a.load(userIP6, 4)
	none := "deny" // of IPv4, without an address of it
	if c.four.IsValid() {
		none = "mapped"
	}
	a.ifMapped(none)
	a.ifAddress(any6, "own")
	a.ifAddress(loopback6, "own")
	a.jump(bpfGo, 0, 0, "source")
	if c.four.IsValid() {
		a.label("mapped")
		a.ifLocal(5, "own4")
		a.jump(bpfGo, 0, 0, "source4")
		a.label("own4")
		a.store(userIP6, mapped(c.four))
		a.label("source4")
		a.source(familyWord(unix.AF_INET6), mapped(c.four))
	}
	a.label("own")
	a.store(userIP6, words(c.six))
	a.label("source")
	a.source(familyWord(unix.AF_INET6), words(c.six))
	return a.end()
}

func (c confinement) send4() []bpfInsn {
	a := newAssembler()
	a.load(userIP4, 1)
	a.ifLocal(2, "own")
	a.jump(bpfGo, 0, 0, "source")
	a.label("own")
	a.store(userIP4, words(c.four))
	a.label("source")
	a.store(sourceIP4, words(c.four))
	return a.end()
}

func (c confinement) send6() []bpfInsn {
	a := newAssembler()
	a.load(userIP6, 4)
	a.ifAddress(any6, "own")
	a.ifAddress(loopback6, "own")
	a.jump(bpfGo, 0, 0, "source")
	a.label("own")
	a.store(userIP6, words(c.six))
	a.label("source")
	a.store(sourceIP6, words(c.six))
	return a.end()
}
