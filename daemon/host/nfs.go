package host

import (
	"cmp"
	"path/filepath"
	"time"

	"github.com/freejail/freejail/internal/remove"
	"github.com/freejail/freejail/nfsroot"
	"github.com/freejail/freejail/storage"
)

// NFS is about roots over NFS: the servers that this host trusts for them, how
// they are mounted, and what this host itself exports.
type NFS struct {
	Servers []nfsroot.Server // asked in this order
	Options nfsroot.Options

	Upper     string // tmpfs, or local: where what is written goes
	UpperSize int64  // of tmpfs, in bytes
	Copy      bool   // writable paths, instead of uniting them

	Keep  time.Duration // an unused mount
	Every time.Duration // how often a mount is looked at
	// Lost is how long a server may be away before tasks with roots from it are
	// killed; 0 waits for ever.
	Lost time.Duration

	Export *nfsroot.ExportConfig // nil where nothing is exported
}

// nfsBlock is NFS as it is written.
type nfsBlock struct {
	Servers      []string `hcl:"servers,optional"` // nfs://server[:port]/path
	Version      int      `hcl:"version,optional"` // 4, or 3
	MinorVersion *int     `hcl:"minor_version,optional"`
	Soft         bool     `hcl:"soft,optional"`
	Retrans      int      `hcl:"retrans,optional"`
	Timeout      string   `hcl:"timeout,optional"`
	NConnect     int      `hcl:"nconnect,optional"`
	ReadSize     string   `hcl:"read_size,optional"`
	Setuid       bool     `hcl:"setuid,optional"`
	Upper        string   `hcl:"upper,optional"`
	UpperSize    string   `hcl:"upper_size,optional"`
	Copy         bool     `hcl:"copy,optional"`
	Keep         string   `hcl:"keep,optional"`
	Every        string   `hcl:"every,optional"`
	Lost         string   `hcl:"lost,optional"`
	Export       *struct {
		Dir         string   `hcl:"dir"`
		ZFSDataset  string   `hcl:"zfs_dataset,optional"`
		Clients     []string `hcl:"clients,optional"`
		ServedBy    string   `hcl:"served_by,optional"`
		ExportsFile string   `hcl:"exports_file,optional"`
		V4Root      string   `hcl:"v4_root,optional"`
	} `hcl:"export,block"`
}

func (b *nfsBlock) nfs(r *reader, stateDir string) NFS {
	n := NFS{Options: b.options(r), Upper: cmp.Or(b.Upper, storage.UpperMemory), Copy: b.Copy,
		UpperSize: r.size("nfs: upper_size", cmp.Or(b.UpperSize, "256MiB"), 1<<20),
		Keep:      r.duration("nfs: keep", cmp.Or(b.Keep, "5m"), 0),
		Every:     r.duration("nfs: every", cmp.Or(b.Every, "5s"), 100*time.Millisecond),
		Lost:      r.duration("nfs: lost", cmp.Or(b.Lost, "0s"), 0)}
	for _, text := range b.Servers {
		s, err := nfsroot.ParseServer(text)
		if err != nil {
			r.fail("nfs: servers: %w", err)
		}
		n.Servers = append(n.Servers, s)
	}
	if n.Upper != storage.UpperMemory && n.Upper != storage.UpperLocal {
		r.fail("nfs: upper %q is neither %s nor %s", n.Upper, storage.UpperMemory, storage.UpperLocal)
	}
	if e := b.Export; e != nil {
		n.Export = &nfsroot.ExportConfig{Dir: e.Dir, Dataset: e.ZFSDataset, Clients: e.Clients,
			File:   cmp.Or(e.ExportsFile, filepath.Join(stateDir, "exports")),
			V4Root: cmp.Or(e.V4Root, "/"), RemoveTree: remove.Tree}
		if e.ServedBy != "" {
			by, err := nfsroot.ParseServer(e.ServedBy)
			if err != nil {
				r.fail("nfs: export: served_by: %w", err)
			}
			if e.ExportsFile != "" || e.V4Root != "" {
				r.fail("nfs: export: exports_file and v4_root are of this host's server: served_by names another")
			}
			n.Export.Served = nfsroot.Served{By: by, Options: n.Options}
		}
		if err := n.Export.Validate(); err != nil {
			r.fail("nfs: export: %w", err)
		}
	}
	return n
}

// options are how roots are mounted.
func (b *nfsBlock) options(r *reader) nfsroot.Options {
	before := len(r.errs)
	o := nfsroot.Options{Version: cmp.Or(b.Version, 4), MinorVersion: -1, Soft: b.Soft, Retrans: b.Retrans,
		NConnect: b.NConnect, AllowSetuid: b.Setuid, ReadSize: int(r.size("nfs: read_size", b.ReadSize, 0)),
		Timeout: r.duration("nfs: timeout", cmp.Or(b.Timeout, "15s"), 0)}
	if b.MinorVersion != nil {
		o.MinorVersion = *b.MinorVersion
	}
	if err := o.Validate(); err != nil && len(r.errs) == before {
		r.fail("nfs: %w", err)
	}
	return o
}
