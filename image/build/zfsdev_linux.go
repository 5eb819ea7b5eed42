package build

import (
	"context"
	"errors"
	"os"
)

// zfsDevice is only FreeBSD's.
type zfsDevice struct{}

func openZFSDevice(string, *os.File) (*zfsDevice, error) {
	return nil, errors.New("not supported on Linux")
}

func (*zfsDevice) Close() error          { return nil }
func (*zfsDevice) snapshot(string) error { return errors.ErrUnsupported }
func (*zfsDevice) diff(_ context.Context, _, _ mountedDataset, _ string) ([]zfsLine, error) {
	return nil, errors.ErrUnsupported
}
