package nfsroot

import (
	"fmt"
	"strconv"
	"time"
)

// Options are how roots are mounted.
type Options struct {
	Version      int // 3 or 4
	MinorVersion int // of version 4: 0 to 2; -1 is the newest that both sides know
	Soft         bool
	Retrans      int           // of a soft mount; 0 is the system's own
	NConnect     int           // TCP connections; 0 is one
	ReadSize     int           // bytes; 0 is the system's own
	Timeout      time.Duration // for a server's answer before a start is given up
	AllowSetuid  bool
}

// Validate names what is out of range.
func (o Options) Validate() error {
	switch {
	case o.Version != 3 && o.Version != 4:
		return fmt.Errorf("invalid NFS version %d: want 3 or 4", o.Version)
	case o.MinorVersion < -1 || o.MinorVersion > 2:
		return fmt.Errorf("minor_version %d is not within 0 to 2", o.MinorVersion)
	case o.NConnect < 0 || o.NConnect > 16:
		return fmt.Errorf("nconnect %d is not within 1 to 16", o.NConnect)
	case o.NConnect > 1 && (o.Version != 4 || o.MinorVersion == 0):
		return fmt.Errorf("nconnect needs version 4 with minor_version 1 or 2")
	case o.ReadSize != 0 && (o.ReadSize < 4096 || o.ReadSize > 1<<20):
		return fmt.Errorf("read_size %d is not within 4096 and 1 MiB", o.ReadSize)
	case o.Retrans < 0 || o.Retrans > 100:
		return fmt.Errorf("retrans %d is not within 1 to 100", o.Retrans)
	case o.Timeout < time.Second || o.Timeout > 10*time.Minute:
		return fmt.Errorf("timeout %s is not within 1s and 10m", o.Timeout)
	}
	return nil
}

// cacheTime is how long attributes and names are taken for true without asking
// the server, in seconds: the tree of an image does not change.
const cacheTime = "3600"

// common are the options that mount_nfs(8) and nmount(2) share.
func (o Options) common() []string {
	out := []string{"ro", "noatime", "nocto", "actimeo=" + cacheTime, "nametimeo=" + cacheTime,
		"negnametimeo=" + cacheTime}
	if !o.AllowSetuid {
		out = append(out, "nosuid")
	}
	if o.Soft {
		out = append(out, "soft")
		if o.Retrans > 0 {
			out = append(out, "retrans="+strconv.Itoa(o.Retrans))
		}
	}
	if o.ReadSize > 0 {
		out = append(out, "rsize="+strconv.Itoa(o.ReadSize))
	}
	return out
}

// freebsdV4 are nmount(2)'s options. Without intr a process that waits for the
// server could not be killed.
func (o Options) freebsdV4(dir string) []string {
	out := append(o.common(), "nfsv4", "tcp", "intr", "resvport", "dirpath="+dir)
	if o.MinorVersion >= 0 {
		out = append(out, "minorversion="+strconv.Itoa(o.MinorVersion))
	}
	// One open owner for all: a read-only root needs no more, and each of a
	// host's processes would have its own.
	if o.MinorVersion != 0 {
		out = append(out, "oneopenown")
	}
	if o.NConnect > 1 {
		out = append(out, "nconnect="+strconv.Itoa(o.NConnect))
	}
	return out
}

// freebsdV3 is mount_nfs(8)'s list for -o. Locks are not kept: nobody else
// could want one on a file that nobody may write to.
func (o Options) freebsdV3(port int) []string {
	out := append(o.common(), "nfsv3", "tcp", "intr", "resvport", "nolockd", "retrycnt=1")
	if port != Port {
		out = append(out, "port="+strconv.Itoa(port))
	}
	return out
}

// linux is mount(2)'s data for the address that a server has.
func (o Options) linux(addr string, port int) []string {
	vers := "vers=3,nolock"
	if o.Version == 4 {
		vers = "vers=4"
		if o.MinorVersion >= 0 {
			vers += "." + strconv.Itoa(o.MinorVersion)
		}
	}
	out := []string{"ro", "noatime", "nocto", "actimeo=" + cacheTime, "proto=tcp", vers, "addr=" + addr,
		"port=" + strconv.Itoa(port)}
	if !o.AllowSetuid {
		out = append(out, "nosuid")
	}
	if o.Soft {
		out = append(out, "soft")
		if o.Retrans > 0 {
			out = append(out, "retrans="+strconv.Itoa(o.Retrans))
		}
	} else {
		out = append(out, "hard")
	}
	if o.ReadSize > 0 {
		out = append(out, "rsize="+strconv.Itoa(o.ReadSize))
	}
	if o.NConnect > 1 {
		out = append(out, "nconnect="+strconv.Itoa(o.NConnect))
	}
	return out
}
