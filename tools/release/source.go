package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// source packs the commit with what a build without network needs: dependencies in vendor, manual pages in man. Only
// the modules of tools, which tests use, are not there.
func (r *release) source() error {
	vendor := exec.Command("go", "mod", "vendor")
	if err := r.goes(vendor, nil); err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(r.root, "man"), os.DirFS(filepath.Join(r.work, "man"))); err != nil {
		return err
	}
	var list []entry
	err := filepath.WalkDir(r.root, func(p string, d fs.DirEntry, err error) error { // sorted
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(r.root, p)
		if err != nil {
			return err
		}
		info, err := d.Info()
		list = append(list, entry{name: name, from: p, run: err == nil && info.Mode()&0o100 != 0})
		return err
	})
	if err != nil {
		return err
	}
	return writeArchive(filepath.Join(r.out, r.name(".tar.gz")), r.name(""), r.date, list)
}
