package buildjail

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/jail"
)

// CleanUp takes from the host what the Runner of a build that was killed has left
// in a directory of that build's, which has no links in its path: jails with
// their processes, and mounts. State is the Runner's directory, if it is known.
func CleanUp(ctx context.Context, dir, state string) error {
	if os.Geteuid() != 0 {
		return nil // who made no jail
	}
	list, err := mount.Below(dir)
	if err != nil {
		return err
	}
	if _, serr := os.Stat(state); serr == nil || len(list) > 0 {
		if err := endJails(ctx, dir, state); err != nil {
			return err
		}
	}
	return mount.ReleaseBelow(dir)
}

func endJails(ctx context.Context, dir, state string) error {
	if state == "" {
		var err error
		if state, err = os.MkdirTemp("", "freejail-run-"); err != nil {
			return err
		}
		defer os.RemoveAll(state)
	}
	m, err := jail.Open(jail.Config{StateDir: state})
	if err != nil {
		return err
	}
	all, err := m.List()
	for _, j := range all {
		if strings.HasPrefix(j.Root, dir+string(filepath.Separator)) {
			err = errors.Join(err, m.Remove(ctx, j.Name))
		}
	}
	return err
}
