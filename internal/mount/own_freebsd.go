package mount

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// own are the mounts that this process has made and not unmounted again, so that it unmounts them without a list of all
// mounts of the host. The kernel gives a number to another mount only 65,536 mounts after the one that had it is gone:
// an entry whose mount somebody else has taken away does no harm, and goes where a new mount of ours has its number.
var own ownMounts

type ownMounts struct {
	mu   sync.Mutex
	last uint64
	all  []ownMount // by target, and at the same one the older first
}

type ownMount struct {
	target string
	id     fsid
	number uint64 // in the order in which they were made
}

// fsid is the kernel's number of a mount.
type fsid [2]int32

// text is as unmount(2) reads it.
func (id fsid) text() string { return fmt.Sprintf("FSID:%d:%d", id[0], id[1]) }

func (o *ownMounts) add(m Info) {
	n := ownMount{target: m.Target}
	if _, err := fmt.Sscanf(m.id, "FSID:%d:%d", &n.id[0], &n.id[1]); err != nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drop(n.id)
	o.last++
	n.number = o.last
	o.all = slices.Insert(o.all, o.after(m.Target), n)
}

// after is where those at targets behind a target begin.
func (o *ownMounts) after(target string) int {
	at, _ := slices.BinarySearchFunc(o.all, target, func(m ownMount, target string) int {
		return cmp.Or(strings.Compare(m.target, target), -1)
	})
	return at
}

func (o *ownMounts) remove(m Info) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := o.after(m.Target) - 1; i >= 0 && o.all[i].target == m.Target; i-- {
		if o.all[i].id.text() == m.id {
			o.all = slices.Delete(o.all, i, i+1)
			return
		}
	}
}

func (o *ownMounts) drop(id fsid) {
	if i := slices.IndexFunc(o.all, func(m ownMount) bool { return m.id == id }); i >= 0 {
		o.all = slices.Delete(o.all, i, i+1)
	}
}

// below are those at some directories and below them, the newest first.
func (o *ownMounts) below(dirs []string) (out []Info) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var found []ownMount
	for _, dir := range dirs {
		for i := o.after(dir) - 1; i >= 0 && o.all[i].target == dir; i-- {
			found = append(found, o.all[i])
		}
		for i := o.after(dir + "/"); i < len(o.all) && strings.HasPrefix(o.all[i].target, dir+"/"); i++ {
			found = append(found, o.all[i])
		}
	}
	slices.SortFunc(found, func(a, b ownMount) int { return cmp.Compare(b.number, a.number) })
	for _, m := range found {
		out = append(out, Info{Target: m.target, id: m.id.text()})
	}
	return out
}

// LearnOwn takes what is mounted below some directories for mounts of this process: an earlier one has made them.
func LearnOwn(dirs ...string) error {
	there, err := Below(dirs...)
	for _, m := range slices.Backward(there) {
		if !slices.Contains(dirs, m.Target) {
			own.add(m)
		}
	}
	return err
}
