package daemon

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/freejail/freejail/nfsroot"
)

// nfsClient tells whether this host can have roots over NFS, where it is to.
func (c *checks) nfsClient(cfg Config) {
	if len(cfg.NFS.Servers) == 0 {
		return
	}
	if missing := nfsroot.ClientMissing(); missing != "" {
		c.bad("nfs", missing, "take a kernel with an NFS client (on FreeBSD: options NFSCL, as GENERIC has), or remove nfs { servers } from the host configuration")
		return
	}
	c.ok("nfs", fmt.Sprintf("version %d, client in the kernel", cfg.NFS.Version))
}

// checkNFS asks each server that is trusted for roots, and looks at this host's
// own exports.
func (d *Daemon) checkNFS(ctx context.Context, c *checks) {
	servers, err := d.cfg.NFS.servers()
	o, oerr := d.cfg.NFS.options()
	if err != nil || oerr != nil {
		return // told when the configuration was read
	}
	answers := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { answers[i] = s.Ping(ctx, o) })
	}
	wg.Wait()
	for i, s := range servers {
		if answers[i] != nil {
			c.bad("nfs server", fmt.Sprintf("%s: %v", s, answers[i]), "on the server: freejail doctor; freejail export --list")
		} else {
			c.ok("nfs server", s.String())
		}
	}
	for _, m := range d.nfs.List() {
		if !m.Health.OK() {
			c.bad("nfs mount", fmt.Sprintf("%s of %d tasks: %s", m.Digest, len(m.Holders), m.Health.Text), "bring the server back, or stop the tasks")
		}
	}
	if d.exporter == nil {
		return
	}
	if problem, fix := d.exporter.Serving(); problem != "" {
		c.bad("nfs export", problem, fix)
	} else {
		c.ok("nfs export", d.cfg.NFS.Export.Dir)
	}
}

// writeNFS are the metrics of mounts by their health.
func (d *Daemon) writeNFS(w io.Writer) {
	states := map[string]int{"healthy": 0, "away": 0, "stale": 0, "refused": 0, "error": 0}
	for _, m := range d.nfs.List() {
		if m.Health.OK() {
			states["healthy"]++
		} else {
			states[m.Health.Fault]++
		}
	}
	fmt.Fprintf(w, "# HELP freejail_nfs_mounts Mounts of images' roots over NFS.\n# TYPE freejail_nfs_mounts gauge\n")
	for _, s := range slices.Sorted(maps.Keys(states)) {
		fmt.Fprintf(w, "freejail_nfs_mounts{health=%q} %d\n", s, states[s])
	}
}
