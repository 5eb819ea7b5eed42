package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/image"
)

// What a command has left in a cache, such as directories that no path reaches,
// fails neither that build, nor the next, nor the pruning: it goes, the rest stays.
func TestDeepCachesAreRemoved(t *testing.T) {
	c := newCachedBuild(t, files{"a": "a"})
	deep, kept := c.cache+"/mounts/deep/data", c.cache+"/mounts/kept/data"
	for range 2 {
		files{"deep/data/": "", "kept/data/f": "x"}.write(t, c.cache+"/mounts")
		fd, err := unix.Open(deep, unix.O_DIRECTORY, 0)
		check(t, err)
		for range 200 {
			name := strings.Repeat("d", 100)
			check(t, unix.Mkdirat(fd, name, 0o700))
			next, err := unix.Openat(fd, name, unix.O_DIRECTORY, 0)
			check(t, err)
			check(t, unix.Close(fd))
			fd = next
		}
		check(t, unix.Close(fd))
		c.build("FROM scratch\nCOPY a /\n")
		if _, err := os.Stat(deep); !os.IsNotExist(err) {
			t.Error(err)
		}
		_, err = os.Stat(kept)
		check(t, err)
	}
}

// A cache that cannot be pruned does not fail a build.
func TestPruningFails(t *testing.T) {
	c := newCachedBuild(t, files{"a": "a"})
	var warned []string
	c.options.Warn = func(text string) { warned = append(warned, text) }
	check(t, os.MkdirAll(c.cache+"/contexts/.new-x/y", 0o700)) // sweep removes files
	c.build("FROM scratch\nCOPY a /\n")
	if len(warned) != 1 || !strings.HasPrefix(warned[0], "the cache is not pruned: ") {
		t.Errorf("%q", warned)
	}
}

// A bind mount that fails takes away what is its own.
func TestFailedBindMounts(t *testing.T) {
	b := &work{builder: newBuilder(Options{})}
	b.dir = t.TempDir()
	others := filepath.Join(b.dir, "others")
	check(t, os.WriteFile(others, nil, 0o600))
	empty := &origin{image: &image.Image{Name: "x"}}
	s := &runStep{mounts: []runMount{{Kind: "bind", Source: "gone", Target: "/x", from: empty}}}
	_, undo, err := s.lend(t.Context(), b)
	if err == nil {
		t.Error("no error")
	}
	check(t, undo())
	if left, err := filepath.Glob(b.dir + "/*"); err != nil || len(left) != 1 || left[0] != others {
		t.Error(left, err)
	}
}

// Two places of one cache are locked once; those of two commands in one order.
func TestLockedCaches(t *testing.T) {
	b := &work{builder: newBuilder(Options{})}
	b.dir = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	locked := func(ids ...string) *runStep {
		s := &runStep{}
		for i, id := range ids {
			s.mounts = append(s.mounts, runMount{Kind: "cache", ID: id, Target: fmt.Sprint("/", i), Mode: 0o755,
				UID: os.Getuid(), GID: os.Getgid(), alone: true})
		}
		return s
	}
	var all sync.WaitGroup
	for _, s := range []*runStep{locked("a", "b", "a"), locked("b", "a", "b")} {
		all.Go(func() {
			for range 20 {
				list, undo, err := s.lend(ctx, b)
				if err = errors.Join(err, undo()); err != nil || len(list) != 3 || list[0].Source != list[2].Source {
					t.Error(list, err)
					return
				}
			}
		})
	}
	all.Wait()
}
