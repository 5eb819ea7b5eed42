package task

import (
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/storage"
)

// nomadDirs are what Nomad's tasks have mounted in their roots. A client cannot
// make them in a root that is a server's.
var nomadDirs = []string{"/alloc", "/local", "/secrets"}

// Points are what tasks will have mounts on: what the image itself names,
// and what every task has.
func Points(img *image.Image) (storage.Options, error) {
	o := storage.Options{Writable: img.Manifest.Writable, Dirs: append(platformDirs(), nomadDirs...),
		Own: []storage.File{{Path: storage.ResolverFile}, {Path: storage.HostsFile}}}
	if needsLinuxulator(img.Config.OS) {
		for _, m := range linuxMounts {
			if !Within("/dev", m.Target) {
				o.Dirs = append(o.Dirs, m.Target)
			}
		}
	}
	for _, m := range img.Manifest.Requires.Mounts {
		o.Dirs = append(o.Dirs, m.Target)
	}
	for _, v := range img.Manifest.Volumes {
		o.Dirs = append(o.Dirs, v.Path)
	}
	all, err := image.Volumes(img.Config.Config)
	o.Volumes = writableVolumes(all, img.Manifest)
	return o, err
}
