package buildjail

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/internal/mount"
)

// lent is what a command gets for the time that it runs.
type lent struct {
	m     *mounter
	store string   // a tmpfs of the host's that holds the secrets; empty without
	made  []string // names in the root that are there only to mount over, parents first
}

// lendSecrets mounts each secret at its place. They lie in a tmpfs outside of
// the root, so that they reach neither a disk nor the image.
func lendSecrets(stateDir string, m *mounter, list []build.SecretFile) (l *lent, err error) {
	l = &lent{m: m}
	if len(list) == 0 {
		return l, nil
	}
	if l.store, err = os.MkdirTemp(stateDir, "secrets-"); err != nil {
		return l, err
	}
	size := 1 << 20
	for _, s := range list {
		size += len(s.Value) + 1<<16
	}
	tmpfs := mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: l.store,
		Options: []string{"mode=700", "size=" + strconv.Itoa(size)}}
	if err := mount.Do(tmpfs); err != nil {
		return l, err
	}
	for i, s := range list {
		if err := l.lend(filepath.Join(l.store, strconv.Itoa(i)), s); err != nil {
			return l, fmt.Errorf("secret at %s: %w", s.Target, err)
		}
	}
	return l, nil
}

func (l *lent) lend(file string, s build.SecretFile) error {
	if err := os.WriteFile(file, s.Value, 0o400); err != nil {
		return err
	}
	if err := errors.Join(os.Chown(file, s.UID, s.GID), os.Chmod(file, os.FileMode(s.Mode))); err != nil {
		return err
	}
	missing, err := missingNames(l.m.path, s.Target)
	if err != nil {
		return err
	}
	l.made = append(l.made, missing...)
	return l.m.file(s.Target, mount.Mount{Type: "nullfs", Source: file})
}

// lendMounts mounts directories, files and tmpfs, those that are in others last.
func (l *lent) lendMounts(list []build.Mount) error {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b build.Mount) int {
		return strings.Count(a.Target, "/") - strings.Count(b.Target, "/")
	})
	for _, m := range list {
		if err := l.lendMount(m); err != nil {
			return fmt.Errorf("mount at %s: %w", m.Target, err)
		}
	}
	return nil
}

func (l *lent) lendMount(m build.Mount) error {
	what := mount.Mount{Type: "nullfs", Source: m.Source}
	if m.ReadOnly {
		what.Options = []string{"ro"}
	}
	on := l.m.dir
	if m.Source == "" {
		what = mount.Mount{Type: "tmpfs", Source: "tmpfs",
			Options: []string{"mode=1777", "size=" + strconv.FormatInt(m.Size, 10)}}
	} else if fi, err := os.Lstat(m.Source); err != nil {
		return err
	} else if !fi.IsDir() {
		on = l.m.file
	}
	missing, err := missingNames(l.m.path, m.Target)
	if err != nil {
		return err
	}
	l.made = append(l.made, missing...)
	return on(m.Target, what)
}

// missingNames are the parts of a path that a root does not have.
func missingNames(dir, name string) (missing []string, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	at := ""
	for part := range strings.SplitSeq(strings.TrimPrefix(path.Clean("/"+name), "/"), "/") {
		at = path.Join(at, part)
		switch _, err := root.Stat(at); {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, at)
		case err != nil:
			return nil, err
		}
	}
	return missing, nil
}

// takeBack leaves nothing of the secrets. What the command made beside them
// stays.
func (l *lent) takeBack() error {
	if l.store == "" && len(l.made) == 0 {
		return nil
	}
	errs := []error{l.m.unmount()}
	root, err := os.OpenRoot(l.m.path)
	if err == nil {
		for i := len(l.made) - 1; i >= 0; i-- {
			fi, err := root.Lstat(l.made[i])
			if err != nil || !fi.IsDir() && fi.Size() > 0 {
				continue // the command's own doing
			}
			if err := root.Remove(l.made[i]); !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, fs.ErrExist) {
				errs = append(errs, err)
			}
		}
		err = root.Close()
	}
	if l.store == "" {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, err, mount.UnmountUnder(l.store), os.Remove(l.store))...)
}
