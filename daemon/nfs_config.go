package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/nfsroot"
	"github.com/freejail/freejail/storage"
)

// NFSConfig is about roots over NFS: the servers that this host trusts for
// them, how they are mounted, and what this host itself exports.
type NFSConfig struct {
	// Servers are nfs://server[:port]/path, asked in this order.
	Servers []string `hcl:"servers,optional"`

	Version      int    `hcl:"version,optional"`       // 4, or 3
	MinorVersion *int   `hcl:"minor_version,optional"` // of version 4
	Soft         bool   `hcl:"soft,optional"`
	Retrans      int    `hcl:"retrans,optional"`   // of soft
	Timeout      string `hcl:"timeout,optional"`   // for a server's answer
	NConnect     int    `hcl:"nconnect,optional"`  // TCP connections
	ReadSize     string `hcl:"read_size,optional"` // of one read
	Setuid       bool   `hcl:"setuid,optional"`    // let set-uid programs work

	Upper     string `hcl:"upper,optional"`      // tmpfs, or local: where what is written goes
	UpperSize string `hcl:"upper_size,optional"` // of tmpfs
	Copy      bool   `hcl:"copy,optional"`       // writable paths, instead of uniting them

	Keep  string `hcl:"keep,optional"`  // an unused mount
	Every string `hcl:"every,optional"` // how often a mount is looked at
	// Lost is how long a server may be away before tasks with roots from it are
	// killed; "0s" waits for ever.
	Lost string `hcl:"lost,optional"`

	Export *NFSExportConfig `hcl:"export,block"`
}

// NFSExportConfig is how images are exported.
type NFSExportConfig struct {
	Dir         string   `hcl:"dir"`
	ZFSDataset  string   `hcl:"zfs_dataset,optional"`
	Clients     []string `hcl:"clients"`
	ExportsFile string   `hcl:"exports_file,optional"`
	V4Root      string   `hcl:"v4_root,optional"`
}

func (c *Config) nfsDefaults() {
	if c.NFS == nil {
		c.NFS = &NFSConfig{}
	}
	n := c.NFS
	n.Version = cmp.Or(n.Version, 4)
	n.Timeout = cmp.Or(n.Timeout, "15s")
	n.Upper = cmp.Or(n.Upper, storage.UpperMemory)
	n.UpperSize = cmp.Or(n.UpperSize, "256MiB")
	n.Keep = cmp.Or(n.Keep, "5m")
	n.Every = cmp.Or(n.Every, "5s")
	n.Lost = cmp.Or(n.Lost, "0s")
	if e := n.Export; e != nil {
		e.ExportsFile = cmp.Or(e.ExportsFile, filepath.Join(c.StateDir, "exports"))
		e.V4Root = cmp.Or(e.V4Root, "/")
	}
}

// options are how roots are mounted. What is no time or no size is a value out
// of range.
func (n *NFSConfig) options() (nfsroot.Options, error) {
	o := nfsroot.Options{Version: n.Version, MinorVersion: -1, Soft: n.Soft, Retrans: n.Retrans, NConnect: n.NConnect, AllowSetuid: n.Setuid}
	if n.MinorVersion != nil {
		o.MinorVersion = *n.MinorVersion
	}
	var err error
	if o.Timeout, err = time.ParseDuration(n.Timeout); err != nil {
		return o, fmt.Errorf("timeout %q is not a time such as \"15s\"", n.Timeout)
	}
	bytes, err := size(n.ReadSize)
	if err != nil {
		return o, fmt.Errorf("read_size %q is not a size such as \"128KiB\"", n.ReadSize)
	}
	o.ReadSize = int(bytes)
	return o, o.Validate()
}

func (n *NFSConfig) servers() ([]nfsroot.Server, error) {
	var out []nfsroot.Server
	for _, text := range n.Servers {
		s, err := nfsroot.ParseServer(text)
		if err != nil {
			return nil, fmt.Errorf("servers: %w", err)
		}
		out = append(out, s)
	}
	return out, nil
}

func (n *NFSConfig) validate() error {
	_, err1 := n.options()
	_, err2 := n.servers()
	errs := []error{err1, err2}
	for name, text := range map[string]string{"keep": n.Keep, "every": n.Every, "lost": n.Lost} {
		if t, err := time.ParseDuration(text); err != nil || t < 0 || name == "every" && t < 100*time.Millisecond {
			errs = append(errs, fmt.Errorf("%s %q is not a time such as \"5m\"", name, text))
		}
	}
	if n.Upper != storage.UpperMemory && n.Upper != storage.UpperLocal {
		errs = append(errs, fmt.Errorf("upper %q is neither %s nor %s", n.Upper, storage.UpperMemory, storage.UpperLocal))
	}
	if b, err := size(n.UpperSize); err != nil || b < 1<<20 {
		errs = append(errs, fmt.Errorf("upper_size %q is not a size such as \"256MiB\", of 1 MiB or more", n.UpperSize))
	}
	for i, err := range errs {
		if err != nil {
			errs[i] = fmt.Errorf("nfs: %w", err)
		}
	}
	if n.Export != nil {
		if err := n.Export.config().Validate(); err != nil {
			errs = append(errs, fmt.Errorf("nfs: export: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (e *NFSExportConfig) config() nfsroot.ExportConfig {
	return nfsroot.ExportConfig{Dir: e.Dir, Dataset: e.ZFSDataset, Clients: e.Clients, File: e.ExportsFile, V4Root: e.V4Root, RemoveTree: image.RemoveTree}
}

// isNFS knows the two ways in which a task asks for a root over NFS: from any
// server of the host's, or from one by its URL.
func isNFS(kind string) bool { return kind == nfsStorage || strings.HasPrefix(kind, "nfs:") }

const nfsStorage = "nfs"
