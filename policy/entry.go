package policy

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// entry is one thing that a block permits or denies.
type entry struct {
	block *block
	where string // file:line, and the set that it comes from
	text  string

	name, value pattern
	ports       portRange
	mount       mountRule
	service     serviceRule
}

// pattern is a glob as path.Match reads it, or a bound on a number. What it
// begins with literally sorts most strings out.
type pattern struct {
	glob, prefix string
	literal      bool
	low, high    *int64
}

// match reports whether the pattern takes all of s.
func (p pattern) match(s string) bool {
	switch {
	case p.low != nil || p.high != nil:
		n, ok := number(s)
		return ok && (p.low == nil || n >= *p.low) && (p.high == nil || n <= *p.high)
	case p.literal:
		return s == p.prefix
	case !strings.HasPrefix(s, p.prefix):
		return false
	}
	ok, err := path.Match(p.glob, s)
	return err == nil && ok // patterns were checked when they were read
}

// all is match for a value that may be a list, such as addresses: a glob takes
// each part of it.
func (p pattern) all(value string) bool {
	if p.literal || !strings.Contains(value, ",") {
		return p.match(value)
	}
	for one := range strings.SplitSeq(value, ",") {
		if !p.match(one) {
			return false
		}
	}
	return true
}

// number reads a number in the one way of writing it: 0x10, +1, 01 and 1 with
// a blank are none.
func number(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && strconv.FormatInt(n, 10) == s
}

func newPattern(glob string) (pattern, error) {
	if _, err := path.Match(glob, ""); err != nil {
		return pattern{}, fmt.Errorf("%q: %w", glob, err)
	}
	var begin []byte
	for i := 0; i < len(glob); i++ {
		switch glob[i] {
		case '*', '?', '[':
			return pattern{glob: glob, prefix: string(begin)}, nil
		case '\\':
			i++
		}
		begin = append(begin, glob[i])
	}
	return pattern{glob: glob, prefix: string(begin), literal: true}, nil
}

// newValue reads a value's pattern: a glob, "<=5", ">=2" or "1..3".
func newValue(s string) (pattern, error) {
	bound := func(text string) (*int64, error) {
		n, ok := number(strings.TrimSpace(text))
		if !ok {
			return nil, fmt.Errorf("%q: %q is no number", s, text)
		}
		return &n, nil
	}
	p, err := pattern{}, error(nil)
	low, high, isRange := strings.Cut(s, "..")
	switch {
	case strings.HasPrefix(s, "<="):
		p.high, err = bound(s[2:])
	case strings.HasPrefix(s, ">="):
		p.low, err = bound(s[2:])
	case isRange:
		if p.low, err = bound(low); err == nil {
			p.high, err = bound(high)
		}
		if err == nil && *p.low > *p.high {
			err = fmt.Errorf("%q: the range is empty", s)
		}
	default:
		return newPattern(s)
	}
	return p, err
}

// ask is a request, taken apart once for all comparisons.
type ask struct {
	Request
	ports   portRange
	portsOK bool
	mount   mountAsk
	service serviceAsk
}

func newAsk(r Request, s *Subject) ask {
	a := ask{Request: r}
	switch r.Kind {
	case Port:
		p, err := parsePorts(r.Value)
		a.ports, a.portsOK = p, err == nil && p.protocol != ""
	case Mount:
		a.mount = parseAsk(r)
	case Service:
		a.service = newServiceAsk(r, *s)
	}
	return a
}

// covers reports whether the entry contains all of the request.
func (e *entry) covers(a *ask) bool {
	switch a.Kind {
	case Allow:
		return a.Value == "true" && e.name.match(a.Name)
	case Jail, Sysctl, SysVIPC:
		return e.name.match(a.Name) && e.value.all(a.Value)
	case Mount:
		return e.mount.covers(a.mount)
	case Service:
		return e.service.covers(e.block, &a.service)
	case Port:
		return a.portsOK && e.ports.first <= a.ports.first && a.ports.last <= e.ports.last && e.ports.speaks(a.ports.protocol)
	case User, Module, NFS:
		return e.value.match(a.Value)
	case VNET, Linux:
		return a.Value == "true"
	}
	return false
}

type portRange struct {
	first, last int
	protocol    string // empty: any
}

func (p portRange) speaks(protocol string) bool { return p.protocol == "" || p.protocol == protocol }

// parsePorts reads "80", "1024-65535", "53/udp".
func parsePorts(s string) (portRange, error) {
	ports, proto, given := strings.Cut(s, "/")
	if given && proto != "tcp" && proto != "udp" {
		return portRange{}, fmt.Errorf("%q: the protocol is neither tcp nor udp", s)
	}
	lo, hi, isRange := strings.Cut(ports, "-")
	if !isRange {
		hi = lo
	}
	first, ok1 := number(lo)
	last, ok2 := number(hi)
	if !ok1 || !ok2 || first < 1 || last > 65535 || first > last {
		return portRange{}, fmt.Errorf("%q is neither a port nor a range within 1 to 65535", s)
	}
	return portRange{int(first), int(last), proto}, nil
}

const nullfs = "nullfs"

// mountRule is "tmpfs", "tmpfs:/tmp" (the target, or below it), or
// "nullfs:/srv/data:ro" (the source on the host, or below it; ro permits
// read-only mounts alone). Flags follow: suid, size<=64MiB.
type mountRule struct {
	fstype, path   string
	readOnly, suid bool
	size           int64 // of all that it permits to one task; 0: no limit
	sized          bool
}

func parseMount(s string) (mountRule, error) {
	parts := strings.Split(s, ":")
	m := mountRule{fstype: parts[0]}
	if m.fstype == "" || len(parts) > 3 {
		return m, fmt.Errorf("%q: want fstype, fstype:/path or nullfs:/source:ro", s)
	}
	if len(parts) > 1 {
		m.path = parts[1]
		if !path.IsAbs(m.path) || path.Clean(m.path) != m.path {
			return m, fmt.Errorf("%q: the path is not absolute and clean", s)
		}
	}
	if m.fstype == nullfs && m.path == "" {
		return m, fmt.Errorf("%q: a nullfs permit names the source: nullfs:/srv/data:ro", s)
	}
	if len(parts) > 2 {
		for _, f := range strings.Split(parts[2], ",") {
			if err := m.flag(f); err != nil {
				return m, fmt.Errorf("%q: %w", s, err)
			}
		}
	}
	return m, nil
}

func (m *mountRule) flag(f string) error {
	size, sized := strings.CutPrefix(f, "size<=")
	switch {
	case f == "ro":
		m.readOnly = true
	case f == "rw": // as without it
	case f == "suid":
		m.suid = true
	case sized:
		n, err := units.RAMInBytes(size)
		if err != nil || n <= 0 {
			return fmt.Errorf("%q is no size such as 64MiB", size)
		}
		m.size, m.sized = n, true
	default:
		return fmt.Errorf("%q is none of ro, rw, suid and size<=64MiB", f)
	}
	return nil
}

// mountAsk is a mount that is asked for. One that cannot be taken apart has no
// type and is in nothing.
type mountAsk struct {
	fstype, where  string
	readOnly, suid bool
	size           int64
	odd            bool
}

func parseAsk(r Request) mountAsk {
	value, flags, _ := strings.Cut(r.Value, ",")
	parts := strings.Split(value, ":")
	a := mountAsk{fstype: parts[0], where: path.Clean(r.Name)}
	a.odd = !path.IsAbs(r.Name) || len(parts) != 1
	if a.fstype == nullfs {
		// A source with a colon or a comma cannot be told apart.
		a.odd = len(parts) != 3 || !path.IsAbs(parts[1]) || parts[2] != "ro" && parts[2] != "rw"
		if !a.odd {
			a.where, a.readOnly = path.Clean(parts[1]), parts[2] == "ro"
		}
	}
	if flags == "" {
		return a
	}
	for _, f := range strings.Split(flags, ",") {
		size, sized := strings.CutPrefix(f, "size=")
		n, ok := number(size)
		switch {
		case f == "suid":
			a.suid = true
		case sized && ok && n > 0:
			a.size = n
		default:
			a.odd = true
		}
	}
	return a
}

func (m *mountRule) covers(a mountAsk) bool {
	return !a.odd && a.fstype == m.fstype && (!m.readOnly || a.readOnly) && (!a.suid || m.suid) &&
		(!m.sized || a.size > 0 && a.size <= m.size) && (m.path == "" || within(m.path, a.where))
}

// within reports whether p is dir or below it; both are clean.
func within(dir, p string) bool {
	return dir == "/" || p == dir || strings.HasPrefix(p, dir) && p[len(dir)] == '/'
}
