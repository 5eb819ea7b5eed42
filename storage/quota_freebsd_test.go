package storage

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// ZFS keeps the limit of a root: what is the image's is not counted, what is
// written is, also if nobody can find it by a name.
func TestQuota(t *testing.T) {
	d := openFor(t, "zfs")
	ctx := t.Context()
	check(t, ensure(ctx, d, "c1", func(dir string) error { return writeThrough(filepath.Join(dir, "image"), 8<<20) }))
	for name, c := range map[string]struct {
		limit int64
		write func(root string) error
		want  error
	}{
		"over": {4 << 20, func(root string) error { return writeRandom(filepath.Join(root, "a"), 32<<20, false) },
			unix.EDQUOT},
		"no name": {4 << 20, func(root string) error { return writeRandom(filepath.Join(root, "a"), 32<<20, true) },
			unix.EDQUOT},
		"no limit": {0, func(root string) error { return writeRandom(filepath.Join(root, "a"), 32<<20, false) }, nil},
		"within": {4 << 20, func(root string) error { return writeRandom(filepath.Join(root, "a"), 2<<20, false) },
			nil},
		"the least": {MinDisk, func(root string) error {
			return writeRandom(filepath.Join(root, "a"), MinDisk/4,
				false)
		}, nil},
	} {
		root, err := d.Create(ctx, "c1", "t", Options{DiskBytes: c.limit})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.write(root); !errors.Is(err, c.want) {
			t.Errorf("%s: writing ended with %v, want %v", name, err, c.want)
		}
		check(t, d.Remove(ctx, "t"))
	}
}

// writeRandom writes what does not compress, MiB by MiB: ZFS counts what is on the
// disk.
func writeRandom(path string, n int, unlink bool) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if unlink {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	for n > 0 {
		b := make([]byte, min(n, 1<<20))
		if _, err := rand.Read(b); err != nil {
			return err
		}
		if _, err := f.Write(b); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		n -= len(b)
	}
	return nil
}
