package policy

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

const nullfs = "nullfs"

// Mount asks for a file system of a type at a target in the jail; of nullfs for a
// directory of the host, its source. Size is in bytes, 0 where none is given.
type Mount struct {
	Type, Source, Target string
	ReadOnly             bool // of nullfs
	Size                 int64
	SUID                 bool

	text string // of a value that cannot be taken apart
}

func init() {
	register(kind{name: "mount", attribute: "mounts", read: readList, asserted: assertMount, index: mountIndexOf,
		rule:  func(i item) (rule, error) { return parseMountRule(i.value) },
		parse: func(target, value string) (Privilege, error) { return parseMount(target, value), nil },
		parseKey: func(what string) (Privilege, error) {
			i := strings.LastIndex(what, " on /")
			if i < 0 {
				return nil, fmt.Errorf("want mount:nullfs:/source:ro on /target")
			}
			return parseMount(what[i+4:], what[:i]), nil
		}})
}

// parseMount reads "fstype" or "nullfs:/source:rw", then ",size=BYTES" and ",suid".
// What is not written just so is kept as it is, and covered by nothing.
func parseMount(target, value string) Mount {
	what, flags, _ := strings.Cut(value, ",")
	parts := strings.Split(what, ":")
	m := Mount{Type: parts[0], Target: target}
	if m.Type == nullfs && len(parts) == 3 {
		m.Source, m.ReadOnly = parts[1], parts[2] == "ro"
	}
	for f := range strings.SplitSeq(flags, ",") {
		if size, sized := strings.CutPrefix(f, "size="); sized {
			m.Size, _ = number(size) // what is no number is told by the value, which is another
		}
		m.SUID = m.SUID || f == "suid"
	}
	if m.value() != value {
		return Mount{Type: m.Type, Target: target, text: value}
	}
	return m
}

// Kind implements Privilege.
func (Mount) Kind() Kind               { return "mount" }
func (m Mount) String() string         { return "mount " + m.value() + " on " + m.Target }
func (m Mount) Key() string            { return "mount:" + m.value() + " on " + m.Target }
func (m Mount) form() (string, string) { return m.Target, m.value() }

// value is what parseMount reads.
func (m Mount) value() string {
	if m.text != "" {
		return m.text
	}
	out := m.Type
	if m.Type == nullfs && m.Source != "" {
		out += ":" + m.Source + ":" + m.mode()
	}
	return out + m.flags("size=")
}

// flags are those after a mount's mode, with a comma before each.
func (m Mount) flags(size string) (out string) {
	if m.Size > 0 {
		out = "," + size + strconv.FormatInt(m.Size, 10)
	}
	if m.SUID {
		out += ",suid"
	}
	return out
}

func (m Mount) mode() string {
	if m.Type == nullfs && m.ReadOnly {
		return "ro"
	}
	return "rw"
}

func (m Mount) permit() string {
	if m.text != "" {
		return "mounts = [" + quoteHCL(m.text) + "]"
	}
	out, flags := m.Type+":"+path.Clean(m.Target), m.flags("size<=")
	if m.Type == nullfs {
		out, flags = nullfs+":"+m.Source, ","+m.mode()+flags
	}
	if flags != "" {
		out += ":" + flags[1:]
	}
	return "mounts = [" + quoteHCL(out) + "]"
}

// where is what a rule's path is about: the source of nullfs, the target of others.
func (m Mount) where() string {
	if m.Type == nullfs {
		return path.Clean(m.Source)
	}
	return path.Clean(m.Target)
}

// odd tells that a mount is in nothing: a source with a colon or a comma cannot be
// told apart from its flags.
func (m Mount) odd() bool {
	isPath := path.IsAbs(m.Target)
	if m.Type == nullfs {
		isPath = path.IsAbs(m.Source) && !strings.ContainsAny(m.Source, ":,")
	}
	return !isPath || m.text != "" || !m.typed()
}

// typed tells whether a mount says of what type it is.
func (m Mount) typed() bool { return m.Type != "" && !strings.ContainsAny(m.Type, " /,=:") }

func (m Mount) nearKey() string { return m.where() }

func (m Mount) wideKeys() []string {
	if m.odd() {
		return []string{""} // everything
	}
	return []string{m.where()}
}

// mountRule is "tmpfs", "tmpfs:/tmp" (the target, or below it), or
// "nullfs:/srv/data:ro" (the source on the host, or below it; ro permits
// read-only mounts alone). Flags follow: suid, size<=64MiB.
type mountRule struct {
	fstype, path   string
	readOnly, suid bool
	size           int64 // of all that it permits to one task; 0: no limit
}

func parseMountRule(s string) (*mountRule, error) {
	parts := strings.Split(s, ":")
	m := &mountRule{fstype: parts[0]}
	if m.fstype == "" || len(parts) > 3 {
		return m, fmt.Errorf("%q: want fstype, fstype:/path or nullfs:/source:ro", s)
	}
	if len(parts) > 1 {
		m.path = parts[1]
		if !path.IsAbs(m.path) || path.Clean(m.path) != m.path {
			return m, fmt.Errorf("%q: the path must be absolute and clean", s)
		}
	}
	if m.fstype == nullfs && m.path == "" {
		return m, fmt.Errorf("%q: the source is missing (for example nullfs:/srv/data:ro)", s)
	}
	if len(parts) > 2 {
		for f := range strings.SplitSeq(parts[2], ",") {
			if err := m.flag(f); err != nil {
				return m, fmt.Errorf("%q: %w", s, err)
			}
		}
	}
	return m, nil
}

func (r *mountRule) flag(f string) error {
	size, sized := strings.CutPrefix(f, "size<=")
	switch {
	case f == "ro":
		r.readOnly = true
	case f == "rw": // as without it
	case f == "suid":
		r.suid = true
	case sized:
		n, err := units.RAMInBytes(size)
		if err != nil || n <= 0 {
			return fmt.Errorf("%q is not a valid size (for example 64MiB)", size)
		}
		r.size = n
	default:
		return fmt.Errorf("%q is not one of ro, rw, suid and size<=64MiB", f)
	}
	return nil
}

// assertMount is a mount by the words of a rule.
func assertMount(i item) (Privilege, error) {
	r, err := parseMountRule(i.value)
	if err != nil {
		return nil, err
	}
	m := Mount{Type: r.fstype, Target: r.path, Size: r.size, SUID: r.suid}
	if r.fstype == nullfs {
		m.Source, m.Target, m.ReadOnly = r.path, "/mnt", r.readOnly
	}
	if m.Target == "" {
		return nil, fmt.Errorf("%q: the target is missing (for example %s:/path)", i.value, r.fstype)
	}
	return m, nil
}

func (r *mountRule) prefix() string { return r.path }

func (r *mountRule) deniable() error {
	if r.size > 0 {
		return fmt.Errorf("a size is allowed in a permit only")
	}
	return nil
}

func (r *mountRule) covers(p Privilege, _ *Subject) bool {
	m := p.(Mount)
	return m.Type == r.fstype && (!r.readOnly || m.mode() == "ro") && (!m.SUID || r.suid) &&
		(r.size == 0 || m.Size > 0 && m.Size <= r.size) && (r.path == "" || within(r.path, m.where())) && !m.odd()
}

// touches is about a directory with all that is in it and all that it is in,
// read-only or not, of whatever size.
func (r *mountRule) touches(p Privilege) bool {
	m := p.(Mount)
	if !m.typed() {
		return true
	}
	where := m.where()
	return m.Type == r.fstype && (m.odd() || r.path == "" || within(r.path, where) || within(where, r.path))
}

// mountIndex knows directories that are denied by whatever path leads to them.
type mountIndex struct{ compared }

func mountIndexOf(of []entry, _ Devices) (index, error) {
	return mountIndex{compared{of, byPrefix(of)}}, nil
}

func (x mountIndex) touching(p Privilege, host Chain, use func(int) bool) (int, error) {
	m := p.(Mount)
	if i, err := x.compared.touching(p, host, use); i >= 0 || err != nil || host == nil || m.Type != nullfs || m.odd() {
		return i, err
	}
	where := host(m.where())
	for i, e := range x.entries {
		r := e.rule.(*mountRule)
		if r.fstype == nullfs && oneTree(host(r.path), where) && use(i) {
			return i, nil
		}
	}
	return -1, nil
}

// oneTree tells whether one of two directories is in the other or is it, by what
// they and all above them are.
func oneTree(a, b []string) bool {
	in := func(dir, tree []string) bool {
		return len(dir) > 0 && dir[0] != "" && slices.Contains(tree, dir[0])
	}
	return in(a, b) || in(b, a)
}

// within reports whether p is dir or below it; both are clean.
func within(dir, p string) bool {
	return dir == "/" || p == dir || strings.HasPrefix(p, dir) && p[len(dir)] == '/'
}

// A rule's size is for all that it permits to one task.
func (r *mountRule) limited() bool { return r.size > 0 }

func (r *mountRule) add(sum int64, p Privilege) int64 {
	return sum + min(p.(Mount).Size, math.MaxInt64-sum)
}

func (r *mountRule) within(sum int64) error {
	if sum <= r.size {
		return nil
	}
	return fmt.Errorf("permits a task %s of memory together, and it asks for %s there",
		units.BytesSize(float64(r.size)), units.BytesSize(float64(sum)))
}
