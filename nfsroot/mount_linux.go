package nfsroot

import (
	"context"
	"path"

	"github.com/freejail/freejail/internal/mount"
)

// mountSource mounts an image's directory of its server, by the system call
// that mount.nfs(8) makes.
func mountSource(_ context.Context, src *Source, dir, target string, o Options) error {
	host := src.Addr.String()
	if src.Addr.To4() == nil {
		host = "[" + host + "]"
	}
	return mount.Do(mount.Mount{Type: "nfs", Source: host + ":" + path.Join(src.Server.Path, dir), Target: target,
		Options: o.linux(src.Addr.String(), src.Server.Port)})
}

// ClientMissing tells why this host cannot mount by NFS; empty if it can.
func ClientMissing() string {
	if mount.Known("nfs") || moduleThere("nfs") {
		return ""
	}
	return "this kernel has no NFS client (nfs in /proc/filesystems), and no module for one: " +
		"roots over NFS cannot be mounted on this development host"
}
