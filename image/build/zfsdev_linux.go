package build

import (
	"context"
	"errors"
	"os"
)

// zfsDevice is only FreeBSD's: elsewhere zfs(8) is asked.
type zfsDevice struct{}

func openZFSDevice(string, *os.File) (*zfsDevice, error) { return nil, errors.ErrUnsupported }

func (*zfsDevice) Close() error          { return nil }
func (*zfsDevice) snapshot(string) error { return errors.ErrUnsupported }
func (*zfsDevice) diff(_ context.Context, _, _ mountedDataset, _ string) ([]zfsLine, error) {
	return nil, errors.ErrUnsupported
}
