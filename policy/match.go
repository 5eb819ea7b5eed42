package policy

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// appliesTo tells whether a block is about this image. A block that names none
// is about all.
func (r rule) appliesTo(s Subject) bool {
	if len(r.Digests) > 0 && !slices.Contains(r.Digests, s.Digest) {
		return false
	}
	if len(r.Images) == 0 {
		return true
	}
	return slices.ContainsFunc(r.Images, func(g string) bool { return glob(g, s.Image) || glob(g, s.Repository) })
}

// glob is path.Match; patterns were checked when they were read.
func glob(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return err == nil && ok
}

// covers reports whether the block's list for the request's kind has an entry
// that contains all of the request.
func (r rule) covers(q Request, contains Contains) (bool, error) {
	switch q.Kind {
	case Devfs:
		for _, d := range r.Devfs {
			if hit, err := contains(d, q.Value); hit || err != nil {
				return hit, err
			}
		}
		return false, nil
	case Allow:
		return slices.ContainsFunc(r.Allow, func(a string) bool {
			return glob("allow."+strings.TrimPrefix(a, "allow."), q.Name)
		}), nil
	case Jail:
		return covers(r.Jail, q), nil
	case Sysctl:
		return covers(r.Sysctl, q), nil
	case SysVIPC:
		return slices.Contains(r.SysVIPC, q.Name) || slices.Contains(r.SysVIPC, q.Name+"="+q.Value), nil
	case Mount:
		return slices.ContainsFunc(r.Mounts, func(m string) bool { return mountCovers(m, q) }), nil
	case Port:
		return slices.ContainsFunc(r.Ports, func(p string) bool { return portCovers(p, q.Value) }), nil
	case VNET:
		return r.VNET, nil
	case Linux:
		return r.Linux, nil
	}
	return false, fmt.Errorf("a request of the unknown kind %q", q.Kind)
}

// denies is wider than covers: a devfs rule that opens more than the denied
// one, which it contains, is denied as well.
func (r rule) denies(q Request, contains Contains) (bool, error) {
	hit, err := r.covers(q, contains)
	if hit || err != nil || q.Kind != Devfs {
		return hit, err
	}
	for _, d := range r.Devfs {
		if hit, err := contains(q.Value, d); hit || err != nil {
			return hit, err
		}
	}
	return false, nil
}

func covers(m map[string]string, q Request) bool {
	for name, value := range m {
		if glob(name, q.Name) && glob(value, q.Value) {
			return true
		}
	}
	return false
}

type portRange struct {
	first, last int
	protocol    string // empty: any
}

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
	first, err1 := strconv.Atoi(lo)
	last, err2 := strconv.Atoi(hi)
	if err1 != nil || err2 != nil || first < 1 || last > 65535 || first > last {
		return portRange{}, fmt.Errorf("%q is neither a port nor a range within 1 to 65535", s)
	}
	return portRange{first, last, proto}, nil
}

func portCovers(permitted, requested string) bool {
	p, err1 := parsePorts(permitted)
	q, err2 := parsePorts(requested)
	return err1 == nil && err2 == nil && p.first <= q.first && q.last <= p.last && (p.protocol == "" || p.protocol == q.protocol)
}

// mountRule is "tmpfs", "tmpfs:/tmp" (the target, or below it), or
// "nullfs:/srv/data:ro" (the source on the host, or below it; ro permits
// read-only mounts alone).
type mountRule struct {
	fstype, path string
	readOnly     bool
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
	if len(parts) > 2 {
		if parts[2] != "ro" && parts[2] != "rw" {
			return m, fmt.Errorf("%q: %q is neither ro nor rw", s, parts[2])
		}
		m.readOnly = parts[2] == "ro"
	}
	if m.fstype == "nullfs" && m.path == "" {
		return m, fmt.Errorf("%q: a nullfs permit names the source: nullfs:/srv/data:ro", s)
	}
	return m, nil
}

func mountCovers(permitted string, q Request) bool {
	m, err := parseMount(permitted)
	if err != nil {
		return false
	}
	parts := strings.Split(q.Value, ":")
	if parts[0] != m.fstype {
		return false
	}
	where := q.Name
	if m.fstype == "nullfs" {
		if len(parts) != 3 { // a source with a colon cannot be told apart
			return false
		}
		if m.readOnly && parts[2] != "ro" {
			return false
		}
		where = parts[1]
	}
	return m.path == "" || within(m.path, path.Clean(where))
}

// within reports whether p is dir or below it; both are clean.
func within(dir, p string) bool {
	return dir == "/" || p == dir || strings.HasPrefix(p, dir+"/")
}
