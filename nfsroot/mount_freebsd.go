package nfsroot

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os/exec"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

// mountSource mounts an image's directory of its server. Version 4 is a system
// call, which lasts as long as it lasts; version 3 needs the MOUNT protocol,
// which mount_nfs(8) speaks.
func mountSource(ctx context.Context, src *Source, dir, target string, o Options) error {
	from := path.Join(src.Server.Path, dir)
	host := src.Addr.String()
	if src.Addr.To4() == nil {
		host = "[" + host + "]"
	}
	if o.Version == 4 {
		return mount.Do(mount.Mount{Type: "nfs", Source: host + ":" + from, Target: target, Options: o.freebsdV4(from),
			Binary: map[string][]byte{"addr": sockaddr(src.Addr, src.Server.Port)}})
	}
	c := exec.CommandContext(ctx, "/sbin/mount_nfs", "-o", strings.Join(o.freebsdV3(src.Server.Port), ","),
		host+":"+from, target)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("mount_nfs: %s: %w", strings.TrimSpace(string(out)), err)
	}
	return nil
}

// sockaddr is struct sockaddr_in or sockaddr_in6 of netinet/in.h.
func sockaddr(ip net.IP, port int) []byte {
	if v4 := ip.To4(); v4 != nil {
		b := make([]byte, unix.SizeofSockaddrInet4)
		b[0], b[1] = unix.SizeofSockaddrInet4, unix.AF_INET
		binary.BigEndian.PutUint16(b[2:], uint16(port))
		copy(b[4:], v4)
		return b
	}
	b := make([]byte, unix.SizeofSockaddrInet6)
	b[0], b[1] = unix.SizeofSockaddrInet6, unix.AF_INET6
	binary.BigEndian.PutUint16(b[2:], uint16(port))
	copy(b[8:], ip.To16())
	return b
}

// ClientMissing tells why this host cannot mount by NFS; empty if it can.
func ClientMissing() string {
	if mount.Known("nfs") || moduleThere("nfscl") {
		return ""
	}
	return "the kernel has no NFS client, and no module nfscl"
}
