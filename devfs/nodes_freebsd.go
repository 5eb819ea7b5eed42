package devfs

import (
	"io/fs"
	"path/filepath"
)

// HostNodes lists what the host's /dev has, directories and links too, by
// their paths below it. Types are not known without opening the devices.
func HostNodes() ([]string, error) {
	var out []string
	err := filepath.WalkDir("/dev", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == "/dev/fd" && d.IsDir() { // changes while it is read
			out = append(out, "fd")
			return fs.SkipDir
		}
		if p != "/dev" {
			out = append(out, p[len("/dev/"):])
		}
		return nil
	})
	return out, err
}
