package testcrash

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

type kind int

const (
	create kind = iota
	link
	rename
	unlink
	write
	truncate
	syncOne
	syncAll
	ack
)

// op is one operation. Paths are below the base; what they mean is found when it is
// recorded: the names before it may not be there after a crash.
type op struct {
	kind     kind
	path, to string
	dir      bool // of create
	link     bool // a symbolic one
	off      int64
	data     []byte

	ino          int // what it is about
	parent, into int // the directories of path and of to
}

func (o op) String() string { return fmt.Sprintf("%v %s %s", o.kind, o.path, o.to) }

func (k kind) String() string {
	return []string{"create", "link", "rename", "unlink", "write", "truncate", "sync", "sync all", "ack"}[k]
}

type inode struct {
	dir, link bool
	data      []byte
	names     map[string]int
}

// disk is a tree of files; the root is inode 0.
type disk struct{ inodes map[int]*inode }

func newDisk() *disk { return &disk{map[int]*inode{0: {dir: true, names: map[string]int{}}}} }

// find returns -1 where nothing is.
func (d *disk) find(path string) int {
	at := 0
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." {
			continue
		}
		next, ok := d.inodes[at].names[part]
		if !ok {
			return -1
		}
		at = next
	}
	return at
}

// resolve is for an operation that succeeds now.
func (d *disk) resolve(o *op) {
	o.parent, o.into = d.find(filepath.Dir(o.path)), d.find(filepath.Dir(o.to))
	o.ino = d.find(o.path)
	if o.kind == create {
		o.ino = len(d.inodes)
	}
}

// apply does what can be done of an operation when others before it are lost.
func (d *disk) apply(o op, data []byte) {
	parent, into := d.inodes[o.parent], d.inodes[o.into]
	name, to := filepath.Base(o.path), filepath.Base(o.to)
	switch o.kind {
	case create:
		if d.inodes[o.ino] == nil {
			d.inodes[o.ino] = &inode{dir: o.dir, link: o.link, names: map[string]int{}}
		}
		if o.link {
			d.inodes[o.ino].data = o.data
		}
		if parent != nil {
			parent.names[name] = o.ino
		}
	case link, rename:
		if into == nil || d.inodes[o.ino] == nil {
			return
		}
		into.names[to] = o.ino
		if o.kind == rename && parent != nil && parent.names[name] == o.ino && (o.parent != o.into || name != to) {
			delete(parent.names, name)
		}
	case unlink:
		if parent != nil && parent.names[name] == o.ino {
			delete(parent.names, name)
		}
	case write:
		d.inode(o.ino).put(o.off, data)
	case truncate:
		i := d.inode(o.ino)
		i.data = append(slices.Clone(i.data), make([]byte, max(0, o.off-int64(len(i.data))))...)[:o.off]
	}
}

// inode is a file that may have no name.
func (d *disk) inode(n int) *inode {
	if d.inodes[n] == nil {
		d.inodes[n] = &inode{names: map[string]int{}}
	}
	return d.inodes[n]
}

func (i *inode) put(off int64, data []byte) {
	end := off + int64(len(data))
	i.data = append(slices.Clone(i.data), make([]byte, max(0, end-int64(len(i.data))))...)
	copy(i.data[off:], data)
}

// loss tells what becomes of a pending operation: whether it happened, and the data
// that it wrote.
type loss func(n int, o op) (bool, []byte)

// losses are the ways to lose pending operations, which are given by their numbers.
func losses(ops []op, pending []int) []loss {
	isData := func(o op) bool { return o.kind == write || o.kind == truncate }
	zero := func(o op) []byte { return make([]byte, len(o.data)) }
	out := []loss{
		func(_ int, o op) (bool, []byte) { return true, o.data },
		func(int, op) (bool, []byte) { return false, nil },
		func(_ int, o op) (bool, []byte) { return !isData(o), nil },
		func(_ int, o op) (bool, []byte) { return true, zero(o) },
		func(_ int, o op) (bool, []byte) { return isData(o), o.data },
	}
	last := pending[len(pending)-1]
	out = append(out, func(n int, o op) (bool, []byte) {
		if n == last {
			return true, o.data[:len(o.data)/2]
		}
		return true, o.data
	})
	parents := map[int]bool{}
	for _, p := range pending {
		out = append(out, func(n int, o op) (bool, []byte) { return n != p, o.data },
			func(n int, o op) (bool, []byte) { return n == p, o.data })
		parents[ops[p].parent] = true
	}
	for dir := range parents {
		out = append(out, func(_ int, o op) (bool, []byte) { return o.parent != dir || isData(o), o.data },
			func(_ int, o op) (bool, []byte) { return o.parent == dir && !isData(o), o.data })
	}
	return out
}

// states calls check for each state that a disk may be in, once.
func (r *recorder) states(t *testing.T, check func(dir string, acked []string)) (n int) {
	seen := map[string]bool{}
	for cut := 1; cut <= len(r.ops) && !t.Failed(); cut++ {
		ops := r.ops[:cut]
		var pending []int
		var acked []string
		for i, o := range ops {
			if o.kind == ack {
				acked = append(acked, o.path)
			} else if o.kind != syncOne && o.kind != syncAll && !durable(ops, i) {
				pending = append(pending, i)
			}
		}
		ways := []loss{func(_ int, o op) (bool, []byte) { return true, o.data }}
		if len(pending) > 0 {
			ways = losses(ops, pending)
		}
		for way, lose := range ways {
			d := after(ops, pending, lose)
			sum := d.sum(acked)
			if seen[sum] || t.Failed() {
				continue
			}
			seen[sum] = true
			n++
			dir, err := os.MkdirTemp(memory(), "fjcrash")
			if err == nil {
				err = d.lay(0, dir)
			}
			if err != nil {
				t.Fatal(err)
			}
			check(dir, acked)
			if t.Failed() {
				t.Logf("the power was cut after operation %d, %v; way %d to lose what was not synced:", cut, ops[cut-1],
					way)
				for _, p := range pending {
					done, _ := lose(p, ops[p])
					t.Logf("  %v: happened %v", ops[p], done)
				}
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}

// memory is where syncing costs nothing, if there is such a place.
func memory() string {
	const dir = "/dev/shm"
	if _, err := os.Stat(dir); err != nil {
		return ""
	}
	return dir
}

// durable tells whether an operation was synced later: the data of a file with the
// file, a name with its directory, a rename with either: soft updates write the new name
// before the old one goes, and journals have both in one.
func durable(ops []op, n int) bool {
	o := ops[n]
	about := o.parent
	switch o.kind {
	case write, truncate:
		about = o.ino
	case rename, link:
		about = o.into
	}
	for _, s := range ops[n+1:] {
		if s.kind == syncAll || s.kind == syncOne && (s.ino == about || o.kind == rename && s.ino == o.parent) {
			return true
		}
	}
	return false
}

func after(ops []op, pending []int, lose loss) *disk {
	d := newDisk()
	for i, o := range ops {
		done, data := true, o.data
		if slices.Contains(pending, i) {
			done, data = lose(i, o)
		}
		if o.kind == create && !done { // the file is there, if anything else names it
			d.inodes[o.ino] = &inode{dir: o.dir, link: o.link, data: o.data, names: map[string]int{}}
			continue
		}
		if done {
			d.apply(o, data)
		}
	}
	return d
}

func (d *disk) sum(acked []string) string {
	h := sha256.New()
	fmt.Fprintln(h, acked)
	d.write(0, "", func(path string, i *inode) { fmt.Fprintf(h, "%q %v %v %q\n", path, i.dir, i.link, i.data) })
	return string(h.Sum(nil))
}

func (d *disk) write(n int, path string, f func(string, *inode)) {
	for _, name := range slices.Sorted(maps.Keys(d.inodes[n].names)) {
		child := d.inodes[n].names[name]
		f(path+"/"+name, d.inodes[child])
		d.write(child, path+"/"+name, f)
	}
}

// lay makes the tree of a directory.
func (d *disk) lay(n int, at string) (err error) {
	d.write(n, at, func(path string, i *inode) {
		var e error
		switch {
		case i.dir:
			e = os.Mkdir(path, 0o755)
		case i.link:
			e = os.Symlink(string(i.data), path)
		default:
			e = os.WriteFile(path, i.data, 0o600)
		}
		err = firstOf(err, e)
	})
	return err
}
