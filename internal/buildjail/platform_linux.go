package buildjail

import (
	"errors"

	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/internal/mount"
)

const needsLinuxulator = false

// networkParams has no way to take the network away: the development backend
// shares the host's.
func networkParams(network string) (map[string]string, error) {
	if network == NetworkNone {
		return nil, errors.New("network none: the development backend for Linux cannot take the network away from a RUN")
	}
	return map[string]string{}, nil
}

// mountDev makes a /dev with the few nodes that runc lets a container open.
func mountDev(root string) error {
	dev, err := mount.Resolve(root, "/dev")
	if err != nil {
		return err
	}
	if err := mount.Do(mount.Mount{Type: "tmpfs", Source: "dev", Target: dev, Options: []string{"mode=755", "size=1048576"}}); err != nil {
		return err
	}
	return devfs.Populate(dev, nil)
}
