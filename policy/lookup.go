package policy

import (
	"maps"
	"slices"
	"strings"
)

// lookup finds the few entries of a kind that can be about a request, by what
// its name or path begins with, so that a long policy is not read through.
type lookup struct {
	byPrefix map[string][]int
	lengths  []int    // of the prefixes that there are
	sorted   []string // the prefixes
	ports    []portEntry
}

// portEntry is compact, as ports are compared one by one.
type portEntry struct {
	first, last uint16
	at          int32
}

func newLookup(kind Kind, list []entry) lookup {
	l := lookup{byPrefix: map[string][]int{}}
	for i := range list {
		if kind == Port {
			l.ports = append(l.ports, portEntry{uint16(list[i].ports.first), uint16(list[i].ports.last), int32(i)})
			continue
		}
		p := list[i].prefix(kind)
		l.byPrefix[p] = append(l.byPrefix[p], i)
	}
	l.sorted = slices.Sorted(maps.Keys(l.byPrefix))
	lengths := map[int]bool{}
	for _, p := range l.sorted {
		lengths[len(p)] = true
	}
	l.lengths = slices.Sorted(maps.Keys(lengths))
	return l
}

// prefix is what the key of every request that the entry covers begins with.
func (e *entry) prefix(kind Kind) string {
	switch kind {
	case Allow, Jail, Sysctl, SysVIPC:
		return e.name.prefix
	case Mount:
		return e.mount.path
	case Service:
		if e.service.own {
			return ""
		}
		return e.service.name.prefix
	case User, Module:
		return e.value.prefix
	}
	return ""
}

func (a *ask) key() string {
	switch a.Kind {
	case Allow, Jail, Sysctl, SysVIPC:
		return a.Name
	case Mount:
		return a.mount.where
	case Service:
		return a.service.name
	case User, Module:
		return a.Value
	}
	return ""
}

// each calls f with the places of entries that can cover the request, or with
// wide set also of those that can touch it, until f says that it has found one.
func (l *lookup) each(a *ask, wide bool, f func(int) bool) {
	switch {
	case a.Kind == Port:
		for _, p := range l.ports {
			if (!a.portsOK || int(p.first) <= a.ports.last && a.ports.first <= int(p.last)) && f(int(p.at)) {
				return
			}
		}
	case !wide:
		l.beginning(a.key(), f)
	default:
		for _, key := range a.wideKeys() {
			if l.beginning(key, f) || l.below(key, f) {
				return
			}
		}
	}
}

// beginning is about entries whose prefix the key begins with.
func (l *lookup) beginning(key string, f func(int) bool) bool {
	for _, n := range l.lengths {
		if n > len(key) {
			break
		}
		if slices.ContainsFunc(l.byPrefix[key[:n]], f) {
			return true
		}
	}
	return false
}

// below is about entries whose prefix begins with the key and goes on.
func (l *lookup) below(key string, f func(int) bool) bool {
	from, _ := slices.BinarySearch(l.sorted, key)
	for _, p := range l.sorted[from:] {
		if !strings.HasPrefix(p, key) {
			return false
		}
		if p != key && slices.ContainsFunc(l.byPrefix[p], f) {
			return true
		}
	}
	return false
}
