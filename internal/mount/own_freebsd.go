package mount

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// own are the mounts that this process has made and not unmounted again, so that it unmounts them without a list of all
// mounts of the host. The kernel gives a number to another mount only 65,536 mounts after the one that had it is gone:
// an entry whose mount somebody else has taken away does no harm, and goes where a new mount of ours has its number, or
// long before that by a look at the host's mounts.
var own ownMounts

type ownMounts struct {
	mu     sync.Mutex
	last   uint64
	all    []ownMount      // by target, and at the same one the older first
	at     map[fsid]string // the target of each
	looked time.Time       // when all were there
}

// lookEvery is how old the knowledge that all are there may be: too short a time for 65,536 mounts.
const lookEvery = time.Minute

type ownMount struct {
	target string
	id     fsid
	number uint64 // in the order in which they were made
}

// fsid is the kernel's number of a mount.
type fsid [2]int32

// text is as unmount(2) reads it.
func (id fsid) text() string { return fmt.Sprintf("FSID:%d:%d", id[0], id[1]) }

func fsidOf(m Info) (id fsid, err error) {
	_, err = fmt.Sscanf(m.id, "FSID:%d:%d", &id[0], &id[1])
	return id, err
}

func (o *ownMounts) add(m Info) {
	id, err := fsidOf(m)
	if err != nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drop(id)
	if len(o.all) == 0 {
		o.at, o.looked = map[fsid]string{}, time.Now()
	}
	o.last++
	o.all = slices.Insert(o.all, o.after(m.Target), ownMount{m.Target, id, o.last})
	o.at[id] = m.Target
}

// after is where those at targets behind a target begin.
func (o *ownMounts) after(target string) int {
	at, _ := slices.BinarySearchFunc(o.all, target, func(m ownMount, target string) int {
		return cmp.Or(strings.Compare(m.target, target), -1)
	})
	return at
}

func (o *ownMounts) remove(m Info) {
	if id, err := fsidOf(m); err == nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.drop(id)
	}
}

func (o *ownMounts) drop(id fsid) {
	target, ok := o.at[id]
	if !ok {
		return
	}
	delete(o.at, id)
	i := o.after(target) - 1
	for o.all[i].id != id {
		i--
	}
	o.all = slices.Delete(o.all, i, i+1)
}

// look forgets those that somebody else has taken away, before another mount has the number of one. No path is looked
// up: a task can change it, and it may lead to a server that is away.
func (o *ownMounts) look() error {
	list, err := List()
	if err != nil {
		return err
	}
	there := map[fsid]string{}
	for _, m := range list {
		if id, err := fsidOf(m); err == nil {
			there[id] = m.Target
		}
	}
	for id, target := range o.at {
		if there[id] != target {
			o.drop(id)
		}
	}
	o.looked = time.Now()
	return nil
}

// below are those at some directories and below them, the newest first; none where it is not known what is there.
func (o *ownMounts) below(dirs []string) (out []Info) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.all) > 0 && time.Since(o.looked) > lookEvery && o.look() != nil {
		return nil
	}
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
