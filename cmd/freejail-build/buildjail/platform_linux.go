package buildjail

import (
	"errors"

	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/internal/mount"
)

const needsLinuxulator = false

// networkParams are those of a jail without addresses, which the development
// backend takes for a network namespace with nothing in it.
func networkParams(network string) (map[string]string, error) {
	if network == build.NetworkNone {
		return map[string]string{"ip4": "disable", "ip6": "disable"}, nil
	}
	return map[string]string{}, nil
}

// mountDev makes a /dev with the few nodes that runc lets a container open.
func (m *mounter) mountDev() error {
	tmpfs := mount.Mount{Type: "tmpfs", Source: "dev", Options: []string{"mode=755", "size=1048576"}}
	if err := m.dir("/dev", tmpfs); err != nil {
		return err
	}
	dev, err := m.root.Dir("/dev")
	if err != nil {
		return err
	}
	return errors.Join(devfs.Populate(dev.Name(), nil), dev.Close())
}
