package devfs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Device is a node of the host's /dev, of which a path below it names one.
type Device struct {
	Path      string
	Block     bool
	Rdev      uint64 // its number
	Mode      uint32 // permission bits
	UID, GID  uint32
	Ancestors []string // the directories that it lies in
}

// FindDevice finds a node by the lists of its directories: to look it up by its name could make it,
// as a tap(4). Links are not followed, as a rule of devfs(8) is about the node itself.
func FindDevice(path string) (Device, error) {
	d := Device{Path: path}
	if path == "" || filepath.Clean("/"+path) != "/"+path {
		return d, fmt.Errorf("/dev/%s is not a clean path below /dev", path)
	}
	if strings.ContainsAny(path, `*?[]\`) {
		return d, fmt.Errorf("/dev/%s has a character that is a pattern in rules of devfs(8)", path)
	}
	parts := strings.Split(path, "/")
	for i := range parts {
		name := strings.Join(parts[:i+1], "/")
		entry, err := entryOf(name)
		switch {
		case err != nil:
			return d, err
		case entry.Type()&fs.ModeSymlink != 0:
			return d, fmt.Errorf("/dev/%s is a link: name the device that it leads to", name)
		case i < len(parts)-1:
			d.Ancestors = append(d.Ancestors, name)
			continue
		case entry.Type()&fs.ModeDevice == 0:
			return d, fmt.Errorf("/dev/%s is not a device", name)
		}
		info, err := entry.Info()
		if err != nil {
			return d, err
		}
		st := info.Sys().(*syscall.Stat_t)
		d.Block, d.Rdev, d.Mode = st.Mode&syscall.S_IFMT == syscall.S_IFBLK, uint64(st.Rdev), uint32(st.Mode)&0o777
		d.UID, d.GID = st.Uid, st.Gid
	}
	return d, nil
}

func entryOf(name string) (fs.DirEntry, error) {
	path := filepath.Join("/dev", name)
	list, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(e fs.DirEntry) bool { return e.Name() == filepath.Base(path) })
	if i < 0 {
		return nil, fmt.Errorf("%s is not there", path)
	}
	return list[i], nil
}

// Rules have a jail's /dev show the device, and the directories that it lies in.
func (d Device) Rules() ([]Rule, error) {
	var out []Rule
	for _, name := range append(slices.Clone(d.Ancestors), d.Path) {
		r := Rule{Unhide: true}
		if err := r.setPath(name); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}
