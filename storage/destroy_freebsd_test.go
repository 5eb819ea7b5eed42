package storage

import (
	"testing"

	zfs "github.com/mistifyio/go-zfs/v3"
	"golang.org/x/sys/unix"
)

// destroy removes the dataset that the tests made, so that the pool is as before.
func destroy(t *testing.T, dataset string) {
	if dataset == "" {
		return
	}
	d, err := zfs.GetDataset(dataset)
	if err == nil {
		err = d.Destroy(zfs.DestroyRecursive | zfs.DestroyForceUmount)
	}
	if err != nil {
		t.Error(err)
	}
}

const hasFlags = true

const immutable = 0x20000 // SF_IMMUTABLE

func freeze(path string) error { return unix.Chflags(path, immutable) }
func thaw(path string) error   { return unix.Chflags(path, 0) }

func flagsOf(st *unix.Stat_t) int { return int(st.Flags) & immutable }
