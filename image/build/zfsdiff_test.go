package build

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

type recordedTree map[string]state

func (r recordedTree) stat(name string) (state, bool, error) { s, ok := r[name]; return s, ok, nil }

func (r recordedTree) list(dir string) (out []string, err error) {
	for name := range r {
		if path.Dir(name) == dir {
			out = append(out, path.Base(name))
		}
	}
	return out, nil
}

// madeLines is what ZFS says of a change: a line for each object, by one of
// its names, chosen by chance; a changed object that has more names or fewer is
// M, and where its number was used again it is gone and new.
func madeLines(random *rand.Rand, before, after map[string]state, root1, root2 state) (lines []zfsLine) {
	names := func(tree map[string]state) map[uint64][]string {
		out := map[uint64][]string{}
		for _, name := range slices.Sorted(maps.Keys(tree)) {
			out[tree[name].inode] = append(out[tree[name].inode], name)
		}
		return out
	}
	was, is := names(before), names(after)
	one := func(list []string) string { return list[random.IntN(len(list))] }
	if !root1.changed.Equal(root2.changed) {
		lines = append(lines, zfsLine{mark: 'M', dir: true, path: "."})
	}
	all := maps.Clone(was)
	maps.Copy(all, is)
	for _, inode := range slices.Sorted(maps.Keys(all)) {
		old, now := was[inode], is[inode]
		switch {
		case len(old) == 0:
			n := one(now)
			lines = append(lines, zfsLine{mark: '+', dir: after[n].mode.IsDir(), path: n})
		case len(now) == 0:
			n := one(old)
			lines = append(lines, zfsLine{mark: '-', dir: before[n].mode.IsDir(), path: n})
		default:
			a, b := one(old), one(now)
			s1, s2 := before[a], after[b]
			dir := s2.mode.IsDir()
			switch {
			case s1.mode.Type() != s2.mode.Type():
				lines = append(lines, zfsLine{mark: '-', dir: s1.mode.IsDir(), path: a},
					zfsLine{mark: '+', dir: dir, path: b})
			case s1.changed.Equal(s2.changed) && (dir || s1.links == s2.links):
			case !dir && s1.links > s2.links:
				lines = append(lines, zfsLine{mark: 'M', path: b})
			case !dir && s1.links < s2.links:
				lines = append(lines, zfsLine{mark: 'M', path: a})
			case a == b || slices.Contains(now, a) && !dir:
				lines = append(lines, zfsLine{mark: 'M', dir: dir, path: a})
			default:
				lines = append(lines, zfsLine{mark: 'M', dir: dir, path: a, to: b})
			}
		}
	}
	random.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	return lines
}

// mutator changes a tree at random.
type mutator struct {
	t      testing.TB
	dir    string
	random *rand.Rand
	n      int
}

func (m *mutator) paths() (dirs, others []string) {
	dirs = []string{m.dir}
	check(m.t, filepath.WalkDir(m.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == m.dir {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, p)
		} else {
			others = append(others, p)
		}
		return nil
	}))
	return dirs, others
}

// change does one thing of those that a command can do to a tree.
func (m *mutator) change() string {
	dirs, others := m.paths()
	m.n++
	dir := dirs[m.random.IntN(len(dirs))]
	fresh := filepath.Join(dir, fmt.Sprintf("n%d \\\u00e9", m.random.IntN(12)))
	other := fresh
	if len(others) > 0 {
		other = others[m.random.IntN(len(others))]
	}
	what := m.random.IntN(12)
	switch what {
	case 0, 1:
		_ = os.WriteFile(fresh, []byte(fmt.Sprint(m.n)), 0o644)
	case 2:
		_ = os.WriteFile(other, []byte(fmt.Sprint(m.n)), 0o644)
	case 3:
		_ = os.Mkdir(fresh, 0o755)
		_ = os.WriteFile(filepath.Join(fresh, "in"), []byte(fmt.Sprint(m.n)), 0o644)
	case 4, 5:
		_ = os.Link(other, fresh)
	case 6:
		_ = os.Remove(other)
	case 7:
		if dir != m.dir {
			_ = os.RemoveAll(dir)
		}
	case 8:
		_ = os.Rename(other, fresh)
	case 9:
		if from := dirs[m.random.IntN(len(dirs))]; from != m.dir {
			_ = os.Rename(from, fresh)
		}
	case 10:
		_ = os.Chmod(other, os.FileMode(0o600+m.random.IntN(64)))
		if dir != m.dir {
			_ = os.Chmod(dir, os.FileMode(0o700+m.random.IntN(64)))
		}
	case 11:
		_ = os.Symlink(fmt.Sprint(m.n), fresh)
	}
	return fmt.Sprint(what, " ", strings.TrimPrefix(fresh, m.dir), " ", strings.TrimPrefix(other, m.dir))
}

// Whatever a command does, what zfs diff names leads to the same layer as a walk
// of the whole tree.
func TestZFSDiffIsTheWalk(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	for seed := range rounds {
		m := &mutator{t: t, dir: t.TempDir(), random: rand.New(rand.NewPCG(uint64(seed), 2))}
		for range 30 {
			m.change()
		}
		root, err := os.OpenRoot(m.dir)
		check(t, err)
		links := newLinkIndex()
		before, err := record(t.Context(), root)
		check(t, err)
		links.update(nil, before)
		for step := range 4 {
			root1 := rootState(t, m.dir)
			var did []string
			for range 1 + m.random.IntN(6) {
				did = append(did, m.change())
			}
			after, err := record(t.Context(), root)
			check(t, err)
			lines := madeLines(m.random, before, after, root1, rootState(t, m.dir))
			was, is, err := compareZFS(context.Background(), lines, recordedTree(before), rootSnapshot{root}, links)
			check(t, err)
			if got, want := diff(was, is), diff(before, after); !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d: %q\nlines %+v\ngive %v\nwant %v", seed, step, did, lines, got, want)
			}
			links.update(was, is)
			fresh := newLinkIndex()
			fresh.update(nil, after)
			for name, inode := range links.Inodes { // those with one name had several
				if fresh.Inodes[name] == 0 && after[name].inode == inode {
					fresh.Inodes[name] = inode
				}
			}
			if !maps.Equal(fresh.Inodes, links.Inodes) {
				t.Fatalf("seed %d, step %d: %q\nthe index has %v\nwant %v", seed, step, did, links.Inodes, fresh.Inodes)
			}
			before = after
		}
		check(t, root.Close())
	}
}

func rootState(t testing.TB, dir string) state {
	t.Helper()
	parent, err := os.OpenRoot(filepath.Dir(dir))
	check(t, err)
	defer parent.Close()
	s, err := stateOf(parent, filepath.Base(dir))
	check(t, err)
	return s
}
