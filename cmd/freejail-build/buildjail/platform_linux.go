package buildjail

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/jail"
)

const needsLinuxulator = false

// keep starts a first process, with which the container would end. It reaps what
// the others leave. False: the image's shell does not stay.
func (k *kept) keep(ctx context.Context) (bool, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return false, err
	}
	k.keeper = out
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return false, errors.Join(err, in.Close())
	}
	pid, serr := k.jails.Start(ctx, k.name, jail.Process{Args: []string{"/bin/sh", "-c",
		"while sleep 0.2; do :; done; read line"}, Env: []string{"PATH=/bin:/usr/bin:/sbin:/usr/sbin"}, Dir: "/",
		Stdin: in, Stdout: null, Stderr: null})
	err = errors.Join(in.Close(), null.Close())
	if errors.Is(serr, jail.ErrNoProgram) || errors.Is(serr, jail.ErrNotExecutable) {
		return false, err
	}
	if err = errors.Join(serr, err); err != nil {
		return false, err
	}
	select {
	case <-k.jails.Wait(pid):
		return false, nil
	case <-time.After(keepDelay):
		return true, nil
	}
}

// keepDelay is how soon a shell ends that does not do what it is told.
const keepDelay = 100 * time.Millisecond

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
