package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/remove"
)

// What a build leaves in its cache at most.
const (
	DefaultCacheAge   = 30 * 24 * time.Hour
	DefaultCacheBytes = 20 << 30
)

// Prune removes from a cache what no build has used for an age, and of the rest
// the least recently used until so many bytes are left, together with what
// builds that were killed have left. It waits for builds that run. It returns
// how many bytes are free now.
func Prune(ctx context.Context, dir string, age time.Duration, bytes int64, cleanUp CleanUp) (freed int64, err error) {
	if _, err := os.Stat(dir); err != nil {
		return 0, err
	}
	c, err := lockCache(ctx, dir, syscall.LOCK_EX)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.lock.Close()) }()
	c.cleanUp = cleanUp
	return c.prune(ctx, age, bytes)
}

// kept is a file of the cache that holds blobs.
type kept struct {
	file  string
	used  time.Time
	blobs []ocispec.Descriptor
}

// prune needs the lock exclusively.
func (c *cache) prune(ctx context.Context, age time.Duration, bytes int64) (freed int64, err error) {
	if err := errors.Join(ctx.Err(), c.removeWork(ctx)); err != nil {
		return 0, err
	}
	records, freed, err := c.records(ctx)
	if err != nil {
		return freed, err
	}
	oldest := time.Now().Add(-age)
	needed := map[string]bool{}
	var total int64
	for _, r := range records { // the last used first
		var more int64
		for _, d := range r.blobs {
			if !needed[d.Digest.Encoded()] {
				more += d.Size
			}
		}
		if r.used.Before(oldest) || total+more > bytes {
			if err := os.Remove(r.file); err != nil {
				return freed, err
			}
			continue
		}
		total += more
		for _, d := range r.blobs {
			needed[d.Digest.Encoded()] = true
		}
	}
	more, err := c.sweep("blobs", func(name string, fi fs.FileInfo) bool { return !needed[name] })
	if err == nil {
		freed += more
		more, err = c.sweep("contexts", func(_ string, fi fs.FileInfo) bool {
			return fi.ModTime().Before(oldest) || bytes == 0
		})
	}
	if err == nil {
		freed += more
		more, err = c.pruneMounts(ctx, oldest, bytes)
	}
	if err == nil {
		freed += more
		more, err = c.prunePools(ctx, age, bytes)
	}
	return freed + more, err
}

// pruneMounts removes what commands keep for themselves, by the time of its last
// use, and what is more than so many bytes of it.
func (c *cache) pruneMounts(ctx context.Context, oldest time.Time, bytes int64) (freed int64, err error) {
	entries, err := os.ReadDir(filepath.Join(c.dir, "mounts"))
	if err != nil {
		return 0, err
	}
	used := map[string]time.Time{}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			return 0, err
		}
		used[e.Name()] = fi.ModTime()
	}
	names := slices.SortedFunc(maps.Keys(used), func(a, b string) int { return used[b].Compare(used[a]) })
	var total int64
	for _, name := range names {
		dir := filepath.Join(c.dir, "mounts", name)
		size, err := sizeOf(ctx, dir)
		if ctx.Err() != nil {
			return freed, ctx.Err()
		}
		// What cannot be counted is not kept: a command made it so.
		if err == nil && bytes > 0 && total+size <= bytes && !used[name].Before(oldest) {
			total += size
			continue
		}
		if err := remove.Tree(dir); err != nil {
			return freed, err
		}
		freed += size
	}
	return freed, nil
}

// maxCacheDepth is how deep directories of a cache mount may lie, each of which is
// open while those in it are counted.
const maxCacheDepth = 128

// sizeOf is what the files below a directory have, in bytes. A command made them:
// no link is followed, and no path can be too long.
func sizeOf(ctx context.Context, dir string) (int64, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	n, err := sizeIn(ctx, root, maxCacheDepth)
	return n, errors.Join(err, root.Close())
}

func sizeIn(ctx context.Context, root *os.Root, depth int) (n int64, err error) {
	if depth == 0 {
		return 0, fmt.Errorf("directories lie more than %d deep", maxCacheDepth)
	}
	dir, err := root.Open(".")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	for {
		list, err := dir.ReadDir(1024)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return n, err
		}
		for _, e := range list {
			more, err := sizeAt(ctx, root, e, depth)
			if n += more; err != nil {
				return n, err
			}
		}
	}
}

func sizeAt(ctx context.Context, root *os.Root, e fs.DirEntry, depth int) (n int64, err error) {
	switch {
	case e.Type().IsRegular():
		fi, err := root.Lstat(e.Name())
		if err != nil {
			return 0, err
		}
		return fi.Size(), nil
	case !e.IsDir():
		return 0, nil
	}
	below, err := root.OpenRoot(e.Name())
	if err != nil {
		return 0, err
	}
	n, err = sizeIn(ctx, below, depth-1)
	return n, errors.Join(err, below.Close())
}

// prunePools prunes the datasets; those that are gone are forgotten.
func (c *cache) prunePools(ctx context.Context, age time.Duration, bytes int64) (freed int64, err error) {
	var perrs error
	_, err = c.sweep("pools", func(key string, _ fs.FileInfo) bool {
		var name string
		if !c.record("pools", key, &name) {
			return true
		}
		p, err := openPool(ctx, name, syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return false // a build with another cache is at work there
		}
		if err != nil {
			return true
		}
		p.cleanUp = c.cleanUp
		n, perr := p.prune(ctx, age, bytes)
		freed += n
		perrs = errors.Join(perrs, perr, p.close())
		return false
	})
	return freed, errors.Join(err, perrs)
}

// removeWork removes what builds that were killed have left: nobody else has the
// cache now.
func (c *cache) removeWork(ctx context.Context) error {
	entries, err := os.ReadDir(c.workDir())
	for _, e := range entries {
		dir := filepath.Join(c.workDir(), e.Name())
		err = errors.Join(err, c.cleanUp.of(ctx, dir, filepath.Join(dir, runnerState)), remove.Tree(dir))
	}
	return err
}

func (f CleanUp) of(ctx context.Context, dir, state string) error {
	if f == nil {
		return nil
	}
	return f(ctx, dir, state)
}

// records reads what is known of steps and images, the last used first. What
// cannot be read, such as half-written files, is removed.
func (c *cache) records(ctx context.Context) (out []kept, freed int64, err error) {
	for _, dir := range []string{"steps", "images", "plain"} {
		n, err := c.sweep(dir, func(name string, fi fs.FileInfo) bool {
			r := kept{file: filepath.Join(c.dir, dir, name), used: fi.ModTime()}
			b, err := os.ReadFile(r.file)
			var both struct {
				stepRecord
				imageRecord
			}
			if err != nil || json.Unmarshal(b, &both) != nil {
				return true
			}
			if r.blobs = both.Blobs; both.Layer != nil {
				r.blobs = append(r.blobs, *both.Layer)
			}
			out = append(out, r)
			return false
		})
		freed += n
		if err = errors.Join(err, ctx.Err()); err != nil {
			return nil, freed, err
		}
	}
	slices.SortFunc(out, func(a, b kept) int { return b.used.Compare(a.used) })
	return out, freed, nil
}

// sweep removes the files of a directory that are not wanted.
func (c *cache) sweep(dir string, unwanted func(name string, fi fs.FileInfo) bool) (freed int64, err error) {
	entries, err := os.ReadDir(filepath.Join(c.dir, dir))
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			return freed, err
		}
		if !strings.HasPrefix(e.Name(), durable.Unfinished) && !unwanted(e.Name(), fi) {
			continue
		}
		if err := os.Remove(filepath.Join(c.dir, dir, e.Name())); err != nil {
			return freed, err
		}
		freed += fi.Size()
	}
	return freed, nil
}
