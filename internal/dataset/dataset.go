// Package dataset tells what there is of ZFS.
package dataset

import (
	"fmt"
	"strings"

	"github.com/mistifyio/go-zfs/v3"
)

// missing is what zfs(8) says of a dataset or snapshot that is not there: its
// exit code is the same for any error.
const missing = "dataset does not exist"

// Has tells whether a dataset or a snapshot is there. That it cannot be told is
// an error, not an answer.
func Has(name string) (bool, error) {
	_, err := zfs.GetDataset(name)
	switch {
	case err == nil:
		return true, nil
	case strings.Contains(err.Error(), missing):
		return false, nil
	}
	return false, fmt.Errorf("zfs: %w", err)
}
