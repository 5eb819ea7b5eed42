package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"syscall"
)

// zfsLine is one object that differs between two snapshots: it is new (+), gone (-)
// or modified (M).
type zfsLine struct {
	mark byte
	dir  bool
	path string // relative; "." is the root
	to   string // of M, the path now; empty where it is not known
	// object is the inode of a file that has names which are not told here.
	object uint64
}

// states are those of names in a tree.
type states = map[string]state

// snapshot is a tree as it was, or is: what lstat and readdir say.
type snapshot interface {
	stat(name string) (s state, there bool, err error)
	list(dir string) ([]string, error)
}

// comparer finds what differs between two trees from what ZFS names. Its lines do
// not tell everything: a file with several names is one line, a new
// name of an old file none, and what was moved with its directory neither. So
// names are looked up again: those in directories that are new or modified, and
// those that the tree of before has for the same file.
type comparer struct {
	ctx           context.Context
	before, after snapshot
	links         *linkIndex
	was, is       states
	deep          map[string]bool
}

// compareZFS gives the states of all names that may differ, before and after,
// together with those of the directories above them.
func compareZFS(
	ctx context.Context, lines []zfsLine, before, after snapshot, links *linkIndex,
) (was, is states, err error) {
	c := &comparer{ctx: ctx, before: before, after: after, links: links,
		was: states{}, is: states{}, deep: map[string]bool{}}
	for _, l := range lines {
		for _, name := range []string{l.path, l.to} {
			if name == "" {
				continue
			}
			if err := c.compare(name); err != nil {
				return nil, nil, err
			}
		}
		if l.object != 0 {
			if len(links.names(l.object)) == 0 {
				return nil, nil, fmt.Errorf("the names of the file with inode %d are not known", l.object)
			}
			if err := c.names(l.object); err != nil {
				return nil, nil, err
			}
		}
		if l.dir && l.mark != '-' {
			if err := c.reread(l.path, l.to); err != nil {
				return nil, nil, err
			}
		}
	}
	return c.was, c.is, nil
}

// compare looks at one name in both trees.
func (c *comparer) compare(name string) error {
	if name == "." {
		return nil
	}
	_, seen1 := c.was[name]
	_, seen2 := c.is[name]
	if seen1 || seen2 {
		return nil
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	old, was, err := c.before.stat(name)
	if err != nil {
		return err
	}
	now, is, err := c.after.stat(name)
	if err != nil {
		return err
	}
	if was {
		c.was[name] = old
	}
	if is {
		c.is[name] = now
	}
	if parent := path.Dir(name); parent != "." {
		if err := c.compare(parent); err != nil {
			return err
		}
	}
	if was && old.links > 1 && !old.mode.IsDir() {
		if err := c.names(old.inode); err != nil {
			return err
		}
	}
	if is && now.mode.IsDir() && (!was || !old.mode.IsDir() || old.inode != now.inode) {
		return c.below(name)
	}
	return nil
}

// names compares all names that a file had.
func (c *comparer) names(inode uint64) error {
	for _, name := range c.links.names(inode) {
		if err := c.compare(name); err != nil {
			return err
		}
	}
	return nil
}

// below compares all that is in a directory that was not there, or was another.
func (c *comparer) below(dir string) error {
	if c.deep[dir] {
		return nil
	}
	c.deep[dir] = true
	names, err := c.children(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.compare(name); err != nil {
			return err
		}
		if now, is := c.is[name]; is && now.mode.IsDir() {
			if err := c.below(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// reread finds the names in a directory that mean something else now.
func (c *comparer) reread(dirs ...string) error {
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		names, err := c.children(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			old, was, err := c.before.stat(name)
			if err != nil {
				return err
			}
			now, is, err := c.after.stat(name)
			if err != nil {
				return err
			}
			if was == is && old.inode == now.inode {
				continue
			}
			if err := c.compare(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// children are the names in a directory, before and after.
func (c *comparer) children(dir string) ([]string, error) {
	all := map[string]bool{}
	for _, t := range []snapshot{c.before, c.after} {
		names, err := t.list(dir)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			all[path.Join(dir, n)] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// rootSnapshot is a tree on the disk.
type rootSnapshot struct{ root *os.Root }

// nowhere tells that a path means nothing in a tree.
func nowhere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

func (r rootSnapshot) stat(name string) (state, bool, error) {
	s, err := stateOf(r.root, name)
	if nowhere(err) {
		return s, false, nil
	}
	return s, err == nil, err
}

func (r rootSnapshot) list(dir string) ([]string, error) {
	fi, err := r.root.Lstat(dir)
	if nowhere(err) || err == nil && !fi.IsDir() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(r.root.FS(), dir)
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, err
}
