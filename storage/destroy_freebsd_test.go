package storage

import (
	"testing"

	zfs "github.com/mistifyio/go-zfs/v3"
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
