package nfsroot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func (e *Exporter) prepare() error {
	if e.cfg.Dataset != "" {
		return errors.New("nfs: export: zfs_dataset needs FreeBSD")
	}
	return os.MkdirAll(e.cfg.Dir, 0o755)
}

func (e *Exporter) has(dir string) (bool, error) {
	return e.hasDir(dir)
}

func (e *Exporter) make(_ context.Context, dir string, fill func(at string) error) error {
	return e.makeDir(dir, fill)
}

func (e *Exporter) sweep() error { return e.sweepDirs() }

func (e *Exporter) destroy(_ context.Context, dir string) error {
	return e.cfg.RemoveTree(filepath.Join(e.cfg.Dir, dir))
}

// publish has the kernel's server read the file, where there is one.
func (e *Exporter) publish() error {
	changed, err := e.writeExports(e.cfg.linuxExports())
	if err != nil || !changed {
		return err
	}
	exportfs, err := exec.LookPath("exportfs")
	if err != nil {
		return nil // a userland server reads what it likes
	}
	if out, err := exec.Command(exportfs, "-ra").CombinedOutput(); err != nil {
		return fmt.Errorf("exportfs -ra: %s: %w", strings.TrimSpace(string(out)), err)
	}
	return nil
}

// overNFS tells whether a directory is on a file system of another host.
func overNFS(dir string) (bool, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	return err == nil && st.Type == unix.NFS_SUPER_MAGIC, err
}

// serving is Serving of this host's own server.
func (e *Exporter) serving() (problem, fix string) {
	return "", ""
}
