package build

import (
	"encoding/gob"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/freejail/freejail/internal/durable"
)

// linkIndex has the names of the files that have several, or had: ZFS tells
// one of them, whichever was changed, and none when it looks for one that is gone.
type linkIndex struct {
	Inodes  map[string]uint64 // by name
	byInode map[uint64][]string
	changed bool // since it was read
}

func newLinkIndex() *linkIndex { return &linkIndex{Inodes: map[string]uint64{}} }

func (l *linkIndex) names(inode uint64) []string {
	if l.byInode == nil {
		l.byInode = map[uint64][]string{}
		for name, i := range l.Inodes {
			l.byInode[i] = append(l.byInode[i], name)
		}
	}
	return l.byInode[inode]
}

// update follows a change of the tree: what of it was, and is.
func (l *linkIndex) update(was, is map[string]state) {
	l.byInode = nil
	several := map[uint64]bool{}
	for _, inode := range l.Inodes {
		several[inode] = true
	}
	for name, old := range was {
		l.remove(name)
		if now, there := is[name]; old.mode.IsDir() && (!there || !now.mode.IsDir()) {
			l.removeBelow(name)
		}
	}
	for name, s := range is {
		if s.mode.IsDir() || s.links == 1 && !several[s.inode] {
			l.remove(name)
		} else {
			l.Inodes[name], l.changed = s.inode, true
		}
	}
}

func (l *linkIndex) remove(name string) {
	if _, has := l.Inodes[name]; has {
		delete(l.Inodes, name)
		l.changed = true
	}
}

func (l *linkIndex) removeBelow(dir string) {
	for name := range l.Inodes {
		if strings.HasPrefix(name, dir+"/") {
			l.remove(name)
		}
	}
}

func readLinkIndex(file string) (l *linkIndex, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	l = newLinkIndex()
	return l, gob.NewDecoder(f).Decode(&l.Inodes)
}

func (l *linkIndex) write(file string) error {
	return durable.Replace(file, 0o600, func(w io.Writer) error { return gob.NewEncoder(w).Encode(l.Inodes) })
}
