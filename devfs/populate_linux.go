package devfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// linuxNodes are the nodes that a development host can offer, with their
// numbers as in Linux's Documentation/admin-guide/devices.txt.
var linuxNodes = []struct {
	name         string
	major, minor uint32
}{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
}

var linuxLinks = map[string]string{
	"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	"ptmx": "pts/ptmx",
}

// Populate makes the nodes that the rules leave visible in an empty directory
// that is to become a jail's /dev.
func Populate(dir string, rules []Rule) error {
	for _, n := range linuxNodes {
		node := Node{Path: n.name}
		if !Visible(rules, node) {
			continue
		}
		p := filepath.Join(dir, n.name)
		if err := unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(n.major, n.minor))); err != nil {
			return &os.PathError{Op: "mknod", Path: p, Err: err}
		}
		if err := os.Chmod(p, os.FileMode(Mode(rules, node, 0o666))); err != nil {
			return err
		}
	}
	for name, target := range linuxLinks {
		if Visible(rules, Node{Path: name}) {
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	for _, d := range []string{"pts", "shm"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// Make makes a device of the host's in a jail's /dev, if the rules leave it visible.
func Make(dir string, rules []Rule, d Device) error {
	node := Node{Path: d.Path}
	if !Visible(rules, node) {
		return nil
	}
	for _, name := range d.Ancestors {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	kind := uint32(unix.S_IFCHR)
	if d.Block {
		kind = unix.S_IFBLK
	}
	p := filepath.Join(dir, d.Path)
	err := unix.Mknod(p, kind, int(d.Rdev))
	if errors.Is(err, fs.ErrExist) { // one that all jails have, or given twice
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "mknod", Path: p, Err: err}
	}
	return errors.Join(os.Chown(p, int(d.UID), int(d.GID)), os.Chmod(p, os.FileMode(Mode(rules, node, d.Mode))))
}

// HostNodes lists the nodes that a development host can offer.
func HostNodes() ([]string, error) {
	var out []string
	for _, n := range linuxNodes {
		out = append(out, n.name)
	}
	for name := range linuxLinks {
		out = append(out, name)
	}
	slices.Sort(out)
	return out, nil
}
