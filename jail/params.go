package jail

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// paramType is how the kernel describes a jail parameter: the type bits of its
// sysctl and its format, of which ",a" at the end marks an array.
type paramType struct {
	ctl    uint32
	format string
}

// The types of sys/sysctl.h that parameters have.
const (
	ctlInt    = 2
	ctlString = 3
	ctlS64    = 4
	ctlStruct = 5
	ctlUint   = 6
	ctlLong   = 7
	ctlUlong  = 8
	ctlU64    = 9
	ctlMask   = 0xf
)

func (t paramType) isBool() bool { return t.ctl == ctlInt && strings.HasPrefix(t.format, "B") }

var errUnknownParam = errors.New("unknown jail parameter: this kernel does not have it, perhaps because a module is " +
	"not loaded")

// encodeParam returns the name and value that jail_set(2) wants; a nil value
// is none. A false boolean becomes its "no" form.
func encodeParam(types map[string]paramType, name, value string) (string, []byte, error) {
	t, ok := types[name]
	if !ok {
		if base := withoutNo(name); base != "" && types[base].isBool() {
			on, err := parseBool(value)
			return boolName(base, !on), nil, err
		}
		group, _, sub := strings.Cut(name, ".")
		if kv := types[group]; sub && kv.ctl == ctlString && kv.format == "A,keyvalue" {
			return name, cstring(value), nil
		}
		return "", nil, errUnknownParam
	}
	if t.isBool() {
		on, err := parseBool(value)
		return boolName(name, on), nil, err
	}
	if t.ctl == ctlString {
		if strings.ContainsRune(value, 0) {
			return "", nil, fmt.Errorf("value %q holds a NUL", value)
		}
		return name, cstring(value), nil
	}
	if !strings.HasSuffix(t.format, ",a") {
		b, err := encodeValue(t, value)
		return name, b, err
	}
	var out []byte
	if value == "" || value == "-" {
		return name, out, nil
	}
	for one := range strings.SplitSeq(value, ",") {
		b, err := encodeValue(t, one)
		if err != nil {
			return "", nil, err
		}
		out = append(out, b...)
	}
	return name, out, nil
}

func encodeValue(t paramType, value string) ([]byte, error) {
	switch t.ctl {
	case ctlInt:
		if t.format == "E,jailsys" {
			if i := slices.Index([]string{"disable", "new", "inherit"}, value); i >= 0 {
				return binary.NativeEndian.AppendUint32(nil, uint32(i)), nil
			}
			return nil, fmt.Errorf("invalid value %q: want disable, new or inherit", value)
		}
		n, err := strconv.ParseInt(value, 10, 32)
		return binary.NativeEndian.AppendUint32(nil, uint32(n)), notNumber(value, err)
	case ctlUint:
		n, err := strconv.ParseUint(value, 10, 32)
		return binary.NativeEndian.AppendUint32(nil, uint32(n)), notNumber(value, err)
	case ctlLong, ctlS64: // a long has 64 bits on amd64 and arm64
		n, err := strconv.ParseInt(value, 10, 64)
		return binary.NativeEndian.AppendUint64(nil, uint64(n)), notNumber(value, err)
	case ctlUlong, ctlU64:
		n, err := strconv.ParseUint(value, 10, 64)
		return binary.NativeEndian.AppendUint64(nil, n), notNumber(value, err)
	case ctlStruct:
		return encodeAddress(t, value)
	}
	return nil, fmt.Errorf("unsupported type %d (%s)", t.ctl, t.format)
}

func encodeAddress(t paramType, value string) ([]byte, error) {
	format := strings.TrimSuffix(t.format, ",a")
	if format != "S,in_addr" && format != "S,in6_addr" {
		return nil, fmt.Errorf("unsupported type %s", t.format)
	}
	a, err := netip.ParseAddr(value)
	if err != nil || a.Is4() != (format == "S,in_addr") || a.Zone() != "" {
		return nil, fmt.Errorf("invalid value %q: not an address of the parameter's family", value)
	}
	return a.AsSlice(), nil
}

func notNumber(value string, err error) error {
	if err != nil {
		return fmt.Errorf("invalid value %q: not a number, or out of range", value)
	}
	return nil
}

func parseBool(value string) (bool, error) {
	switch strings.ToLower(value) {
	case "", "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, fmt.Errorf("invalid value %q: want true or false", value)
}

// boolName is a boolean's name, or its "no" form: allow.nomount.
func boolName(name string, on bool) string {
	if on {
		return name
	}
	i := strings.LastIndexByte(name, '.') + 1
	return name[:i] + "no" + name[i:]
}

func withoutNo(name string) string {
	i := strings.LastIndexByte(name, '.') + 1
	if rest, ok := strings.CutPrefix(name[i:], "no"); ok && rest != "" {
		return name[:i] + rest
	}
	return ""
}

func cstring(s string) []byte { return append([]byte(s), 0) }

// ownParams are set by this package alone.
var ownParams = []string{"jid", "name", "path", "persist", "nopersist", "parent", "host.hostname", "cpuset.id",
	"desc", "lastjid", "dying", "errmsg"}

var validName = regexp.MustCompile(`^` + namePrefix + `[A-Za-z][A-Za-z0-9_+-]{0,99}$`)

// check refuses what the kernel, rctl or a state file's name could take for
// something else: dots make a name hierarchical, colons divide rctl's rules.
func (s Spec) check() error {
	fail := func(format string, a ...any) error {
		return &Error{Op: "create", Jail: s.Name, Err: fmt.Errorf(format, a...)}
	}
	if !validName.MatchString(s.Name) {
		return fail("invalid name: want %s, a letter, then letters, digits, -, _ and +", namePrefix)
	}
	if !filepath.IsAbs(s.Root) {
		return fail("root %q is not an absolute path", s.Root)
	}
	for k := range s.Params {
		if slices.Contains(ownParams, k) {
			return fail("parameter %s is set by freejail itself", k)
		}
	}
	if _, err := cpuMask(s.Limits.CPUSet); err != nil {
		return fail("cpuset: %w", err)
	}
	return nil
}

// metaText is the value of the kernel's meta parameter: lines of key=value. It
// is information for people, so what does not fit is left out.
func metaText(meta map[string]string) string {
	const room = 4000 // security.jail.meta_maxbufsize is 4096
	var lines []string
	size := 0
	for k, v := range meta {
		line := k + "=" + v
		if k == "" || strings.ContainsAny(k, "=\n\x00") || strings.ContainsAny(v, "\n\x00") || size+len(line)+1 > room {
			continue
		}
		size += len(line) + 1
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// kernelMemory is what the kernel itself ends a jail's processes over: more than
// its limit, for which there is the watch. The kernel counts a child of ours with
// all of our memory until it runs its program (vm_daemon in vm/vm_swapout.c), so
// this stands behind the watch, for the time when no daemon runs.
func kernelMemory(limit int64) int64 {
	if limit <= 0 {
		return 0
	}
	return 2*limit + 256<<20
}

// rctlRules are the kernel's words for limits. memoryuse cannot be denied, for
// a page touched cannot be refused, so going over it kills. Limiting vmemoryuse
// instead would stop programs that only reserve addresses, as Go's do, and
// swapuse those that make large objects to use a part of, as .NET's do: the
// kernel counts what is reserved, and takes it off twice when who reserved it has
// given it back and ends (racct_sub_cred and racct_proc_exit in
// kern/kern_racct.c), so that it would not hold either. openfiles is the size of
// a table that is inherited from us: each process has a limit of its own instead.
func rctlRules(name string, l Limits) []string {
	var out []string
	add := func(resource, action string, amount int64) {
		if amount > 0 {
			out = append(out, fmt.Sprintf("jail:%s:%s:%s=%d", name, resource, action, amount))
		}
	}
	add("memoryuse", "sigkill", kernelMemory(l.MemoryBytes))
	add("shmsize", "deny", l.MemoryBytes)
	add("pcpu", "deny", int64(l.CPUPercent))
	add("maxproc", "deny", l.MaxProcs)
	return out
}

// maxCPU is MAXCPU of the largest kernels.
const maxCPU = 1024

// cpuMask reads "0-2,5" into a cpuset_t; "" is nil.
func cpuMask(list string) ([]byte, error) {
	if list == "" {
		return nil, nil
	}
	mask := make([]byte, maxCPU/8)
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || a > b || b >= maxCPU {
			return nil, fmt.Errorf("%q is not a valid list of processors (for example 0-2,5)", list)
		}
		for i := a; i <= b; i++ {
			mask[i/8] |= 1 << (i % 8)
		}
	}
	return mask, nil
}
