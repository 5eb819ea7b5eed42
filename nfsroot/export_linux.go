package nfsroot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// Serving tells why clients cannot have the roots, and what to do about it.
func (e *Exporter) Serving() (problem, fix string) {
	return "", ""
}
