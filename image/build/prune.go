package build

import (
	"context"
	"encoding/json"
	"errors"
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
		if err != nil {
			return freed, err
		}
		if total += size; total <= bytes && bytes > 0 && !used[name].Before(oldest) {
			continue
		}
		total -= size
		if err := remove.Tree(dir); err != nil {
			return freed, err
		}
		freed += size
	}
	return freed, nil
}

// sizeOf is what the files below a directory have, in bytes. No link is followed.
func sizeOf(ctx context.Context, dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return errors.Join(err, ctx.Err())
		}
		fi, err := e.Info()
		if err == nil {
			n += fi.Size()
		}
		return errors.Join(err, ctx.Err())
	})
	return n, err
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
	for _, dir := range []string{"steps", "images"} {
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
